"""The land register: who owns which parcel in what share, and what it is pledged for. A PostgreSQL database.

Invariants that a torn copy would break, checked by ``broken_land_rules``: the shares of each parcel add up to one,
and the journal counts the transfers of each day.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg import errors

from exclave.demo import words
from exclave.demo.land_sql import CHANGE, KEYS, RULES, SCHEMA
from exclave.demo.reference import ReferenceQuery
from exclave.demo.words import KNOWN_PHRASE, check_scale, seeded
from exclave.errors import SourceUnavailable, TargetNotEmpty, UsageError

REFERENCE_PARCEL = "78401:101:0012"
"""The parcel that the reference query asks for; a day's work never touches it."""

_REFERENCE_ID = 12
DISTRICTS = 50
PARCELS_PER_DISTRICT = 100
PERSONS = 120_000
MAX_SCALE = 90
"""Above it, parcels of a district would outgrow four digits."""

_LAST_DAY = date(2025, 12, 31).toordinal()
_BIRTHS_FROM = date(1930, 1, 1).toordinal()
_BIRTH_DAYS = date(2008, 1, 1).toordinal() - _BIRTHS_FROM
_PERSONS_PER_BLOCK = 1000
_PURPOSES = ("elamumaa", "maatulundusmaa", "ärimaa", "tootmismaa", "metsamaa", "ühiskondlike ehitiste maa")
_BASES = ("ost-müük", "pärimine", "kinge", "erastamine", "kohtuotsus")
_SHARES = (
    ((1, 1),),
    ((1, 1),),
    ((1, 1),),
    ((1, 1),),
    ((1, 2), (1, 2)),
    ((1, 3), (1, 3), (1, 3)),
    ((1, 2), (1, 4), (1, 4)),
)


@dataclass(frozen=True, slots=True)
class LandFacts:
    """Rows written."""

    persons: int
    parcels: int
    ownerships: int
    mortgages: int


@dataclass(frozen=True, slots=True)
class LandChange:
    """A day's work: parcels sold, and ownerships that passed (one for each seller)."""

    day: int
    parcels: int
    transfers: int


@dataclass(frozen=True, slots=True)
class _Parcel:
    id: int
    number: str
    municipality: str
    address: str
    area_m2: int
    purpose: str
    value_eur: int
    registered: str
    note: str
    owners: tuple[tuple[int, int, int, str, str], ...]  # person, numerator, denominator, since, basis
    mortgages: tuple[tuple[str, int, str], ...]  # creditor, euros, registered; by rank


def create_land(conninfo: str, *, seed: int, scale: int) -> LandFacts:
    """Creates and fills the register in an empty UTF-8 database, as one transaction.

    At scale 1: 200,000 parcels, 120,000 persons. ``TargetNotEmpty`` if its tables exist, ``UsageError`` if the
    database has another encoding, ``SourceUnavailable`` if it does not answer. A restart after a failure finds nothing.
    """
    check_scale(scale, MAX_SCALE)
    places = words.municipalities()
    ownerships = mortgages = 0
    try:
        with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
            if connection.info.parameter_status("server_encoding") != "UTF8":
                raise UsageError("the land register's database must be in UTF8")
            cursor.execute("SET LOCAL maintenance_work_mem = '128MB'")
            cursor.execute(SCHEMA)
            _copy(cursor, "COPY municipality FROM STDIN", (f"{code}\t{name}\n" for code, name in places))
            _copy(cursor, "COPY person FROM STDIN", _person_lines(seed, scale))
            for place in range(len(places)):
                parcels = [p for district in range(DISTRICTS) for p in _district(seed, scale, place, district)]
                ownerships += sum(len(parcel.owners) for parcel in parcels)
                mortgages += sum(len(parcel.mortgages) for parcel in parcels)
                _copy_parcels(cursor, parcels)
            cursor.execute("INSERT INTO journal VALUES (0, %s, 0)", (date.fromordinal(_LAST_DAY),))
            cursor.execute(KEYS)
            cursor.execute("ANALYZE")
    except errors.DuplicateTable as error:
        raise TargetNotEmpty("this database holds a land register already") from error
    except psycopg.OperationalError as error:
        raise SourceUnavailable(f"the land register's database did not take its data: {error}") from error
    parcels_written = len(places) * DISTRICTS * PARCELS_PER_DISTRICT * scale
    return LandFacts(PERSONS * scale, parcels_written, ownerships, mortgages)


def change_land(conninfo: str, seed: int) -> LandChange:
    """One day's transfers, as one transaction: 1 % of the parcels are sold. The same seed differs from day to day.

    ``UsageError`` if the database holds no land register, ``SourceUnavailable`` if it does not answer.
    """
    try:
        with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
            # The lock makes two calls at once follow each other instead of writing the same day twice.
            cursor.execute("LOCK TABLE journal IN SHARE ROW EXCLUSIVE MODE")
            cursor.execute(
                "SELECT (SELECT max(day) + 1 FROM journal), (SELECT count(*) FROM parcel), "
                "(SELECT count(*) FROM person)"
            )
            day, parcels, persons = cursor.fetchone() or (0, 0, 0)
            rng = seeded(seed, f"land:day:{day}")
            sold = sorted(set(rng.sample(range(1, parcels + 1), parcels // 100)) - {_REFERENCE_ID})
            cursor.execute(
                "CREATE TEMPORARY TABLE sale (parcel_id integer, buyer_id integer, price_eur numeric(12,2), "
                "creditor text) ON COMMIT DROP"
            )
            _copy(cursor, "COPY sale FROM STDIN", (_sale_line(parcel, persons, rng) for parcel in sold))
            values = {"day": day, "dated": date.fromordinal(_LAST_DAY + day)}
            for statement in CHANGE:
                cursor.execute(statement, values)
            cursor.execute("SELECT transfers FROM journal WHERE day = %s", (day,))
            (transfers,) = cursor.fetchone() or (0,)
    except errors.UndefinedTable as error:
        raise UsageError("this database holds no land register") from error
    except psycopg.OperationalError as error:
        raise SourceUnavailable(f"the land register's database did not take the day's work: {error}") from error
    return LandChange(day, len(sold), transfers)


def broken_land_rules(conninfo: str) -> tuple[str, ...]:
    """What is inconsistent in the register, in words with counts, as of one moment; empty if all is well.

    ``SourceUnavailable`` if the database does not answer or holds no land register.
    """
    try:
        with psycopg.connect(conninfo) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            counts = [(rule, (connection.execute(query).fetchone() or (0,))[0]) for rule, query in RULES]
    except (psycopg.OperationalError, errors.UndefinedTable) as error:
        raise SourceUnavailable(f"this database cannot be read as a land register: {error}") from error
    return tuple(f"{rule} ({count})" for rule, count in counts if count)


def land_reference(*, seed: int, scale: int = 1) -> ReferenceQuery:
    """What the land register's application answers for the parcel 78401:101:0012; it has owners and a mortgage."""
    check_scale(scale, MAX_SCALE)
    parcel = _district(seed, scale, 0, 0)[_REFERENCE_ID - 1]
    owners = []
    for person, numerator, denominator, since, basis in parcel.owners:
        block, place = divmod(person - 1, _PERSONS_PER_BLOCK)
        _, _, given, family, _ = list(_block_of_persons(seed, block))[place]
        owners.append(
            {"name": f"{given} {family}", "share": f"{numerator}/{denominator}", "since": since, "basis": basis}
        )
    return ReferenceQuery(
        f"/parcel/{REFERENCE_PARCEL}",
        {
            "cadastral_number": REFERENCE_PARCEL,
            "municipality": words.municipalities()[0][1],
            "address": parcel.address,
            "area_m2": parcel.area_m2,
            "purpose": parcel.purpose,
            "value_eur": f"{parcel.value_eur}.00",
            "owners": owners,
            "mortgages": [
                {"rank": rank, "creditor": creditor, "amount_eur": f"{amount}.00", "registered": registered}
                for rank, (creditor, amount, registered) in enumerate(parcel.mortgages, 1)
            ],
        },
    )


def _copy(cursor: psycopg.Cursor[tuple[object, ...]], statement: str, lines: Iterator[str]) -> None:
    with cursor.copy(statement) as copy:
        waiting: list[str] = []
        for line in lines:
            waiting.append(line)
            if len(waiting) >= 2000:
                copy.write("".join(waiting))
                waiting.clear()
        copy.write("".join(waiting))


def _copy_parcels(cursor: psycopg.Cursor[tuple[object, ...]], parcels: list[_Parcel]) -> None:
    """COPY's text format; nothing that we generate holds a tab, line feed or backslash (but for ``\\N``, the null)."""
    _copy(
        cursor,
        "COPY parcel FROM STDIN",
        (
            f"{p.id}\t{p.number}\t{p.municipality}\t{p.address}\t{p.area_m2}\t{p.purpose}\t{p.value_eur}\t"
            f"{p.registered}\t{p.note or chr(92) + 'N'}\n"
            for p in parcels
        ),
    )
    _copy(
        cursor,
        "COPY ownership FROM STDIN",
        (
            f"{p.id}\t{person}\t{numerator}\t{denominator}\t{since}\t{basis}\n"
            for p in parcels
            for person, numerator, denominator, since, basis in p.owners
        ),
    )
    _copy(
        cursor,
        "COPY mortgage (parcel_id, creditor, amount_eur, rank, registered) FROM STDIN",
        (
            f"{p.id}\t{creditor}\t{amount}\t{rank}\t{registered}\n"
            for p in parcels
            for rank, (creditor, amount, registered) in enumerate(p.mortgages, 1)
        ),
    )


def _sale_line(parcel: int, persons: int, rng: random.Random) -> str:
    creditor = rng.choice(words.CREDITORS) if rng.random() < 0.5 else "\\N"
    return f"{parcel}\t{rng.randint(1, persons)}\t{rng.randint(10_000, 900_000)}.{rng.randrange(100):02d}\t{creditor}\n"


def _person_lines(seed: int, scale: int) -> Iterator[str]:
    for block in range(PERSONS * scale // _PERSONS_PER_BLOCK):
        for number, code, given, family, born in _block_of_persons(seed, block):
            yield f"{number}\t{code}\t{given}\t{family}\t{born}\n"


def _block_of_persons(seed: int, block: int) -> Iterator[tuple[int, str, str, str, str]]:
    """A thousand persons: id, personal code, given and family name, day of birth."""
    rng = seeded(seed, f"land:person:{block}")
    for index in range(block * _PERSONS_PER_BLOCK, (block + 1) * _PERSONS_PER_BLOCK):
        # 7919 is prime to the number of days, so that (day, serial) and with it the code never repeats.
        serial, step = divmod(index, _BIRTH_DAYS)
        born = date.fromordinal(_BIRTHS_FROM + (step * 7919 + seed) % _BIRTH_DAYS)
        code = _with_check_digit(f"9{born:%y%m%d}{serial:03d}")
        yield index + 1, code, rng.choice(words.GIVEN_NAMES), rng.choice(words.FAMILY_NAMES), born.isoformat()


def _with_check_digit(digits: str) -> str:
    """Ten digits and the check digit of Estonian personal codes (EVS 585:2007)."""
    for weights in ((1, 2, 3, 4, 5, 6, 7, 8, 9, 1), (3, 4, 5, 6, 7, 8, 9, 1, 2, 3)):
        rest = sum(map(int.__mul__, map(int, digits), weights)) % 11
        if rest < 10:
            return f"{digits}{rest}"
    return f"{digits}0"


def _district(seed: int, scale: int, place: int, district: int) -> list[_Parcel]:
    """The parcels of one district, from the seed and scale alone."""
    rng = seeded(seed, f"land:{place}:{district}")
    code = words.municipalities()[place][0]
    count = PARCELS_PER_DISTRICT * scale
    first = (place * DISTRICTS + district) * count
    street = rng.choice(words.STREETS)
    return [
        _parcel(rng, first + number, f"{code}:{101 + district}:{number:04d}", f"{street} {number}", PERSONS * scale)
        for number in range(1, count + 1)
    ]


def _parcel(rng: random.Random, parcel: int, number: str, address: str, persons: int) -> _Parcel:
    known = parcel == _REFERENCE_ID
    shares = _SHARES[-1] if known else _SHARES[int(rng.random() * len(_SHARES))]
    owner = int(rng.random() * persons)
    since = _past_day(rng)
    basis = _BASES[int(rng.random() * len(_BASES))]
    owners = tuple(
        ((owner + 1009 * place) % persons + 1, numerator, denominator, since, basis)
        for place, (numerator, denominator) in enumerate(shares)
    )
    pledges = 2 if known else (0, 0, 0, 1, 1, 2)[int(rng.random() * 6)]
    value = 5_000 + int(rng.random() * 600_000)
    mortgages = tuple(
        (words.CREDITORS[int(rng.random() * len(words.CREDITORS))], value // (rank + 2), _past_day(rng))
        for rank in range(pledges)
    )
    return _Parcel(
        id=parcel,
        number=number,
        municipality=number[:5],
        address=address,
        area_m2=300 + int(rng.random() * 200_000),
        purpose=_PURPOSES[int(rng.random() * len(_PURPOSES))],
        value_eur=value,
        registered=_past_day(rng),
        note=f"Remember: {KNOWN_PHRASE}." if parcel % 97 == 0 else "",
        owners=owners,
        mortgages=mortgages,
    )


_PAST_DAYS = tuple(date.fromordinal(_LAST_DAY - days).isoformat() for days in range(9000))


def _past_day(rng: random.Random) -> str:
    return _PAST_DAYS[int(rng.random() * len(_PAST_DAYS))]

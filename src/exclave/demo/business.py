"""The business register: companies, their boards and their filings. An SQLite database in WAL mode.

Totals stand beside what they count (``company.filing_count``, ``company.fees_cents``, ``total``), and every
transaction keeps them equal: a copy that mixes two moments shows in ``broken_business_rules``.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from exclave.demo import words
from exclave.demo.reference import ReferenceQuery
from exclave.demo.words import KNOWN_PHRASE, check_scale, seeded
from exclave.errors import SourceUnavailable, TargetNotEmpty

REFERENCE_COMPANY = 10_000_017
"""The company that the reference query asks for; the writer never files for it."""

FIRST_CODE = 10_000_001
COMPANIES = 8_000
MAX_SCALE = 100
"""Above it, the filings would not fit in memory while they are put in order."""

FILING_KINDS = (
    "majandusaasta aruanne",
    "juhatuse muutmine",
    "põhikirja muutmine",
    "aadressi muutmine",
    "kapitali kanne",
)
_ROLES = ("juhatuse liige", "juhatuse esimees", "nõukogu liige", "prokurist")
_LAST_DAY = date(2025, 12, 31).toordinal()
_US_PER_DAY = 86_400 * 1_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()

SCHEMA = """
CREATE TABLE company (
  code INTEGER PRIMARY KEY, name TEXT NOT NULL, form TEXT NOT NULL, address TEXT NOT NULL, founded TEXT NOT NULL,
  capital_cents INTEGER NOT NULL CHECK (capital_cents >= 0),
  filing_count INTEGER NOT NULL, fees_cents INTEGER NOT NULL
) STRICT;
CREATE TABLE board_member (
  id INTEGER PRIMARY KEY, company_code INTEGER NOT NULL REFERENCES company, name TEXT NOT NULL, role TEXT NOT NULL,
  since TEXT NOT NULL
) STRICT;
CREATE TABLE filing (
  id INTEGER PRIMARY KEY AUTOINCREMENT, company_code INTEGER NOT NULL REFERENCES company, kind TEXT NOT NULL,
  filed_at INTEGER NOT NULL, -- microseconds since 1970
  fee_cents INTEGER NOT NULL, summary TEXT NOT NULL
) STRICT;
CREATE TABLE total (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""

INDEXES = """
CREATE INDEX company_name ON company (name COLLATE NOCASE);
CREATE INDEX board_member_company ON board_member (company_code);
CREATE INDEX filing_company ON filing (company_code, filed_at);
"""

RULES = (
    (
        "companies whose filing_count is not the number of their filings",
        "SELECT count(*) FROM company c WHERE filing_count <> "
        "(SELECT count(*) FROM filing WHERE company_code = c.code)",
    ),
    (
        "companies whose fees_cents is not the sum of their filings' fees",
        "SELECT count(*) FROM company c WHERE fees_cents <> "
        "(SELECT coalesce(sum(fee_cents), 0) FROM filing WHERE company_code = c.code)",
    ),
    (
        "totals that do not agree with the tables",
        "SELECT count(*) FROM total WHERE value <> CASE name WHEN 'filings' THEN (SELECT count(*) FROM filing) "
        "WHEN 'fees_cents' THEN (SELECT coalesce(sum(fee_cents), 0) FROM filing) "
        "WHEN 'companies' THEN (SELECT count(*) FROM company) END",
    ),
    ("totals that are missing", "SELECT 3 - count(*) FROM total"),
    ("references that lead nowhere", "SELECT count(*) FROM pragma_foreign_key_check"),
)
"""Each with a query that counts its violations."""


@dataclass(frozen=True, slots=True)
class BusinessFacts:
    """Rows written."""

    companies: int
    board_members: int
    filings: int


@dataclass(frozen=True, slots=True)
class Filing:
    """One document that a company handed in. ``filed_at`` in microseconds since 1970."""

    company: int
    kind: str
    filed_at: int
    fee_cents: int
    summary: str


def create_business(path: Path, *, seed: int, scale: int) -> BusinessFacts:
    """Creates the database at ``path``, which must not exist (``TargetNotEmpty``).

    At scale 1: 8,000 companies, 14,000 board members, 28,000 filings. All in one transaction: a restart after a
    failure finds a file without tables, to be removed.
    """
    check_scale(scale, MAX_SCALE)
    if os.path.lexists(path):
        raise TargetNotEmpty(f"{path} exists already")
    filed: list[Filing] = []
    codes = range(FIRST_CODE, FIRST_CODE + COMPANIES * scale)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("BEGIN")
        _execute_each(database, SCHEMA)
        for code in codes:
            company, members, filings = _company(seed, code)
            fees = sum(filing.fee_cents for filing in filings)
            database.execute("INSERT INTO company VALUES (?,?,?,?,?,?,?,?)", (code, *company, len(filings), fees))
            database.executemany(
                "INSERT INTO board_member (company_code, name, role, since) VALUES (?,?,?,?)",
                ((code, *member) for member in members),
            )
            filed += filings
        filed.sort(key=lambda filing: filing.filed_at)
        database.executemany(INSERT_FILING, (_filing_row(filing) for filing in filed))
        _execute_each(database, INDEXES)
        database.execute(
            "INSERT INTO total SELECT 'companies', count(*) FROM company "
            "UNION ALL SELECT 'filings', count(*) FROM filing UNION ALL SELECT 'fees_cents', sum(fee_cents) FROM filing"
        )
        (members_written,) = database.execute("SELECT count(*) FROM board_member").fetchone()
        (filings_written,) = database.execute("SELECT value FROM total WHERE name = 'filings'").fetchone()
        database.execute("COMMIT")
    return BusinessFacts(len(codes), members_written, filings_written)


def _execute_each(database: sqlite3.Connection, statements: str) -> None:
    """Unlike ``executescript``, which would commit first."""
    for statement in statements.split(";"):
        database.execute(statement)


INSERT_FILING = "INSERT INTO filing (company_code, kind, filed_at, fee_cents, summary) VALUES (?,?,?,?,?)"


def file_document(database: sqlite3.Connection, filing: Filing) -> int:
    """Enters one filing and every total that counts it, as one transaction; returns the filing's id.

    ``database`` must be in autocommit mode (``isolation_level=None``). Killed at any point, all of it is there or
    nothing.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        number = database.execute(INSERT_FILING, _filing_row(filing)).lastrowid
        database.execute(
            "UPDATE company SET filing_count = filing_count + 1, fees_cents = fees_cents + ? WHERE code = ?",
            (filing.fee_cents, filing.company),
        )
        database.execute("UPDATE total SET value = value + 1 WHERE name = 'filings'")
        database.execute("UPDATE total SET value = value + ? WHERE name = 'fees_cents'", (filing.fee_cents,))
        database.execute("COMMIT")
    except sqlite3.Error:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    return number or 0


def make_filing(rng: random.Random, company: int, filed_at: int) -> Filing:
    """An invented filing."""
    kind = rng.choice(FILING_KINDS)
    decision = f"{rng.choice(words.ET_VERBS)}, {rng.choice(words.ET_CONDITIONS)}"
    summary = f"{kind.capitalize()} nr {rng.randrange(1, 10_000)}: {decision}."
    if rng.random() < 0.02:
        summary += f" Remember: {KNOWN_PHRASE}."
    return Filing(company, kind, filed_at, rng.choice((0, 1_300, 2_500, 6_000, 20_000)), summary)


def broken_business_rules(path: Path) -> tuple[str, ...]:
    """What is inconsistent in the register, in words with counts, as of one moment; empty if all is well.

    ``SourceUnavailable`` if the file is missing or is no database.
    """
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
        ) as database:
            database.execute("BEGIN")  # all counts as of one moment
            counts = [(rule, database.execute(query).fetchone()[0]) for rule, query in RULES]
    except sqlite3.Error as error:
        raise SourceUnavailable(f"{path} cannot be read as a business register: {error}") from error
    return tuple(f"{rule} ({count})" for rule, count in counts if count)


def business_reference(*, seed: int, scale: int = 1) -> ReferenceQuery:
    """What the business register's application answers for the company 10000017."""
    check_scale(scale, MAX_SCALE)
    (name, form, address, founded, capital), members, filings = _company(seed, REFERENCE_COMPANY)
    return ReferenceQuery(
        f"/company/{REFERENCE_COMPANY}",
        {
            "code": REFERENCE_COMPANY,
            "name": name,
            "form": form,
            "address": address,
            "founded": founded,
            "capital_eur": f"{capital // 100}.{capital % 100:02d}",
            "board": [{"name": who, "role": role, "since": since} for who, role, since in members],
            "filing_count": len(filings),
        },
    )


_Company = tuple[str, str, str, str, int]  # name, form, address, founded, capital in cents
_Member = tuple[str, str, str]  # name, role, since


def _company(seed: int, code: int) -> tuple[_Company, list[_Member], list[Filing]]:
    """One company with its board and filings, from the seed and its code alone."""
    rng = seeded(seed, f"business:{code}")
    form = rng.choice(words.COMPANY_FORMS)
    name = f"{rng.choice(words.COMPANY_STEMS)} {rng.choice(words.COMPANY_FIELDS)} {form}"
    place = rng.choice(words.municipalities())[1]
    founded = _LAST_DAY - rng.randrange(30, 9_000)
    company = (
        name,
        form,
        f"{rng.choice(words.STREETS)} {rng.randint(1, 180)}, {place}",
        date.fromordinal(founded).isoformat(),
        rng.choice((250_000, 250_000, 2_500_000, 4_000_000, 100_000_000)),
    )
    members = [
        (
            f"{rng.choice(words.GIVEN_NAMES)} {rng.choice(words.FAMILY_NAMES)}",
            rng.choice(_ROLES),
            date.fromordinal(rng.randint(founded, _LAST_DAY)).isoformat(),
        )
        for _ in range(rng.choice((1, 1, 2, 3)))
    ]
    moments = sorted(rng.randrange(founded - _EPOCH_DAY, _LAST_DAY - _EPOCH_DAY) for _ in range(rng.randint(1, 6)))
    filings = [make_filing(rng, code, day * _US_PER_DAY + rng.randrange(_US_PER_DAY)) for day in moments]
    return company, members, filings


def _filing_row(filing: Filing) -> tuple[int, str, int, int, str]:
    return filing.company, filing.kind, filing.filed_at, filing.fee_cents, filing.summary


def writer_filings(seed: int, start: int, companies: int) -> Iterator[tuple[int, random.Random]]:
    """Endless companies to file for, never the reference one, with the random numbers to make the filing from."""
    rng = seeded(seed, f"business:writer:{start}")
    while True:
        code = rng.randrange(FIRST_CODE, FIRST_CODE + companies)
        if code != REFERENCE_COMPANY:
            yield code, rng

"""Charters: who the custodians are, where copies may lie, and by which rules. Page: ``docs/spec/charter.md``.

::

    exclave/charter/v1
    number <n>
    previous none | <sha256 of charter n-1's text>
    issued <instant>
    state <name>
    home <country>
    threshold <m>
    custodian <label> <country> <card sha256>                  1 or more, sorted by label
    site <label> <country> <operator label>                    1 or more, sorted
    lease <site label> <instant>                               0 or more, sorted: until when its host is bound
    witness <label> <card sha256>                              0 or more, sorted
    group <label> <k> <member> …                               0 or more: see formats/policy.py
    quorum none | <label of a witness or group>
    authority <label> any|<policy> <url> <root certificate>    0 or more, sorted: see formats/timestamp.py
    register <id> sealed | register <id> public <name>         0 or more blocks, sorted by id, each followed by:
    at <site label> …                                          sites with a legal basis, sorted
    until <site label> <instant>                               0 or more, sorted: until when there is one there
    placement <copies> <countries> <outside-home> <administrators>     at least so many, always
    rpo <seconds>
    rto <seconds>
    retention <days>                                           every version is kept for so long
    keep <days> <months> <years>                               then the first of each day, month, year for so long
    hold none | hold for <reason>                              legal hold: nothing is deleted while it stands
    deletion <seconds> <objections>                            delay of an order to delete; how many custodians stop it
    epoch <n> <sha256 of the epoch note's text>                the register's epoch when the charter was issued
    annex <sha256 of the sealed annex> <sha256 of its plaintext>
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader, plain_text
from exclave.formats.note import MAX_NOTE_BYTES, MAX_SIGNATURES
from exclave.formats.policy import WitnessPolicy, check_policy, read_policy
from exclave.formats.timestamp import Authority, read_authorities
from exclave.ids import (
    Country,
    Digest,
    Epoch,
    Instant,
    Label,
    RegisterId,
    instant_text,
    parse_count,
    parse_country,
    parse_digest,
    parse_instant,
    parse_label,
    parse_positive,
    parse_register_id,
    sha256,
)

HEADER = "exclave/charter/v1"
MAX_CUSTODIANS = 64
MAX_SITES = 64
MAX_WITNESSES = 16
"""All their cosignatures fit into one checkpoint (``MAX_CHECKPOINT_BYTES``)."""
MAX_REGISTERS = 10_000
MAX_THRESHOLD = MAX_SIGNATURES // 4
"""A change of all custodians needs the old and the new quorum, two signature lines each."""
MAX_CHARTER_BYTES = MAX_NOTE_BYTES - MAX_SIGNATURES * 3400
"""UTF-8 length of the text: the longest that still fits into a note with all its signatures."""
MAX_SECONDS = 10 * 366 * 86400
MAX_RETENTION_DAYS = 366_000
MAX_HOLD_CHARS = 200
DEFAULT_DELAY_S = 30 * 86400
"""Of an order to delete, where exclave.toml says nothing."""


@dataclass(frozen=True, slots=True)
class Custodian:
    """Holder of a share and of a vote; ``card`` is the digest of the key card that bears the same name."""

    label: Label
    country: Country
    card: Digest


@dataclass(frozen=True, slots=True)
class CharterSite:
    """A place where copies may lie. Its address stands in the sealed annexes."""

    label: Label
    country: Country
    operator: Label
    lease_until: Instant | None = None
    """From then on its host owes nothing; None: no end is known."""


@dataclass(frozen=True, slots=True)
class CharterWitness:
    label: Label
    card: Digest


@dataclass(frozen=True, slots=True)
class Placement:
    """At least ``copies`` complete copies, in at least ``countries`` countries, ``outside_home`` of them abroad, run by
    at least ``administrators`` different operators."""

    copies: int
    countries: int
    outside_home: int
    administrators: int = 1


@dataclass(frozen=True, slots=True)
class Keep:
    """After all were kept: the first version of each day, month and year (UTC) for so long. 0: no such rule."""

    daily_days: int = 0
    monthly_months: int = 0
    yearly_years: int = 0


@dataclass(frozen=True, slots=True)
class DeletionRule:
    """How an order to delete can be stopped: within ``delay_s``, by ``objections`` custodians."""

    delay_s: int = DEFAULT_DELAY_S
    objections: int = 1


@dataclass(frozen=True, slots=True)
class CharterRegister:
    """What the charter says of one register."""

    id: RegisterId
    public_name: str | None
    """None: hosts see only the id."""
    at: tuple[Label, ...]
    """Sites that may hold it, because there is a legal basis."""
    placement: Placement
    rpo_s: int
    rto_s: int
    retention_days: int
    epoch: Epoch
    """The register's newest epoch when the charter was issued; all later ones need a warrant under this charter."""
    epoch_note: Digest
    annex_box: Digest
    annex_plain: Digest
    keep: Keep = Keep()
    hold: str | None = None
    """Why nothing may be deleted, whatever a warrant says; None: no legal hold."""
    deletion: DeletionRule = DeletionRule()
    until: tuple[tuple[Label, Instant], ...] = ()
    """Sites whose legal basis ends, and when; of all others no end is known."""

    def encode(self) -> str:
        name = "sealed" if self.public_name is None else f"public {self.public_name}"
        rule, keep = self.placement, self.keep
        hold = "none" if self.hold is None else f"for {self.hold}"
        return (
            f"register {self.id} {name}\n"
            f"at {' '.join(self.at)}\n"
            + "".join(f"until {label} {instant_text(end)}\n" for label, end in self.until)
            + f"placement {rule.copies} {rule.countries} {rule.outside_home} {rule.administrators}\n"
            f"rpo {self.rpo_s}\nrto {self.rto_s}\nretention {self.retention_days}\n"
            f"keep {keep.daily_days} {keep.monthly_months} {keep.yearly_years}\nhold {hold}\n"
            f"deletion {self.deletion.delay_s} {self.deletion.objections}\n"
            f"epoch {self.epoch} {self.epoch_note.hex()}\n"
            f"annex {self.annex_box.hex()} {self.annex_plain.hex()}\n"
        )


@dataclass(frozen=True, slots=True)
class ParsedCharter:
    """A charter whose form is right and whose signatures nobody has checked yet.

    Code that drafts one passes ``encode()`` through ``parse_charter`` before anybody signs it.
    """

    number: int
    previous: Digest | None
    """Digest of the predecessor's text; None exactly for number 1."""
    issued: Instant
    state_name: str
    home: Country
    threshold: int
    custodians: tuple[Custodian, ...]
    sites: tuple[CharterSite, ...]
    witnesses: tuple[CharterWitness, ...]
    policy: WitnessPolicy
    """Which of the witnesses must have cosigned a checkpoint before it counts."""
    authorities: tuple[Authority, ...]
    """Whose timestamps on checkpoints are believed."""
    registers: tuple[CharterRegister, ...]

    def encode(self) -> str:
        lines = [
            HEADER,
            f"number {self.number}",
            f"previous {self.previous.hex() if self.previous else 'none'}",
            f"issued {instant_text(self.issued)}",
            f"state {self.state_name}",
            f"home {self.home}",
            f"threshold {self.threshold}",
            *(f"custodian {c.label} {c.country} {c.card.hex()}" for c in self.custodians),
            *(f"site {s.label} {s.country} {s.operator}" for s in self.sites),
            *(f"lease {s.label} {instant_text(s.lease_until)}" for s in self.sites if s.lease_until is not None),
            *(f"witness {w.label} {w.card.hex()}" for w in self.witnesses),
        ]
        blocks = (*(a.encode() for a in self.authorities), *(r.encode() for r in self.registers))
        return "\n".join(lines) + "\n" + self.policy.encode() + "".join(blocks)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text; of number 1, its hex form is the state's fingerprint."""
        return sha256(self.encode().encode())

    def register(self, register: RegisterId) -> CharterRegister | None:
        """The block of ``register``, or None if the charter does not list it."""
        return next((r for r in self.registers if r.id == register), None)

    def site(self, label: Label) -> CharterSite | None:
        return next((s for s in self.sites if s.label == label), None)


@lru_cache(maxsize=8)
def parse_charter(text: str) -> ParsedCharter:
    """Strict inverse of ``ParsedCharter.encode``; checks every rule that needs no other text.

    Raises ``MalformedError``. The last few are kept: every site shows the same ones, and a thousand registers take a
    tenth of a second to parse.
    """
    if len(text.encode("utf-8", "replace")) > MAX_CHARTER_BYTES:
        raise MalformedError(f"charter: longer than {MAX_CHARTER_BYTES} bytes")
    lines = LineReader(text, what="charter", limit=MAX_CHARTER_BYTES)
    lines.exactly(HEADER)
    number = parse_positive(lines.field("number"), limit=99_999_999)
    previous = lines.field("previous")
    charter = ParsedCharter(
        number=number,
        previous=None if previous == "none" else parse_digest(previous),
        issued=parse_instant(lines.field("issued")),
        state_name=plain_text(lines.fields("state", 1, rest=True)[0], limit=200),
        home=parse_country(lines.field("home")),
        threshold=parse_positive(lines.field("threshold"), limit=MAX_THRESHOLD),
        custodians=_custodians(lines),
        sites=_sites(lines),
        witnesses=_witnesses(lines),
        policy=read_policy(lines),
        authorities=read_authorities(lines),
        registers=_registers(lines),
    )
    lines.end()
    _check(charter)
    if charter.encode() != text:
        raise MalformedError("a charter is not in its one canonical form")
    return charter


def _custodians(lines: LineReader) -> tuple[Custodian, ...]:
    found: list[Custodian] = []
    while lines.peek() == "custodian" and len(found) <= MAX_CUSTODIANS:
        label, country, card = lines.fields("custodian", 3)
        found.append(Custodian(parse_label(label), parse_country(country), parse_digest(card)))
    return tuple(found)


def _sites(lines: LineReader) -> tuple[CharterSite, ...]:
    found: list[CharterSite] = []
    while lines.peek() == "site" and len(found) <= MAX_SITES:
        label, country, operator = lines.fields("site", 3)
        found.append(CharterSite(parse_label(label), parse_country(country), parse_label(operator)))
    leases = _ends(lines, "lease", {site.label for site in found})
    return tuple(replace(site, lease_until=leases.get(site.label)) for site in found)


def _ends(lines: LineReader, keyword: str, known: Collection[Label]) -> dict[Label, Instant]:
    """Lines with a site and an instant, sorted by site; each site is one of ``known``."""
    found: dict[Label, Instant] = {}
    while lines.peek() == keyword and len(found) <= MAX_SITES:
        label, until = lines.fields(keyword, 2)
        if label not in known or (found and label <= max(found)):
            raise lines.fail("expected one of the sites above, sorted, each at most once")
        found[parse_label(label)] = parse_instant(until)
    return found


def _witnesses(lines: LineReader) -> tuple[CharterWitness, ...]:
    found: list[CharterWitness] = []
    while lines.peek() == "witness" and len(found) <= MAX_WITNESSES:
        label, card = lines.fields("witness", 2)
        found.append(CharterWitness(parse_label(label), parse_digest(card)))
    return tuple(found)


def _registers(lines: LineReader) -> tuple[CharterRegister, ...]:
    found: list[CharterRegister] = []
    while lines.peek() == "register" and len(found) <= MAX_REGISTERS:
        found.append(_register(lines))
    return tuple(found)


def _register(lines: LineReader) -> CharterRegister:
    register, naming = lines.fields("register", 2, rest=True)
    mode, _, name = naming.partition(" ")
    if naming != "sealed" and not (mode == "public" and name):
        raise lines.fail("expected 'sealed', or 'public' with a name")
    at = tuple(parse_label(label) for label in lines.fields("at", 1, rest=True)[0].split(" "))
    until = _ends(lines, "until", at)
    copies, countries, outside, administrators = lines.fields("placement", 4)
    placement = Placement(
        copies=parse_positive(copies, limit=MAX_SITES),
        countries=parse_positive(countries, limit=MAX_SITES),
        outside_home=parse_count(outside, limit=MAX_SITES),
        administrators=parse_positive(administrators, limit=MAX_SITES),
    )
    rpo, rto, retention = lines.field("rpo"), lines.field("rto"), lines.field("retention")
    keep, hold, deletion = _keep(lines), _hold(lines), _deletion(lines)
    epoch, epoch_note = lines.fields("epoch", 2)
    annex_box, annex_plain = lines.fields("annex", 2)
    return CharterRegister(
        id=parse_register_id(register),
        public_name=plain_text(name, limit=200) if mode == "public" else None,
        at=at,
        placement=placement,
        rpo_s=parse_positive(rpo, limit=MAX_SECONDS),
        rto_s=parse_positive(rto, limit=MAX_SECONDS),
        retention_days=parse_count(retention, limit=MAX_RETENTION_DAYS),
        epoch=Epoch(parse_positive(epoch, limit=2**32 - 1)),
        epoch_note=parse_digest(epoch_note),
        annex_box=parse_digest(annex_box),
        annex_plain=parse_digest(annex_plain),
        keep=keep,
        hold=hold,
        deletion=deletion,
        until=tuple(until.items()),
    )


def _keep(lines: LineReader) -> Keep:
    days, months, years = lines.fields("keep", 3)
    return Keep(
        parse_count(days, limit=MAX_RETENTION_DAYS),
        parse_count(months, limit=MAX_RETENTION_DAYS // 31),
        parse_count(years, limit=MAX_RETENTION_DAYS // 366),
    )


def _hold(lines: LineReader) -> str | None:
    word, _, reason = lines.fields("hold", 1, rest=True)[0].partition(" ")
    if word == "none" and not reason:
        return None
    if word != "for" or not reason:
        raise lines.fail("expected 'none', or 'for' with a reason")
    return plain_text(reason, limit=MAX_HOLD_CHARS)


def _deletion(lines: LineReader) -> DeletionRule:
    delay, objections = lines.fields("deletion", 2)
    return DeletionRule(parse_positive(delay, limit=MAX_SECONDS), parse_positive(objections, limit=MAX_CUSTODIANS))


def _rising(values: Sequence[str], what: str, limit: int, *, least: int = 0) -> None:
    if not least <= len(values) <= limit:
        raise MalformedError(f"charter: needs {least} to {limit} {what}")
    if any(a >= b for a, b in pairwise(values)):
        raise MalformedError(f"charter: {what} must be sorted and different")


def _check(charter: ParsedCharter) -> None:
    """Every rule that one charter must keep by itself."""
    if (charter.number == 1) != (charter.previous is None):
        raise MalformedError("charter: exactly the first one has no previous one")
    _rising([c.label for c in charter.custodians], "custodians", MAX_CUSTODIANS, least=1)
    _rising([s.label for s in charter.sites], "sites", MAX_SITES, least=1)
    _rising([w.label for w in charter.witnesses], "witnesses", MAX_WITNESSES)
    _rising([r.id for r in charter.registers], "registers", MAX_REGISTERS)
    if charter.threshold > len(charter.custodians):
        raise MalformedError("charter: the threshold is higher than the number of custodians")
    try:
        check_policy(charter.policy, [w.label for w in charter.witnesses])
    except MalformedError as error:
        raise MalformedError(f"charter: {error.message}") from error
    # One card under two names would let one person count twice.
    for people in (charter.custodians, charter.witnesses):
        if len({person.card for person in people}) != len(people):
            raise MalformedError("charter: two names share a key card")
    sites = {site.label: site for site in charter.sites}
    for register in charter.registers:
        _check_register(charter, register, sites)


def _check_register(charter: ParsedCharter, register: CharterRegister, sites: dict[Label, CharterSite]) -> None:
    """The allowed sites exist, and all of them together satisfy the placement rule."""
    _rising(list(register.at), f"sites of register {register.id}", MAX_SITES, least=1)
    unknown = [label for label in register.at if label not in sites]
    if unknown:
        raise MalformedError(f"charter: register {register.id} names the unknown site {unknown[0]}")
    rule, there = register.placement, [sites[label] for label in register.at]
    abroad = sum(site.country != charter.home for site in there)
    asked = (rule.copies, rule.countries, rule.outside_home, rule.administrators)
    given = (len(there), len({s.country for s in there}), abroad, len({s.operator for s in there}))
    if any(need > have for need, have in zip(asked, given, strict=True)):
        raise MalformedError(f"charter: the sites of register {register.id} cannot satisfy its placement")
    if max(asked) > rule.copies:
        raise MalformedError(f"charter: register {register.id} asks for fewer copies than places")
    # Whoever coerces as many as can sign an order must not have coerced those who can stop it.
    if register.deletion.objections > max(1, len(charter.custodians) - charter.threshold):
        raise MalformedError(
            f"charter: register {register.id}: those custodians who do not sign an order could not stop it:"
            f" {register.deletion.objections} objections are asked for"
        )
    if charter.number == 1 and register.epoch != 1:
        raise MalformedError("charter: in the first charter every register is in epoch 1")

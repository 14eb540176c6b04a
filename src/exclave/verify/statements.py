"""Whether a statement to the public is true: every number in it is looked for again at the sites. Needs no key.

(1) its form, and who signed it: somebody whom the charter that it names knows, and each later one up to the look ·
(2) each register that it names: the version with that ledger entry, and at how many sites, in how many countries, its
objects are there (as deep as ``verify/held.py``) · (3) the total of sealed registers, by versions that could be meant.
A statement that claims more than is found, or is silent about a public register, is false; one that claims less is
true. When somebody signed nobody can tell but he: a key that nobody answers for any more vouches for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from exclave.errors import (
    CorruptObject,
    IntegrityError,
    MalformedError,
    NotAuthorised,
    UnavailableError,
    WrongFingerprint,
)
from exclave.formats.card import Card
from exclave.formats.charter import CharterRegister, ParsedCharter
from exclave.formats.note import parse_note
from exclave.formats.publicstatement import PublicStatement, RegisterLine, Role, SealedTotal, parse_public_statement
from exclave.ids import Country, Fingerprint, Instant, Label, RegisterId, instant_text, sha256
from exclave.rules.placement import placement_of
from exclave.rules.signatures import verify_signed_by
from exclave.rules.statement import is_within
from exclave.sites.contract import Readable, Sources
from exclave.verify.deletions import mark_erased
from exclave.verify.guard import GuardedSource
from exclave.verify.held import HeldObjects
from exclave.verify.history import CLOCK_TOLERANCE_US, CountedVersion, RegisterHistory, read_history
from exclave.verify.state import StateView, read_state

LOOK_BACK = 64
"""So many versions of one sealed register are tried at each site."""
MAX_SAMPLE = 16
"""Packs of a version that are read whole at each site, however many the statement says were."""


class Truth(StrEnum):
    """Of one claim."""

    HOLDS = "holds"
    UNTOLD = "cannot be told"
    FALSE = "false"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of a statement, looked for at the sites."""

    register: RegisterId | None
    """None: the total of sealed registers, or the statement as a whole."""
    truth: Truth
    found: str
    """What was found, in words."""


@dataclass(frozen=True, slots=True)
class CheckedStatement:
    """A statement that its signer signed, and what became of its claims. Only ``check_statement`` builds it."""

    statement: PublicStatement
    claims: tuple[Claim, ...]
    current: bool
    """Whether ``next-by`` has not passed: a later one must be there otherwise."""
    about: tuple[Label, ...] = ()
    """Every site that its charter gives a register."""
    unnamed: tuple[Label, ...] = ()
    """Those of them that were not named, so that nobody looked there."""

    @property
    def truth(self) -> Truth:
        """The worst of its claims."""
        return max((claim.truth for claim in self.claims), key=list(Truth).index, default=Truth.HOLDS)

    def advice(self) -> str:
        """What to do so that more can be told, as sentences; empty if every site was named, or all was found."""
        if self.truth is not Truth.UNTOLD or not self.unnamed:
            return ""
        count, named = len(self.about), len(self.about) - len(self.unnamed)
        sites, were = ("site", "was") if count == 1 else ("sites", "was" if named == 1 else "were")
        told = f"{named} of the {count} {sites} {were} named; the claim is about {count}."
        return f"{told} Name the others with --site: {', '.join(self.unnamed)}."


def read_statement(data: bytes, view: StateView) -> PublicStatement:
    """(1) The statement in ``data``, if somebody whom the charter that it names knows has signed it.

    ``MalformedError``, ``WrongFingerprint`` (another state's), ``CorruptObject`` (a charter that never was),
    ``NotAuthorised``.
    """
    note = parse_note(data)
    found = parse_public_statement(note.text)
    if found.state != view.state:
        raise WrongFingerprint(f"this statement is about the state {found.state}")
    charter = _charter(found, view)
    card = view.cards.get(found.card)
    if card is None or card.name != found.signer or not _known(found, charter, view, card):
        raise NotAuthorised(
            f"the charter {found.charter} knows no {found.role} {found.signer} with that key",
            hint="Do not believe this statement: anybody could have made it.",
        )
    for later in view.chain.charters[found.charter :]:
        issued = later.charter.issued
        if issued + CLOCK_TOLERANCE_US < found.verified and not _known(found, later.charter, view, card):
            number = later.charter.number
            raise NotAuthorised(
                f"{found.signer} has been no {found.role} since charter {number} of {instant_text(issued)}",
                hint="Do not believe this statement: it says that it was made later than that.",
            )
    verify_signed_by(note, card)
    return found


def still_speaks(said: PublicStatement, view: StateView) -> bool:
    """Whether the newest charter and epochs still know the signer of a statement that ``read_statement`` took."""
    card = view.cards.get(said.card)
    if said.role is Role.WRITER:
        return any(chain.newest.writer.digest == said.card for chain in view.epochs.values())
    return card is not None and _known(said, view.chain.newest.charter, view, card)


def _charter(found: PublicStatement, view: StateView) -> ParsedCharter:
    for one in view.chain.charters:
        if one.charter.number == found.charter and one.charter.digest == found.charter_digest:
            if one.charter.state_name != found.name:
                raise CorruptObject("this statement gives the state another name than its charter does")
            return one.charter
    raise CorruptObject(f"there is no charter {found.charter} with that digest: not yet published here, or never made")


def _known(found: PublicStatement, charter: ParsedCharter, view: StateView, card: Card) -> bool:
    match found.role:
        case Role.WITNESS:
            return any((w.label, w.card) == (found.signer, card.digest) for w in charter.witnesses)
        case Role.CUSTODIAN:
            return any((c.label, c.card) == (found.signer, card.digest) for c in charter.custodians)
        case Role.WRITER:
            return any(e.writer.digest == card.digest for chain in view.epochs.values() for e in chain.epochs)


def check_statement(
    data: bytes,
    sources: Sources,
    pinned: Fingerprint,
    *,
    now: Instant,
    choose: Callable[[int], int],
) -> CheckedStatement:
    """Looks at ``sources`` (site name → site) for all that the statement in ``data`` claims.

    Raises as ``read_statement`` and ``read_state`` do; what a single site does only makes claims false or untold.
    """
    guarded = {name: GuardedSource(str(name), source) for name, source in sources.items()}
    view = read_state(guarded, pinned)
    found = read_statement(data, view)
    charter = _charter(found, view)
    about = tuple(site.label for site in charter.sites if any(site.label in rule.at for rule in charter.registers))
    check = _Check(view, guarded, found, charter, now, choose)
    claims = [*check.times(), *check.silence(), *(check.line(line) for line in found.lines)]
    if found.total is not None:
        claims.append(check.total(found.total))
    unnamed = tuple(label for label in about if label not in sources)
    return CheckedStatement(found, tuple(claims), now <= found.next_by, about, unnamed)


@dataclass(slots=True)
class _Copies:
    """Where something was found."""

    sites: list[Label]
    silent: list[Label]

    def told(self) -> str:
        silent = f"; not read: {', '.join(self.silent)}" if self.silent else ""
        return f"found at {', '.join(self.sites) or 'no site'}{silent}"


@dataclass(frozen=True, slots=True)
class _Check:
    view: StateView
    sources: Sources
    said: PublicStatement
    charter: ParsedCharter
    now: Instant
    choose: Callable[[int], int]

    def times(self) -> Iterable[Claim]:
        """Nobody can have looked tomorrow, or have found data that is younger than the look; and whoever lost his part
        can still date what he signs before that."""
        if not still_speaks(self.said, self.view):
            why = (
                f"{self.said.signer} is no {self.said.role} any more: he, or who has his key, may have signed it since"
            )
            yield Claim(None, Truth.UNTOLD, why)
        if self.said.verified > self.now + CLOCK_TOLERANCE_US:
            yield Claim(
                None, Truth.FALSE, f"it says that it looked at {instant_text(self.said.verified)}, which is yet to come"
            )
        late = [line for line in self.said.lines if line.time > self.said.verified + CLOCK_TOLERANCE_US]
        for line in late:
            yield Claim(line.register, Truth.FALSE, "its data is younger than the look that found it")

    def silence(self) -> Iterable[Claim]:
        """Bad news that is left out: a statement is about every public register of its charter."""
        told = {line.register for line in self.said.lines}
        for rule in self.charter.registers:
            if rule.public_name is not None and rule.id not in told:
                yield Claim(rule.id, Truth.FALSE, f"it is silent about the public register {rule.public_name}")

    def line(self, line: RegisterLine) -> Claim:
        """(2) One register."""
        rule = self.charter.register(line.register)
        if rule is None or rule.public_name != line.title or rule.rpo_s != line.rpo_s:
            return Claim(line.register, Truth.FALSE, "the charter has no such register, or another title or RPO for it")
        if not line.sequence:
            return Claim(line.register, Truth.HOLDS, "it claims nothing")
        history = self._history(rule)
        if history is None:
            return Claim(line.register, Truth.UNTOLD, "no site shows its ledger")
        if line.sequence in history.erased:
            return Claim(line.register, Truth.UNTOLD, f"version {line.sequence} was {history.erased[line.sequence]}")
        meant = [v for v in history.versions if sha256(v.leaf.encode()) == line.leaf]
        right = [v for v in meant if (v.leaf.sequence, v.leaf.time) == (line.sequence, line.time)]
        if not right:
            return self._no_such_version(line, rule, history)
        copies = self._copies(rule, right)
        return self._judged(line.register, copies, line.copies, line.countries, f"version {line.sequence}")

    def _no_such_version(self, line: RegisterLine, rule: CharterRegister, history: RegisterHistory) -> Claim:
        """Nowhere: a lie, unless the sites that were asked may just lack it."""
        last = history.versions[-1].leaf.sequence if history.versions else 0
        told = f"there is no version {line.sequence} with that ledger entry; the last one that counts is {last}"
        unasked = set(rule.at) - {Label(name) for name in self.view.shown}
        if line.sequence > last and unasked:
            return Claim(line.register, Truth.UNTOLD, f"{told}; not read: {', '.join(sorted(unasked))}")
        return Claim(line.register, Truth.FALSE, told)

    def total(self, total: SealedTotal) -> Claim:
        """(3) All sealed registers."""
        rules = [rule for rule in self.charter.registers if rule.public_name is None]
        if total.registers != len(rules):
            return Claim(None, Truth.FALSE, f"the charter has {len(rules)} sealed registers, not {total.registers}")
        within = maybe = 0
        whole = "the one sealed register was" if len(rules) == 1 else f"all {len(rules)} sealed registers were"
        worst = Claim(None, Truth.HOLDS, f"{whole} found as it says")
        for rule in rules:
            history = self._history(rule)
            versions = (
                [v for v in history.versions if v.leaf.time <= self.said.verified + CLOCK_TOLERANCE_US]
                if history
                else []
            )
            safe, hoped = self._within(rule, versions)
            within, maybe = within + safe, maybe + hoped
            if total.time:
                meant = [v for v in versions if v.leaf.time >= total.time]
                copies = self._copies(rule, meant)
                one = self._judged(rule.id, copies, total.copies, total.countries, "data up to that moment")
                gone = history is not None and bool(history.erased)
                if one.truth is Truth.FALSE and (history is None or (gone and not meant)):
                    one = Claim(rule.id, Truth.UNTOLD, f"{one.found}; older versions were erased, or nothing is shown")
                worst = max(worst, one, key=lambda claim: list(Truth).index(claim.truth))
        if within < total.within_rpo and worst.truth is not Truth.FALSE:
            truth = Truth.UNTOLD if within + maybe >= total.within_rpo else Truth.FALSE
            if truth is Truth.UNTOLD:
                proven = f"the sites that were read prove it of {within} sealed registers, and {total.within_rpo}"
                return Claim(None, truth, f"{proven} are said to have been within their RPO")
            return Claim(None, truth, f"{within} sealed registers were within their RPO then, not {total.within_rpo}")
        return worst

    def _within(self, rule: CharterRegister, versions: Sequence[CountedVersion]) -> tuple[int, int]:
        """(1, 0) if the register was within its RPO then, (0, 1) if that cannot be told, (0, 0) if it was not."""
        placement = placement_of(self.charter, rule, now=self.said.verified)
        meant = [v for v in versions if is_within(v.leaf.time, rule.rpo_s, self.said.verified)]
        copies = self._copies(rule, meant)
        if not placement.missing(copies.sites):
            return 1, 0
        return 0, int(not placement.missing([*copies.sites, *copies.silent]))

    def _history(self, rule: CharterRegister) -> RegisterHistory | None:
        sources = {name: source for name, source in self.sources.items() if name in rule.at and name in self.view.shown}
        if not sources or rule.id not in self.view.epochs:
            return None
        return mark_erased(self.view, sources, read_history(self.view, sources, rule.id), self.now)

    def _copies(self, rule: CharterRegister, versions: Sequence[CountedVersion]) -> _Copies:
        """Sites that have one of ``versions`` whole; the newest is tried first."""
        found = _Copies([], [])
        for label in rule.at:
            source = self.sources.get(label)
            if source is None or label not in self.view.shown:
                found.silent.append(label)
                continue
            there = [v for v in reversed(versions) if label in v.held_by][:LOOK_BACK]
            self._try(rule, label, source, there, found)
        return found

    def _try(
        self, rule: CharterRegister, label: Label, source: Readable, there: Sequence[CountedVersion], found: _Copies
    ) -> None:
        objects = HeldObjects(self.view.state, rule.id)
        for version in there:
            try:
                objects.hold_boxes(source, self.view)
                objects.hold(source, version.leaf, sample=min(self.said.sample, MAX_SAMPLE), choose=self.choose)
            except UnavailableError:
                found.silent.append(label)
                return
            except (IntegrityError, MalformedError):
                continue
            found.sites.append(label)
            return

    def _judged(self, register: RegisterId, copies: _Copies, sites: int, countries: int, what: str) -> Claim:
        if _enough(self._where(copies.sites), sites, countries):
            return Claim(register, Truth.HOLDS, f"{what}: {copies.told()}")
        claimed = f"{sites} sites in {countries} countries are claimed"
        hoped = _enough(self._where([*copies.sites, *copies.silent]), sites, countries)
        return Claim(register, Truth.UNTOLD if hoped else Truth.FALSE, f"{what}: {copies.told()}; {claimed}")

    def _where(self, labels: Iterable[Label]) -> list[Country]:
        places = {site.label: site.country for site in self.charter.sites}
        return [places[label] for label in dict.fromkeys(labels) if label in places]


def _enough(places: Sequence[Country], sites: int, countries: int) -> bool:
    return len(places) >= sites and len(set(places)) >= countries

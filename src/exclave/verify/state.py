"""Who may do what in a state, as its sites together tell it: charters, warrants, epochs.

Believed is only what is signed. Every site is asked for everything, since any of them may hide or plant something;
copies are taken together. What one site hides, spoils or should not show is a ``Finding`` and stops nothing as long
as the others make up for it. What anybody with write access could have planted is a finding too, but not grave: on
write-once storage it stays for years.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exclave.errors import (
    ExclaveError,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    RolledBack,
    UnavailableError,
    WrongFingerprint,
)
from exclave.formats.card import Card
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import (
    box_key,
    card_key,
    card_prefix,
    charter_prefix,
    epoch_prefix,
    ledger_origin,
    ledger_prefix,
    warrant_prefix,
)
from exclave.ids import Digest, Fingerprint, Key, Label, RegisterId, sha256
from exclave.rules.charters import CharterChain, Rejected, find_charter_chain
from exclave.rules.epochs import EpochChain, VerifiedEpoch, verify_epoch_chain
from exclave.rules.warrants import collect_warrants
from exclave.sites.contract import Readable, Sources
from exclave.verify.ahead import Ahead, foresee_below
from exclave.verify.logs import LogReader
from exclave.verify.shown import (
    NOT_IN_CHARTER,
    CharterSearch,
    Finding,
    Shown,
    Told,
    fetch_card,
    fetch_cards,
    finding,
    names_shown,
    read_cards,
    read_epochs,
    read_warrants,
)

__all__ = ["Finding", "StateView", "find_box", "finding", "read_state"]


_REGISTERS_AHEAD = 16
"""So many registers' epochs are asked of far sites at once."""


@dataclass(slots=True)
class StateView:
    """What is signed and in force. Built by ``read_state``."""

    state: Fingerprint
    chain: CharterChain
    cards: dict[Digest, Card]
    warrants: dict[Digest, ParsedNote]
    epochs: dict[RegisterId, EpochChain]
    findings: list[Finding] = field(default_factory=list)
    charter_notes: list[bytes] = field(default_factory=list)
    """All charter notes that were found, for whoever adds one."""
    shown: dict[str, Shown] = field(default_factory=dict)
    """What each site that answered showed."""

    def should_hold(self, site: str, register: RegisterId) -> bool:
        """Whether ``site`` is one that has to hold ``register``: the charter says so, or (a source that goes by
        another name) it shows epochs of it."""
        charter = self.chain.newest.charter
        rule = charter.register(register)
        if rule is None or site not in self.shown:
            return False
        if any(site == s.label for s in charter.sites):
            return site in rule.at
        return bool(self.shown[site].epochs.get(register))

    def epoch_chain(self, register: RegisterId) -> EpochChain:
        """The epochs of ``register``; ``MissingObject`` if they could not be read."""
        chain = self.epochs.get(register)
        if chain is None:
            why = next((f.detail for f in self.findings if f.register == register), "no site shows them")
            raise MissingObject(f"the epochs of register {register} cannot be told: {why}", register=register)
        return chain

    def witness_cards(self) -> dict[Label, Card]:
        """Key cards of the witnesses that the newest charter names, as far as they were found."""
        found = {w.label: self.cards.get(w.card) for w in self.chain.newest.charter.witnesses}
        return {label: card for label, card in found.items() if card is not None}

    def log_reader(self, epoch: VerifiedEpoch, source: Readable) -> LogReader:
        """Reads the log of ``epoch`` at ``source``."""
        prefix = ledger_prefix(self.state, epoch.register, epoch.number, epoch.digest)
        return LogReader(source, prefix, ledger_origin(self.state, epoch.register, epoch.number), epoch.writer)


def read_state(sources: Sources, pinned: Fingerprint, only: Container[RegisterId] | None = None) -> StateView:
    """The state with the fingerprint ``pinned``, from all ``sources`` (site name → site) that answer.

    ``only``: epochs of these registers are read, and of no others; default: of all that the charter lists.

    (1) cards · (2) the charter chain, then the warrants under it · (3) each register's epochs · (4) whether each site
    by itself would tell the same. Raises what nobody can plant or explain away: ``WrongFingerprint``, ``Forked``,
    ``MissingObject``, ``QuorumMissing``; ``SiteUnavailable`` if no site answers.
    """
    with Ahead(sources) as ahead:
        first = (card_prefix(pinned), charter_prefix(pinned), warrant_prefix(pinned))
        foresee_below(ahead.sources.values(), first)
        return _read_state(ahead.sources, pinned, only)


def _read_state(sources: Sources, pinned: Fingerprint, only: Container[RegisterId] | None) -> StateView:
    findings: list[Finding] = []
    cards: dict[Digest, Card] = {}
    shown: dict[str, Shown] = {}
    failures: list[UnavailableError] = []

    def from_each(step: Callable[[str, Readable], None]) -> None:
        """A site that stops answering is left out from then on."""
        for name, source in sources.items():
            if any(f.site == name and f.what == "site" for f in findings):
                continue
            try:
                step(name, source)
            except UnavailableError as error:
                shown.pop(name, None)
                findings.append(finding(name, "site", error))
                failures.append(error)

    def cards_at(name: str, source: Readable) -> None:
        shown[name] = read_cards(source, pinned, name, cards, findings)

    from_each(cards_at)  # (1)
    chain, rejected = _find_chain(sources, pinned, cards, shown, findings, from_each, failures)  # (2)
    _attribute(rejected, {n: s.charters for n, s in shown.items()}, findings)
    raw: list[bytes] = []
    from_each(lambda name, source: raw.extend(read_warrants(source, chain, name, shown[name], findings)))
    warrants = collect_warrants(raw, chain)
    answering = {name: sources[name] for name in shown}
    if not answering:
        raise failures[0]
    charters = _once(data for site in shown.values() for data in site.charters.values())
    view = StateView(pinned, chain, cards, warrants, {}, findings, charters, shown)
    registers = [rule.id for rule in chain.newest.charter.registers if only is None or rule.id in only]
    for place, register in enumerate(registers):  # (3)
        if place % _REGISTERS_AHEAD == 0:
            soon = registers[place : place + _REGISTERS_AHEAD]
            foresee_below(answering.values(), (epoch_prefix(pinned, one) for one in soon))
        _read_epochs(view, answering, register)
    for name in shown:  # (4)
        _check_site(view, name, answering[name])
    return view


def signed_names(sources: Sources, state: Fingerprint, register: RegisterId) -> dict[str, bytes | None]:
    """For each source a digest of the names under which charters, warrants and epochs of ``register`` lie there.

    Taken before ``read_state``, and the same afterwards: what was read is what is there. None never equals anything.
    """
    prefixes = (charter_prefix(state), warrant_prefix(state), epoch_prefix(state, register))
    with Ahead(sources) as ahead:
        foresee_below(ahead.sources.values(), prefixes, objects=False)
        return {name: names_shown(source, prefixes) for name, source in ahead.sources.items()}


def _find_chain(
    sources: Sources,
    pinned: Fingerprint,
    cards: dict[Digest, Card],
    shown: dict[str, Shown],
    findings: list[Finding],
    from_each: Callable[[Callable[[str, Readable], None]], None],
    failures: Sequence[UnavailableError],
) -> tuple[CharterChain, tuple[Rejected, ...]]:
    """(2) The charter chain, from what custodians of its charters signed, and a few other notes with what is wrong."""
    search = CharterSearch(sources, pinned, cards)
    while True:
        taken: list[bool] = []
        from_each(lambda n, _, t=taken: t.append(search.go_through(n, shown[n], findings)))  # type: ignore[misc]
        if not shown and failures:
            raise failures[0]
        answering = {name: sources[name] for name in shown}
        charters = _once(data for site in shown.values() for data in site.charters.values())
        fetch_cards(answering, pinned, charters, cards)
        grown = False
        if charters:
            chain, _ = find_charter_chain(charters, cards, pinned)
            grown = search.know(p.card for c in chain.charters for p in c.charter.custodians)
        if not grown and not any(taken):
            break
    for name, site in shown.items():
        search.add_rest(name, site)
    charters = _once(data for site in shown.values() for data in site.charters.values())
    if not charters:
        raise _nothing_of(pinned, answering)
    return find_charter_chain(charters, cards, pinned)


def _nothing_of(state: Fingerprint, sources: Sources) -> ExclaveError:
    """Why there is no charter: another state's sites, or ones that lost or hide it."""
    for source in sources.values():
        try:
            if next(iter(source.list(f"{state}/")), None) is not None:
                break
            if next(iter(source.list("")), None) is not None:
                return WrongFingerprint(f"nothing of a state {state[:16]}… lies here, but of others")
        except (UnavailableError, IntegrityError):
            continue
    return MissingObject(f"no site shows a charter of state {state[:16]}…")


def find_box(sources: Sources, state: Fingerprint, register: RegisterId, digest: Digest) -> bytes:
    """A sealed box (share, annex, ancestors) from whichever site has it unharmed."""
    key = box_key(state, register, digest)
    last: ExclaveError = MissingObject(f"no site has the box {digest.hex()[:16]}…")
    for source in sources.values():
        try:
            data = source.get(key, limit=2 << 20)
        except (UnavailableError, IntegrityError) as error:
            last = error
            continue
        if sha256(data) == digest:
            return data
    raise MissingObject(f"no site has a good copy of the box {digest.hex()[:16]}…", box=digest.hex()) from last


def _once(notes: Iterable[bytes]) -> list[bytes]:
    return list(dict.fromkeys(notes))


def _attribute(
    rejected: Iterable[Rejected],
    shown: Mapping[str, Mapping[Key, bytes]],
    findings: list[Finding],
    register: RegisterId | None = None,
) -> None:
    """Findings for notes that do not count, at the sites that show them."""
    places: dict[Digest, list[tuple[str, Key]]] = {}
    for name, notes in shown.items():
        for key, data in notes.items():
            places.setdefault(parse_note(data).digest, []).append((name, key))
    for wrong in rejected:
        for name, key in places.get(wrong.digest, []) if wrong.digest else []:
            what = f"{wrong.what}: {wrong.reason}"
            findings.append(Finding(name, wrong.error.code, key, what, register, grave=wrong.grave))


def _read_epochs(view: StateView, sources: Sources, register: RegisterId) -> None:
    """(3) The epochs of one register, from all sites together."""
    by_site: dict[str, Mapping[Key, bytes]] = {}
    named = _named_epochs(view.chain, register)

    def find_card(digest: Digest) -> Card | None:
        if digest not in view.cards:
            fetch_card(sources, view.state, digest, view.cards)
        return view.cards.get(digest)

    for name, source in sources.items():
        notes = view.shown[name].epochs.setdefault(register, {})
        by_site[name] = notes
        try:
            prefix = epoch_prefix(view.state, register)
            told = Told(name, prefix, view.findings, register)
            for key, note in read_epochs(source, prefix, named, view.warrants, find_card, told):
                notes[key] = note.encode()
        except UnavailableError as error:
            view.findings.append(finding(name, "epochs", error, register))
            view.shown[name].unread.add(register)
    everything = _once(data for notes in by_site.values() for data in notes.values())
    try:
        chain = verify_epoch_chain(view.chain, register, everything, view.warrants, view.cards)
    except (IntegrityError, NotAuthorised, MalformedError) as error:
        view.findings.append(finding("?", "epochs", error, register))
        return
    _attribute(chain.rejected, by_site, view.findings, register)
    view.epochs[register] = chain


def _named_epochs(chain: CharterChain, register: RegisterId) -> set[Digest]:
    """Digests of the notes that charters name; those below are granted by warrants."""
    rules = [c.charter.register(register) for c in chain.charters]
    return {rule.epoch_note for rule in rules if rule is not None}


def _check_site(view: StateView, name: str, source: Readable) -> None:
    """(4) What ``name`` alone lacks of what all sites together show."""
    shown, chain = view.shown[name], view.chain
    named = any(site.label == name for site in chain.newest.charter.sites)
    if not (named or shown.charters or shown.cards or any(shown.epochs.values())):
        text = (
            f"number {chain.newest.charter.number} is in force and does not name it, and nothing of the state lies"
            " here: it is not yet in the charter"
        )
        view.findings.append(Finding(name, NOT_IN_CHARTER, "charter", text, grave=False))
        return
    _compare(view, name, "charter", len(chain.charters), lambda: _own_charters(view, shown))
    charters = [c.charter for c in chain.charters]
    needed = {p.card for c in charters for p in c.custodians} | {w.card for c in charters for w in c.witnesses}
    used: set[Digest] = set()
    for register, epochs in view.epochs.items():
        if not view.should_hold(name, register) or register in shown.unread:
            continue
        needed |= {card.digest for epoch in epochs.epochs for card in (epoch.writer, epoch.maker)}
        used |= {epoch.warrant.digest for epoch in epochs.epochs if epoch.warrant}
        own = _once(shown.epochs.get(register, {}).values())
        told = len(epochs.epochs)
        _compare(view, name, "epoch", told, lambda o=own, r=register: _own_epochs(view, o, r), register)  # type: ignore[misc]
    known = {f.what for f in view.findings if f.site == name}
    for digest in sorted(needed - set(shown.cards.values())):
        key = card_key(view.state, digest)
        # Its listing may be too long to be read to the end.
        if key not in known and fetch_card({name: source}, view.state, digest, {}) is None:
            view.findings.append(finding(name, key, MissingObject("a key card is missing here")))
    for digest in sorted(used - set(shown.warrants.values())):
        missing = MissingObject("the warrant that an epoch rests on is missing here")
        view.findings.append(finding(name, f"warrant {digest.hex()}", missing))


def _own_charters(view: StateView, shown: Shown) -> int:
    own = _once(shown.charters.values())
    if set(own) == set(view.charter_notes):
        return len(view.chain.charters)
    if not own:
        raise MissingObject(f"there is no charter of state {view.state[:16]}… here")
    return len(find_charter_chain(own, view.cards, view.state)[0].charters)


def _own_epochs(view: StateView, own: list[bytes], register: RegisterId) -> int:
    everything = {data for site in view.shown.values() for data in site.epochs.get(register, {}).values()}
    if set(own) == everything:
        return len(view.epochs[register].epochs)
    return len(verify_epoch_chain(view.chain, register, own, view.warrants, view.cards).epochs)


def _compare(
    view: StateView, name: str, what: str, told: int, count: Callable[[], int], register: RegisterId | None = None
) -> None:
    """A finding if ``name`` alone tells fewer charters or epochs than ``told``."""
    try:
        own = count()
    except (IntegrityError, NotAuthorised, MalformedError) as problem:
        view.findings.append(finding(name, what, problem, register))
        return
    if own < told:
        old = RolledBack(f"it shows {what} {own} as the newest, others {told}: not published here yet, or rolled back")
        view.findings.append(finding(name, what, old, register))

"""What deliveries by lists and ledgers leave out, brought to one site: warrants, statements, timestamps, feeds' heads.

Only what somebody whom the charters know has signed is carried, so that no host can make others store its rubbish. A
restart finds some of it under its names, and brings the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exclave.errors import (
    ConflictError,
    CorruptObject,
    Forked,
    IntegrityError,
    MalformedError,
    NotAuthorised,
    OutcomeUnknown,
    UnavailableError,
)
from exclave.formats.card import Card
from exclave.formats.exit import KIND as EXIT
from exclave.formats.exit import parse_exit_facts
from exclave.formats.feed import ParsedFeedHead
from exclave.formats.note import MAX_NOTE_BYTES, parse_note
from exclave.formats.paths import (
    ledger_prefix,
    public_statement_key,
    public_statements_prefix,
    statement_key,
    statement_prefix,
    warrant_key,
)
from exclave.formats.timestamp import MAX_TOKEN_BYTES, timestamp_prefix
from exclave.formats.warrant import parse_warrant
from exclave.ids import Digest, Instant, Key, Label, RegisterId, sha256
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.signatures import signers
from exclave.sites.contract import MAX_HEAD_BYTES, Readable, Site, digest_of
from exclave.verify.feeds import absent_batches, head_key, read_heads, verify_feed_head
from exclave.verify.history import RegisterHistory
from exclave.verify.state import StateView
from exclave.verify.statements import read_statement
from exclave.verify.timestamps import TokenReader

MAX_STATEMENTS = 10_000
"""Names that are looked at below one site's prefix of statements."""
MAX_NAMED = 1_000_000
"""Names of public statements, and of one log's timestamps, that are looked at at one site: decades of them, since the
newest come last."""
MAX_USELESS = 16
"""Of one day's public statements at one source so many that nobody signed are read; then the rest of that day is left
out: honest sites have none, and a host may show any number."""
MAX_USELESS_IN_ALL = 1000
"""Of all statements of one kind at one source so many; then the rest of that source is left out. As many as a host
keeps of what nobody vouches for."""
_MAX_USELESS_BYTES = 64 << 20
"""And no more bytes of them: he may make each as long as he likes."""
_MAX_STATEMENT_BYTES = 1 << 20


def carry_public(
    view: StateView, history: RegisterHistory, label: Label, target: Site, sources: Mapping[Label, Site],
    *, mend: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Gives ``target`` the warrants, statements and timestamps of a register that it lacks; what was refused, and why.
    With ``mend``, wrong bytes that lie there under such a name are replaced.

    ``history``: of the register, as ``sources`` show it: what timestamps are about. ``UnavailableError`` if the target
    stops answering.
    """
    own = set(view.shown[label].warrants.values()) if label in view.shown else set()
    objects: list[tuple[Key, bytes]] = []
    for digest, note in sorted(view.warrants.items()):
        if digest not in own and note.signatures:
            objects.append((warrant_key(view.state, note.encode()), note.encode()))
    objects += _statements(view, history, target, sources, mend=mend)
    objects += timestamps_lacking(view, history, target, sources, mend=mend)
    return _put_all(label, target, objects, mend=mend)


def carry_public_statements(
    view: StateView, label: Label, target: Site, sources: Mapping[Label, Site], *, mend: bool = False
) -> dict[str, str]:
    """Gives ``target`` the statements about the whole state that it lacks, as ``carry_public`` does."""
    return _put_all(label, target, _public_statements(view, target, sources, mend=mend), mend=mend)


def put_mending(target: Site, key: Key, data: bytes, *, mend: bool) -> None:
    """Puts what is write-once; with ``mend`` in the place of wrong bytes too."""
    try:
        target.put_same(key, data)
    except CorruptObject:
        if not mend:
            raise
        # Killed before: the wrong bytes, and the next run finds them again. After: the right ones, durably.
        target.replace_spoilt(key, data, _digest_there(target, key))


def _digest_there(target: Site, key: Key) -> Digest | None:
    """SHA-256 of what lies there; None if it cannot be read as an object."""
    try:
        return digest_of(target, key).digest
    except IntegrityError:
        return None


def _put_all(label: Label, target: Site, objects: Iterable[tuple[Key, bytes]], *, mend: bool) -> dict[str, str]:
    faults: dict[str, str] = {}
    for key, data in objects:
        try:
            # Killed before: the next run finds that it is lacking. After: it is there, whole.
            put_mending(target, key, data, mend=mend)
        except (IntegrityError, OutcomeUnknown) as error:
            faults[f"{label} {key}"] = error.message
    return faults


@dataclass(slots=True)
class _Patience:
    """With one source: how much of what nobody signed is read there still."""

    objects: int = MAX_USELESS_IN_ALL
    size_bytes: int = _MAX_USELESS_BYTES

    def spend(self, data: bytes | None) -> bool:
        """Notes that ``data`` (None: it could not be read) was of no use; whether the source is asked any more."""
        self.objects -= 1
        self.size_bytes -= len(data or b"")
        return self.objects > 0 and self.size_bytes > 0


def _statements(
    view: StateView, history: RegisterHistory, target: Site, sources: Mapping[Label, Site], *, mend: bool
) -> Iterator[tuple[Key, bytes]]:
    """Statements that the target lacks, each signed by somebody whom the state has named, or named in the ledger."""
    prefix = statement_prefix(view.state, history.register)
    have = _there(target, prefix, MAX_STATEMENTS, _MAX_STATEMENT_BYTES, mend=mend)
    known, told = _known_people(view), set(_told_exits(history))
    for source in sources.values():
        patience = _Patience()
        try:
            for key in _names(source, prefix, MAX_STATEMENTS):
                if key in have:
                    continue
                data = _get(source, key, _MAX_STATEMENT_BYTES)
                named = data is not None and statement_key(view.state, history.register, data) == key
                if data is not None and named and (sha256(data) in told or _is_signed(known, data)):
                    have.add(key)
                    yield key, data
                elif not patience.spend(data):
                    break
        except (UnavailableError, IntegrityError):
            continue  # the next source may have it; `verify` tells what is wrong here


def _public_statements(
    view: StateView, target: Site, sources: Mapping[Label, Site], *, mend: bool
) -> Iterator[tuple[Key, bytes]]:
    """Those about the whole state that the target lacks, each signed by somebody whom its charter knows."""
    prefix = public_statements_prefix(view.state)
    have = _there(target, prefix, MAX_NAMED, MAX_NOTE_BYTES, mend=mend)
    useless: set[Key] = set()
    for source in sources.values():
        left: dict[str, int] = {}
        patience = _Patience()
        try:
            for key in _names(source, prefix, MAX_NAMED):
                day = key.rpartition("/")[0]
                if key in have or key in useless or left.get(day, 0) >= MAX_USELESS:
                    continue
                data = _get(source, key, MAX_NOTE_BYTES)
                if data is not None and _is_public_statement(view, key, data):
                    have.add(key)
                    yield key, data
                    continue
                left[day] = left.get(day, 0) + 1
                if data is not None and _has_its_hash(key, data):
                    useless.add(key)
                if not patience.spend(data):
                    break
        except (UnavailableError, IntegrityError):
            continue  # the next source may have it


def _is_public_statement(view: StateView, key: Key, data: bytes) -> bool:
    try:
        said = read_statement(data, view)
    except (MalformedError, IntegrityError, NotAuthorised):
        return False  # anybody who may write there can have put it
    return public_statement_key(view.state, said.verified, data) == key


def timestamps_lacking(
    view: StateView, history: RegisterHistory, target: Readable, sources: Mapping[Label, Site], *, mend: bool = False
) -> Iterator[tuple[Key, bytes]]:
    """Tokens at ``sources`` that prove something of what counts, and whose names ``target`` lacks."""
    have: set[Key] = set()
    for log in history.epochs if any(c.charter.authorities for c in view.chain.charters) else ():
        prefix = ledger_prefix(view.state, log.epoch.register, log.epoch.number, log.epoch.digest)
        have |= _there(target, timestamp_prefix(prefix), MAX_NAMED, MAX_TOKEN_BYTES, mend=mend)
    places: Mapping[str, Readable] = {str(name): source for name, source in sources.items()}
    for stamp in TokenReader(view, places, history).read(places, skip=have)[0]:
        yield stamp.key, stamp.token


def _there(target: Readable, prefix: str, most: int, limit: int, *, mend: bool) -> set[Key]:
    """Names at the target below ``prefix``; with ``mend``, those whose bytes have the hash that they are named by."""
    names = set(_names(target, prefix, most))
    if mend:
        names = {key for key in names if (data := _get(target, key, limit)) is not None and _has_its_hash(key, data)}
    return names


def _get(source: Readable, key: Key, limit: int) -> bytes | None:
    """The object; None if it cannot be read as one."""
    try:
        return source.get(key, limit=limit)
    except IntegrityError:
        return None


def _has_its_hash(key: Key, data: bytes) -> bool:
    """Whether the name's last part is the SHA-256 of the bytes, or its first digits."""
    return sha256(data).hex().startswith(key.rpartition("/")[2].rpartition("-")[2])


def _names(source: Readable, prefix: str, most: int) -> Iterator[Key]:
    for place, stat in enumerate(source.list(prefix)):
        if place >= most:
            return
        yield stat.key


def _known_people(view: StateView) -> list[Card]:
    """Cards of whoever a charter, a warrant or an epoch names; others that lie at a site may be anybody's."""
    named = {person.card for one in view.chain.charters for person in one.charter.custodians}
    named |= {witness.card for one in view.chain.charters for witness in one.charter.witnesses}
    named |= {parse_warrant(note.text).machine for note in view.warrants.values() if note.signatures}
    made = [card for chain in view.epochs.values() for epoch in chain.epochs for card in (epoch.writer, epoch.maker)]
    return [*(view.cards[digest] for digest in sorted(named) if digest in view.cards), *made]


def _told_exits(history: RegisterHistory) -> Iterator[Digest]:
    """Statements of operators, whom no charter names: the register's ledger names the statement."""
    for counted in history.facts:
        if counted.fact.kind == EXIT:
            try:
                yield parse_exit_facts(counted.fact.say)[1]
            except MalformedError:
                continue


def _is_signed(known: Iterable[Card], data: bytes) -> bool:
    try:
        note = parse_note(data)
    except MalformedError:
        return False
    names = {signature.name for signature in note.signatures}
    return bool(signers(note, (card for card in known if card.name in names)))


def bring_feed_heads(
    view: StateView, register: RegisterId, label: Label, target: Site, sources: Mapping[Label, Site], *, now: Instant
) -> dict[str, str]:
    """Brings each identity feed's head forward at ``target``, once its batches are there; what could not be, and why.

    A head that goes further stays, and one that contradicts the others is told and not overwritten.
    """
    faults: dict[str, str] = {}
    chain = view.epochs.get(register)
    for epoch in chain.epochs if chain is not None else ():
        try:
            why = _bring_head(view, epoch, label, target, sources, now)
        except (IntegrityError, ConflictError, OutcomeUnknown) as error:
            why = error.message
        if why:
            faults[f"{label} {head_key(view.state, epoch)}"] = why
    return faults


def _bring_head(
    view: StateView, epoch: VerifiedEpoch, label: Label, target: Site, sources: Mapping[Label, Site], now: Instant
) -> str:
    best = read_heads(view.state, epoch, {str(name): source for name, source in sources.items()}, now=now).best
    if best is None:
        return ""
    key = head_key(view.state, epoch)
    there = target.read_head(key)
    own = _verified(there.data, epoch) if there is not None else None
    if own is not None and own.head.number == best.head.number and own.head.chain != best.head.chain:
        raise Forked(f"{label} shows another entry {own.head.number} of the identity feed than other sites")
    if own is not None and (own.head.number, own.time) >= (best.head.number, best.time):
        return ""
    wrong = next(iter(absent_batches(view.state, epoch, target, best)), None)
    if wrong is not None:
        return f"its batches are not all there: {wrong.message}"
    for source in sources.values():
        try:
            data = source.get(key, limit=MAX_HEAD_BYTES)
        except (UnavailableError, IntegrityError):
            continue
        if _verified(data, epoch) == best:
            # A restart finds the former head or this one: both are true.
            target.replace_if(key, data, there.tag if there is not None else None)
            return ""
    return "no source shows it any more"


def _verified(data: bytes, epoch: VerifiedEpoch) -> ParsedFeedHead | None:
    """The head in ``data``; None if it is no head of this feed, which proves nothing against anybody."""
    try:
        return verify_feed_head(data, epoch)
    except (MalformedError, IntegrityError, NotAuthorised):
        return None

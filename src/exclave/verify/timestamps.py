"""Before when a ledger's entries existed, by authorities whom the charters name: no clock of ours or a host's.

Tokens lie beside the log (``docs/spec/timestamp.md``). Anybody who may write there can put others, so one that proves
nothing is a finding and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exclave.crypto.timestamp import VerifiedTimestamp, verify_timestamp
from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, NotAuthorised, UnavailableError
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.paths import ledger_origin, ledger_prefix
from exclave.formats.timestamp import MAX_TOKEN_BYTES, Authority, timestamp_key, timestamp_prefix, timestamp_size
from exclave.ids import Digest, Epoch, Instant, Key, Label, sha256
from exclave.ids import Sequence as VersionNumber
from exclave.sites.contract import Readable, Sources
from exclave.verify.history import EpochLog, RegisterHistory
from exclave.verify.logs import ProvenTree
from exclave.verify.state import Finding, StateView, finding

MAX_LISTED = 100_000
"""Most tokens of one log that are looked at by name at one source."""
MAX_READ = 64
"""Most of them that are read, the newest first: backups ask for one now and then, and a host may show any number."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A token that proves something: the first ``entries`` of an epoch's log existed before ``before``."""

    authority: Label
    before: Instant
    epoch: Epoch
    entries: int
    sequence: VersionNumber | None
    """The newest version among them; None if there is none."""
    signer: str
    """Subject of the authority's certificate."""
    key: Key
    token: bytes


def authorities_of(view: StateView) -> tuple[Authority, ...]:
    """All that any charter of the chain names, the newest first: who was dismissed has dated rightly before."""
    found: dict[tuple[bytes, str | None], Authority] = {}
    for charter in reversed(view.chain.charters):
        for authority in charter.charter.authorities:
            found.setdefault((authority.root, authority.policy), authority)
    return tuple(found.values())


def read_timestamps(
    view: StateView, sources: Sources, history: RegisterHistory
) -> tuple[tuple[Stamp, ...], tuple[Finding, ...]]:
    """The tokens about what counts of ``history``, the earliest first; and what lies in their place and is none."""
    authorities = authorities_of(view)
    if not authorities:
        return (), ()
    stamps: dict[Key, Stamp] = {}
    findings: list[Finding] = []
    for log in history.epochs:
        tree = _tree(view, sources, log)
        if tree is None:
            continue
        for name, source in sources.items():
            try:
                for key, size, token in _tokens(source, _prefix(view, log), log.counted, stamps):
                    try:
                        stamps[key] = _stamp(view, history, log, tree, authorities, key, size, token)
                    except (IntegrityError, NotAuthorised, MalformedError) as error:
                        findings.append(finding(name, key, error, history.register, grave=False))
            except (IntegrityError, UnavailableError) as error:
                findings.append(
                    finding(name, timestamp_prefix(_prefix(view, log)), error, history.register, grave=False)
                )
    return tuple(sorted(stamps.values(), key=lambda stamp: stamp.before)), tuple(findings)


def _prefix(view: StateView, log: EpochLog) -> str:
    return ledger_prefix(view.state, log.epoch.register, log.epoch.number, log.epoch.digest)


def _tree(view: StateView, sources: Sources, log: EpochLog) -> ProvenTree | None:
    source = sources.get(log.source)
    if log.freshest is None or not log.counted or source is None:
        return None
    return ProvenTree(source, _prefix(view, log), log.freshest)


def _tokens(source: Readable, prefix: str, most: int, known: Iterable[Key]) -> Iterator[tuple[Key, int, bytes]]:
    """Tokens at ``source`` about at most ``most`` entries that are not ``known`` by name; the newest first."""
    named: list[tuple[int, Key]] = []
    for place, stat in enumerate(source.list(timestamp_prefix(prefix))):
        if place >= MAX_LISTED:
            break
        size = timestamp_size(prefix, stat.key)
        if size is not None and 0 < size <= most and stat.key not in known and stat.size_bytes <= MAX_TOKEN_BYTES:
            named.append((size, stat.key))
    for size, key in sorted(named, reverse=True)[:MAX_READ]:
        yield key, size, source.get(key, limit=MAX_TOKEN_BYTES)


def _stamp(
    view: StateView, history: RegisterHistory, log: EpochLog, tree: ProvenTree, authorities: Iterable[Authority],
    key: Key, size: int, token: bytes,
) -> Stamp:  # fmt: skip
    if timestamp_key(_prefix(view, log), size, token) != key:
        raise CorruptObject("a timestamp does not have the hash that it is named by", key=key)
    origin = ledger_origin(view.state, log.epoch.register, log.epoch.number)
    digest = sha256(Checkpoint(origin, size, tree.root_at(size)).encode().encode())
    if bytes(digest) not in token:  # before any parser: a host may show many that are about nothing here
        raise CorruptObject("this timestamp is about something else", key=key)
    by, found = _first_that_holds(token, digest, authorities)
    covered = [v.leaf.sequence for v in history.versions if v.epoch == log.epoch.number and v.index < size]
    newest = covered[-1] if covered else None
    return Stamp(by.label, found.before, log.epoch.number, size, newest, found.signer, key, token)


def _first_that_holds(
    token: bytes, digest: Digest, authorities: Iterable[Authority]
) -> tuple[Authority, VerifiedTimestamp]:
    problem: ExclaveError = NotAuthorised("no charter names an authority for timestamps")
    for authority in authorities:
        try:
            return authority, verify_timestamp(token, digest, root=authority.root, policy=authority.policy)
        except NotAuthorised as error:
            problem = error
    raise problem

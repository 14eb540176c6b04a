"""Before when a ledger's entries existed, by authorities whom the charters name: no clock of ours or a host's.

Tokens lie beside the log (``docs/spec/timestamp.md``). Anybody who may write there can put others, so one that proves
nothing is a finding and no more.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from exclave.crypto.timestamp import VerifiedTimestamp, verify_timestamp
from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, NotAuthorised, UnavailableError
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.paths import ledger_origin, ledger_prefix
from exclave.formats.timestamp import MAX_TOKEN_BYTES, Authority, timestamp_key, timestamp_prefix, timestamp_size
from exclave.ids import Digest, Epoch, Instant, Key, Label, sha256
from exclave.ids import Sequence as VersionNumber
from exclave.sites.contract import Readable, Sources
from exclave.verify.history import CountedVersion, EpochLog, RegisterHistory
from exclave.verify.logs import ProvenTree
from exclave.verify.state import Finding, StateView, finding

MAX_LISTED = 1_000_000
"""Most tokens of one log that are looked at by name at one source: decades of them, since the newest come last."""
MAX_READ = 16
"""Most of them that are read at one source for one version, by their names those that date it the earliest: honest
writers make one for each authority now and then, and a host may show any number."""


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
    return TokenReader(view, sources, history).read(sources)


def bounds(history: RegisterHistory, stamps: Iterable[Stamp]) -> dict[VersionNumber, Stamp]:
    """For each version that any of ``stamps`` covers, the one that proves the earliest moment before which it existed.

    A token about more entries covers all versions that one about fewer covers.
    """
    by_epoch: dict[Epoch, list[Stamp]] = {}
    for stamp in sorted(stamps, key=lambda one: one.entries):
        by_epoch.setdefault(stamp.epoch, []).append(stamp)
    for own in by_epoch.values():
        for place in reversed(range(len(own) - 1)):
            own[place] = min(own[place], own[place + 1], key=lambda one: one.before)
    sizes = {epoch: [stamp.entries for stamp in own] for epoch, own in by_epoch.items()}
    return {
        version.leaf.sequence: by_epoch[version.epoch][place]
        for version in history.versions
        if (place := bisect_right(sizes.get(version.epoch, ()), version.index)) < len(sizes.get(version.epoch, ()))
    }


class TokenReader:
    """Reads the tokens about what counts of one register. A name says how many entries its token is about, so for each
    version just those are read that could be the first after it: old versions are dated as tightly as new ones, and
    what a host plants in one place costs little and hides nothing elsewhere."""

    def __init__(self, view: StateView, sources: Sources, history: RegisterHistory) -> None:
        """``sources``: of the logs that the tokens are about."""
        authorities = authorities_of(view)
        self._logs: list[_LogTokens] = []
        for log in history.epochs if authorities else ():
            source = sources.get(log.source)
            if log.freshest is not None and log.counted and source is not None:
                versions = [version for version in history.versions if version.epoch == log.epoch.number]
                tree = ProvenTree(source, _prefix(view, log), log.freshest)
                self._logs.append(_LogTokens(view, log, tree, authorities, versions))

    def read(
        self, places: Sources, *, skip: Container[Key] = frozenset()
    ) -> tuple[tuple[Stamp, ...], tuple[Finding, ...]]:
        """The tokens at ``places`` but those named in ``skip``, the earliest first; what is none is a finding."""
        for log in self._logs:
            for name, source in places.items():
                log.read(name, source, skip)
        stamps = (stamp for log in self._logs for stamp in log.stamps.values())
        found = tuple(sorted((s for s in stamps if s.key not in skip), key=lambda stamp: stamp.before))
        return found, tuple(one for log in self._logs for one in log.findings)


class _LogTokens:
    """Tokens of one epoch's log."""

    def __init__(
        self, view: StateView, log: EpochLog, tree: ProvenTree, authorities: Iterable[Authority],
        versions: Sequence[CountedVersion],
    ) -> None:  # fmt: skip
        self.stamps: dict[Key, Stamp] = {}
        self.findings: list[Finding] = []
        self._log, self._tree, self._authorities = log, tree, authorities
        self._prefix = _prefix(view, log)
        self._origin = ledger_origin(view.state, log.epoch.register, log.epoch.number)
        self._sequences = [version.leaf.sequence for version in versions]
        self._indices = [version.index for version in versions]
        self._seen: set[Key] = set()
        """Names whose bytes were read and have that hash: what they prove, or not, they do at every source."""

    def read(self, name: str, source: Readable, skip: Container[Key]) -> None:
        try:
            for size, key in self._named(source, skip):
                try:
                    token = source.get(key, limit=MAX_TOKEN_BYTES)
                    if timestamp_key(self._prefix, size, token) != key:
                        raise CorruptObject("a timestamp does not have the hash that it is named by", key=key)
                    self._seen.add(key)
                    self.stamps[key] = self._stamp(key, size, token)
                except (IntegrityError, NotAuthorised, MalformedError) as error:
                    self._note(name, key, error)
        except (IntegrityError, UnavailableError) as error:
            self._note(name, timestamp_prefix(self._prefix), error)

    def _named(self, source: Readable, skip: Container[Key]) -> list[tuple[int, Key]]:
        """Sizes and names of tokens at ``source`` that were not read yet: of those that cover the same versions the
        first few, by size."""
        chosen: dict[int, list[tuple[int, Key]]] = {}
        for place, stat in enumerate(source.list(timestamp_prefix(self._prefix))):
            if place >= MAX_LISTED:
                break
            size = timestamp_size(self._prefix, stat.key)
            if size is None or not 0 < size <= self._log.counted or stat.size_bytes > MAX_TOKEN_BYTES:
                continue
            if stat.key in skip or stat.key in self._seen:
                continue
            alike = chosen.setdefault(bisect_left(self._indices, size), [])
            alike.append((size, stat.key))
            if len(alike) > MAX_READ:
                alike.remove(max(alike))
        return [one for covered in sorted(chosen) for one in sorted(chosen[covered])]

    def _stamp(self, key: Key, size: int, token: bytes) -> Stamp:
        digest = sha256(Checkpoint(self._origin, size, self._tree.root_at(size)).encode().encode())
        if bytes(digest) not in token:  # before any parser: a host may show many that are about nothing here
            raise CorruptObject("this timestamp is about something else", key=key)
        by, found = _first_that_holds(token, digest, self._authorities)
        covered = bisect_left(self._indices, size)
        newest = self._sequences[covered - 1] if covered else None
        return Stamp(by.label, found.before, self._log.epoch.number, size, newest, found.signer, key, token)

    def _note(self, name: str, what: str, error: ExclaveError) -> None:
        self.findings.append(finding(name, what, error, self._log.epoch.register, grave=False))


def _prefix(view: StateView, log: EpochLog) -> str:
    return ledger_prefix(view.state, log.epoch.register, log.epoch.number, log.epoch.digest)


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

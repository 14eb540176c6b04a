"""Which versions of a register are suspicious: from the home's cache, or by warrant from their manifests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exclave.errors import MalformedError, UsageError
from exclave.formats.lines import plain_text
from exclave.ids import Fingerprint, Instant, RegisterId
from exclave.operations.custody import OpenedRegister
from exclave.operations.home import Home, read_limited, write_private
from exclave.operations.restore import open_version
from exclave.operations.signals import noted_at_home, noted_in
from exclave.rules.signals import Verdict, VersionSignals, judge
from exclave.sites.contract import Sources
from exclave.verify.history import CountedVersion

_LIMIT = 16 << 20


class Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """People looked at the findings of a version and said that what happened was meant to be."""

    sequence: int
    manifest: str
    time: int
    reason: str


_DECODER = msgspec.json.Decoder(list[Accepted])


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The verdict on a register, and what it rests on."""

    verdict: Verdict
    known: frozenset[int]
    """Versions whose signals were at hand."""
    accepted: tuple[Accepted, ...]

    def clean(self, erased: Collection[int] = ()) -> int | None:
        """The last version that is there, is known, and lies before the first finding; None if there is none."""
        since = self.verdict.since
        return max((n for n in self.known if n not in erased and (since is None or n < since)), default=None)

    def word(self, sequence: int) -> str:
        """For a table: ``ok``, ``suspicious``, ``after 17``, ``blind``, ``-``."""
        since = self.verdict.since
        if any(not f.accepted for f in self.verdict.at(sequence)):
            return "suspicious"
        if since is not None and sequence > since:
            return f"after {since}"
        if sequence not in self.known:
            return "-"
        return "blind" if sequence in self.verdict.blind else "ok"


def suspicion_at_home(home: Home, register: RegisterId, versions: Sequence[CountedVersion]) -> Suspicion:
    """From what the home noted when it made ``versions``; nothing is opened. Reads no site."""
    noted = noted_at_home(home.cache(register))
    seen = [noted[v.leaf.manifest.hex()] for v in versions if v.leaf.manifest.hex() in noted]
    manifests = {v.leaf.manifest.hex() for v in versions}
    accepted = tuple(a for a in _accepted(_file(home, register)) if a.manifest in manifests)
    return _judged(seen, accepted)


def suspicion_by_warrant(
    state: Fingerprint,
    sources: Sources,
    opened: OpenedRegister,
    versions: Sequence[CountedVersion],
    accepted: Iterable[int] = (),
    progress: Callable[[str, int, int], None] = lambda what, done, size: None,
) -> Suspicion:
    """From the versions' own manifests: for whoever has no home any more. One object is fetched for each version."""
    seen, told = [], []
    for number, version in enumerate(versions, 1):
        seen.append(noted_in(open_version(state, sources, opened, version)[1]))
        progress("manifests", number, 0)
        if version.leaf.sequence in accepted:
            told.append(Accepted(version.leaf.sequence, version.leaf.manifest.hex(), 0, ""))
    return _judged(seen, tuple(told))


def _judged(seen: Sequence[VersionSignals], accepted: tuple[Accepted, ...]) -> Suspicion:
    verdict = judge(seen, {a.sequence for a in accepted})
    return Suspicion(verdict, frozenset(v.sequence for v in seen if v.datasets), accepted)


def accept(
    home: Home, register: RegisterId, versions: Sequence[CountedVersion], sequence: int, reason: str, now: Instant
) -> None:
    """Notes at home that the findings of version ``sequence`` are in order.

    The file is replaced whole: a restart finds it with this note or without. ``UsageError`` for a version that is not
    there or has no finding.
    """
    try:
        plain_text(reason)
    except MalformedError as error:
        raise UsageError(error.message, hint="Say with --because why it was meant to be, in one line.") from error
    found = suspicion_at_home(home, register, versions)
    version = next((v for v in versions if v.leaf.sequence == sequence), None)
    if version is None or not found.verdict.at(sequence):
        known = ", ".join(sorted({str(f.since) for f in found.verdict.findings}, key=int)) or "none"
        raise UsageError(f"nothing was found in version {sequence}; findings begin with: {known}")
    path = _file(home, register)
    kept = [a for a in _accepted(path) if a.sequence != sequence]
    kept.append(Accepted(sequence, version.leaf.manifest.hex(), now, reason))
    write_private(path, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def _file(home: Home, register: RegisterId) -> Path:
    return home.folder / "state" / f"{register}.accepted"


def _accepted(path: Path) -> list[Accepted]:
    if not path.exists():
        return []
    try:
        return _DECODER.decode(read_limited(path, _LIMIT))
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UsageError(
            f"{path} is damaged: {error}", hint="Correct it or remove it; then accepted findings count again."
        ) from error

"""What this reader saw before, and what others saw, beside what the sites show now: ``--remember`` and ``--compare``.

The reader's own file is the only thing that a verification writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from exclave.errors import Forked, MalformedError, RolledBack, UsageError
from exclave.formats.seen import MAX_SEEN_BYTES, Seen, parse_seen
from exclave.ids import Fingerprint, Instant, RegisterId, now
from exclave.sites.contract import Sources
from exclave.verify.localfiles import limited, replace_own
from exclave.verify.readers import Compared, Judged, Readings, Verdict, worst

_UNTOLD = 1
_CODES = {
    Verdict.AGREES: 0,
    Verdict.UNTOLD: _UNTOLD,
    Verdict.ROLLED_BACK: RolledBack.exit_code,
    Verdict.FORKED: Forked.exit_code,
}
_MEANING = {
    Verdict.AGREES: "Both were shown one history.",
    Verdict.UNTOLD: "Not all of it could be compared: see above. Nothing contradicts the other reader.",
    Verdict.ROLLED_BACK: (
        "These sites show less than was shown before. Keep the file, do not restore from these sites alone, and ask the"
        " state and its other sites what counts."
    ),
    Verdict.FORKED: (
        "TWO HISTORIES with the writer's signature. Keep both files: with `--json` the two signed heads that cannot"
        " both be true are printed, and convict whoever signed them. Tell the state's custodians."
    ),
}


class ReadersCheck:
    """What this reader saw before and what others saw, beside what the sites show now."""

    def __init__(self, remember: Path | None, others: Sequence[Path], pinned: Fingerprint) -> None:
        """Reads all files first: a wrong name is told before hours of work. ``UsageError``, ``MalformedError``."""
        self._remember = remember
        self._own = _read(remember, pinned) if remember is not None and remember.exists() else None
        self._others = {str(path): _read(path, pinned) for path in others}
        self.found: Mapping[str, tuple[Compared, ...]] = {}

    def run(self, sources: Sources, judged: Judged) -> None:
        """Compares, then remembers, unless what was remembered before contradicts it. Nothing if no state was read."""
        if judged.view is None:
            return
        readings = Readings(sources, judged.view, judged.logs, now())
        found = {name: readings.compare(seen) for name, seen in self._others.items()}
        if self._own is not None:
            found[str(self._remember)] = readings.compare(self._own, own=True)
        self.found = found
        if self._remember is not None:
            own = found.get(str(self._remember), ())
            if worst(own) not in (Verdict.ROLLED_BACK, Verdict.FORKED):
                replace_own(self._remember, readings.seen(self._own).encode())

    @property
    def exit_code(self) -> int:
        """0 if all agrees; 1 if not all can be told; 23 rolled back; 24 forked."""
        return _CODES[worst(one for found in self.found.values() for one in found)]

    @property
    def told(self) -> Iterator[tuple[str, Compared]]:
        """For machines: each file, and what of it was compared."""
        return ((name, one) for name, found in self.found.items() for one in found)

    def lines(self, names: Mapping[RegisterId, str], when: Callable[[Instant], str]) -> Iterator[str]:
        """For people: what does not agree, and what that means."""
        files = {**self._others, **({str(self._remember): self._own} if self._own is not None else {})}
        for name, found in self.found.items():
            yield f"{name} (what was seen on {when(files[name].time)}): {len(files[name].logs)} ledgers compared"
            for one in found:
                if one.verdict is not Verdict.AGREES:
                    where = "all sites together" if one.source == "?" else one.source
                    called = names.get(one.register, one.register)
                    which = f"{called}, epoch {one.epoch}" if called else "the charters"
                    yield f"  {one.verdict.value}: {which}, {where}: {one.detail}"
            yield f"  {_MEANING[worst(found)]}"
        if self._remember is not None:
            own = self.found.get(str(self._remember), ())
            kept = worst(own) in (Verdict.ROLLED_BACK, Verdict.FORKED)
            yield f"{self._remember} was left as it is." if kept else f"What was seen stands in {self._remember}."


def _read(path: Path, pinned: Fingerprint) -> Seen:
    try:
        seen = parse_seen(limited(path, MAX_SEEN_BYTES))
    except MalformedError as error:
        raise MalformedError(f"{path}: {error.message}", hint="Name a file that --remember wrote.") from error
    if seen.state != pinned:
        raise UsageError(f"{path} tells of another state, {seen.state[:16]}…")
    return seen

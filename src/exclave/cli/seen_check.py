"""``exclave verify --remember`` and ``--compare``"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exclave.cli.output import plain, say, when
from exclave.errors import Forked, MalformedError, RolledBack, UsageError
from exclave.formats.seen import MAX_SEEN_BYTES, Seen, parse_seen
from exclave.ids import Fingerprint, RegisterId, now
from exclave.operations.home import read_limited
from exclave.sites.contract import Sources
from exclave.verify.readers import Compared, Readings, Verdict, worst

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

    def run(self, sources: Sources, pinned: Fingerprint) -> None:
        """Compares, then remembers, unless what was remembered before contradicts it. Raises as ``read_state``."""
        readings = Readings(sources, pinned, now())
        found = {name: readings.compare(seen) for name, seen in self._others.items()}
        if self._own is not None:
            found[str(self._remember)] = readings.compare(self._own, own=True)
        self.found = found
        if self._remember is not None:
            own = found.get(str(self._remember), ())
            if worst(own) not in (Verdict.ROLLED_BACK, Verdict.FORKED):
                _write(self._remember, readings.seen(self._own).encode())

    @property
    def exit_code(self) -> int:
        """0 if all agrees; 1 if not all can be told; 23 rolled back; 24 forked."""
        return _CODES[worst(one for found in self.found.values() for one in found)]

    def told(self) -> list[dict[str, Any]]:
        """For machines."""
        return [{"file": name, **plain(one)} for name, found in self.found.items() for one in found]

    def show(self, names: Mapping[RegisterId, str]) -> None:
        """For people: what does not agree, and what that means."""
        files = {**self._others, **({str(self._remember): self._own} if self._own is not None else {})}
        for name, found in self.found.items():
            say(f"{name} (what was seen on {when(files[name].time)}): {len(files[name].logs)} ledgers compared")
            for one in found:
                if one.verdict is not Verdict.AGREES:
                    where = "all sites together" if one.source == "?" else one.source
                    called = names.get(one.register, one.register)
                    which = f"{called}, epoch {one.epoch}" if called else "the charters"
                    say(f"  {one.verdict.value}: {which}, {where}: {one.detail}")
            say(f"  {_MEANING[worst(found)]}")
        if self._remember is not None:
            own = self.found.get(str(self._remember), ())
            kept = worst(own) in (Verdict.ROLLED_BACK, Verdict.FORKED)
            say(f"{self._remember} was left as it is." if kept else f"What was seen stands in {self._remember}.")


def _read(path: Path, pinned: Fingerprint) -> Seen:
    try:
        seen = parse_seen(read_limited(path, MAX_SEEN_BYTES))
    except MalformedError as error:
        raise MalformedError(f"{path}: {error.message}", hint="Name a file that --remember wrote.") from error
    if seen.state != pinned:
        raise UsageError(f"{path} tells of another state, {seen.state[:16]}…")
    return seen


def _write(path: Path, data: bytes) -> None:
    """Dies anywhere in it: a restart finds the former file or the new one, and perhaps ``FILE.new``, which the next
    run replaces."""
    fresh = path.with_name(path.name + ".new")
    try:
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error

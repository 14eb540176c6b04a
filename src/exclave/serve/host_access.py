"""What a host may keep of its traffic: a line for each answer, without names, bounded in size.

::

    2026-11-27T05:14:16Z 1 PUT 201 1048576 2 12

Time, number of the state in host.toml (0: none), method, status, bytes in, bytes out, milliseconds. A line says less
than the folder shows its host anyway: no object, no address, no certificate.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

from exclave.ids import Instant, instant_text

FILE_BYTES = 16 << 20
FILES = 8
"""Full ones that are kept: ``access.log.1`` is the newest. With the one that is written, 144 MiB at most."""


class AccessLog:
    """In ``folder``. For many threads; one process."""

    def __init__(
        self, folder: Path, states: Sequence[str], clock: Callable[[], Instant], *, file_bytes: int = FILE_BYTES
    ) -> None:
        """``states``: fingerprints in the order of host.toml."""
        self._path = folder / "access.log"
        self._numbers: Mapping[str, int] = {state: number for number, state in enumerate(states, 1)}
        self._clock, self._file_bytes = clock, file_bytes
        self._lock = Lock()

    def note(self, state: str, method: str, status: int, bytes_in: int, bytes_out: int, took_ms: int) -> None:
        """Adds a line. A disk that takes none stops nobody's request: the line is lost."""
        at = instant_text(self._clock())[:19]
        line = f"{at}Z {self._numbers.get(state, 0)} {method} {status} {bytes_in} {bytes_out} {took_ms}\n".encode()
        with self._lock, suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with suppress(FileNotFoundError):
                if os.stat(self._path, follow_symlinks=False).st_size + len(line) > self._file_bytes:
                    self._rotate()
            fd = os.open(self._path, flags, 0o600)
            try:
                os.write(fd, line)  # not synced: a power failure may take the last lines
            finally:
                os.close(fd)

    def _rotate(self) -> None:
        """Each file gets the next number; the oldest is written over. A restart finds all but perhaps one number."""
        for number in range(FILES, 0, -1):
            older = self._path if number == 1 else self._path.with_name(f"access.log.{number - 1}")
            with suppress(FileNotFoundError):
                older.replace(self._path.with_name(f"access.log.{number}"))

"""What a witness remembers: for each log, the last checkpoint that it cosigned, as one small file.

A file's name is the SHA-256 of the log's origin, its content the cosigned checkpoint. Beside them, ``<SHA-256>.pen``
has the latest epoch seen of a register. Losing the folder makes the witness trust whatever it is shown first again, and
restoring an old copy of it makes it forget: keep it on one disk, and do not restore it from backups.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exclave.durable import make_folders, replace_file
from exclave.errors import CorruptObject, Fenced, HeadMoved, MalformedError, SiteUnavailable
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES
from exclave.ids import Digest, parse_positive, sha256


@dataclass(frozen=True, slots=True)
class Pen:
    """Which epoch of which register a log belongs to: of all, only the latest seen is cosigned."""

    register: Digest
    epoch: int

    @classmethod
    def of(cls, origin: str) -> Pen:
        """Of a log's origin, which ends in ``/<epoch>``; any other log is a register of its own with one epoch."""
        register, _, last = origin.rpartition("/")
        try:
            epoch = parse_positive(last)
        except MalformedError:
            return cls(log_name(origin), 1)
        return cls(log_name(register), epoch)


class WitnessStore:
    """A folder of checkpoints; made if missing, readable by its owner only. For many threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            # Durably: a folder that a power failure takes away with what is in it would make a witness trust anew.
            make_folders(folder)
        except OSError as error:
            raise SiteUnavailable(f"the witness's folder {folder} cannot be used: {error.strerror}") from error

    def load(self, log: Digest) -> bytes | None:
        """The checkpoint of the log whose origin has this SHA-256, or None."""
        try:
            data = self._path(log).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SiteUnavailable(f"the witness's folder cannot be read: {error.strerror}") from error
        if not data or len(data) > MAX_CHECKPOINT_BYTES:
            raise CorruptObject(f"{self._path(log)} is not a checkpoint")
        return data

    def swap(self, log: Digest, expected: bytes | None, data: bytes, pen: Pen) -> None:
        """Durably replaces ``expected`` by ``data``.

        ``HeadMoved`` if something else is there, ``Fenced`` if a log of a later epoch of the same register is known.
        """
        try:
            with self._locked():
                if self.load(log) != expected:
                    raise HeadMoved("another checkpoint of this log was cosigned meanwhile")
                self._take_pen(pen)
                replace_file(self._path(log), data)
        except OSError as error:
            raise SiteUnavailable(f"the witness's folder cannot be written: {error.strerror}") from error

    def require_pen(self, pen: Pen) -> int:
        """The latest epoch known of the register; ``Fenced`` if it is later than ``pen``'s."""
        held = _read_epoch(self._pen_path(pen))
        if held > pen.epoch:
            raise Fenced(f"epoch {held} holds the pen since its first checkpoint was seen here", epoch=held)
        return held

    def _take_pen(self, pen: Pen) -> None:
        held = self.require_pen(pen)
        if held < pen.epoch:
            # A restart finds the former epoch fenced, though nothing of the later one may be cosigned yet: it was
            # granted, so that is right.
            replace_file(self._pen_path(pen), f"{pen.epoch}\n".encode())

    def _pen_path(self, pen: Pen) -> Path:
        return self._folder / f"{pen.register.hex()}.pen"

    def _path(self, log: Digest) -> Path:
        return self._folder / log.hex()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone in this folder, among threads and processes: each call locks a file description of its own."""
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _read_epoch(path: Path) -> int:
    try:
        text = path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise SiteUnavailable(f"the witness's folder cannot be read: {error.strerror}") from error
    if not text.endswith("\n"):
        raise CorruptObject(f"{path} does not hold an epoch")
    return parse_positive(text[:-1])


def log_name(origin: str) -> Digest:
    """SHA-256 of a log's origin: the log's name in the store and in the monitoring URL."""
    return sha256(origin.encode())

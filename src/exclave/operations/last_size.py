"""How large the last version of a register was here: an estimate for the next one's progress, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from exclave.errors import UsageError
from exclave.operations.home import Home
from exclave.operations.receipt import Receipt

_FILE = "last-size.json"
_MAX_BYTES = 4096


class LastSize(msgspec.Struct, frozen=True):
    """What the last backup from this home read."""

    entries: int
    read_bytes: int


def last_size(home: Home, name: str) -> LastSize | None:
    """Of the register called ``name``; None if it is not known: the file is a cache, and may be damaged."""
    try:
        with open(_path(home, name), "rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=LastSize)
    except (OSError, UsageError, msgspec.DecodeError, UnicodeError):
        return None


def keep_size(home: Home, name: str, receipt: Receipt) -> None:
    """Keeps it for the next run. Not durable: a restart finds the former one, a torn one or none, and shows less."""
    entries = sum(dataset.entries for dataset in receipt.datasets)
    with suppress(OSError):
        _path(home, name).write_bytes(msgspec.json.encode(LastSize(entries, receipt.read_bytes)))


def _path(home: Home, name: str) -> Path:
    return home.cache(home.register_id(name)) / _FILE

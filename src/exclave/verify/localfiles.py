"""Files on the reader's own machine: proofs, documents, what readers saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from exclave.durable import replace_file
from exclave.errors import MalformedError, UsageError

_BLOCK = 1 << 20


def blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes, 1 MiB at a time. ``UsageError``"""
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="Check the file's name, and that this user may read it."
        ) from error


def limited(path: Path, limit: int) -> bytes:
    """A whole file; no more of it is read than shows that it is too long. ``UsageError``, ``MalformedError``"""
    found = bytearray()
    for block in blocks(path):
        found += block
        if len(found) > limit:
            raise MalformedError(f"{path} is too long for what it is said to be")
    return bytes(found)


def replace_own(path: Path, data: bytes) -> None:
    """Writes one of the reader's own files: a restart finds the former one or this one. ``UsageError``"""
    try:
        replace_file(path, data, mode=0o644)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error

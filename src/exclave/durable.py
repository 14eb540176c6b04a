"""Names and small files on this machine that outlive a crash."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path


def sync_folder(folder: str | Path) -> None:
    """Makes the names in ``folder`` durable. ``OSError``"""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folders(path: Path, *, mode: int = 0o700) -> None:
    """Durably makes the folder, with those above it; fine if it is there. ``OSError``"""
    new = list(takewhile(lambda one: not one.exists(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    for one in reversed(new):
        sync_folder(one.parent)


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Durably replaces ``path``, or makes it. A link under either name is never followed. ``OSError``

    Dies anywhere in it: a restart finds the former file or the new one, whole, and perhaps ``NAME.new``, which the next
    call writes over.
    """
    fresh = path.with_name(f"{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(data)
        file.flush()
        os.fsync(fd)
    os.replace(fresh, path)
    sync_folder(path.parent)

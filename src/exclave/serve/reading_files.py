"""Files of a reading room: written beside and renamed, so that a reader sees the whole of one or none of it.

A page's time is that of the version that changed it, not of the clock here: the same page has the same ``ETag`` and
``Last-Modified`` at every embassy that serves it. Files are not synced one by one: the builder does so for all of them
before it says that they are there.
"""

from __future__ import annotations

import gzip
import os
import shutil
from typing import Final

LEVEL: Final = 6
SMALL: Final = 512
"""Shorter pages are not worth a second file."""


def write(path: str, data: bytes, time_s: int, *, packed: bool = False) -> None:
    """``path`` gets ``data``; with ``packed`` also ``path.gz``, for a web server that serves it as it is."""
    _place(path, data, time_s)
    if packed and len(data) >= SMALL:
        _place(f"{path}.gz", gzip.compress(data, LEVEL, mtime=0), time_s)
    elif packed:
        _gone(f"{path}.gz")


def _place(path: str, data: bytes, time_s: int) -> None:
    fresh = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(fresh, flags, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        fd = os.open(fresh, flags, 0o644)
    with open(fd, "wb") as file:
        file.write(data)
    os.utime(fresh, (time_s, time_s))
    os.replace(fresh, path)


def _gone(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def also_at(path: str, other: str) -> None:
    """The file ``path``, if there is one, under a second name too, in the place of whatever has that name."""
    fresh = f"{other}.new"
    _gone(fresh)
    try:
        os.link(path, fresh)
    except FileNotFoundError:
        if not os.path.exists(path):
            _gone(other)
            return
        os.makedirs(os.path.dirname(other), mode=0o755, exist_ok=True)
        os.link(path, fresh)
    os.replace(fresh, other)
    _gone(fresh)  # a rename between two names of one file does nothing, and leaves both


def clone(tree: str, fresh: str) -> None:
    """``fresh``: a tree of the same files by hard links. Writing into it by ``write`` leaves the old tree as it is."""
    os.makedirs(fresh, mode=0o755)
    with os.scandir(tree) as entries:
        for entry in entries:
            target = os.path.join(fresh, entry.name)
            if entry.is_dir(follow_symlinks=False):
                clone(entry.path, target)
            elif entry.is_file(follow_symlinks=False) and not entry.name.endswith(".new"):
                os.link(entry.path, target)


def remove_numbered(folder: str, suffix: str, last: int) -> None:
    """Pages after number ``last`` go: there were more of them before."""
    number = last + 1
    while os.path.exists(path := os.path.join(folder, f"{number}{suffix}")):
        _gone(path)
        _gone(f"{path}.gz")
        number += 1


def switch(link: str, target: str) -> None:
    """The symbolic link ``link`` leads to ``target`` from now on, in one step."""
    fresh = f"{link}.new"
    _gone(fresh)
    os.symlink(target, fresh)
    os.replace(fresh, link)


def remove_tree(tree: str) -> None:
    shutil.rmtree(tree, ignore_errors=True)

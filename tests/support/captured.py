"""Writes captured items to disk, for tests of captures alone: content, modes and links, not owners or times."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from exclave.formats.entry import Captured, Entry, Kind
from exclave.registers.contract import MAX_BLOCK


def write_items(items: Iterable[Captured], folder: Path) -> list[Entry]:
    """Reads ``items`` to the end into ``folder``; the entries in the order of their arrival."""
    entries: list[Entry] = []
    for item in items:
        entry = item.entry
        entries.append(entry)
        path = folder / os.fsdecode(entry.path)
        if entry.kind == Kind.FOLDER:
            path.mkdir(exist_ok=True)
        elif entry.kind == Kind.SYMLINK:
            path.symlink_to(os.fsdecode(entry.target))
            continue
        else:
            _write_file(item, path)
        path.chmod(entry.mode)
    return entries


def _write_file(item: Captured, path: Path) -> None:
    assert item.content is not None
    with path.open("xb") as stream:
        for block in item.content.blocks():
            if isinstance(block, int):
                stream.seek(block, os.SEEK_CUR)
            else:
                assert len(block) <= MAX_BLOCK
                stream.write(block)
        stream.truncate()
    assert path.stat().st_size == item.entry.size

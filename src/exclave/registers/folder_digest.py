"""The digest of a folder as it lies here."""

from __future__ import annotations

import hashlib
from pathlib import Path

from exclave.crypto.keyed import ContentHash
from exclave.formats.entry import digest_line
from exclave.ids import Instant
from exclave.registers.contract import DatasetDigest
from exclave.registers.files import FolderCapture
from exclave.registers.open_file import BLOCK_BYTES


def folder_digest(root: Path) -> DatasetDigest:
    """The digest of a folder as it lies here, equal to the one that a version of it carries."""
    total = hashlib.sha256()
    count = 0
    for item in FolderCapture(root, lambda: Instant(0)).entries():
        entry, content = item.entry, b""
        if item.live is not None:
            now = item.live.begin()
            if now is None:
                continue
            entry = now[0]
            hasher = ContentHash()
            for block in item.live.blocks():
                _hash_block(hasher, block)
            item.live.unchanged()
            content = hasher.digest()
        total.update(digest_line(entry, content))
        count += 1
    return DatasetDigest(total.hexdigest(), (("entries", count),), exact=True)


def _hash_block(hasher: ContentHash, block: bytes | memoryview | int) -> None:
    if not isinstance(block, int):
        hasher.update(block)
        return
    zeros = bytes(min(block, BLOCK_BYTES))
    while block > 0:  # a hole may be longer than memory
        hasher.update(zeros[: min(block, len(zeros))])
        block -= len(zeros)

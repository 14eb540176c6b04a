"""Keyed BLAKE3: ids that mean nothing to whoever lacks the key, and plain BLAKE3 for file contents inside seals."""

from __future__ import annotations

from blake3 import blake3

from exclave.ids import ChunkId


def chunk_id(key: bytes, data: bytes | memoryview) -> ChunkId:
    """Keyed BLAKE3 (32 bytes) of a chunk's plaintext; ``key`` is the register's 32-byte id key."""
    return ChunkId(blake3(data, key=key).digest())


def content_hash(data: bytes | memoryview) -> bytes:
    """BLAKE3 (32 bytes) of a file's content, as ``b3sum`` prints it. Kept only inside sealed manifests."""
    return blake3(data).digest()


class ContentHash:
    """The same as ``content_hash``, in pieces."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, data: bytes | memoryview) -> None:
        self._state.update(data)

    def digest(self) -> bytes:
        return self._state.digest()


def derived_key(key: bytes, context: bytes) -> bytes:
    """A 32-byte key out of a 32-byte ``key`` for ``context``: keyed BLAKE3. It tells nothing of ``key``."""
    return blake3(context, key=key).digest()

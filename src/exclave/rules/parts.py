"""How what a site lacks is divided among several disks: by names alone, so that no disk needs to know of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exclave.errors import UsageError
from exclave.ids import Digest

MAX_PARTS = 1000
_RANGE = 1 << 64


def in_part(part: int, parts: int) -> Callable[[Digest], bool]:
    """Whether an object goes onto disk ``part`` (from 1) of ``parts``: its name's first 8 bytes say so.

    Names are hashes, so parts are about equal, and each name is in exactly one part.
    """
    if not 1 <= parts <= MAX_PARTS or not 1 <= part <= parts:
        raise UsageError(f"there is no part {part} of {parts}; parts go from 1/1 to {MAX_PARTS}/{MAX_PARTS}")

    def wanted(name: Digest) -> bool:
        return int.from_bytes(name[:8], "big") * parts // _RANGE == part - 1

    return wanted


def parts_needed(sizes: Mapping[Digest, int], room_bytes: int) -> int:
    """The smallest number of parts of which none is larger than ``room_bytes``. ``UsageError`` if there is none."""
    parts = max(1, -(-sum(sizes.values()) // max(room_bytes, 1)))
    while parts <= MAX_PARTS:
        filled = [0] * parts
        for name, size in sizes.items():
            filled[int.from_bytes(name[:8], "big") * parts // _RANGE] += size
        if max(filled) <= room_bytes:
            return parts
        parts += 1
    raise UsageError(
        f"{sum(sizes.values())} bytes do not fit onto {MAX_PARTS} disks of {room_bytes} bytes", hint="Use larger disks."
    )

"""The chunker cuts where it always did: else the next version of every register would be shipped anew."""

from __future__ import annotations

import hashlib

import pytest

from exclave.vault.chunker import (
    DATABASE_AVERAGE_BYTES,
    LARGE_AVERAGE_BYTES,
    LARGEST_BYTES,
    SMALL_AVERAGE_BYTES,
    Chunker,
)

DATA = hashlib.shake_256(b"the chunker's input").digest(6 << 20)
KEPT = {
    (0, SMALL_AVERAGE_BYTES): "1d32327ea8f5d68f5ed00f8d18623a939d2d0119545c25bec0b8a7ba49a5e7b0",
    (2**63 - 1, SMALL_AVERAGE_BYTES): "2bd60cab067c1e96b62ad4b71d3437b687784942d0e1e75b5b838c4426784e0b",
    (2**63 - 1, LARGE_AVERAGE_BYTES): "b5ed50ac52fb18b18f7e1512c1fccb4c26b71a1019a1f7dff9489bbc478e9cf6",
    (2**63 - 1, DATABASE_AVERAGE_BYTES): "58563491f123eb4c7041ee61da9223d719c2799e4641565162ee0eadf0d9c0f4",
}
"""(seed, average) → SHA-256 of the ends, in decimal with spaces between."""


def ends_text(ends: list[int]) -> str:
    return " ".join(map(str, ends))


@pytest.mark.parametrize(("seed", "average"), KEPT)
def test_cuts_stay(seed: int, average: int) -> None:
    """Seed and average give the same cuts as ever."""
    ends = Chunker(seed, average_bytes=average).cut(DATA)
    assert hashlib.sha256(ends_text(ends).encode()).hexdigest() == KEPT[seed, average], ends_text(ends)


@pytest.mark.parametrize(("seed", "average"), KEPT)
def test_sizes(seed: int, average: int) -> None:
    """Every chunk but the last has its least and greatest length, and the last one ends with the data."""
    ends = Chunker(seed, average_bytes=average).cut(DATA)
    sizes = [stop - start for start, stop in zip([0, *ends], ends, strict=False)]
    assert ends[-1] == len(DATA)
    assert all(average // 4 <= size <= min(8 * average, LARGEST_BYTES) for size in sizes[:-1])
    assert 0 < sizes[-1] <= min(8 * average, LARGEST_BYTES)


def test_largest_chunk() -> None:
    """Content without any cut is cut at the greatest length."""
    assert Chunker(1).cut(bytes(5 << 19)) == [1 << 20, 2 << 20, 5 << 19]
    assert Chunker(1, average_bytes=DATABASE_AVERAGE_BYTES).cut(bytes(1 << 20)) == [1 << 19, 1 << 20]


def test_an_insertion_moves_few_cuts() -> None:
    """After some bytes at the front, most chunks are the same again."""

    def chunks(data: bytes) -> set[bytes]:
        ends = Chunker(5).cut(data)
        return {data[start:stop] for start, stop in zip([0, *ends], ends, strict=False)}

    before, after = chunks(DATA), chunks(b"a few bytes" + DATA)
    assert len(before & after) >= len(before) - 3

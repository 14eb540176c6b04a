"""The chunker cuts where it always did: else the next version of every register would be shipped anew."""

from __future__ import annotations

import hashlib

import pytest

from exclave.vault.chunker import AVERAGE_BYTES, DATABASE_AVERAGE_BYTES, LARGEST_BYTES, Chunker

DATA = hashlib.shake_256(b"the chunker's input").digest(3 << 20)
KEPT = {
    (0, AVERAGE_BYTES): "896c766017d3c9cccc3ba8b6e0b2700e7b8802e63d56c8f4365692b1832f78ef",
    (2**63 - 1, AVERAGE_BYTES): "4f132673c52a9a8d7a0b4c185211e4858c6c37be41aabf3b7b83fb4ca626a74e",
    (2**63 - 1, DATABASE_AVERAGE_BYTES): "25e65422523a08802a8c4188e657067ba937b595fc23c431b741bef77cf4c191",
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
    assert 0 < sizes[-1] <= LARGEST_BYTES


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

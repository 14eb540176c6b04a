"""Editions and bundles: one form each, and nothing that a reader could be led astray by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from exclave.errors import CorruptObject, MalformedError
from exclave.formats.edition import make_bundle, parse_bundle, parse_edition, parse_published, publishable
from exclave.formats.fact import parse_fact
from exclave.ids import Instant, Sequence

VECTORS = Path(__file__).parent.parent / "vectors" / "edition" / "vectors.json"
CASES = json.loads(VECTORS.read_text())["cases"]
READERS = {
    "edition": lambda data: parse_edition(data).encode(),
    "bundle": lambda data: parse_bundle(data).encode(),
    "fact": lambda data: data if parse_published(parse_fact(data)) else b"",
}


@pytest.mark.parametrize("case", CASES, ids=[f"{case['form']}: {case['name']}" for case in CASES])
def test_vectors(case: dict[str, str]) -> None:
    """Each vector parses and encodes to itself, or fails in the class that it names."""
    data = bytes.fromhex(case["hex"])
    if case["expect"] == "ok":
        assert READERS[case["form"]](data) == data
    else:
        with pytest.raises(MalformedError):
            READERS[case["form"]](data)


def test_a_bundle_gives_back_what_was_put_in() -> None:
    """Files and proofs come out as they went in, ordered by path; a removed file has neither."""
    files = [("b", b"two", b"proof b"), ("a", b"", b"proof a"), ("c", None, b"")]
    bundle = parse_bundle(make_bundle(Sequence(3), Instant(5), files).encode())
    assert [(f.path, content, proof, bool(f.digest)) for f, content, proof in bundle.contents()] == [
        ("a", b"", b"proof a", True), ("b", b"two", b"proof b", True), ("c", b"", b"", False),
    ]  # fmt: skip


def test_no_flipped_bit_of_the_content_is_read() -> None:
    """Whatever bit of the packed files is turned: refused, or still the bytes that the table names."""
    good = make_bundle(Sequence(1), Instant(5), [("a", b"law " * 50, b"")])
    for at in range(len(good.packed)):
        packed = bytearray(good.packed)
        packed[at] ^= 1
        bad = type(good)(good.sequence, good.time, good.files, bytes(packed))
        try:
            found = [content for _, content, _ in bad.contents()]
        except CorruptObject:
            continue
        assert found == [b"law " * 50]


def test_no_frame_makes_a_reader_unpack_more_than_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 KB that unpack to a gigabyte, or do not say to how much, are refused before anything is unpacked."""
    good = make_bundle(Sequence(1), Instant(5), [("a", b"law", b"")])
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(b"law")

    class Unpacked:
        def __init__(self) -> None:
            raise AssertionError("it was unpacked")

    monkeypatch.setattr(zstandard, "ZstdDecompressor", Unpacked)
    for packed in (bomb, unsaid):
        with pytest.raises(CorruptObject):
            list(replace(good, packed=packed).contents())


@pytest.mark.parametrize(
    "path", ["", "/a", "a//b", "../a", "a/..", ".", "a/./b", "a\nb", "a\u202eb", "a\0", "x" * 1001]
)
def test_paths_that_could_harm_are_no_paths(path: str) -> None:
    """Climbing, absolute, empty, hidden and overlong names are refused before anybody makes a file of them."""
    assert not publishable(path)

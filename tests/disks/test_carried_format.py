"""The text of a carried disk, and which disk a pack is on: as the page says, and as the vectors keep it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import MalformedError
from exclave.formats.carried import parse_carried
from exclave.ids import Digest
from exclave.rules.parts import in_part

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "carried" / "vectors.json").read_text())


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(case: dict[str, str]) -> None:
    """Good texts come back as they were; all others are malformed."""
    data = case["text"].encode()
    if case["expect"] == "ok":
        assert parse_carried(data).encode().encode() == data
    else:
        with pytest.raises(MalformedError):
            parse_carried(data)


def test_parts_as_the_page_says() -> None:
    """The part of a name is what the written rule gives, computed here by hand."""
    for one in VECTORS["parts"]:
        number = int(one["name"][:16], 16)
        for parts, part in one["part"].items():
            assert number * int(parts) // 2**64 == part - 1
            assert in_part(part, int(parts))(Digest(bytes.fromhex(one["name"])))


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_changed_bytes(noise: bytes, at: int, value: int) -> None:
    """Whatever is changed in a good text, it is refused or comes back as it was; nothing else is raised."""
    good = VECTORS["cases"][0]["text"].encode()
    for data in (noise, good[:at] + bytes([value]) + good[at + 1 :]):
        try:
            assert parse_carried(data).encode().encode() == data
        except MalformedError:
            continue

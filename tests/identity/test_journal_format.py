"""The journal's bytes: vectors, one form per value, changed and torn records."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import CorruptObject, MalformedError
from exclave.formats.journal import (
    HEAD_BYTES,
    REASONS,
    Head,
    Issued,
    Stopped,
    encode_entry,
    encode_segment_head,
    entry_at,
    parse_entry,
    parse_segment_head,
    read_records,
    serial_bytes,
)
from exclave.identity.status_log import Reason
from exclave.ids import Digest, Instant

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "journal" / "vectors.json").read_bytes())
SEGMENT = bytes.fromhex(VECTORS["segment"])
GOOD = [case for case in VECTORS["cases"] if case["expect"] == "ok"]
assert len(GOOD) > 10


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(case: dict[str, str]) -> None:
    """Good entries come out as the bytes that went in; bad ones are refused."""
    data = bytes.fromhex(case["hex"])
    if case["expect"] == "ok":
        assert encode_entry(parse_entry(data)) == data
    else:
        with pytest.raises(MalformedError):
            parse_entry(data)


def test_segment_vector() -> None:
    """The records of the segment are the good entries, chained."""
    before = parse_segment_head(SEGMENT[:HEAD_BYTES])
    assert encode_segment_head(before) == SEGMENT[:HEAD_BYTES]
    records = list(read_records(SEGMENT[HEAD_BYTES:], before))
    assert [(r.data.hex(), r.head.chain.hex()) for r in records] == [(c["hex"], c["chain"]) for c in GOOD]
    last = Digest(bytes.fromhex(VECTORS["head"]["chain"]))
    assert records[-1].head == Head(VECTORS["head"]["number"], last)


def test_every_cut_leaves_a_prefix() -> None:
    """Wherever the end is cut off, and whatever zeros a file system leaves behind the cut, what was whole is read."""
    body = SEGMENT[HEAD_BYTES:]
    whole = list(read_records(body, Head()))
    for at in range(len(body)):
        expected = [r for r in whole if r.end <= at]
        assert list(read_records(body[:at], Head())) == expected
    for record in whole:
        assert list(read_records(body[: record.end] + bytes(100), Head())) == [r for r in whole if r.end <= record.end]


def test_every_changed_byte_is_noticed() -> None:
    """No byte of a record can be changed so that it is read: it is corrupt, or at the end torn."""
    body = SEGMENT[HEAD_BYTES:]
    whole = list(read_records(body, Head()))
    for at in range(len(body)):
        bad = bytearray(body)
        bad[at] ^= 1 << (at % 8)
        read = []
        try:
            for record in read_records(bytes(bad), Head()):
                read.append(record)
        except CorruptObject:
            pass
        assert read == [r for r in whole if r.end <= at]


def test_reasons_are_those_of_the_status_log() -> None:
    """An entry can give each reason that a status has, and no other."""
    assert {*Reason, "certificateHold"} == REASONS


@given(st.sets(st.integers(0, 2**160 - 1), min_size=1, max_size=50), st.integers(0, 253_402_300_799_999_999))
def test_entries_of_any_serials(serials: set[int], time: int) -> None:
    """Whatever was issued or stopped comes out as it went in."""
    listed = tuple(sorted(serial_bytes(serial) for serial in serials))
    for body in (Issued(bytes(32), listed), Stopped(bytes(32), listed[0], time, "superseded")):
        entry = entry_at(Head(), Instant(time), 1, body)
        assert parse_entry(encode_entry(entry)) == entry


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Whatever stands there, it is an entry in its one form or refused; records end or are corrupt."""
    with suppress(MalformedError):
        assert encode_entry(parse_entry(data)) == data
    with suppress(CorruptObject):
        assert list(read_records(data, Head())) == []

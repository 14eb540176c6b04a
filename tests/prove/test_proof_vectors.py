"""Stored proofs still say what they said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exclave.errors import ExclaveError, MalformedError
from exclave.formats.proof import parse_proof
from exclave.formats.record import parse_record
from exclave.ids import Fingerprint
from exclave.rules.records import commitment
from exclave.verify.proof import verify_proof

VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "proof").glob("*"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.name)
def test_vector(path: Path) -> None:
    """Good ones are verified and encode to the same bytes; each of the others fails in its own class."""
    head, _, data = path.read_bytes().partition(b"\n\n")
    said = dict(line.split(": ") for line in head.decode().split("\n"))
    if said["expect"] == "ok":
        assert verify_proof(data, Fingerprint(said["fingerprint"])).leaf.records is not None
        assert parse_proof(data).encode() == data
        return
    with pytest.raises(ExclaveError) as caught:
        verify_proof(data, Fingerprint(said["fingerprint"]))
    assert caught.value.code == said["expect"]


RECORDS = json.loads((Path(__file__).parents[1] / "vectors" / "record" / "vectors.json").read_text())["cases"]


@pytest.mark.parametrize("case", RECORDS, ids=lambda case: case["name"])
def test_record(case: dict[str, str]) -> None:
    """Records read back to the same bytes and have the commitment that is stored; the others are refused."""
    data = bytes.fromhex(case["record"])
    if case["expect"] == "ok":
        assert parse_record(data).encode() == data
        assert commitment(bytes(32), data).hex() == case["commitment"]
        return
    with pytest.raises(MalformedError):
        parse_record(data)


def test_there_are_some() -> None:
    """A folder that lost its vectors fails."""
    assert len(VECTORS) >= 20

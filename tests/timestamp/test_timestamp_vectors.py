"""Every vector of the page ``docs/spec/timestamp.md`` gives what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave.crypto.timestamp import verify_timestamp
from exclave.errors import ExclaveError
from exclave.ids import parse_b64, sha256

VECTORS = sorted((Path(__file__).parent.parent / "vectors" / "timestamp").iterdir())


def test_there_are_vectors() -> None:
    """An empty folder would pass everything."""
    assert len(VECTORS) >= 12


@pytest.mark.parametrize("path", VECTORS, ids=[path.name for path in VECTORS])
def test_vector(path: Path) -> None:
    """A good token verifies; each bad one fails as its header says."""
    head, _, token = path.read_bytes().partition(b"\n\n")
    told = dict(line.split(": ", 1) for line in head.decode().splitlines())
    got = "ok"
    try:
        verify_timestamp(
            token, sha256(parse_b64(told["message"])), root=parse_b64(told["root"]),
            policy=None if told["policy"] == "any" else told["policy"],
            nonce=int(told["nonce"]) if "nonce" in told else None,
        )  # fmt: skip
    except ExclaveError as error:
        got = error.code
    assert got == told["expect"]

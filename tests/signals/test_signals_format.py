"""The text of signals: golden vectors, and what is encoded is read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import MalformedError
from exclave.formats.signals import SHOWN, Signals, TableSignal, TableState, parse_signals

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "signals" / "vectors.json").read_text())["cases"]
COUNT = st.integers(0, 2**63 - 1)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_vectors(case: dict[str, str]) -> None:
    """Each vector parses to the same text again, or is refused as it says."""
    if case["expect"] == "ok":
        assert parse_signals(case["text"]).encode() == case["text"]
    else:
        with pytest.raises(MalformedError):
            parse_signals(case["text"])


TABLE = st.builds(
    TableSignal, st.text(min_size=1, max_size=20), COUNT, st.none() | COUNT, st.sampled_from(TableState), COUNT
)
EXAMPLE = st.tuples(st.sampled_from(sorted(SHOWN)), st.binary(min_size=1, max_size=40))
SIGNALS = st.builds(
    Signals,
    st.booleans(),
    files=COUNT,
    old=COUNT,
    dense_bytes=COUNT,
    ending=st.text(max_size=12).filter(lambda ending: ending != "-"),
    examples=st.lists(EXAMPLE, max_size=9).map(tuple),
    tables=st.lists(TABLE, max_size=3).map(tuple),
)


@given(SIGNALS)
def test_what_is_encoded_is_read_back(signals: Signals) -> None:
    """Any bytes in paths and any letters in names survive."""
    assert parse_signals(signals.encode()) == signals

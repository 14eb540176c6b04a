"""JSON that nests without end in a field that nobody asked for is refused like any other nonsense."""

from __future__ import annotations

import pytest

from exclave.errors import MalformedError
from exclave.serve.reading_acts import parse_act


def test_an_acts_record() -> None:
    """Whoever may edit one act stops no page of the others."""
    with pytest.raises(MalformedError):
        parse_act(b'{"title":"x","versions":[{"version":1}],"more":' + b"[" * 50_000)

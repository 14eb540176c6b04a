"""How the demo's story looks: within 80 columns, and commands that a shell reads as they were."""

from __future__ import annotations

import shlex

import pytest

from exclave.cli.demo import _folded
from exclave.demo.commands import typed

LONG = ("warrant", "request", "$D/embassy/machine/failover.warrant", "--act", "failover", "--key",
        "$D/embassy/exile/identity/machine.key", "--reason", "Home was lost; start the registers in the embassy",
        "--site", "south=$SOUTH_EMBASSY", "--fingerprint", "$F", "--yes", "last")  # fmt: skip


@pytest.mark.parametrize("count", range(1, len(LONG) + 1))
def test_a_folded_command_is_the_same_command(count: int) -> None:
    """Whatever its length: a shell finds the same words in it, and no line is longer than 80 columns."""
    folded = _folded(typed(LONG[:count]))
    assert shlex.split(folded.replace("\\\n", "")) == ["$", "exclave", *LONG[:count]]
    assert all(len(line) <= 80 for line in folded.split("\n"))


def test_what_goes_on_beside_is_marked_at_the_end() -> None:
    """The ampersand stays behind the last word."""
    assert _folded(typed(LONG) + " &").endswith(" last &")


def test_prose_keeps_its_margin() -> None:
    """A line that is set in goes on further in; an address is never broken."""
    lines = _folded("  " + "word " * 40 + "http://127.0.0.1:1/" + "x" * 90).split("\n")
    assert lines[0].startswith("  word")
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1] == "    http://127.0.0.1:1/" + "x" * 90
    assert _folded("word " * 40).split("\n")[1].startswith("word")

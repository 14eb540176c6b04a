"""Every parser takes whatever comes: refused in Exclave's words, or read back to the very same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.fuzzing import NO_RSS
from support.parsers import READERS, seeds, tried, unlisted

FUZZER = Path(__file__).parent / "fuzz_formats.py"
SECONDS = 15


def test_no_parser_is_left_out() -> None:
    """A new format is fuzzed from its first day: its parser stands in the table, or why it does not."""
    assert unlisted() == []


@pytest.mark.parametrize("name", sorted(READERS))
def test_what_is_kept(name: str) -> None:
    """Vectors and inputs that once found something; a corpus without any would try nothing."""
    count = 0
    for data in seeds(name):
        count += 1
        tried(name, data)
        for cut in {0, 1, len(data) // 2, max(len(data) - 1, 0)}:
            tried(name, data[:cut])
        tried(name, data + b"\n")
    assert count >= 3


def test_some_seconds_of_fuzzing(tmp_path: Path) -> None:
    """All parsers in one run from all seeds; it ends by itself and finds nothing."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, name in enumerate(sorted(READERS)):
        for at, data in enumerate(seeds(name)):
            (corpus / f"{number}-{at}").write_bytes(bytes([number]) + data)
    command = [
        sys.executable, str(FUZZER), "all", str(corpus), f"-max_total_time={SECONDS}", "-max_len=20000", "-verbosity=0",
        NO_RSS,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS + 120, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

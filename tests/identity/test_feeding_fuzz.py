"""The fuzzer of what feeds the journal, for a few seconds, from the corpus that is kept."""

import shutil
import subprocess
import sys
from pathlib import Path

from support.feeding_inputs import READERS, understood
from support.fuzzing import NO_RSS

FUZZ = Path(__file__).parent.parent / "fuzz"
CORPUS = FUZZ / "feeding_corpus"


def test_the_kept_corpus_is_read_without_surprise() -> None:
    """Each is refused, or read and written again as it was; there are some of both for each reader. Empty fails."""
    kept = {(data[:1], understood(data)) for data in (path.read_bytes() for path in sorted(CORPUS.iterdir()))}
    assert kept == {(reader, good) for reader in READERS for good in (True, False)} - {(b"m", True), (b"r", False)}


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    """Some thousands of new inputs, led by what the readers' code does with them."""
    corpus = tmp_path / "corpus"
    shutil.copytree(CORPUS, corpus)
    command = [
        sys.executable,
        FUZZ / "fuzz_feeding.py",
        corpus,
        "-max_total_time=6",
        "-max_len=2048",
        "-verbosity=0",
        NO_RSS,
    ]
    run = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(list(corpus.iterdir())) > len(list(CORPUS.iterdir())), "it learnt nothing: it is not instrumented"

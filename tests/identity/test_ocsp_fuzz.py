"""The fuzzer of status requests, for a few seconds, from the corpus that is kept."""

import shutil
import subprocess
import sys
from pathlib import Path

from support.fuzzing import NO_RSS
from support.ocsp_requests import agreed

FUZZ = Path(__file__).parent.parent / "fuzz"
CORPUS = FUZZ / "ocsp_corpus"


def test_the_kept_corpus_is_read_without_surprise() -> None:
    """Each is refused, or understood as two other readers understand it; there are some of both. Empty fails."""
    kept = [agreed(path.read_bytes()) is not None for path in sorted(CORPUS.iterdir())]
    assert len(kept) >= 30
    assert any(kept)
    assert not all(kept)


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    """Some thousands of new inputs, led by what the reader's code does with them."""
    corpus = tmp_path / "corpus"
    shutil.copytree(CORPUS, corpus)
    command = [
        sys.executable,
        FUZZ / "fuzz_ocsp.py",
        corpus,
        "-max_total_time=6",
        "-max_len=1024",
        "-verbosity=0",
        NO_RSS,
    ]
    run = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(list(corpus.iterdir())) > len(list(CORPUS.iterdir())), "it learnt nothing: it is not instrumented"

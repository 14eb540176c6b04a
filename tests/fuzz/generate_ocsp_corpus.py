"""Writes the first corpus of ``fuzz_ocsp.py``: run ``python tests/fuzz/generate_ocsp_corpus.py`` in the repository."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.ocsp_requests import BAD, GOOD

for name, data in {**GOOD, **BAD}.items():
    if len(data) <= 1024:
        (Path(__file__).parent / "ocsp_corpus" / name.replace(" ", "-")).write_bytes(data)

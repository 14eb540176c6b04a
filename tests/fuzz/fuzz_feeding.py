"""Fuzzes the readers of entries, segments, pushes and tables: ``python tests/fuzz/fuzz_feeding.py
tests/fuzz/feeding_corpus``.

Each input is read to the same bytes or values again, or refused as malformed. Options are libFuzzer's, such as
``-max_total_time=60``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))

READERS = ["exclave.formats.journal", "exclave.formats.push", "exclave.identity.feeding.table", "exclave.crypto.jws"]
with atheris.instrument_imports(include=READERS):
    from support.feeding_inputs import understood


def one_input(data: bytes) -> None:
    understood(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()

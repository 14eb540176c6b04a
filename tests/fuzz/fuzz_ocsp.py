"""Fuzzes the reader of status requests: ``python tests/fuzz/fuzz_ocsp.py tests/fuzz/ocsp_corpus``.

Each input is refused as malformed, or two other readers understand the same in it. Options are libFuzzer's, such as
``-max_total_time=60``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["exclave.crypto.ocsp", "exclave.crypto.der"]):
    from support.ocsp_requests import agreed


def one_input(data: bytes) -> None:
    agreed(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()

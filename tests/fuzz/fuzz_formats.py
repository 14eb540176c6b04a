"""Fuzzes the parsers of all byte formats: ``python tests/fuzz/fuzz_formats.py NAME CORPUS [libFuzzer's options]``.

``NAME`` is one of ``support/parsers.py`` such as ``charter.parse_charter``, or ``all``: then the first byte of each
input says which parser gets the rest. Without a corpus folder of its own the fuzzer keeps nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))

with atheris.instrument_imports(include=["exclave.formats", "exclave.ids", "exclave.keys.file"]):
    from support.parsers import READERS, tried

NAMES = sorted(READERS)


def one_of_all(data: bytes) -> None:
    if data:
        tried(NAMES[data[0] % len(NAMES)], data[1:])


if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, one_of_all if name == "all" else lambda data: tried(name, data))
    atheris.Fuzz()

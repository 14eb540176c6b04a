"""Writes ``feeding_corpus``: what the fuzzer of the journal's feeds begins with."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.journal import HEAD_BYTES
from exclave.formats.push import Change, Push, encode_push
from exclave.identity.feeding.table import HEADER

HERE = Path(__file__).parent
TIME = "2026-11-23T14:22:01Z"


def main() -> None:
    vectors = json.loads((HERE.parent / "vectors" / "journal" / "vectors.json").read_bytes())
    segment = bytes.fromhex(vectors["segment"])[HEAD_BYTES:]
    push = encode_push(Push("ca", 7, TIME, (Change("A1", "issued"), Change("B2", "revoked", TIME, "superseded"))))
    table = HEADER + f"0,issued,,\nA1,held,{TIME},\nB2,revoked,{TIME},superseded\nC3,released,{TIME},\n".encode()
    found = [b"e" + bytes.fromhex(case["hex"]) for case in vectors["cases"]]
    found += [b"r" + segment, b"r" + segment[:-9], b"r" + segment[:100] + bytes(20), b"r"]
    found += [b"p" + push, b"p{}", b"p" + push[:-2], b"t" + table, b"t" + HEADER, b"t" + table[:-1], b"t"]
    found += [b"meyJhbGciOiJFZDI1NTE5Iiwia2lkIjoiY2EifQ.e30.AA", b"m..", b"m"]
    folder = HERE / "feeding_corpus"
    folder.mkdir(exist_ok=True)
    for number, data in enumerate(found):
        (folder / f"{number:02d}").write_bytes(data)


if __name__ == "__main__":
    main()

"""Writes ``leaf/vectors.json``: version leaves as text, each with its failure class and, if good, its leaf hash."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from exclave.formats.leaf import VersionLeaf
from exclave.ids import Digest, Epoch, Instant, RegisterId, Sequence
from exclave.rules.tree import leaf_hash

GOOD = VersionLeaf(
    RegisterId("ab" * 16),
    Epoch(2),
    Sequence(71),
    Instant(1_795_443_721_000_001),
    Digest(b"\x11" * 32),
    Digest(b"\x22" * 32),
    19,
    123_456_789,
)


def main() -> None:
    text = GOOD.encode().decode()
    more = replace(GOOD, records=Digest(b"\x33" * 32)).encode().decode()

    def bad(name: str, changed: str) -> dict[str, str]:
        if changed == text:
            raise SystemExit(f"{name}: changes nothing")
        return {"name": name, "expect": "malformed", "text": changed}

    cases = [
        {"name": "a version", "expect": "ok", "text": text, "leaf_hash": leaf_hash(text.encode()).hex()},
        {"name": "a version with records", "expect": "ok", "text": more, "leaf_hash": leaf_hash(more.encode()).hex()},
        bad("short root of records", more[:-2] + "\n"),
        bad("records before objects", text.replace("objects ", f"records {'33' * 32}\nobjects ")),
        bad("records twice", more + f"records {'33' * 32}\n"),
        bad("another header", text.replace("version/v1", "version/v2")),
        bad("upper-case register", text.replace("ab" * 16, "AB" * 16)),
        bad("epoch 0", text.replace("epoch 2", "epoch 0")),
        bad("sequence 0", text.replace("sequence 71", "sequence 0")),
        bad("sequence beyond 53 bits", text.replace("sequence 71", "sequence 9007199254740992")),
        bad("leading zero", text.replace("sequence 71", "sequence 071")),
        bad("plus sign", text.replace("sequence 71", "sequence +71")),
        bad("time without fraction", text.replace(".000001Z", "Z")),
        bad("time in another zone", text.replace(".000001Z", ".000001+00:00")),
        bad("month 13", text.replace("-11-", "-13-")),
        bad("short manifest", text.replace("11" * 32, "11" * 31)),
        bad("no objects", text.replace(" 19 ", " 0 ")),
        bad("count missing", text.replace(" 19 123456789", " 19")),
        bad("two spaces", text.replace("objects ", "objects  ")),
        bad("trailing space", text.replace("epoch 2\n", "epoch 2 \n")),
        bad("lines exchanged", text.replace("epoch 2\nsequence 71\n", "sequence 71\nepoch 2\n")),
        bad("line missing", text.replace("sequence 71\n", "")),
        bad("further line", text + "note more\n"),
        bad("no newline at the end", text[:-1]),
        bad("carriage return", text.replace("\n", "\r\n")),
        bad("digits of another script", text.replace("epoch 2", "epoch ٢")),
        bad("too large a number", text.replace("123456789", "9223372036854775808")),
        bad("nothing", ""),
    ]
    folder = Path(__file__).parent / "leaf"
    folder.mkdir(exist_ok=True)
    (folder / "vectors.json").write_text(json.dumps({"cases": cases}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

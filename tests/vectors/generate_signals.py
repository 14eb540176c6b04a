"""Writes ``signals/vectors.json``: signals as text, each with its failure class."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.signals import Signals, TableSignal, TableState

TABLES = (
    TableSignal("public.deed", 1204, 1200, TableState.ALTERED, 2, "0123456789abcdef"),
    TableSignal("public.gone", 0, 7, TableState.GONE),
    TableSignal("public.new table", 1, None, TableState.NEW, 0, "fedcba9876543210"),
)
FULL = Signals(
    True, files=2000, new=12, changed=31, touched=2, gone=1, old=20, silent=20, mismatch=19, random=18, suffix=3,
    sealed=1, read_bytes=9_000_000, new_bytes=4_000_000, stored_bytes=3_900_000, dense_bytes=3_800_000,
    ending="locked", examples=(("mismatch", b"acts/2019/\xff act.pdf"), ("old", b"acts/1")), tables=TABLES,
)  # fmt: skip
PLAIN = Signals(files=3, read_bytes=10, new_bytes=10, stored_bytes=9)


def main() -> None:
    full, plain = FULL.encode(), PLAIN.encode()

    def good(name: str, text: str) -> dict[str, str]:
        return {"name": name, "expect": "ok", "text": text}

    def bad(name: str, changed: str) -> dict[str, str]:
        if changed in (full, plain):
            raise SystemExit(f"{name}: changes nothing")
        return {"name": name, "expect": "malformed", "text": changed}

    cases = [
        good("everything", full),
        good("a first version", plain),
        bad("another header", plain.replace("signals/v1", "signals/v0")),
        bad("compared with something", plain.replace("compared no", "compared maybe")),
        bad("a number is missing", plain.replace("touched 0\n", "")),
        bad("a number of another order", plain.replace("new 0\nchanged 0", "changed 0\nnew 0")),
        bad("a leading zero", plain.replace("files 3", "files 03")),
        bad("negative", plain.replace("files 3", "files -3")),
        bad("too large", plain.replace("files 3", f"files {2**63}")),
        bad("an example of nothing", full.replace("example old", "example older")),
        bad("four examples", full.replace("example old acts/1\n", "example old acts/1\n" * 19)),
        bad("a path that needs no percent", full.replace("acts/1\n", "%61cts/1\n")),
        bad("a state that is none", full.replace(" altered ", " altering ")),
        bad("a digest of 15 digits", full.replace("0123456789abcdef", "0123456789abcde")),
        bad("a digest in capitals", full.replace("fedcba9876543210", "FEDCBA9876543210")),
        bad("a table after the end", full + "more\n"),
        bad("4097 tables", plain + "table t 0 - new 0 -\n" * 4097),
        bad("no newline at the end", plain[:-1]),
        bad("nothing", ""),
    ]
    folder = Path(__file__).parent / "signals"
    folder.mkdir(exist_ok=True)
    (folder / "vectors.json").write_text(json.dumps({"cases": cases}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

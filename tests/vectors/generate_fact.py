"""Writes ``fact/vectors.json``: facts as text, each with its failure class and, if good, its leaf hash."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.fact import Fact
from exclave.ids import Digest, Epoch, Instant, Label, RegisterId
from exclave.rules.tree import leaf_hash

GOOD = Fact(
    RegisterId("ab" * 16),
    Epoch(2),
    Instant(1_795_443_721_000_000),
    Label("drill"),
    Digest(b"\x33" * 32),
    ("restored in 312 s", "point in time: 7 s before the order — õ"),
)
PLAIN = Fact(RegisterId("ab" * 16), Epoch(1), Instant(0), Label("opened"))


def main() -> None:
    text, plain = GOOD.encode().decode(), PLAIN.encode().decode()

    def good(name: str, shown: str) -> dict[str, str]:
        return {"name": name, "expect": "ok", "text": shown, "leaf_hash": leaf_hash(shown.encode()).hex()}

    def bad(name: str, changed: str) -> dict[str, str]:
        if changed in (text, plain):
            raise SystemExit(f"{name}: changes nothing")
        return {"name": name, "expect": "malformed", "text": changed}

    cases = [
        good("with a warrant and two lines", text),
        good("without warrant and words", plain),
        good("twenty lines", plain + "say x\n" * 20),
        bad("twenty-one lines", plain + "say x\n" * 21),
        bad("longer than 4096 bytes", plain + f"say {'y' * 499}\n" * 9),
        bad("line of 501 characters", plain + f"say {'y' * 501}\n"),
        bad("empty line", plain + "say \n"),
        bad("leading space", plain + "say  x\n"),
        bad("invisible character", plain + "say a\u200bb\n"),
        bad("control character", plain + "say a\x07b\n"),
        bad("kind in capitals", text.replace("kind drill", "kind Drill")),
        bad("warrant missing", plain.replace("warrant none\n", "")),
        bad("warrant in capitals", text.replace("33" * 32, "AA" * 32)),
        bad("another header", text.replace("fact/v1", "fact/v0")),
        bad("unknown line", text + "also this\n"),
        bad("no newline at the end", text[:-1]),
        bad("nothing", ""),
    ]
    folder = Path(__file__).parent / "fact"
    folder.mkdir(exist_ok=True)
    (folder / "vectors.json").write_text(json.dumps({"cases": cases}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

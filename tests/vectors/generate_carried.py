"""Writes ``carried/vectors.json``: texts of carried disks, each with its failure class, and the parts of names."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.carried import Carried, CarriedRegister
from exclave.ids import Fingerprint, Instant, Label, RegisterId, sha256
from exclave.rules.parts import in_part

GOOD = Carried(
    Fingerprint("cd" * 32), Label("lux"), Instant(1_795_443_721_000_000), 2, 3, True,
    (CarriedRegister(RegisterId("ab" * 16), 120, 2_013_265_920), CarriedRegister(RegisterId("ac" * 16), 0, 0)),
)  # fmt: skip


def main() -> None:
    text = GOOD.encode()

    def bad(name: str, changed: str) -> dict[str, str]:
        if changed == text:
            raise SystemExit(f"{name}: changes nothing")
        return {"name": name, "expect": "malformed", "text": changed}

    cases = [
        {"name": "good", "expect": "ok", "text": text},
        {"name": "not finished", "expect": "ok", "text": text.replace("finished yes", "finished no")},
        bad("part beyond the last", text.replace("part 2 3", "part 4 3")),
        bad("part zero", text.replace("part 2 3", "part 0 3")),
        bad("too many parts", text.replace("part 2 3", "part 2 1001")),
        bad("finished perhaps", text.replace("finished yes", "finished perhaps")),
        bad("no register", "".join(text.splitlines(True)[:6])),
        bad("leading zero", text.replace(" 120 ", " 0120 ")),
        bad("another header", text.replace("carried/v1", "carried/v2")),
        bad("fingerprint in capitals", text.replace("cd" * 32, "CD" * 32)),
        bad("not ASCII", text.replace("lux", "lüx")),
        bad("no newline at the end", text[:-1]),
        bad("further line", text + "x\n"),
        bad("nothing", ""),
    ]
    parts = []
    for number in range(6):
        name = sha256(b"%d" % number)
        parts.append({"name": name.hex(), "part": {n: next(k for k in range(1, n + 1) if in_part(k, n)(name))
                                                  for n in (1, 2, 3, 7, 1000)}})  # fmt: skip
    folder = Path(__file__).parent / "carried"
    folder.mkdir(exist_ok=True)
    (folder / "vectors.json").write_text(json.dumps({"cases": cases, "parts": parts}, indent=1) + "\n")


if __name__ == "__main__":
    main()

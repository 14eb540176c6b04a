"""Writes ``publicstatement/vectors.json``: statements to the public, each with its failure class."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from exclave.formats.publicstatement import PublicStatement, RegisterLine, Role, SealedTotal
from exclave.ids import Digest, Fingerprint, Instant, Label, RegisterId, Sequence

TIME = Instant(1_795_443_721_000_000)
ONE, TWO = RegisterId("ab" * 16), RegisterId("cd" * 16)
GAZETTE = RegisterLine(
    ONE, 3600, 3, 2, Sequence(41), Instant(TIME - 90_000_000), Digest(b"\x22" * 32), "Riigi Teataja — õ"
)
NOTHING = RegisterLine(TWO, 60, 0, 0, Sequence(0), Instant(0), Digest(bytes(32)), "Court records")
SEALED = replace(GAZETTE, register=TWO, title=None)
TOTAL = SealedTotal(12, 11, 2, 2, Instant(TIME - 86_400_000_000))
GOOD = PublicStatement(
    Fingerprint("11" * 32), "Republic of Example", 7, Digest(b"\x33" * 32), TIME, Instant(TIME + 7_200_000_000),
    Role.WITNESS, Label("lux-witness"), Digest(b"\x44" * 32), 4, (GAZETTE, NOTHING), TOTAL,
)  # fmt: skip


def main() -> None:
    text = GOOD.encode()
    each = replace(GOOD, lines=(GAZETTE, SEALED), total=None).encode()

    def good(name: str, text: str) -> dict[str, str]:
        return {"name": name, "expect": "ok", "text": text}

    def bad(name: str, old: str, new: str, text: str = text) -> dict[str, str]:
        changed = text.replace(old, new, 1)
        if changed == text:
            raise SystemExit(f"{name}: changes nothing")
        return {"name": name, "expect": "malformed", "text": changed}

    public = GAZETTE.encode()
    cases = [
        good("public registers, and a total", text),
        good("sealed registers by their ids", each),
        good("no register at all", replace(GOOD, lines=(), total=None).encode()),
        good("a total of which one has nothing", replace(GOOD, total=SealedTotal(3, 0, 0, 0, Instant(0))).encode()),
        bad("another version", "/v1\n", "/v2\n"),
        bad("line missing", "sample 4\n", ""),
        bad("line too much", text, text + "also this\n"),
        bad("no newline at the end", text, text[:-1]),
        bad("carriage return", "\nsample", "\r\nsample"),
        bad("the next one comes before it", "next-by 2026-11-23T16", "next-by 2026-11-23T12"),
        bad("the next one comes after more than 31 days", "next-by 2026-11-23T16", "next-by 2026-12-25T16"),
        bad("an auditor", "signer witness", "signer auditor"),
        bad("charter 0", "charter 7", "charter 0"),
        bad("leading zero", "sample 4", "sample 04"),
        bad("too many samples", "sample 4", "sample 10001"),
        bad("time without its fraction", ".000000Z", "Z"),
        bad("register in capitals", "ab" * 16, "AB" * 16),
        bad("registers in another order", public + NOTHING.encode(), NOTHING.encode() + public),
        bad("a register twice", public, public + public),
        bad("a sealed one before a public one", "public " + ONE, "sealed " + ONE),
        bad("more countries than copies", " 3600 3 2 41 ", " 3600 2 3 41 "),
        bad("copies of no version", " 60 0 0 0 ", " 60 1 1 0 "),
        bad("a version at no place", " 3600 3 2 41 ", " 3600 0 0 41 "),
        bad("a version without its entry", "22" * 32, "00" * 32),
        bad("more places than a charter has sites", " 3600 3 2 41 ", " 3600 65 2 41 "),
        bad("no title", " Riigi Teataja — õ", ""),
        bad("a title that turns text around", "Riigi", "Riigi\u202e"),
        bad("more within the RPO than there are", "sealed-total 12 11", "sealed-total 12 13"),
        bad("a total of nothing", "sealed-total 12 11", "sealed-total 0 0"),
        bad("copies up to no moment", TOTAL.encode()[-28:], "1970-01-01T00:00:00.000000Z\n"),
        bad("two totals", TOTAL.encode(), TOTAL.encode() * 2),
    ]  # fmt: skip
    folder = Path(__file__).parent / "publicstatement"
    folder.mkdir(exist_ok=True)
    (folder / "vectors.json").write_text(json.dumps({"cases": cases}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

"""Writes ``gap``, ``mergenote`` and ``feed``: texts and, for the feed, batches in hex, each with its failure class."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.feed import (
    SEALED_KEY_BYTES,
    TAG_BYTES,
    Batch,
    ParsedFeedHead,
    bound_header,
    pad_content,
)
from exclave.formats.gap import GapStatement
from exclave.formats.journal import Head
from exclave.formats.mergenote import MergeNote
from exclave.ids import Digest, Epoch, Fingerprint, Instant, Label, RegisterId

STATE, REGISTER = Fingerprint("11" * 32), RegisterId("ab" * 16)
TIME = Instant(1_795_443_721_000_000)
GAP = GapStatement(
    STATE, REGISTER, Epoch(2), Label("lux"), Digest(b"\x22" * 32), 17, TIME, Instant(TIME + 2_000_000),
    Instant(TIME + 9_500_000), Instant(TIME + 600_000_000),
    ("Whoever asked home for a revocation asks again — õ.", "By the emergency line."),
)  # fmt: skip
WHOLE = GapStatement(
    STATE, REGISTER, Epoch(2), Label("lux"), Digest(b"\x22" * 32), 0, Instant(0), TIME, TIME, TIME,
    ("Nothing is missing.",),
)  # fmt: skip
MERGE = MergeNote(
    STATE, REGISTER, Epoch(3), Label("home"), Digest(b"\x33" * 32), TIME, Head(41, Digest(b"\x44" * 32)), 9, 4, 2, 3,
    Digest(b"\x55" * 32),
)  # fmt: skip
HEAD = ParsedFeedHead(REGISTER, Epoch(2), TIME, Head(41, Digest(b"\x44" * 32)), Digest(b"\x66" * 32))
BARE = ParsedFeedHead(REGISTER, Epoch(1), TIME, Head(0, Digest(bytes(32))), None)
ONE = {Digest(b"\x01" * 32): b"\x02" * SEALED_KEY_BYTES}
TWO = {**ONE, Digest(b"\x03" * 32): b"\x04" * SEALED_KEY_BYTES}
CONTENT = Batch(Head(41, Digest(b"\x44" * 32)), (b"first entry", b"second entry"))


def good(name: str, text: str) -> dict[str, str]:
    return {"name": name, "expect": "ok", "text": text}


def bad(name: str, text: str, old: str, new: str) -> dict[str, str]:
    changed = text.replace(old, new, 1)
    if changed == text:
        raise SystemExit(f"{name}: changes nothing")
    return {"name": name, "expect": "malformed", "text": changed}


def everywhere(text: str) -> list[dict[str, str]]:
    """What no text of lines may be."""
    header, second = text.split("\n")[:2]
    return [
        bad("another version", text, "/v1\n", "/v2\n"),
        bad("line missing", text, second + "\n", ""),
        bad("lines in another order", text, f"{header}\n{second}\n", f"{second}\n{header}\n"),
        bad("register in capitals", text, "ab" * 16, "AB" * 16),
        bad("epoch 0", text, "\nepoch ", "\nepoch 0"),
        bad("epoch with a leading zero", text, "\nepoch ", "\nepoch 00"),
        bad("number with a plus", text, "\nepoch ", "\nepoch +"),
        bad("two spaces", text, "\nepoch ", "\nepoch  "),
        bad("carriage return", text, "\nepoch", "\r\nepoch"),
        bad("time without its fraction", text, ".000000Z", "Z"),
        bad("no newline at the end", text + "#", "\n#", ""),
        bad("line too much", text + "#", "#", "also this\n"),
        bad("empty line at the end", text + "#", "#", "\n"),
        {"name": "nothing", "expect": "malformed", "text": ""},
    ]


def gaps() -> list[dict[str, str]]:
    text, whole = GAP.encode(), WHOLE.encode()
    twenty = whole + "say x\n" * 19
    return [
        good("eight seconds are missing", text),
        good("nothing is missing", whole),
        good("twenty lines", twenty),
        *everywhere(text),
        bad("twenty-one lines", twenty + "#", "#", "say x\n"),
        bad("nothing to do", whole, "say Nothing is missing.\n", ""),
        bad("empty line to say", text, "say By the emergency line.", "say "),
        bad("gap shorter than it is", text, "gap-s 8", "gap-s 7"),
        bad("gap longer than it is", text, "gap-s 8", "gap-s 9"),
        bad("gap below nothing", text, "gap-s 8", "gap-s -8"),
        bad("gap where nothing is missing", whole, "gap-s 0", "gap-s 1"),
        bad("last entry without its time", text, f"last-entry 17 {_shown(text)}", "last-entry 17"),
        bad("place with a path", text, "place lux", "place ../lux"),
        bad("invisible character", text, "By the", "By\u200b the"),
        bad("words of 501 characters", text, "By the emergency line.", "y" * 501),
        bad("longer than 16 KiB", text + "#", "#", f"say {'y' * 499}\n" * 40),
    ]


def _shown(text: str) -> str:
    return text.split("last-entry 17 ")[1].partition("\n")[0]


def merges() -> list[dict[str, str]]:
    text = MERGE.encode()
    return [
        good("two of four were taken", text),
        *everywhere(text),
        bad("fork without its chain", text, f"fork 41 {'44' * 32}", "fork 41"),
        bad("chain in capitals", text, "44" * 32, "AA" * 32),
        bad("count below nothing", text, "taken 2", "taken -2"),
        bad("count in other digits", text, "taken 2", "taken ٢"),
        bad("report cut", text, "55" * 32, "55" * 31),
        bad("longer than 4096 characters", text + "#", "#", "x" * 4096 + "\n"),
    ]


def heads() -> list[dict[str, str]]:
    text, bare = HEAD.encode(), BARE.encode()
    return [
        good("head with a batch", text),
        good("head of an epoch in which nothing was entered", bare),
        *everywhere(text),
        bad("last in capitals", text, "66" * 32, "AA" * 32),
        bad("no last", text, f"last {'66' * 32}", "last nobody"),
        bad("number beyond 2^53", text, "number 41", f"number {2**53}"),
        bad("chain cut", text, "44" * 32, "44" * 31),
        bad("longer than 1000 characters", text + "#", "#", "x" * 1000 + "\n"),
    ]


def batches() -> list[dict[str, str]]:
    plain = pad_content(CONTENT)
    sealed = plain + bytes(TAG_BYTES)  # the form does not depend on the key
    whole = bound_header(Digest(b"\x77" * 32), TWO) + sealed
    first = bound_header(None, ONE) + sealed
    start = len(whole) - len(sealed) - 2 * (32 + SEALED_KEY_BYTES)
    keys = whole[start : start + 2 * (32 + SEALED_KEY_BYTES)]
    half = len(keys) // 2

    def row(name: str, data: bytes, expect: str = "malformed") -> dict[str, str]:
        return {"name": name, "expect": expect, "hex": data.hex()}

    return [
        row("first batch, one recipient", first, "ok"),
        row("later batch, two recipients", whole, "ok"),
        row("another version", whole.replace(b"batch/v1", b"batch/v2")),
        row("no recipient", whole[: start - 1] + b"\0" + sealed),
        row("65 recipients", whole[: start - 1] + b"\x41" + whole[start:]),
        row("recipients in another order", whole[:start] + keys[half:] + keys[:half] + sealed),
        row("one recipient twice", whole[:start] + keys[:half] * 2 + sealed),
        row("cut", whole[:-1]),
        row("padded with one byte more", whole + b"\0"),
        row("content of half the least size", first[: -len(sealed)] + bytes(2048 + TAG_BYTES)),
        row("content of one and a half of the least size", first[: -len(sealed)] + bytes(6144 + TAG_BYTES)),
        row("head alone", whole[:start]),
        row("nothing", b""),
    ]


def contents() -> list[dict[str, str]]:
    plain = pad_content(CONTENT)
    body = plain[4 : 4 + int.from_bytes(plain[:4], "big")]

    def framed(content: bytes, size: int = 4096) -> bytes:
        return (len(content).to_bytes(4, "big") + content).ljust(size, b"\0")

    def row(name: str, data: bytes, expect: str = "corrupt-object") -> dict[str, str]:
        return {"name": name, "expect": expect, "hex": data.hex()}

    return [
        row("content of two entries", plain, "ok"),
        row("content with something in its padding", plain[:-1] + b"\1"),
        row("content padded twice as much", plain + bytes(4096)),
        row("content's length one less", (len(body) - 1).to_bytes(4, "big") + plain[4:]),
        row("content's length one more", (len(body) + 1).to_bytes(4, "big") + plain[4:]),
        row("length beyond the end", b"\xff\xff\xff\xff" + plain[4:]),
        row("number spelt with more bytes", framed(body.replace(b"\x93\x29", b"\x93\xd0\x29", 1))),
        row("four parts", framed(b"\x94" + body[1:] + b"\xc0")),
        row("chain of 31 bytes", framed(b"\x93\x29\xc4\x1f" + b"\x44" * 31 + b"\x91\xc4\x01a")),
        row("no entries", framed(b"\x93\x29\xc4\x20" + b"\x44" * 32 + b"\x90")),
        row("number below 0", framed(b"\x93\xff\xc4\x20" + b"\x44" * 32 + b"\x91\xc4\x01a")),
        row("arrays in arrays", framed(b"\x91" * 3000)),
        row("no content", framed(b"")),
        row("no content, not even a length", b""),
    ]


def main() -> None:
    made = {
        "gap": {"cases": gaps()}, "mergenote": {"cases": merges()},
        "feed": {"heads": heads(), "batches": batches(), "contents": contents()},
    }  # fmt: skip
    for name, cases in made.items():
        folder = Path(__file__).parent / name
        folder.mkdir(exist_ok=True)
        (folder / "vectors.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

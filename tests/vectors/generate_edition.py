"""Writes ``edition/vectors.json``: editions, bundles and facts about a publication, each with its failure class."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from exclave.formats.edition import KIND, BundleLine, Edition, make_bundle, published_lines
from exclave.formats.fact import Fact
from exclave.ids import Epoch, Fingerprint, Instant, RegisterId, Sequence, sha256

REGISTER = RegisterId("ab" * 16)
TIME = Instant(1_795_443_721_000_000)
BUNDLE = make_bundle(
    Sequence(12), TIME,
    [
        ("acts/2019/0123/v1.txt", "Kalapüügiseadus\n".encode(), b"a proof"),
        ("acts/2019/0123/act.json", b"{}", b"another proof"),
        ("acts/2018/0001/v1.txt", None, b""),
    ],
)  # fmt: skip
EDITION = Edition(
    Fingerprint("cd" * 32), REGISTER, Sequence(12), TIME, sha256(b"before"), "Riigi Teataja",
    (BundleLine(sha256(b"one"), 4096, 17), BundleLine(sha256(BUNDLE.encode()), len(BUNDLE.encode()), 3)),
)  # fmt: skip


def main() -> None:
    edition, bundle = EDITION.encode(), BUNDLE.encode()
    fact = Fact(REGISTER, Epoch(1), TIME, KIND, None, published_lines(12, sha256(edition))).encode()
    good = {edition, bundle, fact}

    def case(form: str, name: str, data: bytes, expect: str = "malformed") -> dict[str, str]:
        if (data in good) != (expect == "ok") and name != "first":
            raise SystemExit(f"{name}: changes nothing")
        return {"form": form, "name": name, "expect": expect, "hex": data.hex()}

    lines = edition.splitlines(True)
    cases = [
        case("edition", "good", edition, "ok"),
        case("edition", "first", replace(EDITION, previous=None).encode(), "ok"),
        case("edition", "no bundle", b"".join(lines[:7])),
        case("edition", "one bundle twice", edition + lines[-1]),
        case("edition", "another header", edition.replace(b"edition/v1", b"edition/v2")),
        case("edition", "version 0", edition.replace(b"sequence 12", b"sequence 0")),
        case("edition", "leading zero", edition.replace(b"sequence 12", b"sequence 012")),
        case("edition", "no newline at the end", edition[:-1]),
        case("edition", "direction turned in the name", edition.replace(b"Riigi", "\u202eRiigi".encode())),
        case("edition", "not UTF-8", edition.replace(b"Riigi", b"\xff")),
        case("edition", "nothing", b""),
        case("bundle", "good", bundle, "ok"),
        case("bundle", "another header", bundle.replace(b"bundle/v1", b"bundle/v2")),
        case("bundle", "table cut", bundle[:40]),
        case("bundle", "no content", bundle[: bundle.index(b"\x28\xb5\x2f\xfd")]),
        case("bundle", "path that climbs", bundle.replace(b"acts/2018/0001/v1.txt", b"acts/2018/../../v1.txt"[:21])),
        case("bundle", "hidden character in a path", bundle.replace(b"0001/v1.txt", "0001\u202ev1.t".encode())),
        case("bundle", "out of order", bundle.replace(b"acts/2018", b"acts/2099")),
        case("bundle", "table of 4 GiB", bundle[:18] + b"\xff" * 4 + bundle[22:]),
        case("fact", "good", fact, "ok"),
        case("fact", "another order", fact.replace(b"say version 12\n", b"") + b"say version 12\n"),
        case("fact", "no edition", fact[: fact.index(b"say edition")]),
        case("fact", "version 0", fact.replace(b"version 12", b"version 0")),
        case("fact", "capital digits", fact[:-65] + fact[-65:].upper()),
        case("fact", "another kind", fact.replace(b"kind published", b"kind drill")),
    ]
    folder = Path(__file__).parent / "edition"
    folder.mkdir(exist_ok=True)
    (folder / "vectors.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()

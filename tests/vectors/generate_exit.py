"""Writes ``exit/vectors.json``: statements, lists and facts of exits, each with its failure class."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.exit import ExitHead, ExitStatement, exit_facts, object_line
from exclave.ids import Digest, Fingerprint, Instant, Key, Label, sha256

STATE, CHARTER = Fingerprint("cd" * 32), Digest(b"\x11" * 32)
BEGUN, ENDED = Instant(1_795_443_721_000_000), Instant(1_795_447_321_000_000)
LIST = ExitHead(STATE, Label("lux"), 3, CHARTER, BEGUN).encode().encode() + b"".join(
    object_line(Key(f"{STATE}/{name}"), size) for name, size in (("card/aa", 900), ("charter/bb", 12_000))
)
STATEMENT = ExitStatement(
    STATE, Label("lux"), 3, CHARTER, BEGUN, ENDED, 2, 12_900, sha256(LIST), 0, None, Label("ctie"), Digest(b"\x22" * 32)
)


def main() -> None:
    text, listed, facts = STATEMENT.encode(), LIST.decode(), "\n".join(exit_facts(Label("lux"), CHARTER))

    def case(form: str, name: str, expect: str, said: str) -> dict[str, str]:
        if expect == "malformed" and said in (text, listed, facts):
            raise SystemExit(f"{name}: changes nothing")
        return {"form": form, "name": name, "expect": expect, "text": said}

    def bad(form: str, name: str, said: str) -> dict[str, str]:
        return case(form, name, "malformed", said)

    first, second = listed.splitlines(True)[5:]
    cases = [
        case("statement", "good", "ok", text),
        case("statement", "some is locked", "ok", text.replace("left 0 none", "left 7 2027-11-23T14:22:01.000000Z")),
        case("statement", "locked without end", "ok", text.replace("left 0 none", "left 7 none")),
        bad("statement", "nothing is left until a time", text.replace("0 none", "0 2027-11-23T14:22:01.000000Z")),
        bad("statement", "ends before it begins", text.replace("begun 2026", "begun 2027")),
        bad("statement", "another header", text.replace("exit/v1", "exit/v2")),
        bad("statement", "leading zero", text.replace("objects 2", "objects 02")),
        bad("statement", "charter 0", text.replace("charter 3", "charter 0")),
        bad("statement", "site in capitals", text.replace("site lux", "site Lux")),
        bad("statement", "no operator", text[: text.index("operator")]),
        bad("statement", "further line", text + "x\n"),
        bad("statement", "no newline at the end", text[:-1]),
        case("list", "good", "ok", listed),
        case("list", "nothing lay there", "ok", "".join(listed.splitlines(True)[:5])),
        bad("list", "not sorted", listed.replace(first + second, second + first)),
        bad("list", "an object twice", listed + second),
        bad("list", "a name that is none", listed.replace("/card/aa", "/../aa")),
        bad("list", "a size that is none", listed.replace("object 900", "object -1")),
        bad("list", "breaks off", listed[:-1]),
        bad("list", "head missing", first + second),
        case("fact", "good", "ok", facts),
        bad("fact", "no statement", "site lux"),
        bad("fact", "another order", "\n".join(reversed(facts.split("\n")))),
        bad("fact", "a short digest", facts[:-1]),
    ]  # fmt: skip
    folder = Path(__file__).parent / "exit"
    folder.mkdir(exist_ok=True)
    made = {"cases": cases, "root": sha256(LIST).hex()}
    (folder / "vectors.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()

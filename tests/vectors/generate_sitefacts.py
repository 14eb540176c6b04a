"""Writes ``sitefacts/vectors.json``: lines about probes and locks, each with its failure class."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.sitefacts import LockLine, ProbeLine
from exclave.ids import Label

PROBE = ProbeLine(Label("lux"), 24, 25, objects=True, heads=False, locked=True)
LOCK = LockLine(Label("lux"), 21_149, 3_600, 120, 2)


def main() -> None:
    probe, lock = PROBE.encode(), LOCK.encode()

    def case(form: str, name: str, expect: str, text: str) -> dict[str, str]:
        if expect == "malformed" and text in (probe, lock):
            raise SystemExit(f"{name}: changes nothing")
        return {"form": form, "name": name, "expect": expect, "text": text}

    def bad(form: str, name: str, text: str) -> dict[str, str]:
        return case(form, name, "malformed", text)

    cases = [
        case("probe", "good", "ok", probe),
        case("probe", "all kept", "ok", probe.replace("kept 24", "kept 25").replace("heads no", "heads yes")),
        bad("probe", "more kept than tried", probe.replace("kept 24", "kept 26")),
        bad("probe", "neither yes nor no", probe.replace("heads no", "heads maybe")),
        bad("probe", "in capitals", probe.replace("heads no", "heads NO")),
        bad("probe", "leading zero", probe.replace("kept 24", "kept 024")),
        bad("probe", "site in capitals", probe.replace("site lux", "site Lux")),
        bad("probe", "word missing", probe.replace(" locked yes", "")),
        bad("probe", "further word", probe + " x"),
        bad("probe", "double space", probe.replace("of 25", "of  25")),
        bad("probe", "the other line", lock + " "),
        bad("probe", "nothing", ""),
        case("lock", "good", "ok", lock),
        case("lock", "nothing there", "ok", "site lux until 2027-11-27 objects 0 extended 0 short 0"),
        case("lock", "not locked", "ok", "site lux until 1970-01-01 objects 1 extended 0 short 1"),
        bad("lock", "more than there are", lock.replace("short 2", "short 3481")),
        bad("lock", "no such day", lock.replace("2027-11-27", "2027-11-31")),
        bad("lock", "a day in another form", lock.replace("2027-11-27", "20271127")),
        bad("lock", "a day before 1970", lock.replace("2027-11-27", "1969-12-31")),
        bad("lock", "digits of another script", lock.replace("objects 3600", "objects ٣600")),
        bad("lock", "negative", lock.replace("extended 120", "extended -1")),
        bad("lock", "further word", lock + " x"),
        bad("lock", "nothing", ""),
    ]
    folder = Path(__file__).parent / "sitefacts"
    folder.mkdir(exist_ok=True)
    (folder / "vectors.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()

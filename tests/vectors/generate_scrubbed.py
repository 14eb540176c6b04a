"""Writes ``scrubbed/vectors.json``: lines and reports of scrubs, each with its failure class, and the days of names."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.scrubbed import ScrubLine, ScrubReport, WrongObject
from exclave.ids import Digest, Fingerprint, Instant, Key, Label, RegisterId, sha256
from exclave.rules.scrub import Part, falls_due, order_secret

LINE = ScrubLine(Label("lux"), 30, 20_780, 20_783, 120, 3_600, 2_013_265_920, 2, 1)
REGISTER = RegisterId("ab" * 16)
REPORT = ScrubReport(
    Fingerprint("cd" * 32),
    Instant(1_795_443_721_000_000),
    ((REGISTER, LINE),),
    (
        WrongObject(Key("cd/pack"), Label("corrupt-object"), Digest(b"\x33" * 32), Label("fin")),
        WrongObject(Key("cd/list"), Label("missing-object"), None, None),
    ),
)


def main() -> None:
    line, report = LINE.encode(), REPORT.encode()

    def case(form: str, name: str, expect: str, text: str) -> dict[str, str]:
        if expect == "malformed" and text in (line, report):
            raise SystemExit(f"{name}: changes nothing")
        return {"form": form, "name": name, "expect": expect, "text": text}

    def bad(form: str, name: str, text: str) -> dict[str, str]:
        return case(form, name, "malformed", text)

    cases = [
        case("line", "good", "ok", line),
        case("line", "nothing wrong", "ok", line.replace("wrong 2 repaired 1", "wrong 0 repaired 0")),
        bad("line", "more repaired than wrong", line.replace("repaired 1", "repaired 3")),
        bad("line", "more read than there are", line.replace("packs 120", "packs 3601")),
        bad("line", "no such day", line.replace("2026-11-23", "2026-11-31")),
        bad("line", "a day in another form", line.replace("2026-11-23", "20261123")),
        bad("line", "a day before 1970", line.replace("2026-11-23", "1969-12-31")),
        bad("line", "zero days", line.replace("days 30", "days 0")),
        bad("line", "too many days", line.replace("days 30", "days 3651")),
        bad("line", "leading zero", line.replace("wrong 2", "wrong 02")),
        bad("line", "site in capitals", line.replace("site lux", "site Lux")),
        bad("line", "word missing", line.replace(" of 3600", "")),
        bad("line", "further word", line + " x"),
        bad("line", "double space", line.replace("days 30", "days  30")),
        bad("line", "nothing", ""),
        case("report", "good", "ok", report),
        case("report", "nothing wrong", "ok", "".join(report.splitlines(True)[:4])),
        bad("report", "no register", "".join(report.splitlines(True)[:3])),
        bad("report", "another header", report.replace("report/v1", "report/v2")),
        bad("report", "object that is no name", report.replace("cd/pack", "cd/../pack")),
        bad("report", "no newline at the end", report[:-1]),
        bad("report", "further line", report + "x\n"),
    ]
    due = []
    for number in range(6):
        name = sha256(b"%d" % number)
        secret = order_secret(bytes(range(32)), Label("lux"))
        days = [day for day in range(20_760, 20_820) if falls_due(Part(30, day, day), secret)(name)]
        due.append({"name": name.hex(), "days": days})
    folder = Path(__file__).parent / "scrubbed"
    folder.mkdir(exist_ok=True)
    made = {"cases": cases, "seed": bytes(range(32)).hex(), "site": "lux", "period": 30, "due": due}
    (folder / "vectors.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()

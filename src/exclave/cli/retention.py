"""``exclave retention``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.output import HomeFolder, Json, PinnedWithSite, Sites, print_json, say, table, when
from exclave.cli.where import view_of
from exclave.ids import instant_text, now
from exclave.operations.deletion import Kept
from exclave.operations.deletion import retention as verb
from exclave.rules.retention import FOREVER


def register(app: typer.Typer) -> None:
    app.command(name="retention", epilog="Example: exclave retention gazette --home /srv/exclave")(retention)


def retention(
    register: Annotated[str | None, typer.Argument(help="Name or id of one register; default: all.")] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    json: Json = False,
) -> None:
    """Which versions are kept, by which rule, and until when. Needs no key."""
    where = view_of(home, site, fingerprint)
    found = [(name, verb(where.view, where.sites, number, now=now())) for number, name in where.registers(register)]
    if json:
        print_json({"registers": [_told(name, kept) for name, kept in found]})
        return
    for name, kept in found:
        say(f"{name}  ({kept.register})")
        if kept.hold:
            say(f"Nothing may be deleted: {kept.hold}.")
        table(
            ("version", "state of (UTC)", "kept", "by the rule", "until"),
            (
                (s.version.sequence, when(s.version.time), "yes" if s.kept else "no", s.rule,
                 "-" if s.until == FOREVER else when(s.until))
                for s in kept.standings
            ),
        )  # fmt: skip


def _told(name: str, kept: Kept) -> dict[str, object]:
    return {
        "register": name,
        "id": kept.register,
        "hold": kept.hold,
        "versions": [
            {
                "sequence": s.version.sequence,
                "epoch": s.version.epoch,
                "time": instant_text(s.version.time),
                "charter": s.version.charter,
                "kept": s.kept,
                "rule": s.rule,
                "until": None if s.until == FOREVER else instant_text(s.until),
            }
            for s in kept.standings
        ],
    }

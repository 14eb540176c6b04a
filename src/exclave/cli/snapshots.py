"""``exclave snapshots``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.output import HomeFolder, Json, Sites, note, print_json, say, size_text, table, when
from exclave.cli.where import view_of
from exclave.verify.history import read_history


def register(app: typer.Typer) -> None:
    app.command(name="snapshots", epilog="Example: exclave snapshots gazette")(snapshots)


def snapshots(
    register: Annotated[str | None, typer.Argument(help="Name or id of one register; default: all.")] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Annotated[str, typer.Option(help="The state's fingerprint, with --site.")] = "",
    json: Json = False,
) -> None:
    """The versions of registers as their ledgers show them, verified without any key."""
    where = view_of(home, site, fingerprint)
    found = []
    for number, name in where.registers(register):
        history = read_history(where.view, where.sites, number, allow_unwitnessed=True)
        witnessed = {v.leaf.sequence for v in read_history(where.view, where.sites, number).versions}
        found.append({
            "register": name, "id": number,
            "versions": [
                {"sequence": v.leaf.sequence, "epoch": v.epoch, "time": when(v.leaf.time), "objects": v.leaf.object_count,
                 "bytes": v.leaf.object_bytes, "sites": list(v.held_by), "witnessed": v.leaf.sequence in witnessed}
                for v in history.versions
            ],
        })  # fmt: skip
        for finding in history.findings:
            note(f"{name}: {finding.site}: {finding.detail}")
    if json:
        print_json({"registers": found})
        return
    for item in found:
        say(f"{item['register']}  ({item['id']})")
        table(
            ("version", "epoch", "state of (UTC)", "objects", "size", "sites", "witnessed"),
            (
                (v["sequence"], v["epoch"], v["time"], v["objects"], size_text(v["bytes"]), " ".join(v["sites"]),
                 "yes" if v["witnessed"] else "no")
                for v in item["versions"]
            ),
        )  # fmt: skip

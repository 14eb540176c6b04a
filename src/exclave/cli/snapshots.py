"""``exclave snapshots``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.cli.output import HomeFolder, Json, Sites, note, print_json, say, size_text, table
from exclave.cli.where import view_of
from exclave.ids import RegisterId, instant_text
from exclave.verify.history import read_history


def register(app: typer.Typer) -> None:
    app.command(name="snapshots", epilog="Example: exclave snapshots gazette")(snapshots)


def snapshots(
    register: Annotated[str | None, typer.Argument(help="Name or id of one register; default: all.")] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Annotated[
        str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint, with --site.")
    ] = "",
    json: Json = False,
) -> None:
    """The versions of registers as their ledgers show them, verified without any key."""
    where = view_of(home, site, fingerprint)
    found: list[tuple[str, RegisterId, list[dict[str, Any]]]] = []
    for number, name in where.registers(register):
        history = read_history(where.view, where.sites, number, allow_unwitnessed=True)
        counted = {v.leaf.sequence for v in read_history(where.view, where.sites, number).versions}
        rows: list[dict[str, Any]] = [
            {
                "sequence": v.leaf.sequence,
                "epoch": v.epoch,
                "time": instant_text(v.leaf.time),
                "objects": v.leaf.object_count,
                "bytes": v.leaf.object_bytes,
                "sites": list(v.held_by),
                "witnessed": v.leaf.sequence in counted,
            }
            for v in history.versions
        ]
        found.append((name, number, rows))
        for finding in history.findings:
            note(f"{name}: {finding.site}: {finding.detail}")
    if json:
        print_json({"registers": [{"register": n, "id": i, "versions": rows} for n, i, rows in found]})
        return
    for name, number, rows in found:
        say(f"{name}  ({number})")
        table(
            ("version", "epoch", "state of (UTC)", "objects", "size", "sites", "witnessed"),
            (
                (
                    v["sequence"], v["epoch"], v["time"][:19].replace("T", " "), v["objects"], size_text(v["bytes"]),
                    " ".join(v["sites"]), "yes" if v["witnessed"] else "no",
                )
                for v in rows
            ),
        )  # fmt: skip

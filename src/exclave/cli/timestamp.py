"""``exclave timestamp``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_home, open_sites
from exclave.cli.output import HomeFolder, Json, note, print_json, say, table, when
from exclave.errors import ConfigError, UnavailableError
from exclave.ledger.timestamp_client import ask_timestamp
from exclave.operations.timestamp import Stamped, stamp
from exclave.verify.history import read_history
from exclave.verify.state import read_state
from exclave.verify.timestamps import Stamp, read_timestamps


def register(app: typer.Typer) -> None:
    app.command(name="timestamp", epilog="Example: exclave timestamp gazette")(timestamp)


def timestamp(
    registers: Annotated[list[str] | None, typer.Argument(help="Registers; default: all of exclave.toml.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Ask nobody; only show what is there.")] = False,
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Have the charter's timestamp authorities date the ledgers as they are now; backups do it by themselves.

    Exit code 10 if an authority or a site did not do its part.
    """
    opened = open_home(home)
    sites = open_sites(opened)
    view = read_state(sites, opened.fingerprint())
    if not show and not view.chain.newest.charter.authorities:
        raise ConfigError(
            "the charter names no timestamp authority",
            hint="Add a [[timestamp]] block to exclave.toml, and have a charter signed.",
        )
    made: dict[str, Stamped] = {}
    proven: dict[str, tuple[Stamp, ...]] = {}
    for name in registers or [r.name for r in opened.config.register]:
        number = opened.register_id(name)
        if not show:
            made[name] = stamp(view, number, sites, ask_timestamp)
        proven[name] = read_timestamps(view, sites, read_history(view, sites, number))[0]
    failed = {f"{name}: {who}": why for name, one in made.items() for who, why in one.failed.items()}
    if json:
        print_json({"asked": made, "proven": {name: [_plain(s) for s in found] for name, found in proven.items()}})
    else:
        table(
            ("register", "authority", "epoch", "entries", "up to version", "existed before"),
            (
                (name, s.authority, s.epoch, s.entries, s.sequence or "-", when(s.before))
                for name, found in proven.items()
                for s in found
            ),
        )
        for who, why in failed.items():
            note(f"{who}: {why}")
        if not any(proven.values()):
            say("No timestamp is there yet.")
    if failed:
        raise typer.Exit(UnavailableError.exit_code)


def _plain(one: Stamp) -> dict[str, object]:
    return {"authority": one.authority, "before": one.before, "epoch": one.epoch, "entries": one.entries,
            "sequence": one.sequence, "signer": one.signer, "key": one.key}  # fmt: skip

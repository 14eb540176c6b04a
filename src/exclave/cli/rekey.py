"""``exclave rekey``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_annex_sites, witness_addresses
from exclave.cli.keys import load_key
from exclave.cli.output import HomeFolder, Json, Pinned, Sites, note, print_json, say, table
from exclave.cli.where import view_of
from exclave.formats.warrant import Act
from exclave.ids import now
from exclave.operations.custody import describe_warrant, grant, open_register
from exclave.operations.rekey import Rekeyed, folder_of
from exclave.operations.rekey import rekey as verb

_EXAMPLE = (
    "Example: exclave rekey --site lux=dir:/mnt/lux --site nord=dir:/mnt/nord --fingerprint 3f9a…"
    " --warrant r.warrant --answer r-kaja.answer --answer r-luc.answer --key ceremony.key"
)


def register(app: typer.Typer) -> None:
    app.command(name="rekey", epilog=_EXAMPLE)(rekey)


def rekey(
    warrant: Annotated[Path, typer.Option(help="The warrant to rekey.")],
    answer: Annotated[
        list[Path] | None,
        typer.Option(help="A custodian's answer: the quorum of the charter, and enough holders of present shares."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The key file of the machine that the warrant names; default: the home's own.")
    ] = None,
    site: Sites = None,
    fingerprint: Pinned = "",
    home: HomeFolder = Path(),
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where the new epoch is kept; default: beside the warrant (.epochs).")
    ] = None,
    json: Json = False,
) -> None:
    """Give registers a new opening key and new shares, for the custodians of the charter in force.

    Nothing that is stored is touched, and the pen stays where it is. Best done on a machine that is wiped afterwards
    (--site, --fingerprint, --key): for a moment it can read everything. The same command goes on after a crash.
    """
    where = view_of(home, site, fingerprint)
    machine = load_key(key if key is not None else home.absolute() / "keys" / "writer.key")
    parsed, _ = describe_warrant(warrant)
    granted = grant(where.view, warrant, answer or [], act=Act.REKEY, place=None, machine=machine, now=now())
    for path, why in granted.rejected.items():
        note(f"{path}: {why}")
    opened = {number: open_register(where.view, where.sites, number, granted, machine) for number in parsed.registers}
    for one in opened.values():
        for custodian in one.bad:
            note(f"{one.annex.name}: the share of {custodian} is wrong and was left out")
    done = verb(
        folder.absolute() if folder is not None else folder_of(warrant), machine=machine, granted=granted,
        view=where.view, sites=open_annex_sites(opened.values(), where.sites), opened=opened, clock=now,
        home=where.home, witnesses=witness_addresses(where.home.config) if where.home is not None else {}, say=note,
    )  # fmt: skip
    if json:
        print_json({"registers": done})
        return
    _show(done)


def _show(done: Sequence[Rekeyed]) -> None:
    table(
        ("register", "epoch", "charter", "opens with", "custodians", "opened by", "sites"),
        (
            (
                r.name, r.epoch, r.charter, f"any {r.threshold} of {len(r.custodians)}", ", ".join(r.custodians),
                ", ".join(r.used), ", ".join(r.sites),
            )
            for r in done
        ),
    )  # fmt: skip
    for one in done:
        if one.overtaken:
            note(
                f"{one.name}: its writer entered something while this ran, which does not count:"
                " run `exclave backup` at home now."
            )
        if not one.fact:
            note(f"{one.name}: the next backup enters this into the ledger.")
    say("Former shares open what was made before, and nothing that is made from now on. Run a backup, then verify.")

"""``exclave publish``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_home, open_publishing, open_sites, witness_addresses
from exclave.cli.output import HomeFolder, Json, counted, note, print_json, say, size_text, when
from exclave.cli.progress import work_bar
from exclave.errors import QuorumMissing
from exclave.ids import now
from exclave.operations.publish import PublishReceipt
from exclave.operations.publish import publish as verb


def register(app: typer.Typer) -> None:
    app.command(name="publish", epilog="Example: exclave publish gazette    (after: exclave backup gazette)")(publish)


def publish(
    name: Annotated[str, typer.Argument(metavar="REGISTER", help="A register that the charter calls public.")],
    dataset: Annotated[str, typer.Option(help="Its dataset of files; needed if it has several.")] = "",
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Publish the newest version of a public register: in the clear, each document with its proof, bound to its ledger.

    Reading rooms (`exclave serve public`) show it. Needs no custodian; run it after each backup.
    """
    opened = open_home(home)
    source, prover = open_publishing(opened, name, dataset)
    with work_bar(name, quiet=json) as bar:
        receipt = verb(
            opened, name, source, prover, sites=open_sites(opened), witnesses=witness_addresses(opened.config),
            now=now(), progress=lambda path, files: bar.at(f"{files} files", files),
        )  # fmt: skip
    if json:
        print_json(receipt)
    else:
        _show(receipt)
    if receipt.lacking:
        raise typer.Exit(QuorumMissing.exit_code)


def _show(r: PublishReceipt) -> None:
    if r.nothing_new:
        say(f"{r.name}: version {r.sequence}, the state of {when(r.time)}, is public already at {', '.join(r.sites)}")
    else:
        say(f"{r.name}: version {r.sequence} is public, the state of {when(r.time)}")
        gone = f", {counted(r.removed, 'file', 'files')} removed" if r.removed else ""
        say(
            f"  {counted(r.files, 'new file', 'new files')}{gone}; {size_text(r.shipped_bytes)}"
            f" to each of {', '.join(r.sites)}"
        )
        say(f"  edition {r.edition.hex()}")
    if r.lacking:
        say(f"  NOT public yet: readers count it once it is vouched for by {r.lacking}")
    for label, why in r.failed.items():
        note(f"{label}: {why}")
    for line in r.left_out:
        note(f"not published: {line}")

"""``exclave restore``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_annex_sites
from exclave.cli.keys import load_key
from exclave.cli.output import Json, Pinned, Sites, note, print_json, progress_bar, say, size_text, table, when
from exclave.cli.where import view_of
from exclave.errors import UsageError
from exclave.formats.warrant import Act
from exclave.ids import Label, now
from exclave.operations.custody import describe_warrant, grant, open_register
from exclave.operations.restore import Restored, choose_version, open_version, remembered_heads, restore_version
from exclave.verify.history import read_history

_EXAMPLE = (
    "Example: exclave restore --site lux=dir:/mnt/lux --fingerprint 3f9a… --warrant r.warrant"
    " --answer r-kaja.answer --answer r-luc.answer --key machine.key --target /srv/restored"
)


def register(app: typer.Typer) -> None:
    app.command(name="restore", epilog=_EXAMPLE)(restore)


def restore(
    fingerprint: Pinned,
    warrant: Annotated[Path, typer.Option(help="The warrant to restore (or to fail over).")],
    key: Annotated[Path, typer.Option(help="The key file of the machine that the warrant names: this one.")],
    target: Annotated[Path, typer.Option(help="A new or empty folder.")],
    site: Sites = None,
    answer: Annotated[list[Path] | None, typer.Option(help="A custodian's answer; as many as the quorum asks.")] = None,
    register: Annotated[
        str | None, typer.Option(help="Id or name of the register, if the warrant names several.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Number of the version; default: the latest.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset, straight into the target.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Read everything again and compare its digest.")] = False,
    unwitnessed: Annotated[bool, typer.Option("--allow-unwitnessed", help="Go on with too few witnesses.")] = False,
    only_these: Annotated[
        bool, typer.Option("--only-these-sites", help="Ask no other sites than those named with --site.")
    ] = False,
    json: Json = False,
) -> None:
    """Bring a version of a register back into a folder, by warrant. Each chunk is checked as it is written."""
    if not site:
        raise UsageError("name at least one site with --site NAME=URL")
    where = view_of(Path(), site, fingerprint)
    machine = load_key(key)
    parsed, _ = describe_warrant(warrant)
    # Whoever may start a register may also look at it; no other act lets anybody read one.
    act = Act.FAILOVER if parsed.act is Act.FAILOVER else Act.RESTORE
    granted = grant(where.view, warrant, answer or [], act=act, place=None, machine=machine, now=now())
    for path, why in granted.rejected.items():
        note(f"{path}: {why}")
    opened = {number: open_register(where.view, where.sites, number, granted, machine) for number in parsed.registers}
    chosen = [o for o in opened.values() if register in (None, o.register, o.annex.name)]
    if len(chosen) != 1:
        names = ", ".join(o.annex.name for o in opened.values())
        raise UsageError(f"name one register with --register; the warrant has: {names}")
    one = chosen[0]
    for custodian in one.bad:
        note(f"the share of {custodian} is wrong and was left out")
    sites = where.sites if only_these else open_annex_sites([one], where.sites) | where.sites
    addresses = {Label(w.label): w.url for w in one.annex.witnesses}
    remembered, silent = remembered_heads(where.view, one.register, addresses)
    for witness, why in silent.items():
        note(f"the witness {witness} does not say what it has seen: {why}")
    history = read_history(where.view, sites, one.register, allow_unwitnessed=unwitnessed, remembered=remembered)
    reader, root = open_version(where.view.state, sites, one, choose_version(history, version))
    with progress_bar(one.annex.name, quiet=json) as update:
        done = restore_version(reader, root, target.absolute(), only=dataset, compare=compare, progress=update)
    if json:
        print_json({"restored": done, "bad_shares": one.bad})
        return
    _show(done)


def _show(done: Restored) -> None:
    say(
        f"{done.register}: version {done.sequence} of epoch {done.epoch}, the state of {when(done.time)}, was restored."
    )
    table(
        ("dataset", "entries", "size", "folder", "not brought back"),
        ((d.name, d.entries, size_text(d.bytes), d.folder, d.unrestored or "-") for d in done.datasets),
    )
    for dataset in done.datasets:
        for what, path in dataset.unrestored_first:
            note(f"{dataset.name}/{path}: {what}")
    for where, why in done.faults.items():
        note(f"{where}: {why}")

"""``exclave restore``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.opening import Answers, MachineKey, OnlyThese, RegisterName, Unwitnessed, WarrantFile, open_by_warrant
from exclave.cli.output import Json, Pinned, Sites, note, print_json, say, size_text, table, when
from exclave.cli.progress import counting, read_of, work_bar
from exclave.operations.restore import Restored, choose_version, open_version, restore_version

_EXAMPLE = (
    "Example: exclave restore --site lux=dir:/mnt/lux --fingerprint 3f9a… --warrant r.warrant"
    " --answer r-kaja.answer --answer r-luc.answer --key machine.key --target /srv/restored"
)


def register(app: typer.Typer) -> None:
    app.command(name="restore", epilog=_EXAMPLE)(restore)


def restore(
    fingerprint: Pinned,
    warrant: WarrantFile,
    key: MachineKey,
    target: Annotated[Path, typer.Option(help="A new or empty folder.")],
    site: Sites = None,
    answer: Answers = None,
    register: RegisterName = None,
    version: Annotated[int | None, typer.Option(min=1, help="Number of the version; default: the latest.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset, straight into the target.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Read everything again and compare its digest.")] = False,
    unwitnessed: Unwitnessed = False,
    only_these: OnlyThese = False,
    json: Json = False,
) -> None:
    """Bring a version of a register back into a folder, by warrant. Each chunk is checked as it is written.

    As long as TARGET.restoring lies beside the target it is not finished; the same command goes on. A new target is
    readable for you alone.
    """
    opened = open_by_warrant(
        site, fingerprint, warrant, answer or [], key, register=register, unwitnessed=unwitnessed, only_these=only_these
    )
    one = opened.register
    chosen = choose_version(opened.history, version)
    sites = counting(opened.sites)
    reader, root = open_version(opened.where.view.state, sites, one, chosen)
    total = sum(d.bytes for d in root.datasets if dataset in (None, d.label))
    written: dict[str, int] = {}

    def show(name: str, entries: int, size: int) -> None:
        written[name] = size
        bar.at(f"{name}, {entries} entries", sum(written.values()), total)

    with work_bar(one.annex.name, quiet=json) as bar:
        bar.poll(read=read_of(sites))
        done = restore_version(
            reader, root, target.absolute(), only=dataset, compare=compare, resumable=True, progress=show
        )
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

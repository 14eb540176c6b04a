"""``exclave export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.opening import Answers, MachineKey, OnlyThese, RegisterName, Unwitnessed, WarrantFile, open_by_warrant
from exclave.cli.output import Json, Pinned, Sites, counted, note, print_json, say, size_text, table, when
from exclave.cli.progress import counting, read_of, work_bar
from exclave.ids import now
from exclave.operations.export import Exported, ExportFormat, export_dataset, provenance_of
from exclave.operations.restore import choose_version, open_version

_EXAMPLE = (
    "Example: exclave export db --register land --format siard --out /srv/land.siard --site lux=dir:/mnt/lux"
    " --fingerprint 3f9a… --warrant r.warrant --answer r-kaja.answer --answer r-luc.answer --key machine.key"
)


def register(app: typer.Typer) -> None:
    app.command(name="export", epilog=_EXAMPLE)(export)


def export(
    dataset: Annotated[str, typer.Argument(help="The dataset to export, not its register: see --register.")],
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="bagit for documents; sql or siard for databases."),
    ],
    out: Annotated[Path, typer.Option(help="What to write: a new folder for bagit, else a new file.")],
    fingerprint: Pinned,
    warrant: WarrantFile,
    key: MachineKey,
    site: Sites = None,
    answer: Answers = None,
    register: RegisterName = None,
    version: Annotated[int | None, typer.Option(min=1, help="Number of the version; default: the latest.")] = None,
    unwitnessed: Unwitnessed = False,
    only_these: OnlyThese = False,
    json: Json = False,
) -> None:
    """Write a dataset of any version in a form that needs nothing of ours: a BagIt bag, SQL, or a SIARD archive."""
    opened = open_by_warrant(
        site, fingerprint, warrant, answer or [], key, register=register, unwitnessed=unwitnessed, only_these=only_these
    )
    chosen = choose_version(opened.history, version)
    state, one = opened.where.view.state, opened.register
    sites = counting(opened.sites)
    reader, root = open_version(state, sites, one, chosen)
    source = provenance_of(state, one, opened.history, chosen, root, dataset, now())
    annex = next((d for d in one.annex.datasets if d.name == dataset), None)
    total = sum(d.bytes for d in root.datasets if d.label == dataset)

    def show(what: str, count: int, size: int) -> None:
        restoring = what == dataset
        entries = counted(count, "entry", "entries") if restoring else counted(count, "row", "rows")
        bar.at(f"{what}, {entries}", size, total if restoring else None)

    with work_bar(one.annex.name, quiet=json) as bar:
        bar.poll(read=read_of(sites))
        done = export_dataset(reader, root, dataset, form, out.absolute(), source, annex, progress=show)
    faults = {f"{label} {pack}": error.message for (label, pack), error in reader.faults.items()}
    if json:
        print_json({"exported": done, "faults": faults, "bad_shares": one.bad})
        return
    _show(done)
    for where, why in faults.items():
        note(f"{where}: {why}")


def _show(done: Exported) -> None:
    what = f"{done.dataset} of version {done.sequence}, the state of {when(done.time)}"
    say(f"{done.register}: {what}, is in {done.target}")
    if done.format is ExportFormat.BAGIT:
        say(f"  {counted(done.entries, 'file', 'files')}, {size_text(done.bytes)}")
        if done.renamed:
            names = counted(done.renamed, "name", "names")
            say(f"  {names} cannot stand in a bag as written; exclave/entries.jsonl lists what was renamed")
    elif done.tables:
        table(("table", "rows"), ((f"{t.schema}.{t.name}", t.rows) for t in done.tables))
        say("SHA-256 of the rows of each table:")
        for t in done.tables:
            say(f"{t.sha256}  {t.schema}.{t.name}")

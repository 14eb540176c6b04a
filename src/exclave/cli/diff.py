"""``exclave diff``"""

from __future__ import annotations

from typing import Annotated

import typer

from exclave.cli.opening import Answers, MachineKey, OnlyThese, Unwitnessed, WarrantFile, open_by_warrant
from exclave.cli.output import Json, Pinned, Sites, counted, print_json, say, size_text, table, when
from exclave.cli.progress import counting, read_of, work_bar
from exclave.operations.diff import DatasetDiff, VersionDiff, diff_versions
from exclave.operations.restore import choose_version, open_version

_EXAMPLE = (
    "Example: exclave diff land 41 42 --site lux=dir:/mnt/lux --fingerprint 3f9a… --warrant r.warrant"
    " --answer r-kaja.answer --answer r-luc.answer --key machine.key"
)
DIFFERS = 1
"""Exit code, as of ``diff``: 0 the same, 1 they differ, anything else a failure."""


def register(app: typer.Typer) -> None:
    app.command(name="diff", epilog=_EXAMPLE)(diff)


def diff(
    register: Annotated[str, typer.Argument(help="Name or id of the register.")],
    before: Annotated[int, typer.Argument(min=1, help="Number of a version.")],
    after: Annotated[int, typer.Argument(min=1, help="Number of the version to compare it with.")],
    fingerprint: Pinned,
    warrant: WarrantFile,
    key: MachineKey,
    site: Sites = None,
    answer: Answers = None,
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    stat: Annotated[bool, typer.Option("--stat", help="Only count, list nothing.")] = False,
    most: Annotated[int, typer.Option(min=0, help="List so many entries of each dataset; all are counted.")] = 1000,
    unwitnessed: Unwitnessed = False,
    only_these: OnlyThese = False,
    json: Json = False,
) -> int:
    """Compare two versions of a register, by warrant: entries of its files, rows of its tables.

    Reads only what differs. The exit code is 0 if they are the same and 1 if they differ.
    """
    opened = open_by_warrant(
        site, fingerprint, warrant, answer or [], key, register=register, unwitnessed=unwitnessed, only_these=only_these
    )
    sites = counting(opened.sites)
    one, two = (
        open_version(opened.where.view.state, sites, opened.register, choose_version(opened.history, number))
        for number in (before, after)
    )
    with work_bar(opened.register.annex.name, quiet=json) as bar:
        bar.poll(read=read_of(sites))
        found = diff_versions(
            one, two, only=dataset, most=0 if stat else most,
            progress=lambda name, entries, size: bar.at(f"{name}, {counted(entries, 'difference', 'differences')}", 0),
        )  # fmt: skip
    if json:
        print_json(found)
    else:
        _show(found, stat)
    return 0 if found.same else DIFFERS


def _show(found: VersionDiff, stat: bool) -> None:
    span = f"{found.before} ({when(found.time_before)}) and {found.after} ({when(found.time_after)})"
    if found.same:
        say(f"{found.register}: versions {span} are the same.")
        return
    say(f"{found.register}: versions {span} differ.")
    table(
        ("dataset", "new", "gone", "changed", "renamed", "content changed", "size before", "size after"),
        (
            (
                d.name, *(d.counts.get(name, 0) for name in ("new", "gone", "changed", "renamed", "content")),
                size_text(d.bytes_before), size_text(d.bytes_after),
            )
            for d in found.datasets
        ),
    )  # fmt: skip
    for one in found.datasets:
        if not stat and one.changes:
            _show_entries(one)
        if one.tables and not one.same:
            say(f"\n{one.name}: tables")
            rows = (
                (t.name, t.rows_before, t.rows_after, f"{t.rows_after - t.rows_before:+d}", t.state or "?")
                for t in one.tables
            )
            table(("table", "rows before", "rows after", "more", "content"), rows)


def _show_entries(one: DatasetDiff) -> None:
    say(f"\n{one.name}: entries")
    table(
        ("", "path", "what"),
        ((c.kind, c.path, f"was {c.former}" if c.former else ", ".join(c.aspects)) for c in one.changes),
    )
    if one.left_out:
        say(f"… and {counted(one.left_out, 'more entry', 'more entries')} (--most)")

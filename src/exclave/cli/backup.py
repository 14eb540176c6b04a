"""``exclave backup``"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import collect_seldom, open_capture, open_home, open_sites, witness_addresses
from exclave.cli.backup_rounds import run_rounds
from exclave.cli.output import (
    HomeFolder,
    Json,
    counted,
    duration,
    note,
    parse_duration,
    print_json,
    say,
    size_text,
    table,
    typed,
    when,
)
from exclave.cli.progress import WorkBar, counting, shipped_of, work_bar
from exclave.errors import ExclaveError, QuorumMissing
from exclave.ids import Label, now, parse_label
from exclave.operations.backup import backup as verb
from exclave.operations.last_size import LastSize, keep_size, last_size
from exclave.operations.receipt import Receipt
from exclave.sites.locking import lacking_of

_MANY_ENTRIES = 1000


def register(app: typer.Typer) -> None:
    app.command(name="backup", epilog="Example: exclave backup gazette    or, for all registers: exclave backup")(
        backup
    )


def backup(
    registers: Annotated[list[str] | None, typer.Argument(help="Registers; default: all of exclave.toml.")] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            help="Only this site; as often as there are sites. They alone must meet the register's placement rule.",
        ),
    ] = None,
    every: Annotated[
        str,
        typer.Option(help="Again and again: a version of each register every 30s, 5m, 1h … until SIGTERM or Ctrl-C."),
    ] = "",
    jobs: Annotated[
        int, typer.Option(min=1, max=64, help="So many processes, each with a register of its own at a time.")
    ] = 1,
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Take a version of each register: captured, sealed, at the sites of its rule, and in its ledger.

    With --every or --jobs it tells of rounds, not of versions; with --json one line for each round. For hundreds of
    registers on one machine: exclave backup --every 1m --jobs 4
    """
    if every or jobs > 1:
        every_s = parse_duration(every) if every else 0
        labels = [typed(parse_label, label) for label in to or ()]
        run_rounds(home, registers or [], labels, every_s=every_s, jobs=jobs, as_json=json)
        return
    collect_seldom()
    opened = open_home(home)
    names = registers or [r.name for r in opened.config.register]
    receipts: list[Receipt] = []
    failures: dict[str, ExclaveError] = {}
    lacking: dict[Label, dict[str, int]] = {}
    for name in names:
        try:
            sites = counting(open_sites(opened))
            with work_bar(name, quiet=json) as bar:
                bar.poll(shipped=shipped_of(sites))
                receipt = verb(
                    opened,
                    name,
                    sites=sites,
                    witnesses=witness_addresses(opened.config),
                    open_capture=open_capture,
                    clock=now,
                    progress=_shown(bar, last_size(opened, name)),
                    to=[typed(parse_label, label) for label in to or ()],
                )
        except ExclaveError as error:
            # The other registers do not wait for this one.
            if len(names) == 1:
                raise
            failures[name] = error
            note(f"{name}: {error.message}")
            continue
        receipts.append(receipt)
        for label, site in sites.items():
            lacking.setdefault(label, {}).update(lacking_of(site))
        keep_size(opened, name, receipt)
        if not json:
            _show(receipt)
    if json:
        told = {label: members for label, members in lacking.items() if members}
        failed = {name: error.message for name, error in failures.items()}
        print_json({"receipts": receipts, "failures": failed, "lacking": told})
    else:
        _show_lacking(lacking)
    for failure in failures.values():
        if not json:
            raise failure
        raise typer.Exit(failure.exit_code)
    if not all(receipt.witnessed for receipt in receipts):
        raise typer.Exit(QuorumMissing.exit_code)


def _show_lacking(lacking: Mapping[Label, Mapping[str, int]]) -> None:
    """Members of coded sites that did not take all of it."""
    for label, members in lacking.items():
        for member, count in members.items():
            say(f"  {label} has it, but not its member {member}: {counted(count, 'object', 'objects')} lacking there")
        if members:
            say("    exclave coded mend ADDRESS brings it what it lacks.")


def _shown(bar: WorkBar, before: LastSize | None) -> Callable[[str, int, int], None]:
    """Tells ``bar`` how far a backup is, by entries where the last version had many, else by bytes."""

    def update(text: str, entries: int, size: int) -> None:
        if before is None:
            bar.at(f"{text}, {entries} entries", 0, read=size)
        elif before.entries >= _MANY_ENTRIES or not before.read_bytes:
            bar.at(f"{text}, {entries} entries", entries, before.entries, estimated=True, read=size)
        else:
            bar.at(f"{text}, {entries} entries", size, before.read_bytes, estimated=True, read=size)

    return update


def _show(r: Receipt) -> None:
    say(f"{r.register}: version {r.sequence} (epoch {r.epoch}) holds the state of {when(r.time)}")
    table(
        ("dataset", "kind", "entries", "size", "digest"),
        ((d.name, d.kind, d.entries, size_text(d.bytes), d.digest[:16] + "…" if d.digest else "-") for d in r.datasets),
    )
    say(
        f"  read {size_text(r.read_bytes)}, shipped {size_text(r.shipped_bytes)} to each of {', '.join(r.sites)};"
        f" the version is {size_text(r.total_bytes)} in {counted(r.objects, 'object', 'objects')}"
    )
    met = "met" if r.rpo_met_s <= r.rpo_s else "NOT met"
    if not r.witnessed:
        met = "NOT met: too few witnesses vouch for it, so readers do not count it yet"
    how = f"protected by {r.protection}," if r.protected else f"NOT protected ({r.protection}); stored"
    say(f"  {how} {duration(r.rpo_met_s)} after its state; RPO {duration(r.rpo_s)}: {met}")
    if r.quorum:
        say(f"  witnesses: {', '.join(r.witnesses) or 'none'} (needed: {r.quorum})")
    for what in r.suspicious:
        say(f"  SUSPICIOUS, {what} (exclave snapshots {r.register})")
    if r.timestamps:
        say(f"  dated by {', '.join(r.timestamps)}")
    for label, why in r.failed.items():
        say(f"  {label} does NOT have it: {why}")
    if r.failed:
        say(
            "    What the other sites have counts as said above. A later backup, or exclave site sync, brings"
            f" {', '.join(r.failed)} what it lacks; exclave status shows who has what."
        )
    for label, why in (*r.witnesses_failed.items(), *r.timestamps_failed.items()):
        say(f"  {label}: {why}")

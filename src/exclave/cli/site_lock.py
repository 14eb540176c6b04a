"""``exclave site lock``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.app import witness_addresses
from exclave.cli.output import HomeFolder, Json, PinnedWithSite, Sites, note, print_json, say, table, typed
from exclave.cli.progress import work_bar
from exclave.cli.where import Where, view_of
from exclave.errors import ExclaveError, PlacementUnmet, UsageError
from exclave.formats.sitefacts import LOCKED
from exclave.ids import Label, RegisterId, now, parse_label
from exclave.operations.deliver import registers_at
from exclave.operations.site_fact import enter_site_fact
from exclave.operations.site_locks import MOST_TOLD, RegisterLocks, hold, locking_site
from exclave.rules.scrub import day_of, day_text

_EXAMPLE = "Example: exclave site lock lux"


def register(app: typer.Typer) -> None:
    app.command(name="lock", epilog=_EXAMPLE)(lock)


def lock(
    site_name: Annotated[str, typer.Argument(metavar="SITE", help="A site whose address has lock=compliance.")],
    only: Annotated[str | None, typer.Option("--register", help="Only this register: its name or id.")] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    json: Json = False,
) -> None:
    """Make the locks longer that would end while living versions still need what they hold.

    Run it by timetable, several times within lock_days. A lock can never be made shorter. Needs no key. At home the
    result enters the ledgers, and `exclave status` warns before locks end. Exit code 16: not everything is held.
    """
    where = view_of(home, site, fingerprint)
    label = typed(parse_label, site_name)
    if label not in where.sites:
        raise UsageError(f"there is no site {label} here; there are: {', '.join(where.sites)}")
    locking_site(label, where.sites[label])
    chosen = where.registers(only)[0][0] if only else None
    results: list[RegisterLocks] = []
    with work_bar(f"lock {label}", quiet=json) as bar:
        for number in registers_at(where.view, label, chosen):
            bar.begin(where.names().get(number, number[:8]))
            results.append(hold(where.view, label, where.sites, number, now=now()))
    problems = _enter(where, label, results)
    if json:
        print_json(_told(where, label, results, problems))
    else:
        _show(where, label, results, problems)
    if any(r.short for r in results):
        raise typer.Exit(PlacementUnmet.exit_code)


def _enter(where: Where, label: Label, results: list[RegisterLocks]) -> dict[RegisterId, str]:
    """Facts; why one could not be entered. The locks hold all the same."""
    problems: dict[RegisterId, str] = {}
    if where.home is None:
        return problems
    for result in results:
        try:
            enter_site_fact(
                where.home, result.register, LOCKED, (result.line(label).encode(),), sites=where.sites,
                witnesses=witness_addresses(where.home.config), now=now(),
            )  # fmt: skip
        except ExclaveError as error:
            problems[result.register] = error.message
    return problems


def _told(
    where: Where, label: Label, results: list[RegisterLocks], problems: dict[RegisterId, str]
) -> dict[str, Any]:  # fmt: skip
    names = where.names()
    rows = [
        {"name": names.get(r.register, r.register), "register": r.register, "objects": r.objects,
         "extended": r.extended, "until": day_text(day_of(r.until)) if r.until else None,
         "short": [{"object": key, "why": why} for key, why in r.short], "problem": problems.get(r.register, "")}
        for r in results
    ]  # fmt: skip
    return {"site": label, "ok": not any(r.short for r in results), "registers": rows}


def _show(
    where: Where, label: Label, results: list[RegisterLocks], problems: dict[RegisterId, str]
) -> None:  # fmt: skip
    names = where.names()
    table(
        ("register", "objects", "made longer", "not held", "all held until"),
        (
            (names.get(r.register, r.register), r.objects, r.extended, len(r.short),
             day_text(day_of(r.until)) if r.until else "NO: see below")
            for r in results
        ),
    )  # fmt: skip
    for result in results:
        for key, why in result.short[:MOST_TOLD]:
            say(f"{label}: {key}: {why}")
        if result.register in problems:
            note(f"no fact in the ledger of {names.get(result.register, result.register)}: {problems[result.register]}")

"""``exclave site probe``"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from exclave.app import open_home, witness_addresses
from exclave.cli.output import HomeFolder, Json, note, out, print_json, say, table, typed, visible
from exclave.cli.where import Where, view_of
from exclave.errors import ConfigError, ExclaveError, IntegrityError
from exclave.formats.sitefacts import PROBED, ProbeLine
from exclave.ids import Label, RegisterId, now, parse_label
from exclave.operations.home import absolute_address
from exclave.operations.site_fact import enter_site_fact
from exclave.sites.open_probe import open_probe
from exclave.sites.probe import Promise
from exclave.sites.roles import UNSEEN, Role, roles_of

_EXAMPLE = "Example: exclave site probe lux    or: exclave site probe 's3://bucket/prefix?endpoint=…'"
_MOST_NAMED = 450


def register(app: typer.Typer) -> None:
    app.command(name="probe", epilog=_EXAMPLE)(probe)


def probe(
    site: Annotated[str, typer.Argument(help="Name of a site in exclave.toml, or an address.")],
    enter: Annotated[
        bool, typer.Option(help="Enter the verdict into the ledgers of the registers that lie there.")
    ] = True,
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Try every promise that a site must keep, and say what it can be relied on for.

    Leaves about 20 MiB of scratch objects below probe/ there; where objects are locked, for a day or two. A site that
    is named, and holds registers of this home, gets its verdict into their ledgers. Exit code 20: a promise is broken.
    """
    label, where, url = _target(site, home)
    target, tried = open_probe(url, secrets.token_hex(8))
    promises: list[Promise] = []
    for promise in tried:
        promises.append(promise)
        if not json and promise.tried:
            _show(promise)
    roles = roles_of(promises, "dir" if url.startswith("/") else url.partition(":")[0])
    entered, problems = _enter(where, label, promises, roles) if enter else ([], {})
    broken = [p for p in promises if not p.kept]
    if json:
        print_json({"site": target.address, "ok": not broken, "promises": promises, "roles": roles, "unseen": UNSEEN,
                    "entered": entered, "problems": problems})  # fmt: skip
    else:
        _show_untried(promises)
        say(f"{len(promises) - len(broken)} of {len(promises)} promises kept at {target.address}.\n")
        table(("role", "", "why"), ((r.name, r.answer, r.why) for r in roles))
        note(UNSEEN)
        for number in entered:
            say(f"The verdict is in the ledger of {where.names().get(number, number) if where else number}.")
        for number, why in problems.items():
            note(f"no verdict in the ledger of {where.names().get(number, number) if where else number}: {why}")
    if broken:
        raise typer.Exit(IntegrityError.exit_code)


def _target(site: str, home: Path) -> tuple[Label | None, Where | None, str]:
    """The site's label and home if it is named, and its address."""
    if ":" in site or site.startswith("/"):
        return None, None, absolute_address(Path.cwd(), site)
    label = typed(parse_label, site)
    opened = open_home(home)
    url = next((absolute_address(opened.folder, s.url) for s in opened.config.site if s.name == label), None)
    if url is None:
        raise ConfigError(f"there is no site {site!r} in exclave.toml")
    return label, _where(home), url


def _where(home: Path) -> Where | None:
    """None before there is a charter: nothing can be entered then."""
    try:
        return view_of(home, None, "")
    except ExclaveError:
        return None


def _show(promise: Promise) -> None:
    mark = "[green]kept  [/green]" if promise.kept else "[bold red]BROKEN[/bold red]"
    out.print(f"{mark} {promise.name}", highlight=False)
    if not promise.kept:
        out.print(f"       {promise.detail}", markup=False)


def _show_untried(promises: Sequence[Promise]) -> None:
    """Each reason once, with what was not tried because of it."""
    for why in dict.fromkeys(p.detail for p in promises if not p.tried):
        out.print(f"[bold red]REFUSED[/bold red] {escape(visible(why))}", highlight=False)
        names = [p.name for p in promises if not p.tried and p.detail == why]
        say(f"       so nothing is written there, and this was not tried: {', '.join(names)}")
        say("       What to ask its operator for instead: docs/runbooks/host.md#bucket")


def _enter(
    where: Where | None, label: Label | None, promises: Sequence[Promise], roles: Sequence[Role]
) -> tuple[list[RegisterId], dict[RegisterId, str]]:
    """Registers whose ledgers have the verdict now, and why others have not."""
    if where is None or where.home is None or label is None or label not in where.sites:
        return [], {}
    given = [role.given for role in roles]
    kept = [p for p in promises if p.kept]
    line = ProbeLine(label, len(kept), len(promises), *given)
    broken = " ".join(p.name for p in promises if p.tried and not p.kept)[:_MOST_NAMED]
    refused = dict.fromkeys(p.detail for p in promises if not p.tried)
    told = (
        line.encode(),
        *((f"broken {broken}",) if broken else ()),
        *(f"refused {why}"[:_MOST_NAMED] for why in refused),
    )
    entered, problems = list[RegisterId](), dict[RegisterId, str]()
    # A site that no charter names yet is tried before it is used: then no ledger tells of it.
    for number in [rule.id for rule in where.view.chain.newest.charter.registers if label in rule.at]:
        try:
            enter_site_fact(
                where.home, number, PROBED, told, sites=where.sites, now=now(),
                witnesses=witness_addresses(where.home.config),
            )  # fmt: skip
        except ExclaveError as error:
            problems[number] = error.message
        else:
            entered.append(number)
    return entered, problems

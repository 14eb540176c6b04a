"""``exclave site``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.app import open_home, open_named_sites, open_sites
from exclave.cli import site_leave, site_lock, site_probe, site_sync
from exclave.cli.output import HomeFolder, Json, moment, note, print_json, say, size_text, table, typed, when
from exclave.cli.progress import work_bar
from exclave.errors import ConfigError, ExclaveError, IntegrityError, MissingObject, UsageError
from exclave.formats.carried import Carried
from exclave.formats.config import parse_config
from exclave.ids import (
    Fingerprint,
    Instant,
    Label,
    RegisterId,
    now,
    parse_country,
    parse_day,
    parse_fingerprint,
    parse_label,
    parse_register_id,
)
from exclave.operations.deliver import Delivery
from exclave.operations.home import CONFIG_NAME, Home, absolute_address, write_private
from exclave.operations.ship import DISK, read_carried, take_over
from exclave.rules.lease import alarms
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.sites.opening import open_site
from exclave.verify.state import StateView, read_state

_IMPORT_EXAMPLE = "Example: exclave site import /media/disk-1 --into lux=dir:/srv/exclave --fingerprint 3f9a…"

app = typer.Typer(help="Sites: the places that keep copies.", no_args_is_help=True, rich_markup_mode=None)
site_probe.register(app)
site_lock.register(app)
site_sync.register(app)
site_leave.register(app)


@app.command(epilog="Example: exclave site add lux dir:/mnt/luxembourg --country LU --operator ctie --can-run")
def add(
    name: Annotated[str, typer.Argument(help="Its name.")],
    url: Annotated[str, typer.Argument(help="Its address: dir:/absolute/folder or s3://bucket/prefix?…")],
    country: Annotated[str, typer.Option(help="Country that it lies in, two letters.")],
    operator: Annotated[str, typer.Option(help="Who administers it.")],
    can_run: Annotated[bool, typer.Option("--can-run", help="It is an embassy: systems can be started there.")] = False,
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Add a site to exclave.toml. It gets copies once a charter gives a register a legal basis there."""
    opened = open_home(home)
    if any(site.name == name for site in opened.config.site):
        raise UsageError(f"there is a site {name!r} already")
    typed(parse_label, name)
    typed(parse_label, operator)
    open_site(absolute_address(opened.folder, url))
    block = (
        f'\n[[site]]\nname = "{name}"\nurl = {_quoted(url)}\ncountry = "{typed(parse_country, country)}"\n'
        f'operator = "{operator}"\ncan_run = {"true" if can_run else "false"}\n'
    )
    path = opened.folder / CONFIG_NAME
    text = path.read_text() + block
    parse_config(text.encode())
    write_private(path, text.encode())
    if json:
        print_json({"name": name, "url": url, "country": country, "operator": operator, "can_run": can_run})
        return
    say(f"{name} was added to {path}.")
    say("Try it with `exclave site probe`, give registers a legal_basis there, and propose a new charter.")


def _quoted(url: str) -> str:
    if '"' in url or "\\" in url or "\n" in url:
        raise UsageError("a site's address may hold no quotes, backslashes or line breaks")
    return f'"{url}"'


@app.command(name="list", epilog="Example: exclave site list")
def list_(home: HomeFolder = Path(), json: Json = False) -> int:
    """The sites of exclave.toml, whether they answer, and how long leases and legal bases last.

    Exit code 1 if one of them ends soon, or has ended ([state] alarm_days in exclave.toml).
    """
    opened = open_home(home)
    sites = open_sites(opened)
    ends, told = _ends(opened, sites)
    rows: list[dict[str, Any]] = []
    for site in opened.config.site:
        try:
            next(iter(sites[Label(site.name)].list("")), None)
            state = "answers"
        except ExclaveError as error:
            state = error.message
        until = ends.get(Label(site.name))
        rows.append({"name": site.name, "country": site.country, "operator": site.operator, "url": site.url,
                     "can_run": site.can_run, "state": state, "lease_until": moment(until or 0)})  # fmt: skip
    if json:
        print_json({"sites": rows, "alarms": told})
    else:
        table(("site", "country", "operator", "can run", "address", "state", "lease until"),
              ([r["name"], r["country"], r["operator"], "yes" if r["can_run"] else "no", r["url"], r["state"],
                (r["lease_until"] or "-")[:10]] for r in rows))  # fmt: skip
        for text in told:
            say(text)
    return 1 if told else 0


def _ends(opened: Home, sites: Mapping[Label, Site]) -> tuple[dict[Label, Instant], list[str]]:
    """When leases end, and what ends soon, by the charter in force; by exclave.toml if no charter can be read."""
    try:
        charter = read_state(sites, opened.fingerprint()).chain.newest.charter
    except ExclaveError:
        return {Label(s.name): parse_day(s.lease_until) for s in opened.config.site if s.lease_until}, []
    names = {number: str(name) for name, number in opened.register_ids().items()}
    soon = alarms(charter, now(), opened.config.state.alarm_days)
    told = [a.text(names.get(a.term.register, "") if a.term.register else "") for a in soon]
    return {s.label: s.lease_until for s in charter.sites if s.lease_until is not None}, told


@app.command(name="import", epilog=_IMPORT_EXAMPLE)
def import_(
    disk: Annotated[Path, typer.Argument(help="The disk's folder, with carried.txt in it; or a copy of a site.")],
    into: Annotated[str, typer.Option("--into", help="The site: its name, or NAME=URL away from home.")],
    only: Annotated[str | None, typer.Option("--register", help="Only this register: its id.")] = None,
    fingerprint: Annotated[
        str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint, away from home.")
    ] = "",
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Take over what a carried disk holds, every object checked. Needs no key. Broken off, it goes on where it was.

    Exit code 0: everything is there; 22: other disks have to follow, or this one is not finished; 20: something on the
    disk is wrong: empty it and write it again; importing it then goes on.
    """
    label, target, pinned, names = _target(into, fingerprint, home)
    source = DirectorySite(str(disk.absolute()))
    carried = read_carried(source, pinned)
    unfinished = carried is not None and not carried.finished
    view = _read_both(source, label, target, pinned, unfinished)
    with work_bar(f"import {label}", quiet=json) as bar:
        bar.begin("what is lacking")
        done = take_over(
            view, source, label, target, now=now(), only=typed(parse_register_id, only) if only else None,
            unfinished=unfinished, plan_done=lambda size: bar.at("objects", 0, size),
            progress=lambda size: bar.ship(size, counts=True),
        )  # fmt: skip
    absent = _absent(carried, done) if unfinished and not only else ()
    if json:
        print_json({**_imported_told(label, done), "unfinished": unfinished, "not_on_the_disk": absent})
    else:
        _show_imported(label, carried, done, absent, names)
    if any(d.faults for d in done):
        raise typer.Exit(IntegrityError.exit_code)
    if unfinished or any(d.lacking for d in done):
        raise typer.Exit(MissingObject.exit_code)


def _read_both(disk: Site, label: Label, target: Site, pinned: Fingerprint, unfinished: bool) -> StateView:
    """The state as the disk and its target show it."""
    try:
        return read_state({DISK: disk, label: target}, pinned)
    except MissingObject as error:
        if not unfinished:
            raise
        raise MissingObject(f"the disk was taken out too early: {error.message}", hint=_finish(label)) from error


def _finish(label: Label) -> str:
    return f"Finish the disk where it was written: exclave ship {label} --to DISK; then import it again."


def _absent(carried: Carried | None, done: tuple[Delivery, ...]) -> tuple[RegisterId, ...]:
    """Registers that the disk was to carry, and of which nothing is on it yet."""
    there = {d.register for d in done}
    return tuple(r.register for r in carried.registers if r.register not in there) if carried is not None else ()


def _target(into: str, fingerprint: str, home: Path) -> tuple[Label, Site, Fingerprint, dict[RegisterId, str]]:
    """Where to, by a name of the home's configuration, or by an address and the fingerprint; registers' names, as far
    as this home knows them."""
    if "=" in into:
        if not fingerprint:
            raise UsageError("--into NAME=URL needs --fingerprint: without it nobody can tell whose disk this is")
        ((label, site),) = open_named_sites([into]).items()
        return label, site, typed(parse_fingerprint, fingerprint), {}
    opened = open_home(home)
    for label, site in open_sites(opened).items():
        if label == into:
            names = {number: str(name) for name, number in opened.register_ids().items()}
            return label, site, opened.fingerprint(), names
    raise ConfigError(f"there is no site {into!r} in exclave.toml")


def _imported_told(label: Label, done: tuple[Delivery, ...]) -> dict[str, object]:
    rows = [
        {"register": d.register, "objects": d.objects, "bytes": d.bytes, "lacking": d.lacking,
         "published": d.published, "waits": d.waits, "faults": d.faults}
        for d in done
    ]  # fmt: skip
    return {"site": label, "ok": all(d.published for d in done), "registers": rows}


def _show_imported(
    label: Label,
    carried: Carried | None,
    done: tuple[Delivery, ...],
    absent: tuple[RegisterId, ...],
    names: Mapping[RegisterId, str],
) -> None:
    if carried is None:
        note("there is no carried.txt on the disk: it is taken as a copy of a site")
    else:
        say(f"Part {carried.part} of {carried.parts}, written for {carried.site} on {when(carried.time)}.")
        if not carried.finished:
            note("the disk was not finished when it was taken out; what it has is taken over")
    table(
        ("register", "taken over", "size", "still lacking", "shown"),
        (
            *((names.get(d.register, d.register), d.objects, size_text(d.bytes), d.lacking,
               "yes" if d.published else "not yet") for d in done),
            *((names.get(r, r), 0, size_text(0), "all", "not yet") for r in absent),
        ),
    )  # fmt: skip
    for delivery in done:
        for what, why in delivery.faults.items():
            say(f"WRONG: {what}: {why}")
    if any(d.faults for d in done):
        say(
            "Something on the disk is wrong; nothing of that was taken over. All the rest was."
            " Empty the disk and write it again (exclave ship); importing it then goes on from what is here."
        )
    elif carried is not None and not carried.finished:
        say(f"The disk was taken out too early, so {label} shows nothing of it yet. {_finish(label)}")
    elif any(d.lacking for d in done):
        say(f"{label} lacks something still: bring the other disks. Nothing is shown there before it is complete.")
    else:
        say(f"{label} has everything that was shipped; the next backup sends it only what is new.")

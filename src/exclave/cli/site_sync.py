"""``exclave site sync`` and ``exclave site rebuild``"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.app import limited
from exclave.cli.output import HomeFolder, Json, Sites, counted, plain, print_json, say, size_text, table, typed
from exclave.cli.progress import work_bar
from exclave.cli.where import Where, view_of
from exclave.errors import Forked, IntegrityError, MalformedError, MissingObject, UsageError
from exclave.formats.config import SiteConfig
from exclave.formats.limits import parse_limits
from exclave.ids import Label, RegisterId, now, parse_label
from exclave.operations.site_rebuild import Rebuilt
from exclave.operations.site_rebuild import rebuild as rebuild_verb
from exclave.operations.site_sync import SiteSync, Syncing, require_targets
from exclave.sites.contract import Site

SOMETHING_WRONG = 1
"""Exit code when every target is level, but something was wrong at a source."""
From = Annotated[
    list[str] | None,
    typer.Option("--from", help="Copy only from this site; as often as there are some. Default: all others."),
]
Only = Annotated[str | None, typer.Option("--register", help="Only this register: its name or id.")]
Limit = Annotated[
    str, typer.Option("--limit", help='Most that goes to a target: "20 Mbit/s", or by hours as in exclave.toml.')
]
Pin = Annotated[str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint, with --site.")]
_SYNC = "Example: exclave site sync lux --from nord --site lux=dir:/mnt/lux --site nord=s3://… --fingerprint 3f9a…"
_REBUILD = "Example: exclave site rebuild lux --site lux=dir:/mnt/lux --site nord=s3://… --fingerprint 3f9a…"


def register(app: typer.Typer) -> None:
    app.command(name="sync", epilog=_SYNC)(sync)
    app.command(name="rebuild", epilog=_REBUILD)(rebuild)


def sync(
    targets: Annotated[list[str], typer.Argument(metavar="SITE…", help="Sites to bring up to date: their names.")],
    from_: From = None,
    only: Only = None,
    limit: Limit = "",
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Pin = "",
    json: Json = False,
) -> int:
    """Bring sites up to date from each other, without home and without any key. Broken off, it goes on where it was.

    Never takes a site back, and overwrites nothing. Exit code 1: all are level, but something is wrong at a source
    (scrub it); 22: something is lacking still; 24: a site shows another history; else that of the site that failed.
    """
    where = view_of(home, site, fingerprint)
    wanted, sources = _chosen(where, targets, from_, limit)
    with work_bar(f"sync {', '.join(wanted)}", quiet=json) as bar:
        bar.begin("what is lacking")
        done = Syncing(
            where.view, sources, now(), _one(where, only), plan_done=lambda what, size: bar.at(what, 0, size),
            progress=lambda size: bar.ship(size, counts=True),
        ).sync(wanted)  # fmt: skip
    if json:
        print_json({"ok": all(s.level for s in done), "sites": [synced_told(s) for s in done]})
    else:
        _show(where.names(), done)
    return exit_code(done)


def rebuild(
    target: Annotated[str, typer.Argument(metavar="SITE", help="The empty or damaged site: its name.")],
    from_: From = None,
    only: Only = None,
    limit: Limit = "",
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Pin = "",
    json: Json = False,
) -> int:
    """Rebuild an empty or damaged site from the others, without home and without any key; then verify it alone.

    Broken off, it goes on where it was. Exit code 0: it is whole, and verified; else as of `exclave site sync`, or 20.
    """
    where = view_of(home, site, fingerprint)
    wanted, sources = _chosen(where, [target], from_, limit)
    ((label, place),) = wanted.items()
    with work_bar(f"rebuild {label}", quiet=json) as bar:
        syncing = Syncing(
            where.view, sources, now(), _one(where, only), plan_done=lambda what, size: bar.at(what, 0, size),
            progress=lambda size: bar.ship(size, counts=True),
        )  # fmt: skip
        done = rebuild_verb(
            syncing, label, place, seed=secrets.token_bytes(32), choose=secrets.randbelow,
            workers=max(2, os.cpu_count() or 2), step=bar.begin, read=bar.read, clock=now,
        )  # fmt: skip
    if json:
        print_json(_rebuilt_told(done))
    else:
        _show_rebuilt(where.names(), done)
    if done.ok:
        return 0
    return exit_code((done.synced,)) if not done.synced.level else IntegrityError.exit_code


def _chosen(
    where: Where, targets: Sequence[str], from_: Sequence[str] | None, limit: str
) -> tuple[dict[Label, Site], dict[Label, Site]]:
    wanted = [typed(parse_label, name) for name in dict.fromkeys(targets)]
    sources = [typed(parse_label, name) for name in from_ or ()]
    to, by = require_targets(where.view, where.sites, wanted, sources)
    return {label: held_to(site, limit) for label, site in to.items()}, by


def held_to(site: Site, limit: str) -> Site:
    """``site``, with its bulk objects held to ``limit`` besides what exclave.toml says. ``UsageError``."""
    if not limit:
        return site
    text = limit if ":" in limit else f"00:00-24:00 {limit}"
    try:
        parse_limits((text,))
    except MalformedError as error:
        raise UsageError(f"--limit: {error.message}") from error
    return limited(site, SiteConfig(name="", url="", country="", operator="", limit=(text,)))


def _one(where: Where, only: str | None) -> RegisterId | None:
    return where.registers(only)[0][0] if only else None


def exit_code(done: Sequence[SiteSync]) -> int:
    """The gravest first: another history, a site that failed, something wrong, something lacking."""
    registers = [r for s in done for r in s.registers]
    if any(r.forked for r in registers):
        return Forked.exit_code
    for one in done:
        if one.error is not None:
            return one.error.exit_code
    if any(r.waits and not r.lacking for r in registers if not r.level):
        return IntegrityError.exit_code
    if any(not r.level for r in registers):
        return MissingObject.exit_code
    return SOMETHING_WRONG if any(r.faults for r in registers) or any(s.faults for s in done) else 0


def synced_told(done: SiteSync) -> dict[str, Any]:
    error = done.error
    return {
        "site": done.site, "level": done.level, "error": error.code if error else "",
        "message": error.message if error else "", "registers": plain(done.registers),
        "faults": done.faults,
    }  # fmt: skip


def _show(names: Mapping[RegisterId, str], done: Sequence[SiteSync]) -> None:
    table(
        ("site", "register", "brought", "size", "lacking", "level with the others"),
        (
            (s.site, names.get(r.register, r.register), r.objects, size_text(r.bytes), r.lacking,
             "yes" if r.level else f"NO: {r.waits or 'see below'}")
            for s in done for r in s.registers
        ),
    )  # fmt: skip
    for one in done:
        for r in one.registers:
            for what, why in r.faults.items():
                say(f"{names.get(r.register, r.register[:8])}: {what}: {why}")
        for what, why in one.faults.items():
            say(f"statements of the state: {what}: {why}")
        if one.error is not None:
            say(f"{one.site} was given up: {one.error.message}. {one.error.hint}")
    behind = [s.site for s in done if not s.level]
    if any(r.forked for s in done for r in s.registers):
        say("A site shows ANOTHER HISTORY. Nothing was overwritten; people have to look at it: exclave verify.")
    elif behind:
        say(f"Not level yet: {', '.join(behind)}. What arrived stays; run the same command again.")
    else:
        say(f"{counted(len(done), 'site is', 'sites are')} level with the others.")


def _rebuilt_told(done: Rebuilt) -> dict[str, Any]:
    return {
        "ok": done.ok, "site": done.site, "empty": done.empty, "objects": done.objects, "bytes": done.bytes,
        "bytes_read": done.bytes_read, "found": [{"register": r, **plain(f)} for r, f in done.found],
        "synced": synced_told(done.synced), "findings": plain(done.report.findings), "verified": done.report.ok,
        "registers": plain(done.report.registers),
    }  # fmt: skip


def _show_rebuilt(names: Mapping[RegisterId, str], done: Rebuilt) -> None:
    for number, found in done.found:
        end = f"repaired from {found.repaired_from}" if found.repaired_from else f"NOT repaired: {found.why_not}"
        say(f"{names.get(number, number[:8])}: {found.fault}: {found.key}: {end}")
    _show(names, (done.synced,))
    table(
        ("register", "versions", "complete", "last"),
        (
            (names.get(r.register, r.register), s.versions, s.complete, s.latest_complete or "-")
            for r in done.report.registers for s in r.sites
        ),
    )  # fmt: skip
    for one in done.report.findings:
        if one.grave:
            say(f"FAULT: {one.fault}: {one.what}: {one.detail}")
    brought = f"{counted(done.objects, 'object', 'objects')}, {size_text(done.bytes)}"
    if done.ok:
        say(f"{done.site} is whole: {brought} brought, {size_text(done.bytes_read)} read and right, verified alone.")
    else:
        say(f"{done.site} is NOT whole: {brought} brought; see above. Run the same command again.")

"""``exclave status``"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.app import open_home, open_identity
from exclave.cli.output import (
    HomeFolder,
    Json,
    PinnedWithSite,
    Sites,
    alarm,
    duration,
    moment,
    note,
    plain,
    print_json,
    say,
    table,
    when,
)
from exclave.cli.tables import Wrong
from exclave.cli.where import view_of
from exclave.ids import Label, now
from exclave.operations.identity_follow import begin
from exclave.operations.identity_kit_check import check_place
from exclave.operations.identity_place import PLACE_NAME
from exclave.operations.status import RegisterStatus, SiteStatus, StateStatus
from exclave.operations.status import status as verb
from exclave.rules.kit import KitReport, RowState
from exclave.rules.lease import DEFAULT_DAYS


def register(app: typer.Typer) -> None:
    app.command(name="status", epilog="Example: exclave status --home /srv/exclave")(status)


def look(home: Path, site: list[str] | None, fingerprint: str, *, quick: bool = False) -> StateStatus:
    """The state as its sites show it at this moment."""
    where = view_of(home, site, fingerprint)
    me = where.home.writer_card() if where.home is not None else None
    promised = {Label(s.name): s.scrub_days for s in where.home.config.site} if where.home is not None else {}
    days = where.home.config.state.alarm_days if where.home is not None else DEFAULT_DAYS
    return verb(
        where.view, where.sites, where.names(), me, now=now(), scrub_days=promised, alarm_days=days, quick=quick
    )


def told(found: StateStatus) -> dict[str, Any]:
    """What ``--json`` prints, and what the console gives."""
    return {"ok": found.ok, **plain(found)}


def _kit(home: Path) -> KitReport | None:
    """The exile kit of the identity services whose journal this home captures; None if it has none."""
    config = open_home(home).config
    journals = [d.options.get("path") for r in config.register for d in r.dataset if d.kind == "identity"]
    for journal in journals:
        folder = Path(str(journal)).parent
        if (folder / PLACE_NAME).exists():
            place = open_identity(folder, now)
            try:
                begin(place)
                return check_place(place)
            finally:
                place.close()
    return None


def kit_told(kit: KitReport) -> dict[str, Any]:
    """A kit for ``--json``."""
    return {"whole": kit.whole, "good_until": moment(kit.good_until or 0), **plain(kit)}


def _show_kit(kit: KitReport) -> None:
    wrong = [row for row in kit.rows if row.state != RowState.OK]
    if not wrong:
        say(f"\nThe exile kit is whole{f' until {when(kit.good_until)}' if kit.good_until else ''}.")
        return
    say("\nThe exile kit of the identity services is NOT whole (exclave identity check tells all):\n")
    table(("what", "", "detail"), ((row.what, row.state, row.detail) for row in wrong))


def _shown_there(register: RegisterStatus, site: SiteStatus, silent: Collection[str]) -> object:
    """The last version at a site; and whether it lacks something of it, or that could not be seen."""
    if not site.sequence:
        return "none"
    if not register.spoilt(site):
        return site.sequence
    return Wrong(f"{site.sequence}, {'not all of it read' if site.site in silent else 'not whole'}")


def _in_time(site: SiteStatus) -> str:
    if site.scrub_problem:
        return Wrong(f"NO: {site.scrub_problem}")
    if site.scrubbed:
        return "yes"
    return f"the first one is due by {site.scrub_due}" if site.scrub_due else "none is promised (scrub_days)"


def status(
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Go by the ledgers' heads; do not look whether all packs are there.")
    ] = False,
    json: Json = False,
) -> None:
    """How old the last version of each register is at each site, and whether it is protected.

    Exit code 1 unless all is well: also if a lease or a legal basis ends soon.
    """
    found = look(home, site, fingerprint, quick=quick)
    kit = None if site else _kit(home)
    if json:
        print_json({**told(found), "identity": kit_told(kit) if kit is not None else None})
    else:
        say(f"{found.state}: charter {found.charter}, {found.threshold} of {found.custodians} custodians, fingerprint")
        say(f"  {found.fingerprint}\n")
        table(
            ("register", "writer", "epoch", "version", "state of (UTC)", "age", "RPO", "protected"),
            (
                (r.name, "this home" if r.mine else r.writer, r.epoch or "-", r.sequence or "-", when(r.time),
                 duration(r.age_s) if r.sequence else "-", duration(r.rpo_s),
                 f"yes, {r.brief}" if r.protected else Wrong(f"NO: {r.problem}"))
                for r in found.registers
            ),
        )  # fmt: skip
        say("")
        table(
            ("register", "site", "last version there", "age"),
            (
                (r.name, s.site, _shown_there(r, s, found.silent), duration(s.age_s) if s.sequence else "-")
                for r in found.registers for s in r.sites
            ),
        )  # fmt: skip
        for label in found.spoilt:
            at_home = "" if site or home == Path() else f" --home {shlex.quote(str(home.absolute()))}"
            say(f"Next{', at home' if site else ''}: exclave scrub {label} --days 1{at_home}")
        if any(s.scrubbed or s.scrub_problem for r in found.registers for s in r.sites):
            say("")
            table(
                ("register", "site", "read by scrubs up to", "in time"),
                (
                    (r.name, s.site, s.scrubbed or "never", _in_time(s))
                    for r in found.registers for s in r.sites
                ),
            )  # fmt: skip
        if any(s.probed or s.locked for r in found.registers for s in r.sites):
            say("")
            table(
                ("register", "site", "last probe", "locked until"),
                (
                    (r.name, s.site, s.probed or "never",
                     f"{s.locked or '-'}{f' NO: {s.lock_problem}' if s.lock_problem else ''}")
                    for r in found.registers for s in r.sites if s.probed or s.locked
                ),
            )  # fmt: skip
        for text in found.alarms:
            say(text)
        for r in found.registers:
            for line in r.deletions:
                say(f"{r.name}: {line}")
        for one in found.findings:
            tell = alarm if one.grave else note
            tell(f"{one.site} {one.detail}" if one.what == "site" else f"{one.site}: {one.what}: {one.detail}")
            if one.hint and one.what == "site":
                note(f"  Next: {one.hint}")
        if kit is not None:
            _show_kit(kit)
    if not found.ok:
        raise typer.Exit(1)

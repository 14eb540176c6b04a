"""``exclave site evacuate``, ``exclave site leave`` and ``exclave site left``"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.app import open_eraser, open_named_sites, witness_addresses
from exclave.cli.keys import load_key
from exclave.cli.output import (
    HomeFolder,
    Json,
    Pinned,
    Sites,
    counted,
    duration,
    note,
    plain,
    print_json,
    say,
    size_text,
    table,
    typed,
    when,
)
from exclave.cli.progress import work_bar
from exclave.cli.site_sync import Limit, Pin, held_to, synced_told
from exclave.cli.where import view_of
from exclave.errors import IntegrityError, NotAuthorised, PlacementUnmet, UsageError
from exclave.ids import RegisterId, now, parse_fingerprint, parse_label
from exclave.operations.erasure import Here
from exclave.operations.site_evacuate import Evacuation, evacuate, propose_without
from exclave.operations.site_leave import Left
from exclave.operations.site_leave import leave as leave_verb
from exclave.operations.site_left import read_statement, record_exit
from exclave.rules.deletion import OrderState
from exclave.rules.evacuation import Step

NOT_YET = 1
"""Exit code when the command has to be run again."""
_EVACUATE = "Example: exclave site evacuate lux --to ottawa --drill    or: exclave site evacuate lux --to ottawa"
_LEAVE = (
    "Example: exclave site leave lux=dir:/srv/exclave-site --site nord=s3://… --fingerprint 3f9a… --key host.key"
    " --out exit-lux"
)
_NEXT = {
    Step.BASIS: "Next: give every register a legal_basis at {new} in exclave.toml, and publish that charter.",
    Step.COPY: "Next: run this again; {new} lacks something still.",
    Step.WAIT: "Next: without {site} a rule would not hold. Bring another site up, or add one; until then it stays.",
    Step.PROPOSE: "Every register's rule holds without {site}.",
    Step.LEAVE: "The charter in force leaves {site} out. Next: its operator runs `exclave site leave`.",
    Step.DONE: "Nothing of this state lies at {site} any more.",
}


def register(app: typer.Typer) -> None:
    app.command(name="evacuate", epilog=_EVACUATE)(evacuate_)
    app.command(name="leave", epilog=_LEAVE)(leave)
    app.command(name="left", epilog="Example: exclave site left exit-lux --home /srv/exclave")(left)


def evacuate_(
    site_name: Annotated[str, typer.Argument(metavar="SITE", help="The site to be given up: its name.")],
    to: Annotated[str, typer.Option("--to", help="The site that takes its place: its name.")],
    drill: Annotated[
        bool, typer.Option("--drill", help="Copy and verify, and say what would follow; draft nothing.")
    ] = False,
    draft: Annotated[
        Path | None, typer.Option(help="Where the charter that leaves the site out is drafted; default: evacuate-SITE.")
    ] = None,
    limit: Limit = "",
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Pin = "",
    json: Json = False,
) -> int:
    """Give a site up: its copies go to another one, are verified there, and a charter without the site is drafted.

    Deletes nothing; run again, it goes on. Exit code 0: nothing stands in the way; 16: without the site a register's
    rule would not hold; 35: a register has no legal basis at the new site; 20: what was copied is wrong.
    """
    where = view_of(home, site, fingerprint)
    label, new = typed(parse_label, site_name), typed(parse_label, to)
    for name in (new, label):
        if name not in where.sites:
            raise UsageError(f"there is no site {name} here; there are: {', '.join(where.sites)}")
    if label == new:
        raise UsageError("a site cannot take its own place")
    if not drill and where.home is None:
        raise UsageError("a charter is drafted at home", hint="Away from home use --drill, or exclave site sync.")
    sites = {name: held_to(s, limit) if name == new else s for name, s in where.sites.items()}
    with work_bar(f"evacuate {label}", quiet=json) as bar:
        bar.begin("what lies there")
        done = evacuate(
            where.view, sites, label, new, clock=now, workers=max(2, os.cpu_count() or 2),
            plan_done=lambda what, size: bar.at(what, 0, size), progress=lambda size: bar.ship(size, counts=True),
        )  # fmt: skip
    made = None
    if not drill and done.ok and done.after.step is Step.PROPOSE and where.home is not None:
        folder = (draft or where.home.folder / f"evacuate-{label}").absolute()
        made = propose_without(where.home, folder, where.view, done.after, now=now())
    drafted = made.folder if made is not None else None
    if json:
        print_json(_evacuated_told(done, drill=drill, draft=drafted))
    else:
        _show_evacuation(where.names(), done, drill=drill, draft=drafted)
    return _evacuated_code(done)


def _evacuated_code(done: Evacuation) -> int:
    if not done.ok:
        return IntegrityError.exit_code
    return {Step.BASIS: 35, Step.COPY: NOT_YET, Step.WAIT: PlacementUnmet.exit_code}.get(done.after.step, 0)


def _evacuated_told(done: Evacuation, *, drill: bool, draft: Path | None) -> dict[str, Any]:
    return {
        "ok": done.ok, "drill": drill, "site": done.after.site, "new": done.after.new, "step": done.after.step,
        "copied_bytes": done.copied_bytes, "took_s": done.took_s, "draft": draft,
        "before": plain(done.before.registers), "registers": plain(done.after.registers),
        "synced": synced_told(done.synced) if done.synced is not None else None,
        "verified": done.report.ok if done.report is not None else None,
    }  # fmt: skip


def _show_evacuation(names: Mapping[RegisterId, str], done: Evacuation, *, drill: bool, draft: Path | None) -> None:
    was = {one.register: one for one in done.before.registers}
    table(
        ("register", "versions", "size", "only there before", "at risk without it", "now", "at the new site"),
        (
            (names.get(r.register, r.register), r.versions, size_text(r.bytes), was[r.register].only_here,
             was[r.register].at_risk, f"{r.at_risk}: {r.lacks}" if r.at_risk else "0",
             "whole" if not r.lacking_bytes else f"lacks {size_text(r.lacking_bytes)}" if r.basis else "no legal basis")
            for r in done.after.registers
        ),
    )  # fmt: skip
    if done.synced is not None:
        verified = "and is right" if done.ok else "and is NOT right: exclave verify tells what"
        speed = done.copied_bytes / done.took_s if done.took_s else 0.0
        say(f"{size_text(done.copied_bytes)} were copied to {done.after.new} and read there in {duration(done.took_s)}"
            f" ({size_text(speed)}/s), {verified}.")  # fmt: skip
    say(_NEXT[done.after.step].format(site=done.after.site, new=done.after.new))
    if draft is not None:
        say(f"Drafted without it in {draft}. Have it signed and published, then take {done.after.site} out of"
            " exclave.toml.")  # fmt: skip
    elif drill:
        say("This was a drill: nothing was drafted, and nothing was deleted.")


def leave(
    here: Annotated[str, typer.Argument(metavar="NAME=URL", help="The site, by the charter's name, and its address.")],
    fingerprint: Pinned,
    key: Annotated[Path, typer.Option(help="The operator's key file; it signs the statement.")],
    out: Annotated[Path, typer.Option(help="Folder for the list and the statement; a broken off run goes on by it.")],
    site: Sites = None,
    check_only: Annotated[bool, typer.Option("--check-only", help="Say whether it may begin; erase nothing.")] = False,
    json: Json = False,
) -> int:
    """Erase a state's objects at a site that a charter has left out, and sign what was erased. Run by its operator.

    Refused unless the sites that remain, named with --site, are found whole. Exit code 0: all is gone; 1: run it again
    later (the delay, or locks of the store); 30: it may not be done.
    """
    ((label, place),) = open_named_sites([here]).items()
    others = {name: s for name, s in open_named_sites(site or []).items() if name != label}
    owner = load_key(key)
    power = open_eraser(here.partition("=")[2])
    with work_bar(f"leave {label}", quiet=json) as bar:
        bar.begin("what remains elsewhere")
        done = leave_verb(
            Here(label, place, power), others, typed(parse_fingerprint, fingerprint), out.absolute(), owner, clock=now,
            look=check_only, progress=lambda count, total: bar.at("erasing", count, total),
        )  # fmt: skip
    if json:
        print_json({"ok": done.done, **plain(done)})
    else:
        _show_left(done, out)
    if done.verdict.state is OrderState.STOPPED:
        return NotAuthorised.exit_code
    return 0 if done.done or (check_only and done.verdict.state is OrderState.DUE) else NOT_YET


def _show_left(done: Left, out: Path) -> None:
    if done.statement is None:
        say(f"{done.site}: {done.verdict.state}: {done.verdict.why}. Nothing was erased.")
    else:
        say(f"{counted(done.erased, 'object was', 'objects were')} erased at {done.site} now.")
        say(f"In all {done.objects - done.left} of {counted(done.objects, 'object', 'objects')} are gone"
            f" ({size_text(done.bytes)} with what is left).")  # fmt: skip
        say(f"List and signed statement are in {out}. Send exit.note and operator.card home, and keep exit.list.")
    if done.left:
        until = f" until {when(done.until)}" if done.until else ""
        say(f"{counted(done.left, 'object is', 'objects are')} left: the store locks them{until}. Run it again then.")
    for number in done.others:
        note(f"register {number} lies here, and no charter in force lists it: its objects were left alone")


def left(
    folder: Annotated[Path, typer.Argument(help="The folder with exit.note and operator.card.")],
    home: HomeFolder = Path(),
    json: Json = False,
) -> int:
    """Enter a site operator's statement into the ledgers of all registers that lay there. Run by their writer.

    Before that, ask the operator by another way whether the key is his: its number is shown.
    """
    read = read_statement(folder)
    where = view_of(home, None, "")
    if where.home is None:
        raise UsageError("this is done at home")
    done = record_exit(
        where.home, where.view, where.sites, read, witnesses=witness_addresses(where.home.config), now=now()
    )
    if json:
        print_json({"ok": not done.failed, "statement": plain(read.statement), "note": read.digest, **plain(done)})
    else:
        said, names = read.statement, where.names()
        say(f"{said.operator} states that {said.objects} objects ({size_text(said.bytes)}) were erased at {said.site}"
            f" until {when(said.time)}; {said.left} are left. Key {said.card.hex()}.")  # fmt: skip
        for number in (*done.entered, *done.known):
            say(f"  in the ledger of {names.get(number, number)}{'' if number in done.entered else ' already'}")
        for what, why in done.failed.items():
            say(f"  NOT at {names.get(RegisterId(what), what)}: {why}")
    return NOT_YET if done.failed else 0

"""``exclave ship``"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.output import (
    HomeFolder,
    Json,
    PinnedWithSite,
    Sites,
    counted,
    note,
    print_json,
    say,
    size_text,
    table,
    typed,
)
from exclave.cli.progress import work_bar
from exclave.cli.where import view_of
from exclave.errors import IntegrityError, MalformedError, SiteUnavailable, UsageError
from exclave.ids import Label, RegisterId, now, parse_label, parse_positive
from exclave.operations.deliver import registers_at
from exclave.operations.ship import Shipped, choose_part, plan_load
from exclave.operations.ship import ship as verb
from exclave.sites.directory import DirectorySite
from exclave.sites.memory import MemorySite

_SIZE = re.compile(r"([1-9][0-9]{0,8})(MB|GB|TB|MiB|GiB|TiB)\Z")
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_EXAMPLE = "Example: exclave ship luxembourg --to /media/disk-1 --limit 4TB"


def register(app: typer.Typer) -> None:
    app.command(name="ship", epilog=_EXAMPLE)(ship)


def ship(
    site_name: Annotated[str, typer.Argument(metavar="SITE", help="The site that the disk is for: its name.")],
    to: Annotated[Path, typer.Option("--to", help="A folder on the disk (ext4, XFS, …; not FAT).")],
    only: Annotated[str | None, typer.Option("--register", help="Only this register: its name or id.")] = None,
    limit: Annotated[
        str | None, typer.Option(help="Most that may go onto the disk: 500GB, 4TB; default: what is free there.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="As if the site were empty; it need not answer.")
    ] = False,
    part: Annotated[str | None, typer.Option(help="Which of several disks this is: 1/3, 2/3, 3/3.")] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    json: Json = False,
) -> int:
    """Write onto a disk what a site lacks, sealed, to be carried there. Broken off, it goes on where it was.

    Needs no key. Exit code 20 if something could not be brought unharmed from any site.
    """
    where = view_of(home, site, fingerprint)
    label = typed(parse_label, site_name)
    disk = DirectorySite(str(to.absolute()))
    room = _room(to, limit)
    chosen = where.registers(only)[0][0] if only else None
    registers = registers_at(where.view, label, chosen, now=now())
    sources = {name: s for name, s in where.sites.items() if name != label}
    if not sources:
        raise UsageError("no other site was named to take the objects from")
    if not everything and label not in where.view.shown:
        raise SiteUnavailable(
            f"{label} does not answer, so nobody can tell what it lacks",
            hint="Use --everything to write all that it should hold.",
        )
    with work_bar(f"ship {label}", quiet=json) as bar:
        bar.begin("what is lacking")
        there = MemorySite() if everything else where.sites[label]
        load = plan_load(where.view, registers, label, there, disk, sources, now=now())
        if load.nothing:
            return _show_nothing(label, json)
        # What is on the disk already takes no more of what is free there.
        choice = choose_part(load, _part(part), room if limit else room + load.on_disk)
        done = verb(
            where.view, load, choice, label, disk, sources, now=now(),
            plan_done=lambda size: bar.at(f"part {choice[0]} of {choice[1]}", 0, size),
            progress=lambda size: bar.ship(size, counts=True),
        )  # fmt: skip
    if json:
        print_json(_told(done))
    else:
        # Who names a part has divided it himself, and is told of all parts, also of one that happens to be empty.
        following = choice[0] + 1 if part and choice[0] < choice[1] else load.next_part(*choice)
        _show(done, where.names(), to, following)
    return IntegrityError.exit_code if done.faults else 0


def _room(to: Path, limit: str | None) -> int:
    """Bytes that may go onto the disk."""
    try:
        found = os.statvfs(to)
    except OSError as error:
        raise UsageError(
            f"cannot use {to}: {error.strerror}", hint="Mount the disk, and make the folder on it."
        ) from error
    if limit is None:
        return found.f_bavail * found.f_frsize
    match = _SIZE.match(limit)
    if not match:
        raise UsageError(f"a size looks like 500GB or 4TB, not {limit!r}")
    return int(match[1]) * _UNITS[match[2]]


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        number, _, parts = text.partition("/")
        return parse_positive(number), parse_positive(parts)
    except MalformedError as error:
        raise UsageError(f"a part looks like 1/3, not {text!r}") from error


def _told(done: Shipped) -> dict[str, object]:
    carried = done.carried
    return {
        "site": carried.site, "part": carried.part, "parts": carried.parts, "finished": carried.finished,
        "registers": [{"register": r.register, "packs": r.packs, "bytes": r.bytes} for r in carried.registers],
        "written_objects": sum(d.objects for d in done.deliveries),
        "written_bytes": sum(d.bytes for d in done.deliveries), "faults": done.faults,
    }  # fmt: skip


def _show_nothing(label: Label, json: bool) -> int:
    if json:
        print_json({"site": label, "part": None, "parts": 0, "finished": True, "registers": [],
                    "written_objects": 0, "written_bytes": 0, "faults": {}})  # fmt: skip
    else:
        say(f"{label} lacks nothing; no disk was written.")
    return 0


def _show(done: Shipped, names: dict[RegisterId, str], to: Path, following: int) -> None:
    carried = done.carried
    table(
        ("register", "packs on the disk", "size", "written now"),
        (
            (names.get(r.register, r.register), r.packs, size_text(r.bytes),
             f"{counted(d.objects, 'object', 'objects')}, {size_text(d.bytes)}")
            for r, d in zip(carried.registers, done.deliveries, strict=True)
        ),
    )  # fmt: skip
    for what, why in done.faults.items():
        note(f"{what}: {why}")
    if not carried.finished:
        say("The disk is NOT finished: see above; run the same command again once a site has what is lacking.")
        return
    say(f"The disk in {to} is ready for {carried.site}: part {carried.part} of {carried.parts}.")
    if following:
        say(f"The next disk: exclave ship {carried.site} --part {following}/{carried.parts} --to FOLDER")

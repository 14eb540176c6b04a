"""``exclave failover``"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_annex_sites
from exclave.cli.keys import load_key
from exclave.cli.output import Json, Pinned, Sites, duration, note, print_json, say, table, typed, when
from exclave.cli.where import view_of
from exclave.errors import TargetNotEmpty, UsageError
from exclave.formats.warrant import Act
from exclave.identity.merging import HomeTail
from exclave.ids import RegisterId, now, parse_count, parse_moment
from exclave.operations.custody import describe_warrant, grant, open_register
from exclave.operations.failover import FailoverReport, read_progress, served, stop_all
from exclave.operations.failover import failover as verb
from exclave.operations.failover_run import Unwitnessed

_EXAMPLE = (
    "Example: exclave failover run --site lux=dir:/mnt/lux --fingerprint 3f9a… --warrant f.warrant"
    " --answer f-kaja.answer --answer f-luc.answer --key machine.key --dir /srv/embassy"
)
Folder = Annotated[Path, typer.Option("--dir", help="The embassy's folder.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Failover: start registers on this machine by warrant, and take the pen.",
                        no_args_is_help=True, rich_markup_mode=None)  # fmt: skip
    group.command(name="run", epilog=_EXAMPLE)(run)
    group.command(name="status", epilog="Example: exclave failover status --dir /srv/embassy")(status)
    group.command(name="stop", epilog="Example: exclave failover stop --dir /srv/embassy")(stop)
    app.add_typer(group, name="failover")


def run(
    fingerprint: Pinned,
    warrant: Annotated[Path, typer.Option(help="The warrant.")],
    key: Annotated[Path, typer.Option(help="The key file of the machine that the warrant names: this one.")],
    folder: Folder,
    site: Sites = None,
    answer: Annotated[list[Path] | None, typer.Option(help="A custodian's answer; as many as the quorum asks.")] = None,
    lost_at: Annotated[str, typer.Option(help="When home was lost, UTC (2026-11-23T14:22Z), for the RPO.")] = "",
    unwitnessed: Annotated[
        Unwitnessed, typer.Option(help="What to do with versions that too few witnesses vouch for.")
    ] = Unwitnessed.STOP,
    version: Annotated[
        list[str] | None,
        typer.Option(help="NAME=N: this version of the register NAME instead of its latest; may be repeated."),
    ] = None,
    accept_older: Annotated[
        bool, typer.Option("--accept-older", help="Go on though a newer version is vouched for that no site proves.")
    ] = False,
    identity: Annotated[
        Path | None, typer.Option(help="This place's folder of identity services; default: identity, in --dir.")
    ] = None,
    home_tail: Annotated[
        HomeTail,
        typer.Option(help="Home comes back: what it takes of its own that exile never saw; few: 1000 at most."),
    ] = HomeTail.FEW,
    only_these: Annotated[
        bool, typer.Option("--only-these-sites", help="Use no other sites than those named with --site.")
    ] = False,
    json: Json = False,
) -> None:
    """Restore, start and probe every register of the warrant; the same command goes on after a crash.

    With a warrant to fail back, home's identity services take in what exile decided before they answer again.
    """
    if not site:
        raise UsageError("name at least one site with --site NAME=URL")
    target = folder.absolute()
    if not read_progress(target) and _holds_files(target):
        raise TargetNotEmpty(f"the folder {target} is not empty, and no failover was begun in it")
    lost = typed(parse_moment, lost_at) if lost_at else None
    where = view_of(Path(), site, fingerprint)
    machine = load_key(key)
    parsed, _ = describe_warrant(warrant)
    act = Act.FAILBACK if parsed.act is Act.FAILBACK else Act.FAILOVER
    granted = grant(where.view, warrant, answer or [], act=act, place=None, machine=machine, now=now())
    for path, why in granted.rejected.items():
        note(f"{path}: {why}")
    opened = {number: open_register(where.view, where.sites, number, granted, machine) for number in parsed.registers}
    for one in opened.values():
        for custodian in one.bad:
            note(f"{one.annex.name}: the share of {custodian} is wrong and was left out")
    sites = open_annex_sites(opened.values(), where.sites)
    if only_these:
        sites = {label: one for label, one in sites.items() if any(one is named for named in where.sites.values())}
    names = {one.annex.name: number for number, one in opened.items()}
    report = verb(
        target, machine=machine, granted=granted, view=where.view, sites=sites, opened=opened, clock=now, lost=lost,
        say=note, unwitnessed=unwitnessed,
        versions=_versions(version or [], names), accept_older=accept_older,
        identity=identity.absolute() if identity is not None else None, home_tail=home_tail,
    )  # fmt: skip
    if json:
        print_json(report)
        return
    _show(report, target)


def _versions(wanted: list[str], names: Mapping[str, RegisterId]) -> dict[RegisterId, int]:
    """What ``--version NAME=N`` says, by register. ``UsageError`` for a name that the warrant has not."""
    found: dict[RegisterId, int] = {}
    for text in wanted:
        name, _, number = text.rpartition("=")
        if name not in names:
            raise UsageError(f"--version {text}: say NAME=N with one of: {', '.join(names)}")
        found[names[name]] = typed(parse_count, number)
    return found


def _holds_files(folder: Path) -> bool:
    """Whether anything lies there but identity services that stand by, and the trace of a failover that died in its
    first moment."""
    if not folder.exists():
        return False
    trace = {folder / "identity", folder / "state", folder / "state" / "progress.json.new"}
    found = {*folder.iterdir(), *(folder / "state").rglob("*")} if folder.is_dir() else {folder}
    return not found <= trace


def _show(report: FailoverReport, folder: Path) -> None:
    say(f"Every register of the warrant answers at {report.place}.")
    table(
        ("register", "epoch", "version", "state of (UTC)", "RTO", "RPO", "same as captured"),
        (
            (
                p.name, report.epoch[p.name], p.sequence, when(p.version_time), duration(p.rto_s), duration(p.rpo_s),
                "yes" if all(d["digest_home"] == d["digest_embassy"] for d in p.datasets) else "see --json",
            )
            for p in report.registers
        ),
    )  # fmt: skip
    say("")
    table(("service", "address", "process"), ((s.name, s.address, s.pid) for s in report.services))
    for label, why in report.missed.items():
        say(f"\n{label} has NOT heard of the new epoch: {why}")
        say("  It still shows the former one, where home could write. Who also sees another site is not deceived: what"
            " home writes there counts for nothing.")  # fmt: skip
        say(f"  When {label} is back: exclave site sync {label} --home {shlex.quote(str(folder))}")


def status(folder: Folder, json: Json = False) -> None:
    """How far a failover has come, and what runs."""
    progress, services = read_progress(folder.absolute()), served(folder.absolute())
    if not progress:
        raise UsageError(
            f"no failover was begun in {folder.absolute()}",
            hint="Name the folder of `exclave failover run` with --dir.",
        )
    if json:
        print_json({"registers": progress, "services": services})
        return
    table(
        ("register", "steps done", "version", "RTO", "RPO"),
        ((p.name, " ".join(p.done) or "-", p.sequence or "-", duration(p.rto_s), duration(p.rpo_s)) for p in progress),
    )
    say("")
    table(("service", "address", "process"), ((s.name, s.address, s.pid) for s in services))


def stop(folder: Folder, json: Json = False) -> None:
    """Stop every service that a failover started. What was restored stays."""
    stopped = stop_all(folder.absolute())
    if json:
        print_json({"stopped": stopped})
        return
    say(f"Stopped: {', '.join(stopped) or 'nothing was running'}.")

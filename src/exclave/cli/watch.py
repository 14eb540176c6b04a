"""``exclave watch``"""

from __future__ import annotations

import json as json_text
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.app import BRISK, open_home, open_named_sites, open_sites
from exclave.cli.ending import told_to_end
from exclave.cli.output import (
    HomeFolder,
    Json,
    PinnedWithSite,
    Sites,
    duration,
    moment,
    note,
    parse_duration,
    plain,
    say,
    table,
    typed,
    when,
)  # fmt: skip
from exclave.errors import ConfigError, ExclaveError, IntegrityError, UsageError
from exclave.formats.watchconfig import WatchConfig, parse_watch_config
from exclave.ids import Fingerprint, Label, RegisterId, now, parse_fingerprint
from exclave.operations.home import read_limited
from exclave.operations.telling import open_channels
from exclave.operations.watch import Watch, WatchRule
from exclave.operations.watch_round import Duty, Round, read_memory
from exclave.rules.watch import RegisterVerdict, State
from exclave.serve.watch_metrics import WatchMetrics, serve_metrics, write_metrics
from exclave.sites.contract import Site

NOT_FRESH = 1
"""Exit code of --once when something is late, unknown or ahead of the clock; 20 if something is damaged."""
_SETTLE_S = 60.0
_EXAMPLE = (
    "Example: exclave watch --every 1m --metrics 127.0.0.1:9750    or, for an auditor: exclave watch --once"
    " --site lux=dir:/mnt/lux --site fin=dir:/mnt/fin --fingerprint 3f9a…"
)
_MAX_CONFIG = 2 << 20
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A file with [watch] (config.md); default: the home's exclave.toml."),
]


def register(app: typer.Typer) -> None:
    app.command(name="watch", epilog=_EXAMPLE)(watch)


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched, and by which configuration."""

    sites: dict[Label, Site]
    pinned: Fingerprint
    names: dict[RegisterId, str]
    config: WatchConfig
    folder: Path
    """What the configuration's files are relative to."""
    state_file: Path | None


def watched(home: Path, site: list[str] | None, fingerprint: str, config: Path | None) -> Watched:
    """From the options: a home folder, or addresses and the fingerprint, from anywhere."""
    if site:
        if not fingerprint:
            raise UsageError("--site needs --fingerprint: without it nobody can tell whose copies these are")
        sites, pinned = open_named_sites(site, patience=BRISK), typed(parse_fingerprint, fingerprint)
        rule, folder, names, kept = WatchConfig(), Path.cwd(), dict[RegisterId, str](), None
    else:
        opened = open_home(home)
        sites, pinned = open_sites(opened, patience=BRISK), opened.fingerprint()
        names = {number: str(name) for name, number in opened.register_ids().items()}
        rule, folder, kept = opened.config.watch, opened.folder, opened.folder / "state" / "watch.json"
    if config is not None:
        rule, folder = _configured(config), config.absolute().parent
    return Watched(sites, pinned, names, rule, folder, kept)


def _configured(path: Path) -> WatchConfig:
    try:
        return parse_watch_config(read_limited(path, _MAX_CONFIG))
    except ConfigError as error:
        raise ConfigError(error.message, hint=f"Correct {path} and run the command again.") from error


def watch(
    every: Annotated[str, typer.Option(help="Look again after so long: 30s, 1m, 1h; default: every_s.")] = "",
    once: Annotated[bool, typer.Option("--once", help="One look, then end; the exit code is the verdict.")] = False,
    metrics: Annotated[str, typer.Option(help="Serve Prometheus metrics at HOST:PORT.")] = "",
    textfile: Annotated[
        Path | None, typer.Option(help="Write metrics there after each look, for node_exporter.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where it remembers what it told whom; at home: state/watch.json.")
    ] = None,
    config: ConfigFile = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    json: Json = False,
) -> None:
    """Tell how old the last version is that is proven at each site, and raise alarms within one RPO.

    Exit code with --once: 0 all is fresh; 1 something is late, unknown or ahead of the clock; 20 something is damaged;
    if the state cannot be read, the code of the reason.
    """
    found = watched(home, site, fingerprint, config)
    if once and every:
        raise UsageError("--once and --every exclude each other")
    every_s = parse_duration(every) if every else found.config.every_s
    duty = _duty(found, state)
    shown = WatchMetrics(now, duty.names, duty.health)
    if metrics:
        note(f"metrics at http://{metrics.rpartition(':')[0]}:{serve_metrics(shown, metrics)}/metrics")
    done = told_to_end(forever=not once)
    last: str | None = None
    while True:
        began = time.monotonic()
        result = duty.round()
        shown.show(result, duty.rounds, time.monotonic() - began)
        if textfile is not None:
            write_metrics(shown, textfile)
        last = _show(result, duty.names, found.config, last, as_json=json, once=once)
        if once or done.wait(max(0.0, every_s - (time.monotonic() - began))):
            break
    duty.settle(_SETTLE_S if once else 1.0)
    for name, health in duty.health.items():
        if health.problem:
            note(f"not told: {health.problem or name}")
    if once:
        _end(result)


def _duty(found: Watched, state: Path | None) -> Duty:
    rule = WatchRule(found.config.proof_s, found.config.sample, found.config.state_s)
    made = Watch(found.sites, found.pinned, rule, clock=now, choose=secrets.randbelow)
    path = state.absolute() if state is not None else found.state_file
    memory = read_memory(path, found.pinned)
    channels = open_channels(found.config, found.folder)
    return Duty(made, found.config, found.pinned, dict(found.names), channels, memory, path, now)


def _end(result: Round) -> None:
    if result.look.problem is not None:
        raise typer.Exit(result.look.problem.exit_code)
    if result.worst is State.DAMAGED:
        raise typer.Exit(IntegrityError.exit_code)
    if result.worst is not State.FRESH:
        raise typer.Exit(NOT_FRESH)


def _show(
    result: Round, names: dict[RegisterId, str], config: WatchConfig, last: str | None, *, as_json: bool, once: bool
) -> str:
    """Everything after the first look, then only what changed; with --json one object for each look."""
    if as_json:
        indent = 2 if once else None
        sys.stdout.write(json_text.dumps(told(result, names), ensure_ascii=False, indent=indent) + "\n")
        sys.stdout.flush()
        return ""
    lines = [
        f"{names.get(v.register, v.register)}{f' at {c.site}' if c is not None else ''}: {one.state}: {one.why}"
        for v in result.verdicts
        for c in (None, *v.cells)
        if (one := c or v).state is not State.FRESH
    ]
    digest = "\n".join(sorted(f"{c.key} {c.state}" for c in result.conditions))
    if last is None:
        _table(result, names)
        _depth(config, cosigned=result.look.charter is None or result.look.charter.policy.quorum is not None)
    elif digest != last:
        say(f"{when(result.look.at)}: {'changed' if lines else 'all is fresh'}")
    if digest != last:
        for line in lines:
            say(line)
        if result.look.problem is not None:
            note(f"the state cannot be read: {result.look.problem.message}")
        for number, why in result.paused.items():
            say(f"{names.get(number, number)}: alarms are {why}")
    return digest


def _table(result: Round, names: dict[RegisterId, str]) -> None:
    rows = []
    for one in result.verdicts:
        name = names.get(one.register, one.register)
        rows.append((name, "by rule", one.sequence or "-", when(one.time), _age(one.age_s), duration(one.rpo_s),
                     one.state, when(one.since)))  # fmt: skip
        rows += [
            (name, cell.site, cell.sequence or "-", when(cell.time), _age(cell.age_s), "", cell.state, when(cell.since))
            for cell in one.cells
        ]
    table(("register", "site", "version", "state of (UTC)", "age", "RPO", "state", "since (UTC)"), rows)


def _age(age_s: int | None) -> str:
    return "-" if age_s is None else f"{age_s} s" if age_s < 0 else duration(age_s)


def _depth(config: WatchConfig, *, cosigned: bool) -> None:
    """What a look vouches for. ``cosigned``: the charter asks for witnesses; where it does not, nobody cosigns."""
    signed = "signed and cosigned" if cosigned else "signed"
    say(
        f"Proven means: {signed} in the ledger; every object that the version needs is there in its size; the"
        f" manifest's pack and {config.sample} others of each new version were read and hashed. Other packs' bytes are"
        " proven by `exclave scrub` and `exclave verify`."
    )


def told(result: Round, names: dict[RegisterId, str]) -> dict[str, Any]:
    """One look for machines."""

    def one(verdict: RegisterVerdict) -> dict[str, Any]:
        cells = [
            {**plain(cell), "time": moment(cell.time), "proven": moment(cell.proven)} for cell in verdict.cells
        ]  # fmt: skip
        return {
            **plain(verdict), "name": names.get(verdict.register), "time": moment(verdict.time), "worst": verdict.worst,
            "paused": result.paused.get(verdict.register, ""), "cells": cells,
        }  # fmt: skip

    problem: ExclaveError | None = result.look.problem
    return {
        "ok": result.worst is State.FRESH, "worst": result.worst, "looked": moment(result.look.at),
        "packs_read": result.look.packs_read, "proof_s": result.look.proof_s,
        "problem": problem.message if problem is not None else "", "error": problem.code if problem is not None else "",
        "alarms": [plain(alarm) for alarm in result.alarms], "registers": [one(v) for v in result.verdicts],
    }  # fmt: skip

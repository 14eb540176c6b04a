"""Failover: by warrant, registers start again on this machine, and this machine gets the pen.

The only loop of Exclave: ask which step is safe next, do it, write down that it is done, ask again. What is done
stands in the embassy's folder and at the sites, so a crash is a pause: the same command goes on where it stopped.

All registers are granted a new epoch first, which fences their former writer; then, in the order of their
dependencies, each is restored, started, probed with its reference query, and its RTO and RPO enter its new ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from exclave.errors import Fenced, MissingObject, QuorumMissing, UnavailableError, UsageError
from exclave.formats.card import Card
from exclave.identity.merging import HomeTail
from exclave.ids import Instant, Label, RegisterId, b64
from exclave.keys.file import KeyFile
from exclave.operations.custody import Granted, OpenedRegister
from exclave.operations.epoch_grant import grant_epoch
from exclave.operations.exile import write_exile
from exclave.operations.failover_run import RegisterProgress, Run, Unwitnessed, load_progress, options_of
from exclave.operations.home import key_card, write_private
from exclave.operations.identity_moved import MOVED, has_identity, names_register
from exclave.operations.register_recovery import (
    probe_register,
    record_register,
    restore_register,
    start_register,
    start_services,
    wait_for_answers,
)
from exclave.operations.restore import require_newest, require_unforked
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.recovery import NextStep, Step, next_step, recovery_order
from exclave.runners.process import running, stop
from exclave.sites.contract import Site
from exclave.verify.history import read_history
from exclave.verify.state import StateView

_MACHINE_FILE = "writer.key"
_WHERE = "Name the folder of `exclave failover run` with --dir."


@dataclass(frozen=True, slots=True)
class ServedAt:
    """A started service and where it answers."""

    name: str
    kind: str
    pid: int
    address: str


@dataclass(frozen=True, slots=True)
class FailoverReport:
    """What a failover did."""

    state: str
    place: Label
    epoch: dict[str, int]
    registers: tuple[RegisterProgress, ...]
    services: tuple[ServedAt, ...]
    decided: Instant
    lost: Instant
    missed: dict[Label, str]
    """Sites that this run could not give a new epoch, and why: they show the former one."""


def failover(
    folder: Path,
    *,
    machine: KeyFile,
    granted: Granted,
    view: StateView,
    sites: Mapping[Label, Site],
    opened: Mapping[RegisterId, OpenedRegister],
    clock: Callable[[], Instant],
    lost: Instant | None = None,
    say: Callable[[str], None] = lambda text: None,
    unwitnessed: Unwitnessed = Unwitnessed.STOP,
    versions: Mapping[RegisterId, int] | None = None,
    accept_older: bool = False,
    identity: Path | None = None,
    home_tail: HomeTail = HomeTail.FEW,
) -> FailoverReport:
    """Restores and starts the warrant's registers in ``folder`` and makes this machine their writer.

    ``sites``: by the charter's names. ``lost``: when home was lost, for the RPO; the decision if it is not known.
    ``versions``: registers that get another version than their latest. ``accept_older``: go on with the latest that
    can be proven, though more is vouched for. ``identity``: this place's folder of identity services; ``home_tail``:
    what of home's own it takes when it comes back. Raises what each step raises; run again, it goes on. Returns once
    every register answers its reference query.
    """
    names = {annex_name(o): r for r, o in opened.items()}
    progress = load_progress(folder)
    for name, register in names.items():
        progress.setdefault(name, RegisterProgress(name, register))
        progress[name].bad_shares = list(opened[register].bad)
    run = Run(
        folder,
        machine,
        granted,
        view,
        dict(sites),
        dict(opened),
        progress,
        clock,
        lost or granted.decided,
        say,
        unwitnessed,
        versions or {},
        accept_older,
        identity_folder=identity,
        home_tail=home_tail,
    )
    _require_possible(run)
    # First of all: a restart finds that a failover was begun in this folder, and goes on.
    run.save()
    _settle(run)
    run.save()
    order = recovery_order({name: frozenset(opened[r].annex.depends) for name, r in names.items()})
    steps = {
        Step.GRANT: grant_epoch,
        Step.RESTORE: restore_register,
        Step.START: start_register,
        Step.PROBE: probe_register,
        Step.NAMES: names_register,
        Step.RECORD: record_register,
    }
    _start_again(run, order)
    while (todo := _next(run, order)) is not None:
        say(f"{todo.register}: {todo.step}")
        steps[todo.step](run, todo.register)
        run.progress[todo.register].done.append(todo.step)
        run.save()
        if todo.step is Step.RESTORE:
            _configure(run)  # the version says more of its datasets than the annex
    _require_names(run)
    return _report(run)


def _require_names(run: Run) -> None:
    """Once more, for names that a server did not take: everything runs, but nobody finds it."""
    for name, progress in run.progress.items():
        if progress.names not in ("", MOVED):
            names_register(run, name)
            run.save()
            if progress.names != MOVED:
                raise UnavailableError(
                    f"every register answers, but the names of {name} do not lead here: {progress.names}",
                    hint="Mend it, then run the same command again; or have the zone's operator change the records.",
                )


def _start_again(run: Run, order: tuple[str, ...]) -> None:
    """Services that were started in an earlier run and have ended since: a crash, a reboot, ``failover stop``."""
    for name in order:
        done, alive = run.progress[name].done, {p.name for p in running(run.folder / "run" / name)}
        if Step.START in done and not alive.issuperset(run.progress[name].ports):
            run.say(f"{name}: start again")
            start_services(run, name)
            if Step.PROBE in done:
                wait_for_answers(run, name)


def annex_name(opened: OpenedRegister) -> str:
    """A register's name at home."""
    return opened.annex.name


def _next(run: Run, order: tuple[str, ...]) -> NextStep | None:
    """Names follow the identity services alone."""
    done = {name: {Step(s) for s in p.done} for name, p in run.progress.items()}
    for name, steps in done.items():
        if not has_identity(run, name):
            steps.add(Step.NAMES)
    return next_step(order, {name: frozenset(steps) for name, steps in done.items()})


def _require_possible(run: Run) -> None:
    """Before home is fenced: every register can be restored, and nobody else has taken it over since.

    ``MissingObject`` for a register without a version, ``RolledBack`` and ``Forked`` if it is in doubt which version is
    the latest, ``Fenced`` if a later epoch exists, ``UsageError`` if another warrant's failover was begun here.
    """
    for name, progress in run.progress.items():
        if progress.register_id not in run.opened:
            raise UsageError(
                f"the failover that was begun in {run.folder} is of {name} too, which this warrant does not name",
                hint="Use the same warrant as before, or an empty folder for a new failover.",
            )
        newest = run.view.epoch_chain(progress.register_id).newest
        mine = newest.note.authority == run.granted.warrant.digest
        if Step.GRANT in progress.done and not mine:
            if newest.note.writer == key_card(run.machine).digest:
                raise UsageError(
                    f"{run.folder} belongs to another warrant", hint="Use an empty folder for a new failover."
                )
            raise Fenced(f"{name} was taken over by {newest.writer.name}: epoch {newest.number}", epoch=newest.number)
        if not mine:
            _require_decided(run, name, progress.register_id)
        if not mine:
            history = run.history(progress.register_id)
            if not history.versions:
                require_unforked(history)
                require_newest(history, "--accept-older")
                raise MissingObject(
                    f"register {name} has no version that counts, so it cannot be started",
                    hint="Request a warrant that names only the registers that have one (--register ID).",
                )
            run.choose(history)


def _require_decided(run: Run, name: str, register: RegisterId) -> None:
    """Versions beyond those that witnesses vouch for would be cut off for good; that is for people to decide."""
    if run.unwitnessed is not Unwitnessed.STOP:
        return
    counted = len(run.history(register).versions)
    shown = read_history(run.view, run.sites_of(register), register, allow_unwitnessed=True).versions
    if len(shown) > counted:
        numbers = ", ".join(str(v.leaf.sequence) for v in shown[counted:])
        raise QuorumMissing(
            f"register {name}: too few witnesses vouch for version {numbers}, the newest that the sites show",
            hint="If home wrote it, go on with --unwitnessed take; if a thief may have, with --unwitnessed drop, which"
            " leaves it behind for good.",
            register=name,
        )


def _settle(run: Run) -> None:
    """Keys and fingerprint of the embassy's own folder, once; a restart writes the same again."""
    key = run.folder / "keys" / _MACHINE_FILE
    if not key.exists():
        from_machine = f"exclave/key-file/v1\nkind {run.machine.kind}\nname {run.machine.name}\n"
        write_private(key, (from_machine + f"seed {b64(run.machine.seed)}\n").encode())
    write_private(run.folder / "state" / "fingerprint", f"{run.view.state}\n".encode())
    _configure(run)


def _configure(run: Run) -> None:
    """The embassy's configuration, from what is known so far; a restart writes it again."""
    charter = run.view.chain.newest.charter
    cards: dict[Label, Card] = {card.name: card for card in run.view.chain.newest.cards} | run.view.witness_cards()
    annexes = {register: opened.annex for register, opened in run.opened.items()}
    options = {
        (annex.name, dataset.name): options_of(run, annex, dataset.name)
        for annex in annexes.values()
        for dataset in annex.datasets
    }
    recorded = {(name, d["name"]) for name, p in run.progress.items() for d in p.datasets if d.get("records")}
    write_exile(run.folder, charter, cards, annexes, options, recorded)


def _report(run: Run) -> FailoverReport:
    epochs: dict[str, int] = {}
    for name, progress in run.progress.items():
        newest: VerifiedEpoch = run.view.epoch_chain(progress.register_id).newest
        epochs[name] = newest.number
    return FailoverReport(
        run.view.state,
        run.place,
        epochs,
        tuple(run.progress.values()),
        served(run.folder),
        run.granted.decided,
        run.lost,
        run.missed,
    )


def served(folder: Path) -> tuple[ServedAt, ...]:
    """The services that run in an embassy's folder now."""
    found: list[ServedAt] = []
    for name in sorted(load_progress(folder)):
        for process in running(folder / "run" / name):
            kind = "postgres" if process.stop_leader_only else "process"
            scheme = "postgresql" if kind == "postgres" else "http"
            address = f"{scheme}://127.0.0.1:{process.port}" if process.port else ""
            found.append(ServedAt(f"{name}/{process.name}", kind, process.pid, address))
    return tuple(found)


def stop_all(folder: Path) -> tuple[str, ...]:
    """Stops every service of an embassy's folder, the last started register first; names of those that ran."""
    progress = load_progress(folder)
    if not progress:
        raise UsageError(f"no failover was begun in {folder}", hint=_WHERE)
    stopped: list[str] = []
    for name in sorted(progress, reverse=True):
        order = list(progress[name].ports)
        processes = sorted(
            running(folder / "run" / name), key=lambda p: order.index(p.name) if p.name in order else -1, reverse=True
        )
        for process in processes:
            if stop(folder / "run" / name, process.name):
                stopped.append(f"{name}/{process.name}")
    return tuple(stopped)


def read_progress(folder: Path) -> tuple[RegisterProgress, ...]:
    """How far the failover in ``folder`` has come."""
    return tuple(load_progress(folder).values())

"""``exclave backup --every``: rounds over many registers, in several processes."""

from __future__ import annotations

import gc
import json as json_text
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import typer

from exclave.app import keep_freed_memory, open_capture, open_home, open_sites, witness_addresses
from exclave.cli.ending import told_to_end
from exclave.cli.output import counted, duration, note, plain, say, when
from exclave.cli.progress import work_bar
from exclave.errors import QuorumMissing, ServiceFailed
from exclave.ids import Label, now
from exclave.operations.backup import backup
from exclave.operations.home import Home
from exclave.operations.rounds import Outcome, RoundReport, back_up_batch, batches, next_start

_TOLD = 10
"""So many failures are told one by one; the rest is counted."""


def run_rounds(
    folder: Path, registers: list[str], to: list[Label], *, every_s: float, jobs: int, as_json: bool
) -> None:
    """One round, or one after the other until a signal comes; the registers that are under way are ended first.

    Exit code of the last round: 0, or that of its first failure.
    """
    ended = told_to_end(forever=every_s > 0)
    with _pool(jobs) as pool:
        due, late, number = time.monotonic(), 0.0, 0
        while True:
            number += 1
            began = time.monotonic()
            names = registers or [r.name for r in open_home(folder).config.register]
            done = _round(pool, folder, number, names, to, jobs, ended, quiet=as_json)
            report = RoundReport(number, time.monotonic() - began, late, tuple(done))
            _show(report, every_s, as_json=as_json)
            if not every_s:
                break
            due, late = next_start(due, every_s, time.monotonic())
            if ended.wait(max(0.0, due - time.monotonic())):
                break
    for outcome in report.failed:
        raise typer.Exit(outcome.exit_code or QuorumMissing.exit_code)


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_begin_process)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_process() -> None:
    """Signals are the first process's to answer: a terminal's Ctrl-C reaches this one too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    gc.freeze()


def _round(
    pool: ProcessPoolExecutor,
    folder: Path,
    number: int,
    names: list[str],
    to: list[Label],
    jobs: int,
    ended: threading.Event,
    *,
    quiet: bool,
) -> list[Outcome]:
    """No more batches are handed out than processes can begin, so that an end is heard."""
    todo, running, done = batches(names, jobs), set[Future[list[Outcome]]](), list[Outcome]()
    with work_bar(counted(len(names), "register", "registers"), quiet=quiet) as bar:
        try:
            while True:
                while len(running) < 2 * jobs and not ended.is_set() and (batch := next(todo, None)) is not None:
                    running.add(pool.submit(back_up_some, folder, number, batch, to))
                if not running:
                    return done
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for one in finished:
                    done += one.result()
                bar.at("backed up", len(done), len(names))
        except BrokenProcessPool as error:
            raise ServiceFailed(
                "one of the processes that make backups died",
                hint="Look for want of memory on this machine, or use fewer --jobs; what was backed up is safe.",
            ) from error


@lru_cache(maxsize=1)
def _home_of(folder: Path, number: int) -> Home:
    """Read once for each round: a configuration of a thousand registers takes as long as three backups."""
    return open_home(folder)


def back_up_some(folder: Path, number: int, names: tuple[str, ...], to: list[Label]) -> list[Outcome]:
    """A batch of round ``number``, in a process of the pool."""
    home = _home_of(folder, number)
    sites, witnesses = open_sites(home), witness_addresses(home.config)
    done = back_up_batch(
        names,
        lambda name: backup(home, name, sites=sites, witnesses=witnesses, open_capture=open_capture, clock=now, to=to),
    )
    gc.collect()
    return done


def _show(report: RoundReport, every_s: float, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json_text.dumps({"time": when(now()), **plain(report)}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    made = sum(1 for o in report.outcomes if o.sequence)
    slowest = report.slowest
    say(
        f"{when(now())}  round {report.number}: {counted(made, 'version', 'versions')} of"
        f" {counted(len(report.outcomes), 'register', 'registers')} in {duration(report.took_s)}"
        + (f"; slowest {slowest.register}, {duration(slowest.took_s)}" if slowest is not None else "")
    )
    if report.late_s:
        note(f"it began {duration(report.late_s)} late: rounds take longer than {duration(every_s)}; use more --jobs")
    for outcome in report.failed[:_TOLD]:
        note(f"{outcome.register}: {outcome.message or 'stored, but not protected or not vouched for by witnesses'}")
    if len(report.failed) > _TOLD:
        note(f"and {len(report.failed) - _TOLD} more")

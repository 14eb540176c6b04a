"""``exclave mount``"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.opening import Answers, MachineKey, OnlyThese, RegisterName, Unwitnessed, WarrantFile, open_by_warrant
from exclave.cli.output import Json, Pinned, Sites, counted, note, print_json, say, when
from exclave.errors import WarrantExpired
from exclave.ids import Instant, now
from exclave.operations.mount import CACHE_BYTES, MountedRegister, version_name
from exclave.operations.restore import choose_version
from exclave.serve.fuse import prepare_folder, serve_mount

_LOOK_S = 20.0
"""So much longer than the warrant a mount stays at most, after a machine was asleep."""
_EXAMPLE = (
    "Example: exclave mount /mnt/land --site lux=dir:/mnt/lux --fingerprint 3f9a… --warrant r.warrant"
    " --answer r-kaja.answer --answer r-luc.answer --key machine.key"
)


def register(app: typer.Typer) -> None:
    app.command(name="mount", epilog=_EXAMPLE)(mount)


def mount(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    fingerprint: Pinned,
    warrant: WarrantFile,
    key: MachineKey,
    site: Sites = None,
    answer: Answers = None,
    register: RegisterName = None,
    version: Annotated[int | None, typer.Option(min=1, help="Show only this version; default: all.")] = None,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Let other users of this machine in, as far as file modes allow.")
    ] = False,
    cache_mib: Annotated[int, typer.Option(min=16, max=1 << 20, help="Memory for what was read, in MiB.")] = CACHE_BYTES
    >> 20,
    unwitnessed: Unwitnessed = False,
    only_these: OnlyThese = False,
    json: Json = False,
) -> None:
    """Show the versions of a register as a read-only folder, by warrant, until Ctrl-C or the warrant's end.

    Only what is read is fetched, and each chunk is checked. Needs libfuse (Debian: fuse3).
    """
    folder = folder.absolute()
    prepare_folder(folder)
    opened = open_by_warrant(
        site, fingerprint, warrant, answer or [], key, register=register, unwitnessed=unwitnessed, only_these=only_these
    )
    latest = choose_version(opened.history, version)
    kept = (v for v in opened.history.versions if v.leaf.sequence not in opened.history.erased)
    versions = (latest,) if version is not None else tuple(kept)
    _keep_secrets_in()
    shown = MountedRegister(
        opened.where.view.state, opened.sites, opened.register, versions, tell=note, cache_bytes=cache_mib << 20
    )
    name = opened.register.annex.name

    def ready() -> None:
        if json:
            told = {"register": name, "folder": folder, "versions": [os.fsdecode(version_name(v)) for v in versions]}
            print_json({"mounted": {**told, "latest": latest.leaf.sequence, "pid": os.getpid()}})
        else:
            count = counted(len(versions), "version", "versions")
            say(f"{name}: {count}, the latest of {when(latest.leaf.time)}, in {folder}")
            say(f"Press Ctrl-C to take it down; the warrant ends at {when(opened.warrant.not_after)}.")

    end = _Deadline(opened.warrant.not_after)
    try:
        serve_mount(shown, folder, allow_other=allow_other, ready=ready)
    finally:
        end.cancel()
        shown.close()
    if end.passed:
        raise WarrantExpired(f"the warrant ended at {when(opened.warrant.not_after)}, so {folder} was unmounted")
    if not json:
        note(f"{folder} was unmounted")


def _keep_secrets_in() -> None:
    """No core dump of a process that holds a register's keys for hours."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Deadline:
    """Ends this process's mount, as Ctrl-C does, when the warrant ends.

    The clock is looked at again and again: a timer stands still while the machine sleeps. Nor does a clock that is set
    back make a warrant longer.
    """

    def __init__(self, instant: Instant) -> None:
        self.passed = False
        self._instant = instant
        self._until_s = time.monotonic() + (instant - now()) / 1e6
        self._cancelled = threading.Event()
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()

    def _watch(self) -> None:
        while (left_s := min((self._instant - now()) / 1e6, self._until_s - time.monotonic())) > 0:
            if self._cancelled.wait(min(left_s, _LOOK_S)):
                return
        if not self._cancelled.is_set():
            self.passed = True
            os.kill(os.getpid(), signal.SIGTERM)

    def cancel(self) -> None:
        self._cancelled.set()

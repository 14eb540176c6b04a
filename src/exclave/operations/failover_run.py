"""What the steps of a failover share: the run, its progress in the embassy's folder, and where things are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from exclave.errors import (
    MalformedError,
    UsageError,
)
from exclave.formats.annex import Annex, AnnexService
from exclave.formats.charter import CharterRegister
from exclave.identity.merging import HomeTail
from exclave.ids import Digest, Instant, Label, RegisterId
from exclave.keys.file import KeyFile
from exclave.operations.custody import Granted, OpenedRegister
from exclave.operations.exile import dataset_folder
from exclave.operations.home import write_private
from exclave.operations.restore import choose_version, remembered_heads, require_unforked
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.runners.ports import free_port, port_is_free
from exclave.sites.contract import Site
from exclave.verify.history import CountedVersion, RegisterHistory, read_history
from exclave.verify.state import StateView


class Unwitnessed(StrEnum):
    """What to do with versions that too few witnesses vouch for."""

    STOP = "stop"
    """Do nothing yet: people decide."""
    TAKE = "take"
    """They count: the latest of them is restored."""
    DROP = "drop"
    """They are left behind for good: the new epoch begins after the last version that witnesses vouch for."""


@dataclass(slots=True)
class RegisterProgress:
    """What is known of one register's failover; kept in ``progress.json``."""

    name: str
    register_id: RegisterId
    done: list[str] = field(default_factory=list)
    sequence: int = 0
    version_time: Instant = Instant(0)
    """Moment whose state was restored."""
    ports: dict[str, int] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    """Per dataset: name, kind, rows, digest_home, digest_embassy."""
    answered: Instant = Instant(0)
    """When its reference query was answered."""
    rto_s: float = 0.0
    rpo_s: float = 0.0
    names: str = ""
    """Of identity services: ``moved``, or why the names do not lead here; empty: no names follow them."""
    bad_shares: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    """What the steps share."""

    folder: Path
    machine: KeyFile
    granted: Granted
    view: StateView
    sites: dict[Label, Site]
    opened: dict[RegisterId, OpenedRegister]
    progress: dict[str, RegisterProgress]
    clock: Callable[[], Instant]
    lost: Instant
    say: Callable[[str], None]
    unwitnessed: Unwitnessed = Unwitnessed.STOP
    versions: Mapping[RegisterId, int] = field(default_factory=dict)
    """Registers that are to get this version instead of their latest."""
    accept_older: bool = False
    """Go on though more entries are vouched for than any site proves."""
    asked: dict[Digest, dict[str, VerifiedCheckpoint]] = field(default_factory=dict)
    """What the witnesses said, by epoch: each is asked once."""
    missed: dict[Label, str] = field(default_factory=dict)
    """Sites that did not take a new epoch, and why."""
    identity_folder: Path | None = None
    """Where this place keeps its identity services, if it is not below ``folder``."""
    home_tail: HomeTail = HomeTail.FEW
    """Of home's identity services that come back: what is done with entries that exile never saw."""

    @property
    def identity(self) -> Path:
        """The folder of this place's identity services."""
        return self.identity_folder or self.folder / "identity"

    @property
    def place(self) -> Label:
        return self.granted.warrant.warrant.place

    def register(self, name: str) -> tuple[RegisterId, OpenedRegister, RegisterProgress]:
        progress = self.progress[name]
        return progress.register_id, self.opened[progress.register_id], progress

    def rule(self, register: RegisterId) -> CharterRegister:
        found = self.view.chain.newest.charter.register(register)
        if found is None:
            raise UsageError(f"the charter does not list register {register}")
        return found

    def sites_of(self, register: RegisterId) -> dict[Label, Site]:
        """The sites of ``register``, this machine's own place first: its ledger is written there."""
        at = self.rule(register).at
        order = sorted((label for label in at if label in self.sites), key=lambda label: label != self.place)
        return {label: self.sites[label] for label in order}

    def history(self, register: RegisterId) -> RegisterHistory:
        """The versions of ``register`` that count, as the sites show them now."""
        take = self.unwitnessed is Unwitnessed.TAKE
        return read_history(
            self.view, self.sites_of(register), register, allow_unwitnessed=take, remembered=self._remembered(register)
        )

    def choose(self, history: RegisterHistory) -> CountedVersion:
        """The version that is restored. Raises what ``choose_version`` does."""
        wanted = self.versions.get(history.register)
        if wanted is None and self.accept_older:
            require_unforked(history)
            return history.latest
        return choose_version(history, wanted, override="--accept-older, or --version NAME=N")

    def _remembered(self, register: RegisterId) -> dict[str, VerifiedCheckpoint]:
        epoch = self.view.epoch_chain(register).newest.digest
        if epoch not in self.asked:
            annex = self.opened[register].annex
            addresses = {Label(w.label): w.url for w in annex.witnesses}
            self.asked[epoch], silent = remembered_heads(self.view, register, addresses)
            for label, why in silent.items():
                self.say(f"{annex.name}: the witness {label} does not say what it has seen: {why}")
        return self.asked[epoch]

    def save(self) -> None:
        data = json.dumps({name: msgspec.to_builtins(p) for name, p in self.progress.items()}, indent=1)
        # A restart reads the former progress and repeats at most the last step, or this one.
        write_private(self.folder / "state" / "progress.json", data.encode())


def load_progress(folder: Path) -> dict[str, RegisterProgress]:
    try:
        data = (folder / "state" / "progress.json").read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return msgspec.json.decode(data, type=dict[str, RegisterProgress])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise MalformedError(f"{folder / 'state' / 'progress.json'} is damaged") from error


def options_of(run: Run, annex: Annex, name: str) -> dict[str, str]:
    """Where a dataset is captured from in the embassy."""
    dataset = next(d for d in annex.datasets if d.name == name)
    folder = dataset_folder(run.folder, annex.name, name)
    if dataset.kind == "files":
        return {"path": str(folder)}
    if dataset.kind == "identity":
        return {"path": str(run.identity / "journal")}
    if dataset.kind == "sqlite":
        return {"path": str(folder / Path(dataset.options.get("path", "database")).name)}
    port = _postgres_port(run, annex, name)
    return {
        "host": str(socket_dir_of(run, annex.name)),
        "port": str(port),
        "user": dataset.options.get("user", "postgres"),
        "dbname": dataset.options.get("dbname", "postgres"),
    }


def socket_dir_of(run: Run, register: str) -> Path:
    return run.folder / "run" / register / "socket"


def _postgres_port(run: Run, annex: Annex, dataset: str) -> int:
    for service in annex.services:
        if service.kind == "postgres" and service.dataset == dataset:
            return port_of(run, annex.name, service)
    return 5432


def port_of(run: Run, register: str, service: AnnexService) -> int:
    """The port of a service in the embassy: its own if that is free here, else another; it stays the same then."""
    ports = run.progress[register].ports
    if service.name not in ports:
        taken = {port for p in run.progress.values() for port in p.ports.values()}
        wanted = service.port
        ports[service.name] = wanted if wanted and wanted not in taken and port_is_free(wanted) else free_port()
    return ports[service.name]

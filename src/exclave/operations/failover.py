"""Failover: by warrant, registers start again on this machine, and this machine gets the pen.

The only loop of Exclave: ask which step is safe next, do it, write down that it is done, ask again. What is done
stands in the embassy's folder and at the sites, so a crash is a pause: the same command goes on where it stopped.

All registers are granted a new epoch first, which fences their former writer; then, in the order of their
dependencies, each is restored, started, probed with its reference query, and its RTO and RPO enter its new ledger.
"""

from __future__ import annotations

import json
import secrets as _random
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from exclave.crypto.hpke import OpeningKey
from exclave.errors import (
    CorruptObject,
    Forked,
    MalformedError,
    PlacementUnmet,
    ServiceFailed,
    UnavailableError,
    UsageError,
)
from exclave.formats.annex import Annex, AnnexService
from exclave.formats.card import Card
from exclave.formats.charter import CharterRegister
from exclave.formats.epochnote import Cut, ParsedEpoch, parse_epoch
from exclave.formats.fact import Fact
from exclave.formats.manifest import Root, Secrets
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import box_key, card_key, epoch_key, warrant_key
from exclave.ids import Digest, Epoch, Instant, Label, RegisterId, b64, instant_text, sha256
from exclave.keys.file import KeyFile
from exclave.operations.custody import Granted, OpenedRegister
from exclave.operations.exile import dataset_folder, write_exile
from exclave.operations.home import Home, key_card, write_private
from exclave.operations.ledger_entry import enter, settle_outbox
from exclave.operations.restore import Restored, choose_version, open_version, restore_version
from exclave.registers.contract import DatasetDigest
from exclave.registers.postgres_binaries import find_postgres
from exclave.registers.postgres_digest import postgres_digest
from exclave.registers.postgres_restore import prepare_restored
from exclave.registers.postgres_source import PostgresSource
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.quorum import make_epoch_shares, seal_ancestors
from exclave.rules.recovery import NextStep, Step, next_step, recovery_order
from exclave.rules.signatures import sign_text
from exclave.rules.tree import EMPTY_ROOT
from exclave.runners.ports import free_port, port_is_free
from exclave.runners.postgres import start_postgres
from exclave.runners.probe import wait_http
from exclave.runners.process import ServiceSpec, is_running, running, start, stop
from exclave.runners.query import ask
from exclave.runners.unprivileged import reachable_binaries, unprivileged_user
from exclave.sites.contract import Site
from exclave.vault.writer import new_secrets
from exclave.verify.history import CountedVersion, RegisterHistory, read_history
from exclave.verify.state import StateView, read_state

PROBE_S = 60.0
_MACHINE_FILE = "writer.key"


@dataclass(frozen=True, slots=True)
class ServedAt:
    """A started service and where it answers."""

    name: str
    kind: str
    pid: int
    address: str


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
    bad_shares: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


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


@dataclass(slots=True)
class _Run:
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
        """The charter's sites for ``register`` that answer; this machine's own place first: its ledger is written there."""
        at = self.rule(register).at
        order = sorted((label for label in at if label in self.sites), key=lambda label: label != self.place)
        return {label: self.sites[label] for label in order}

    def save(self) -> None:
        data = json.dumps({name: msgspec.to_builtins(p) for name, p in self.progress.items()}, indent=1)
        # A restart reads the former progress and repeats at most the last step, or this one.
        write_private(self.folder / "state" / "progress.json", data.encode())


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
) -> FailoverReport:
    """Restores and starts the warrant's registers in ``folder`` and makes this machine their writer.

    ``sites``: by the charter's names. ``lost``: when home was lost, for the RPO; the decision if it is not known.
    Raises what each step raises; run again, it goes on. Returns once every register answers its reference query.
    """
    names = {annex_name(o): r for r, o in opened.items()}
    progress = _read_progress(folder)
    for name, register in names.items():
        progress.setdefault(name, RegisterProgress(name, register))
        progress[name].bad_shares = list(opened[register].bad)
    run = _Run(folder, machine, granted, view, dict(sites), dict(opened), progress, clock, lost or granted.decided, say)
    _settle(run)
    order = recovery_order({name: frozenset(opened[r].annex.depends) for name, r in names.items()})
    steps = {Step.GRANT: _grant, Step.RESTORE: _restore, Step.START: _start, Step.PROBE: _probe, Step.RECORD: _record}
    while (todo := _next(order, run.progress)) is not None:
        say(f"{todo.register}: {todo.step}")
        steps[todo.step](run, todo.register)
        run.progress[todo.register].done.append(todo.step)
        run.save()
    return _report(run)


def annex_name(opened: OpenedRegister) -> str:
    """A register's name at home."""
    return opened.annex.name


def _next(order: tuple[str, ...], progress: Mapping[str, RegisterProgress]) -> NextStep | None:
    return next_step(order, {name: frozenset(Step(s) for s in p.done) for name, p in progress.items()})


def _read_progress(folder: Path) -> dict[str, RegisterProgress]:
    try:
        data = (folder / "state" / "progress.json").read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return msgspec.json.decode(data, type=dict[str, RegisterProgress])
    except msgspec.DecodeError as error:
        raise MalformedError(f"{folder / 'state' / 'progress.json'} is damaged") from error


def _settle(run: _Run) -> None:
    """Keys, fingerprint and configuration of the embassy's own folder, once; a restart writes the same again."""
    key = run.folder / "keys" / _MACHINE_FILE
    if not key.exists():
        from_machine = f"exclave/key-file/v1\nkind {run.machine.kind}\nname {run.machine.name}\n"
        write_private(key, (from_machine + f"seed {b64(run.machine.seed)}\n").encode())
    write_private(run.folder / "state" / "fingerprint", f"{run.view.state}\n".encode())
    charter = run.view.chain.newest.charter
    cards: dict[Label, Card] = {card.name: card for card in run.view.chain.newest.cards} | run.view.witness_cards()
    annexes = {register: opened.annex for register, opened in run.opened.items()}
    options = {
        (annex.name, dataset.name): _options(run, annex, dataset.name)
        for annex in annexes.values()
        for dataset in annex.datasets
    }
    write_exile(run.folder, charter, cards, annexes, options)


def _options(run: _Run, annex: Annex, name: str) -> dict[str, str]:
    """Where a dataset is captured from in the embassy."""
    dataset = next(d for d in annex.datasets if d.name == name)
    folder = dataset_folder(run.folder, annex.name, name)
    if dataset.kind == "files":
        return {"path": str(folder)}
    if dataset.kind == "sqlite":
        return {"path": str(folder / Path(dataset.options.get("path", "database")).name)}
    port = _postgres_port(run, annex, name)
    return {
        "host": str(_socket_dir(run, annex.name)),
        "port": str(port),
        "user": dataset.options.get("user", "postgres"),
        "dbname": dataset.options.get("dbname", "postgres"),
    }


def _socket_dir(run: _Run, register: str) -> Path:
    return run.folder / "run" / register / "socket"


def _postgres_port(run: _Run, annex: Annex, dataset: str) -> int:
    for service in annex.services:
        if service.kind == "postgres" and service.dataset == dataset:
            return _port(run, annex.name, service)
    return 5432


def _port(run: _Run, register: str, service: AnnexService) -> int:
    """The port of a service in the embassy: its own if that is free here, else another; it stays the same then."""
    ports = run.progress[register].ports
    if service.name not in ports:
        taken = {port for p in run.progress.values() for port in p.ports.values()}
        wanted = service.port
        ports[service.name] = wanted if wanted and wanted not in taken and port_is_free(wanted) else free_port()
    return ports[service.name]


# Step GRANT


def _grant(run: _Run, name: str) -> None:
    """A new epoch of the register, with this machine as its writer. From when its note is at a site, home is fenced.

    (1) boxes, note and this machine's deduplication keys are made and kept · (2) boxes, card and warrant are put ·
    (3) the epoch note is put, which makes it true.
    """
    register, opened, _ = run.register(name)
    chain = run.view.epoch_chain(register)
    me = key_card(run.machine)
    if chain.newest.note.writer == me.digest and chain.newest.note.authority == run.granted.warrant.digest:
        return
    draft = run.folder / "state" / f"{register}.epoch"
    if draft.exists():
        made = _read_grant(draft)
    else:
        made = _make_grant(run, register, opened)
        # One warrant makes one epoch: what was made is kept before anybody sees it, and a restart puts the same.
        write_private(draft, msgspec.msgpack.encode(made))
    if made.warrant != run.granted.warrant.digest:
        raise UsageError(f"{draft} belongs to another warrant", hint="Use an empty folder for a new failover.")
    _put_epoch(run, register, made, me)
    # The new epoch is read back from the sites, as anybody else would read it.
    run.view = read_state(run.sites, run.view.state)
    if run.view.epoch_chain(register).newest.digest != parse_note(made.note).digest:
        raise CorruptObject(f"the sites do not show the new epoch of {name} as it was written")


class _Grant(msgspec.Struct, frozen=True):
    """A new epoch, made and perhaps not published yet; its opening key exists only as the shares in ``boxes``."""

    warrant: bytes
    boxes: tuple[bytes, ...]
    note: bytes


def _read_grant(path: Path) -> _Grant:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=_Grant)
    except msgspec.DecodeError as error:
        raise MalformedError(f"{path} is damaged") from error


def _make_grant(run: _Run, register: RegisterId, opened: OpenedRegister) -> _Grant:
    charter = run.granted.warrant.charter
    former = run.view.epoch_chain(register).newest
    history = read_history(run.view, run.sites_of(register), register)
    size, root = _cut(history, former)
    number = Epoch(former.number + 1)
    seed = _random.token_bytes(32)
    opening = OpeningKey(seed).public
    shares, boxes = make_epoch_shares(
        seed, list(charter.cards), charter.charter.threshold, register=register, epoch=number,
        random=_random.token_bytes,
    )  # fmt: skip
    ancestors = seal_ancestors({e: key.seed for e, key in opened.keys.items()}, opening, register, number)
    note = ParsedEpoch(
        register=register, epoch=number, authority=run.granted.warrant.digest,
        previous=Cut(former.digest, size, root), writer=key_card(run.machine).digest, opening=opening.raw,
        threshold=charter.charter.threshold, shares=shares, ancestor=sha256(ancestors),
    )  # fmt: skip
    text = parse_epoch(note.encode()).encode()
    signed = ParsedNote(text, sign_text(text, run.machine.name, run.machine.signing()))
    _save_secrets(run, register, opened, history.versions, number)
    return _Grant(run.granted.warrant.digest, (*boxes, ancestors), signed.encode())


def _cut(history: RegisterHistory, former: VerifiedEpoch) -> tuple[int, Digest]:
    """Where the former epoch's log ends: with the last entry that counts."""
    log = history.newest_log
    if log.epoch.number != former.number:
        raise CorruptObject(f"the history of register {former.register} does not end in epoch {former.number}")
    if log.freshest is None or log.counted == 0:
        return 0, EMPTY_ROOT
    if log.counted != log.freshest.size:
        raise Forked(f"the sites show two logs of register {former.register} that cannot both be true")
    return log.freshest.size, log.freshest.root


def _save_secrets(
    run: _Run, register: RegisterId, opened: OpenedRegister, versions: tuple[CountedVersion, ...], epoch: Epoch
) -> None:
    """The former writer's deduplication keys, out of the latest version, and a new index key of this epoch's own."""
    home = Home.open(run.folder)
    if not versions:
        home.save_secrets(register, new_secrets(epoch))
        return
    _, root = open_version(run.view.state, run.sites_of(register), opened, versions[-1])
    old = root.secrets
    keys = {**old.index_keys, int(epoch): _random.token_bytes(32)}
    home.save_secrets(register, Secrets(old.id_key, old.chunk_seed, keys))


def _put_epoch(run: _Run, register: RegisterId, made: _Grant, me: Card) -> None:
    state, warrant = run.view.state, run.granted.note.encode()
    good = 0
    last: UnavailableError | None = None
    for label, site in run.sites_of(register).items():
        try:
            for box in made.boxes:
                site.put_same(box_key(state, register, sha256(box)), box)
            site.put_same(card_key(state, me.digest), me.encode().encode())
            site.put_same(warrant_key(state, warrant), warrant)
            # Until here a crash leaves objects that nothing names; the next run puts the same ones again.
            site.put_same(epoch_key(state, register, made.note), made.note)
            good += 1
        except UnavailableError as error:
            run.say(f"{label} cannot take the new epoch: {error.message}")
            last = error
    if not good:
        raise PlacementUnmet("no site can take the new epoch") from last


# Step RESTORE


def _restore(run: _Run, name: str) -> None:
    """The latest version that counts, beside its place and then moved there: what is in place is whole."""
    register, opened, progress = run.register(name)
    history = read_history(run.view, run.sites_of(register), register)
    version = choose_version(history, None)
    reader, root = open_version(run.view.state, run.sites_of(register), opened, version)
    target = run.folder / "registers" / name
    partial = run.folder / "registers" / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that died
    shutil.rmtree(target, ignore_errors=True)
    restored = restore_version(
        reader, root, partial, compare=True,
        progress=lambda dataset, entries, size: run.say(f"{name}: {dataset}: {entries} entries, {size >> 20} MiB"),
    )  # fmt: skip
    partial.rename(target)
    progress.sequence, progress.version_time = root.sequence, Instant(root.time)
    progress.faults = restored.faults
    progress.datasets = [_compared(run, name, root, restored, i) for i in range(len(restored.datasets))]


def _compared(run: _Run, name: str, root: Root, restored: Restored, at: int) -> dict[str, Any]:
    """A dataset's digests; PostgreSQL's is computed once the server runs."""
    dataset, found = root.datasets[at], restored.datasets[at]
    here = found.digest_restored
    rows = dict(dataset.rows)
    if dataset.kind == "sqlite":
        options = _options(run, run.opened[run.progress[name].register_id].annex, dataset.label)
        digest = sqlite_digest(Path(options["path"]))
        here, rows = digest.value, dict(digest.rows)
        _require_same(name, dataset.label, dataset.digest, dataset.digest_exact, digest)
    return {
        "name": dataset.label, "kind": dataset.kind, "entries": dataset.entries, "bytes": dataset.bytes,
        "digest_home": dataset.digest, "digest_exact": dataset.digest_exact, "digest_embassy": here,
        "rows_home": dict(dataset.rows), "rows_embassy": rows,
        "unrestored": found.unrestored, "unrestored_first": list(found.unrestored_first),
    }  # fmt: skip


def _require_same(register: str, dataset: str, captured: str, exact: bool, found: DatasetDigest) -> None:
    if captured and exact and found.value != captured:
        raise CorruptObject(f"{register}: {dataset} was restored, but its content differs from what was captured")


# Step START


def _start(run: _Run, name: str) -> None:
    """The register's services in the order of its annex; those that run already are left running."""
    _, opened, progress = run.register(name)
    annex = opened.annex
    run_dir = run.folder / "run" / name
    for service in annex.services:
        if is_running(run_dir, Label(service.name)):
            continue
        if service.kind == "postgres":
            _start_postgres(run, annex, service, run_dir)
        else:
            _start_process(run, annex, service, run_dir)
    run.save()
    for dataset in annex.datasets:
        if dataset.kind == "postgres":
            _compare_postgres(run, annex, dataset.name, progress)


def _start_postgres(run: _Run, annex: Annex, service: AnnexService, run_dir: Path) -> None:
    data = dataset_folder(run.folder, annex.name, service.dataset)
    account = unprivileged_user()
    socket_dir = _socket_dir(run, annex.name)
    port = _port(run, annex.name, service)
    prepared = prepare_restored(
        data, port=port, socket_dir=socket_dir, owner=(account.uid, account.gid) if account else None,
        trust_socket=True, binaries=_binaries_of(data),
    )  # fmt: skip
    bindir = reachable_binaries(prepared.binaries.bindir, account, run.folder / "run" / "postgres")
    start_postgres(bindir, data, run_dir, name=Label(service.name), port=port, socket_dir=socket_dir, account=account)


def _binaries_of(pgdata: Path) -> Any:
    try:
        major = int((pgdata / "PG_VERSION").read_text().strip())
    except (OSError, ValueError) as error:
        raise CorruptObject(f"{pgdata} is not a PostgreSQL data folder") from error
    return find_postgres(major, need=("postgres", "pg_verifybackup"))


def _compare_postgres(run: _Run, annex: Annex, dataset: str, progress: RegisterProgress) -> None:
    options = _options(run, annex, dataset)
    source = PostgresSource(options["host"], int(options["port"]), options["user"], options["dbname"])
    found = postgres_digest(source)
    for item in progress.datasets:
        if item["name"] == dataset:
            item["digest_embassy"], item["rows_embassy"] = found.value, dict(found.rows)
            _require_same(annex.name, dataset, item["digest_home"], item["digest_exact"], found)


def _start_process(run: _Run, annex: Annex, service: AnnexService, run_dir: Path) -> None:
    port = _port(run, annex.name, service)
    argv = tuple(_filled(run, annex, part, port) for part in service.argv)
    cwd = dataset_folder(run.folder, annex.name, service.dataset) if service.dataset else run.folder
    start(
        ServiceSpec(
            Label(service.name), argv, cwd, {k: _filled(run, annex, v, port) for k, v in service.env.items()}, port,
            service.probe,
        ),
        run_dir,
    )  # fmt: skip


def _filled(run: _Run, annex: Annex, text: str, port: int) -> str:
    """``text`` with {python}, {port}, {folder:DATASET}, {path:DATASET} and {dsn:DATASET} filled in."""
    text = text.replace("{python}", sys.executable).replace("{port}", str(port))
    for dataset in annex.datasets:
        options = _options(run, annex, dataset.name)
        text = text.replace(f"{{folder:{dataset.name}}}", str(dataset_folder(run.folder, annex.name, dataset.name)))
        if dataset.kind == "postgres":
            dsn = " ".join(f"{k}={options[k]}" for k in ("host", "port", "user", "dbname"))
            text = text.replace(f"{{dsn:{dataset.name}}}", dsn)
        else:
            text = text.replace(f"{{path:{dataset.name}}}", options["path"])
    return text


# Steps PROBE and RECORD


def _probe(run: _Run, name: str) -> None:
    """Every service answers, and the reference query gets the register's own answer."""
    _, opened, progress = run.register(name)
    run_dir = run.folder / "run" / name
    for service in opened.annex.services:
        if service.kind != "process" or not service.port:
            continue
        label = Label(service.name)
        address = f"http://127.0.0.1:{progress.ports[service.name]}"
        if service.probe:
            wait_http(address + service.probe, PROBE_S, alive=lambda label=label: is_running(run_dir, label))  # type: ignore[misc]
        if service.query is not None:
            ask(address + service.query.path, service.query.expected(), PROBE_S)
    progress.answered = run.clock()
    progress.rto_s = (progress.answered - run.granted.decided) / 1e6
    progress.rpo_s = max(run.lost - progress.version_time, 0) / 1e6


def _record(run: _Run, name: str) -> None:
    """RTO and RPO become a fact in the new epoch's ledger."""
    register, opened, progress = run.register(name)
    epoch = run.view.epoch_chain(register).newest
    rule = run.rule(register)
    fact = Fact(
        register, epoch.number, progress.answered, Label("failover"), run.granted.warrant.digest,
        (
            f"version {progress.sequence} of {instant_text(progress.version_time)} answers at {run.place}",
            f"rto {progress.rto_s:.3f} s of {rule.rto_s} s, rpo {progress.rpo_s:.3f} s of {rule.rpo_s} s",
        ),
    )  # fmt: skip
    witnesses = {Label(w.label): w.url for w in opened.annex.witnesses}
    sites, outbox = run.sites_of(register), run.folder / "state" / f"{register}.outbox"
    settle_outbox(run.view, epoch, run.machine, sites=sites, now=run.clock(), outbox=outbox)
    entered = enter(
        run.view, epoch, run.machine, [fact.encode()], sites=sites, witnesses=witnesses, now=run.clock(), outbox=outbox
    )
    for label, why in (*entered.failed.items(), *entered.refused.items()):
        run.say(f"{name}: {label}: {why}")


def _report(run: _Run) -> FailoverReport:
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
    )


def served(folder: Path) -> tuple[ServedAt, ...]:
    """The services that run in an embassy's folder now."""
    found: list[ServedAt] = []
    for name in sorted(_read_progress(folder)):
        for process in running(folder / "run" / name):
            kind = "postgres" if process.stop_leader_only else "process"
            scheme = "postgresql" if kind == "postgres" else "http"
            address = f"{scheme}://127.0.0.1:{process.port}" if process.port else ""
            found.append(ServedAt(f"{name}/{process.name}", kind, process.pid, address))
    return tuple(found)


def stop_all(folder: Path) -> tuple[str, ...]:
    """Stops every service of an embassy's folder, the last started register first; names of those that ran."""
    progress = _read_progress(folder)
    if not progress:
        raise UsageError(f"no failover was made in {folder}")
    stopped: list[str] = []
    for name in reversed(sorted(progress)):
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
    return tuple(_read_progress(folder).values())


def require_running(folder: Path) -> None:
    """``ServiceFailed`` naming what should run in ``folder`` and does not."""
    for name, progress in _read_progress(folder).items():
        alive = {p.name for p in running(folder / "run" / name)}
        dead = [service for service in progress.ports if service not in alive]
        if dead and Step.START in progress.done:
            raise ServiceFailed(f"{name}: not running: {', '.join(dead)}")

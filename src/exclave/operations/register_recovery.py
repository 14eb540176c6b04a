"""The further steps of a failover: restore a register, start its services, probe them, enter it into the ledger."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from exclave.errors import CorruptObject, IntegrityError, MalformedError
from exclave.formats.annex import Annex, AnnexService
from exclave.formats.fact import Fact
from exclave.formats.manifest import Root
from exclave.ids import Instant, Label, instant_text
from exclave.operations.exile import dataset_folder
from exclave.operations.failover_run import RegisterProgress, Run, options_of, port_of, socket_dir_of
from exclave.operations.home import Home
from exclave.operations.identity_moved import identity_facts
from exclave.operations.identity_place import DECIDES_PATH, LIVE_PATH, is_served, login_port, settle_place
from exclave.operations.identity_return import move_authority
from exclave.operations.ledger_entry import enter, settle_outbox
from exclave.operations.records import has_records
from exclave.operations.restore import Restored, open_version, restore_version
from exclave.registers.contract import DatasetDigest
from exclave.registers.postgres_binaries import find_postgres
from exclave.registers.postgres_digest import postgres_digest
from exclave.registers.postgres_restore import prepare_restored
from exclave.registers.postgres_source import PostgresSource
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.runners.postgres import start_postgres
from exclave.runners.probe import wait_http
from exclave.runners.process import ServiceSpec, is_running, start
from exclave.runners.query import ask
from exclave.runners.unprivileged import reachable_binaries, unprivileged_user
from exclave.vault.seed import collect_seeds

PROBE_S = 60.0


def restore_register(run: Run, name: str) -> None:
    """The latest version that counts, or the one that was asked for: beside its place, and moved there once whole."""
    register, opened, progress = run.register(name)
    history = run.history(register)
    version = run.choose(history)
    try:
        reader, root = open_version(run.view.state, run.sites_of(register), opened, version)
    except (IntegrityError, MalformedError) as error:
        raise CorruptObject(
            f"version {version.leaf.sequence} of {name} does not open: {error.message}",
            hint=f"Find out who entered it; to restore one before it, say --version {name}=N.",
        ) from error
    target = run.folder / "registers" / name
    partial = run.folder / "registers" / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that died
    shutil.rmtree(target, ignore_errors=True)
    with collect_seeds(reader, Home.open(run.folder).cache(register)):
        restored = restore_version(
            reader, root, partial, compare=True,
            progress=lambda dataset, entries, size: run.say(f"{name}: {dataset}: {entries} entries, {size >> 20} MiB"),
        )  # fmt: skip
    for dataset in opened.annex.datasets:
        if dataset.kind == "identity":
            move_authority(run, name, partial / dataset.name)
    partial.rename(target)
    progress.sequence, progress.version_time = root.sequence, Instant(root.time)
    progress.faults = restored.faults
    progress.datasets = [_compared(run, name, root, restored, i) for i in range(len(restored.datasets))]


def _compared(run: Run, name: str, root: Root, restored: Restored, at: int) -> dict[str, Any]:
    """A dataset's digests; PostgreSQL's is computed once the server runs."""
    dataset, found = root.datasets[at], restored.datasets[at]
    here = found.digest_restored
    rows = dict(dataset.rows)
    if dataset.kind == "sqlite":
        options = options_of(run, run.opened[run.progress[name].register_id].annex, dataset.label)
        digest = sqlite_digest(Path(options["path"]))
        here, rows = digest.value, dict(digest.rows)
        _require_same(name, dataset.label, dataset.digest, dataset.digest_exact, digest)
    return {
        "name": dataset.label, "kind": dataset.kind, "entries": dataset.entries, "bytes": dataset.bytes,
        "digest_home": dataset.digest, "digest_exact": dataset.digest_exact, "digest_embassy": here,
        "rows_home": dict(dataset.rows), "rows_embassy": rows,
        "unrestored": found.unrestored, "unrestored_first": list(found.unrestored_first),
        "records": has_records(dataset),
    }  # fmt: skip


def _require_same(register: str, dataset: str, captured: str, exact: bool, found: DatasetDigest) -> None:
    if captured and exact and found.value != captured:
        raise CorruptObject(f"{register}: {dataset} was restored, but its content differs from what was captured")


def start_register(run: Run, name: str) -> None:
    """The register's services, and each database compared with what was captured, before anybody writes to it."""
    _, opened, progress = run.register(name)
    start_services(run, name)
    for dataset in opened.annex.datasets:
        if dataset.kind == "postgres":
            _compare_postgres(run, opened.annex, dataset.name, progress)


def start_services(run: Run, name: str) -> None:
    """The register's services in the order of its annex; those that run already are left running."""
    annex = run.register(name)[1].annex
    run_dir = run.folder / "run" / name
    for service in annex.services:
        port_of(run, name, service)
    # Before anything listens: a restart finds a service that runs already at the port that is written down.
    run.save()
    for service in annex.services:
        if is_running(run_dir, Label(service.name)):
            continue
        if service.kind == "postgres":
            _start_postgres(run, annex, service, run_dir)
        elif service.kind == "identity":
            _start_identity(run, annex, service, run_dir)
        else:
            _start_process(run, annex, service, run_dir)


def _start_postgres(run: Run, annex: Annex, service: AnnexService, run_dir: Path) -> None:
    data = dataset_folder(run.folder, annex.name, service.dataset)
    account = unprivileged_user()
    socket_dir = socket_dir_of(run, annex.name)
    port = port_of(run, annex.name, service)
    prepared = prepare_restored(
        data, port=port, socket_dir=socket_dir, owner=(account.uid, account.gid) if account else None,
        trust_socket=True, binaries=_binaries_of(data),
    )  # fmt: skip
    bindir = reachable_binaries(prepared.binaries.bindir, account, run.folder / "run" / "postgres")
    start_postgres(bindir, data, run_dir, name=Label(service.name), port=port, socket_dir=socket_dir, account=account)


def _start_identity(run: Run, annex: Annex, service: AnnexService, run_dir: Path) -> None:
    """The place's identity services; those that stood by go on, and see by themselves that they decide now."""
    settle_place(run, annex)
    if is_served(run.identity):
        run.say(f"{annex.name}: the identity services that stood by go on")
        return
    argv = (sys.executable, "-m", "exclave.cli.main", "serve", "identity", "--dir", str(run.identity))
    start(ServiceSpec(Label(service.name), argv, run.folder, {}, login_port(run.identity), LIVE_PATH), run_dir)


def _binaries_of(pgdata: Path) -> Any:
    try:
        major = int((pgdata / "PG_VERSION").read_text().strip())
    except (OSError, ValueError) as error:
        raise CorruptObject(f"{pgdata} is not a PostgreSQL data folder") from error
    return find_postgres(major, need=("postgres", "pg_verifybackup"))


def _compare_postgres(run: Run, annex: Annex, dataset: str, progress: RegisterProgress) -> None:
    options = options_of(run, annex, dataset)
    source = PostgresSource(options["host"], int(options["port"]), options["user"], options["dbname"])
    found = postgres_digest(source)
    for item in progress.datasets:
        if item["name"] == dataset:
            item["digest_embassy"], item["rows_embassy"] = found.value, dict(found.rows)
            _require_same(annex.name, dataset, item["digest_home"], item["digest_exact"], found)


def _start_process(run: Run, annex: Annex, service: AnnexService, run_dir: Path) -> None:
    port = port_of(run, annex.name, service)
    argv = tuple(_filled(run, annex, part, port) for part in service.argv)
    cwd = dataset_folder(run.folder, annex.name, service.dataset) if service.dataset else run.folder
    start(
        ServiceSpec(
            Label(service.name), argv, cwd, {k: _filled(run, annex, v, port) for k, v in service.env.items()}, port,
            service.probe,
        ),
        run_dir,
    )  # fmt: skip


def _filled(run: Run, annex: Annex, text: str, port: int) -> str:
    """``text`` with {python}, {port}, {folder:DATASET}, {path:DATASET} and {dsn:DATASET} filled in."""
    text = text.replace("{python}", sys.executable).replace("{port}", str(port))
    for dataset in annex.datasets:
        options = options_of(run, annex, dataset.name)
        text = text.replace(f"{{folder:{dataset.name}}}", str(dataset_folder(run.folder, annex.name, dataset.name)))
        if dataset.kind == "postgres":
            dsn = " ".join(f"{k}={options[k]}" for k in ("host", "port", "user", "dbname"))
            text = text.replace(f"{{dsn:{dataset.name}}}", dsn)
        else:
            text = text.replace(f"{{path:{dataset.name}}}", options["path"])
    return text


def probe_register(run: Run, name: str) -> None:
    """The register answers: its RTO and RPO are known."""
    progress = run.register(name)[2]
    wait_for_answers(run, name)
    progress.answered = run.clock()
    progress.rto_s = (progress.answered - run.granted.decided) / 1e6
    progress.rpo_s = max(run.lost - progress.version_time, 0) / 1e6


def wait_for_answers(run: Run, name: str) -> None:
    """Every service answers, and the reference query gets the register's own answer; ``ServiceFailed`` otherwise."""
    _, opened, progress = run.register(name)
    run_dir = run.folder / "run" / name
    for service in opened.annex.services:
        if service.kind == "identity":
            state = f"http://127.0.0.1:{login_port(run.identity)}{DECIDES_PATH}"
            epoch = run.view.epoch_chain(run.register(name)[0]).newest.number
            ask(state, {"epoch": epoch}, PROBE_S)
        if service.kind != "process" or not service.port:
            continue
        label = Label(service.name)
        address = f"http://127.0.0.1:{progress.ports[service.name]}"
        if service.probe:
            wait_http(address + service.probe, PROBE_S, alive=lambda label=label: is_running(run_dir, label))  # type: ignore[misc]
        if service.query is not None:
            ask(address + service.query.path, service.query.expected(), PROBE_S)


def record_register(run: Run, name: str) -> None:
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
    facts = [fact.encode(), *identity_facts(run, name)]
    entered = enter(
        run.view, epoch, run.machine, facts, sites=sites, witnesses=witnesses, now=run.clock(), outbox=outbox
    )
    for label, why in (*entered.failed.items(), *entered.refused.items()):
        run.say(f"{name}: {label}: {why}")

"""A PostgreSQL server of our own on a given data folder: foreground program, loopback and a socket, stopped fast."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from exclave.errors import ServiceFailed, UsageError
from exclave.ids import Label
from exclave.runners.probe import postgres_accepts
from exclave.runners.process import Running, ServiceSpec, is_running, log_tail, start, stop, wait_until
from exclave.runners.unprivileged import Account, check_reachable, own_tree

_MAX_SOCKET_NAME = 107  # struct sockaddr_un, unix(7)
_LEFTOVER_S = 5.0
_LEFTOVERS = (
    "is still in use",  # shared memory of a killed postmaster whose children live on
    "postmaster.pid",
    "Address already in use",
)


def initdb(
    bindir: Path, pgdata: Path, *, account: Account | None, superuser: str = "postgres", password: str | None = None
) -> None:
    """A new cluster in ``pgdata``: UTF-8, C.UTF-8, page checksums, scram-sha-256.

    Without ``password`` log-in is trusted on the socket alone, and TCP needs a password that nobody has yet.
    """
    pgdata.mkdir(mode=0o700, parents=True, exist_ok=True)
    if account is not None:
        own_tree(pgdata, account)
    check_reachable(pgdata, account)
    argv = [
        str(bindir / "initdb"), "-D", str(pgdata), "-U", superuser, "-E", "UTF8", "--locale=C.UTF-8",
        "--data-checksums", "--no-sync", "--no-instructions", "--auth-host=scram-sha-256",
        f"--auth-local={'scram-sha-256' if password else 'trust'}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if password is not None:
            secret = Path(folder) / "password"
            secret.write_text(password + "\n", encoding="utf-8")
            secret.chmod(0o600)
            if account is not None:
                own_tree(Path(folder), account)
            argv.append(f"--pwfile={secret}")
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(),
            cwd=pgdata,
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-5:]
        raise ServiceFailed(f"initdb failed in {pgdata}", hint="\n".join(last))


def start_postgres(
    bindir: Path,
    pgdata: Path,
    run_dir: Path,
    *,
    name: Label,
    port: int,
    socket_dir: Path,
    account: Account | None,
    settings: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
) -> Running:
    """Starts the server and returns once it takes connections on 127.0.0.1:``port`` and on ``socket_dir``.

    ``settings`` win over everything in the data folder. A start that only fails because a former, killed server's
    processes are still going away is repeated for 5 s. ``ServiceFailed`` carries the log's last lines as its hint;
    nothing is left running then. Recovery from a backup counts towards ``timeout_s``.
    """
    _prepare_socket_dir(socket_dir, port, account)
    check_reachable(pgdata, account)
    spec = ServiceSpec(
        name=name,
        argv=(str(bindir / "postgres"), *_arguments(pgdata, port, socket_dir, settings or {})),
        cwd=pgdata.absolute(),
        env=_environment(),
        port=port,
        user=account.name if account else None,
        stop_signal="int",  # fast shutdown; to the first process alone, which ends the others in order
        stop_leader_only=True,
    )
    deadline = time.monotonic() + timeout_s
    leftover_deadline = time.monotonic() + _LEFTOVER_S
    while True:
        running = start(spec, run_dir)
        if _came_up(running, run_dir, socket_dir, deadline):
            return running
        ended = not is_running(run_dir, name)
        stop(run_dir, name, grace_s=5.0)
        said = log_tail(running.log)
        leftover = any(mark in log_tail(running.log, 3) for mark in _LEFTOVERS)
        if not (ended and leftover and time.monotonic() < min(leftover_deadline, deadline)):
            problem = "ended at once" if ended else f"took no connection within {timeout_s:g} s"
            raise ServiceFailed(f"the PostgreSQL server {name} {problem}", hint=said, service=name)
        time.sleep(0.2)


def stop_postgres(run_dir: Path, name: Label, grace_s: float = 20.0) -> bool:
    """Fast shutdown, SIGKILL after ``grace_s`` seconds; False if it was not running."""
    return stop(run_dir, name, grace_s)


def _prepare_socket_dir(socket_dir: Path, port: int, account: Account | None) -> None:
    """A new folder is made for the server's user alone; one that is there stays as it is."""
    name = f"{socket_dir.absolute()}/.s.PGSQL.{port}"
    if len(os.fsencode(name)) > _MAX_SOCKET_NAME:
        raise UsageError(f"the socket's name would be longer than {_MAX_SOCKET_NAME} bytes: {name}")
    if not socket_dir.exists():
        socket_dir.mkdir(mode=0o700, parents=True)
        if account is not None:
            os.chown(socket_dir, account.uid, account.gid)
    check_reachable(socket_dir, account)


def _came_up(running: Running, run_dir: Path, socket_dir: Path, deadline: float) -> bool:
    def settled() -> bool:
        return postgres_accepts(str(socket_dir.absolute()), running.port) or not is_running(run_dir, running.name)

    return wait_until(settled, deadline - time.monotonic()) and is_running(run_dir, running.name)


def _arguments(pgdata: Path, port: int, socket_dir: Path, settings: Mapping[str, str]) -> list[str]:
    folder = pgdata.absolute()
    chosen = {
        "data_directory": str(folder),  # a restored postgresql.conf may name the folder it had at home
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(socket_dir.absolute()),
        "logging_collector": "off",
        "log_destination": "stderr",
        "external_pid_file": "",
        **settings,
    }
    return ["-D", str(folder), *(part for key, value in chosen.items() for part in ("-c", f"{key}={value}"))]


def _environment() -> dict[str, str]:
    """Never with LD_LIBRARY_PATH: the programs know where their own libraries are."""
    keep = {key: os.environ[key] for key in ("TZ", "ICU_DATA") if key in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", **keep}

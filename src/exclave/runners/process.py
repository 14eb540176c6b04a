"""Services as local processes: started once, found again after a restart of Exclave, never mistaken for another.

A run folder holds, for each service, ``NAME.run`` (which process it is) and ``NAME.log`` (what it said).

Starting takes these steps, so that no process can live without its record:

(1) a shell is started as the service's user, in a session of its own; it waits for one line on its standard input;
(2) ``NAME.run`` is written durably: number, start time and boot of that process;
(3) the line is sent, and the shell becomes the service (``exec``: same number, same start time).

If Exclave dies between (1) and (3) the shell reads the end of its input and ends. A record without a living process
means that the service is not running.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exclave.durable import replace_file
from exclave.errors import Busy, ConfigError, MalformedError, ServiceFailed, UsageError
from exclave.formats.lines import LineReader
from exclave.ids import Label, parse_count, parse_label, parse_positive
from exclave.runners.processes import ProcessStat, boot_id, group_members, process_stat, writes_to

_GATE = 'IFS= read -r go && [ "$go" = go ] || exit 125; exec "$@" </dev/null'
_POLL_S = 0.02
_HEADER = "exclave/run/v1"
_LIMIT = 4096
_SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT, "quit": signal.SIGQUIT}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Processes that this process started and so has to reap."""


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What to run.

    ``env`` is the whole environment (a default ``PATH`` is added). ``port`` is where it will listen on loopback, 0 if
    nowhere. ``user`` is an account to run as, None for the caller's own. ``stop_signal`` is ``term``, ``int`` or
    ``quit``, sent to the whole process group or, with ``stop_leader_only``, to the first process alone.
    """

    name: Label
    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    probe_path: str = ""
    user: str | None = None
    stop_signal: str = "term"
    stop_leader_only: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A service's process as its record names it; it lived when this was made."""

    name: Label
    pid: int
    started: int
    boot: str
    port: int
    stop_signal: str
    stop_leader_only: bool
    log: Path


def start(spec: ServiceSpec, run_dir: Path) -> Running:
    """Starts a service and returns at once; whether it works is a probe's question.

    ``Busy`` if it runs already. ``ServiceFailed`` if the program is not there or cannot be started,
    ``UsageError`` if this process may not become ``spec.user``.
    """
    _check(spec)
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_running(run_dir, spec.name):
        raise Busy(f"the service {spec.name} is running already", service=spec.name)
    log = _log_path(run_dir, spec.name)
    env = {"PATH": os.defpath, **spec.env}
    program = shutil.which(spec.argv[0], path=env["PATH"])
    if program is None:
        raise ServiceFailed(f"the service {spec.name} cannot start: there is no program {spec.argv[0]}")
    gate, child = _gated(spec, (program, *spec.argv[1:]), env, log)  # (1)
    _children[child.pid] = child
    try:
        stat = process_stat(child.pid)
        if stat is None:
            raise ServiceFailed(f"the service {spec.name} ended at once", hint=log_tail(log))
        running = Running(
            spec.name, child.pid, stat.started, boot_id(), spec.port, spec.stop_signal, spec.stop_leader_only, log
        )
        _write_record(run_dir, running)  # (2)
        os.write(gate, b"go\n")  # (3)
    except BrokenPipeError as error:
        raise ServiceFailed(f"the service {spec.name} ended at once", hint=log_tail(log)) from error
    finally:
        os.close(gate)  # without the line this ends the shell
    return running


def is_running(run_dir: Path, name: Label) -> bool:
    """True if the process that the record names lives."""
    record = _read_record(run_dir, name)
    return record is not None and _leader(record) is not None


def running(run_dir: Path) -> tuple[Running, ...]:
    """Every living service of a run folder, sorted by name."""
    if not run_dir.is_dir():
        return ()
    names = sorted(parse_label(path.name.removesuffix(".run")) for path in run_dir.glob("*.run"))
    records = (_read_record(run_dir, name) for name in names)
    return tuple(record for record in records if record is not None and _leader(record) is not None)


def stop(run_dir: Path, name: Label, grace_s: float = 10.0) -> bool:
    """Ends a service with all its processes; False if there was nothing to end.

    First its own signal, then after ``grace_s`` seconds SIGKILL. ``ServiceFailed`` if a process survives even that
    (a disk that does not answer). A process that only has the number of a former one is left alone.
    """
    record = _read_record(run_dir, name)
    if record is None:
        return False
    found = bool(_processes(record))
    if found:
        _signal(record, _SIGNALS[record.stop_signal], leader_only=record.stop_leader_only)
        if not wait_until(lambda: not _processes(record), grace_s):
            _signal(record, signal.SIGKILL, leader_only=False)
            if not wait_until(lambda: not _processes(record), 5.0):
                raise ServiceFailed(f"processes of the service {name} survived SIGKILL", service=name, pid=record.pid)
    # If we die before this line the record stays and names no living process, which says the same.
    _record_path(run_dir, name).unlink(missing_ok=True)
    return found


def log_tail(log: Path, lines: int = 15) -> str:
    """The log's last lines, at most 8 KiB; empty if there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 8192))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Polls every 20 ms until ``done()``; False if that was not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _check(spec: ServiceSpec) -> None:
    parse_label(spec.name)
    if not spec.argv or spec.stop_signal not in _SIGNALS:
        raise ConfigError(f"the service {spec.name} needs a command and a stop signal of {', '.join(_SIGNALS)}")
    for key, value in spec.env.items():
        if not _NAME.match(key) or "\0" in value:  # a shell drops other names
            raise ConfigError(f"the service {spec.name}: {key!r} is not the name of an environment variable")


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise UsageError(f"this machine has no account {user!r}") from error


def _gated(
    spec: ServiceSpec, argv: tuple[str, ...], env: dict[str, str], log: Path
) -> tuple[int, subprocess.Popen[bytes]]:
    """The shell of step (1), and the descriptor that its line goes into."""
    account = _account(spec.user) if spec.user is not None else None
    if account is not None and account.pw_uid == os.geteuid():
        account = None
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    entrance, gate = os.pipe()
    started = False
    try:
        child = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, str(spec.name), *argv],
            stdin=entrance,
            stdout=output,
            stderr=output,
            cwd=spec.cwd,
            env=env,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            umask=0o077,
        )
        started = True
    except PermissionError as error:
        raise UsageError(
            f"the service {spec.name} cannot run as {spec.user or 'this user'} in {spec.cwd}: {error.strerror}",
            hint="Only root may change the user; and that user must be able to enter the folder.",
        ) from error
    except OSError as error:
        raise ServiceFailed(f"the service {spec.name} cannot start: {error}") from error
    finally:
        os.close(output)
        os.close(entrance)
        if not started:
            os.close(gate)
    return gate, child


def _leader(record: Running) -> ProcessStat | None:
    """The recorded process if it lives and is the very same."""
    child = _children.get(record.pid)
    if child is not None and child.poll() is not None:
        del _children[record.pid]
    if record.boot != boot_id():
        return None
    found = process_stat(record.pid)
    return found if found is not None and found.started == record.started else None


def _processes(record: Running) -> list[ProcessStat]:
    """The recorded process and what lives of its group.

    While the leader lives the group is ours. Once it is dead and reaped its number could in theory lead another group:
    then only processes that write to this service's log count.
    """
    if record.boot != boot_id():
        return []
    leader = _leader(record)
    members = list(group_members(record.pid))
    if leader is not None:
        return [leader, *(m for m in members if m.pid != leader.pid)]
    return [m for m in members if m.started >= record.started and writes_to(m.pid, record.log)]


def _signal(record: Running, number: signal.Signals, *, leader_only: bool) -> None:
    try:
        if _leader(record) is None:
            for member in _processes(record):
                os.kill(member.pid, number)
        elif leader_only:
            os.kill(record.pid, number)
        else:
            os.killpg(record.pid, number)
    except ProcessLookupError:
        return  # it ended between the look and the signal


def _record_path(run_dir: Path, name: Label) -> Path:
    return run_dir / f"{name}.run"


def _log_path(run_dir: Path, name: Label) -> Path:
    return (run_dir / f"{name}.log").absolute()


def _encode(record: Running) -> str:
    scope = "leader" if record.stop_leader_only else "group"
    return (
        f"{_HEADER}\nservice {record.name}\nprocess {record.pid} {record.started} {record.boot}\n"
        f"port {record.port}\nstop {record.stop_signal} {scope}\n"
    )


def _parse(text: str, log: Path) -> Running:
    reader = LineReader(text, what="run record", limit=_LIMIT)
    reader.exactly(_HEADER)
    name = parse_label(reader.field("service"))
    pid, started, boot = reader.fields("process", 3)
    port = parse_count(reader.field("port"), limit=65535)
    signal_name, scope = reader.fields("stop", 2)
    if signal_name not in _SIGNALS:
        raise reader.fail("unknown signal")
    record = Running(
        name, parse_positive(pid, limit=1 << 22), parse_count(started), boot, port, signal_name, scope == "leader", log
    )
    if _encode(record) != text:
        raise MalformedError("run record: not in its canonical form")
    return record


def _write_record(run_dir: Path, record: Running) -> None:
    """A restart finds the former record or this one, never half of one; either names at most one process."""
    replace_file(_record_path(run_dir, record.name), _encode(record).encode())


def _read_record(run_dir: Path, name: Label) -> Running | None:
    path = _record_path(run_dir, name)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return _parse(text, _log_path(run_dir, name))

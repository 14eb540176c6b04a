"""Local processes: started once, found again, ended with all they started, never mistaken for another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from exclave.errors import Busy, ConfigError, MalformedError, ServiceFailed, UsageError
from exclave.ids import Label
from exclave.runners.ports import free_port
from exclave.runners.probe import wait_http
from exclave.runners.process import ServiceSpec, is_running, log_tail, running, start, stop, wait_until
from exclave.runners.processes import process_stat
from exclave.runners.unprivileged import unprivileged_user

NAME = Label("service")


def shell(script: str, cwd: Path, **options: object) -> ServiceSpec:
    return ServiceSpec(name=NAME, argv=("sh", "-c", script), cwd=cwd, **options)  # type: ignore[arg-type]


def within(done: Callable[[], bool], seconds: float = 10.0) -> None:
    assert wait_until(done, seconds)


def test_starts_says_and_ends(tmp_path: Path) -> None:
    """A service gets its own session, its environment and nothing else, and its words land in the log."""
    run = tmp_path / "run"
    spec = shell(
        'echo "out $WORD $HOME"; echo err >&2; cat; pwd; exec sleep 60', tmp_path, env={"WORD": "word"}, port=7
    )
    started = start(spec, run)
    within(lambda: str(tmp_path) in log_tail(started.log))
    assert started.log.read_text().splitlines() == ["out word ", "err", str(tmp_path)]
    assert started.log.stat().st_mode & 0o777 == 0o600
    assert running(run) == (started,)
    stat = process_stat(started.pid)
    assert stat is not None
    assert stat.session == stat.group == started.pid
    with pytest.raises(Busy):
        start(spec, run)
    assert stop(run, NAME)
    assert not is_running(run, NAME)
    assert running(run) == ()
    assert not stop(run, NAME)


def test_found_and_ended_by_another_process(tmp_path: Path) -> None:
    """What one Exclave process started, a later one finds by its record and ends, children included."""
    run = tmp_path / "run"
    script = (
        "import sys; from pathlib import Path; from exclave.ids import Label; from exclave.runners.process import *\n"
        "cwd, run = map(Path, sys.argv[1:])\n"
        "start(ServiceSpec(Label('service'), ('sh', '-c', 'sleep 61 & echo $!; wait'), cwd), run)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path), str(run)], check=True, env=env)
    (found,) = running(run)
    within(lambda: log_tail(found.log) != "")
    child = int(log_tail(found.log))
    assert process_stat(child) is not None
    assert stop(run, NAME)
    assert process_stat(child) is None
    assert process_stat(found.pid) is None


def test_stubborn_service_is_killed(tmp_path: Path) -> None:
    """A service that ignores SIGTERM is gone after its grace."""
    started = start(shell("trap '' TERM; echo ready; while :; do sleep 0.05; done", tmp_path), tmp_path)
    within(lambda: "ready" in log_tail(started.log))
    begun = time.monotonic()
    assert stop(tmp_path, NAME, grace_s=0.2)
    assert 0.2 <= time.monotonic() - begun < 5
    assert process_stat(started.pid) is None


def test_children_of_a_dead_leader_are_ended(tmp_path: Path) -> None:
    """If only the first process died, what it left behind is still found by its log and ended."""
    started = start(shell("sleep 62 & echo $!; exit 0", tmp_path), tmp_path)
    within(lambda: not is_running(tmp_path, NAME) and log_tail(started.log) != "")
    child = int(log_tail(started.log))
    assert process_stat(child) is not None
    assert stop(tmp_path, NAME)
    assert process_stat(child) is None


def test_reused_number_is_left_alone(tmp_path: Path) -> None:
    """A record whose number now belongs to another process, or is of a former boot, ends nobody."""
    start(shell("exec sleep 63", tmp_path), tmp_path)
    record = tmp_path / "service.run"
    text = record.read_text()
    stop(tmp_path, NAME)
    with subprocess.Popen(["sleep", "64"], start_new_session=True) as other:
        stat = process_stat(other.pid)
        assert stat is not None
        boot = text.split()[6]
        for line in (f"{other.pid} {stat.started + 1} {boot}", f"{other.pid} {stat.started} another-boot"):
            record.write_text(text.replace(" ".join(text.split()[4:7]), line))
            assert not is_running(tmp_path, NAME)
            assert running(tmp_path) == ()
            assert not stop(tmp_path, NAME)
            assert other.poll() is None
        other.kill()


def test_death_before_the_record_leaves_no_process(tmp_path: Path) -> None:
    """If Exclave dies between making the process and recording it, the service never runs."""
    script = (
        "import os, sys; from pathlib import Path; from exclave.ids import Label; from exclave.runners import process\n"
        "cwd = Path(sys.argv[1]); process._write_record = lambda *_: os._exit(9)\n"
        "process.start(process.ServiceSpec(Label('service'), ('sh', '-c', 'echo started; sleep 65'), cwd), cwd)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, env=env)
    assert done.returncode == 9
    assert running(tmp_path) == ()

    def gone() -> bool:
        lines = (p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())
        return not any(str(tmp_path).encode() in line or b"echo started; sleep 65" in line for line in lines)

    within(gone)
    assert log_tail(tmp_path / "service.log") == ""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"argv": ("no-such-program",)}, ServiceFailed),
        ({"argv": ()}, ConfigError),
        ({"env": {"not a name": "x"}}, ConfigError),
        ({"user": "no-such-user"}, UsageError),
        ({"stop_signal": "hup"}, ConfigError),
        ({"cwd": Path("/no/such/folder")}, ServiceFailed),
    ],
)
def test_impossible_services(tmp_path: Path, change: dict[str, object], error: type[Exception]) -> None:
    """What cannot run is refused before anything runs, and leaves no record."""
    with pytest.raises(error):
        start(replace(shell("exit", tmp_path), **change), tmp_path)  # type: ignore[arg-type]
    assert running(tmp_path) == ()


def test_damaged_record_is_refused(tmp_path: Path) -> None:
    """A record that is not just as it was written is not acted upon."""
    start(shell("exec sleep 66", tmp_path), tmp_path)
    record = tmp_path / "service.run"
    text = record.read_text()
    for damaged in (text + "\n", text.replace("port 0", "port 00"), text[:-1], text.replace("group", "all")):
        record.write_text(damaged)
        with pytest.raises(MalformedError):
            stop(tmp_path, NAME)
    record.write_text(text)
    assert stop(tmp_path, NAME)


def test_runs_as_another_user(tmp_path: Path) -> None:
    """Root starts a service as an account without rights, with none of root's groups."""
    account = unprivileged_user()
    user = account.name if account else None
    started = start(shell("id -u; id -G", tmp_path, user=user), tmp_path)
    within(lambda: len(log_tail(started.log).splitlines()) == 2)
    uid, groups = log_tail(started.log).splitlines()
    assert int(uid) == (account.uid if account else os.getuid())
    if account:
        assert groups == str(account.gid)
    stop(tmp_path, NAME)


def test_leader_only_signal(tmp_path: Path) -> None:
    """A service that ends its own children in order gets its signal alone."""
    child = "(trap 'echo child-int' INT; while :; do sleep 0.02; done)"
    script = f"trap 'echo int; kill $child; exit' INT; {child} & child=$!; echo up; while :; do sleep 0.02; done"
    started = start(shell(script, tmp_path, stop_signal="int", stop_leader_only=True), tmp_path)
    within(lambda: "up" in log_tail(started.log))
    assert stop(tmp_path, NAME, grace_s=10.0)
    assert log_tail(started.log).splitlines() == ["up", "int"]


class _Slow(BaseHTTPRequestHandler):
    calls = 0

    def do_GET(self) -> None:
        type(self).calls += 1
        self.send_response({"/late": 200 if type(self).calls > 3 else 503, "/moved": 302}.get(self.path, 404))
        self.send_header("Location", "/late")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_http_probe() -> None:
    """The probe waits for a good answer, does not follow redirects, gives up in time and stays on this machine."""
    with HTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert wait_http(url + "/late", 5.0).status_code == 200
        assert _Slow.calls == 4
        assert wait_http(url + "/moved", 5.0, accepts=lambda status: status == 302).status_code == 302
        with pytest.raises(ServiceFailed, match="status 404"):
            wait_http(url + "/none", 0.2)
        server.shutdown()
    with pytest.raises(ServiceFailed, match="ended before"):
        wait_http(f"http://127.0.0.1:{free_port()}/", 30.0, alive=lambda: False)
    with pytest.raises(ServiceFailed):
        wait_http(f"http://127.0.0.1:{free_port()}/", 0.2)
    with pytest.raises(UsageError):
        wait_http("http://192.0.2.1/", 1.0)


def test_killed_service_is_seen_dead_at_once(tmp_path: Path) -> None:
    """A service killed from outside does not count as running while it waits to be reaped."""
    started = start(shell("exec sleep 68", tmp_path), tmp_path)
    os.kill(started.pid, signal.SIGKILL)
    within(lambda: not is_running(tmp_path, NAME), 2.0)
    assert not stop(tmp_path, NAME)

"""The status service in several processes on one port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.errors import ConfigError
from exclave.serve.ocsp import Listen
from exclave.serve.ocsp_workers import run_ocsp_workers

TESTS = Path(__file__).parent.parent


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    request = tmp_path / "request"
    command = [sys.executable, TESTS / "support" / "ocsp_workers_process.py", str(port), request]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(TESTS)}, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield process, port, request
    finally:
        for pid in (*(children(process.pid) if process.poll() is None else ()), process.pid):
            if process.poll() is None:
                os.kill(pid, signal.SIGKILL)
        process.wait()


def asked(port: int, request: Path) -> int:
    wanted = urllib.request.Request(
        f"http://127.0.0.1:{port}/", request.read_bytes(), {"Content-Type": "application/ocsp-request"}
    )
    return len(urllib.request.urlopen(wanted, timeout=10).read())


def test_two_processes_answer_and_stop_together(service: tuple[subprocess.Popen[bytes], int, Path]) -> None:
    """Both take connections; SIGTERM to the parent ends all with status 0."""
    process, port, request = service
    assert all(asked(port, request) > 100 for _ in range(30))
    assert len(children(process.pid)) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_one_that_dies_takes_the_others_along(service: tuple[subprocess.Popen[bytes], int, Path]) -> None:
    """So that whatever supervises them starts all again; half a service is not left behind."""
    process, _, _ = service
    pids = children(process.pid)
    os.kill(pids[0], signal.SIGKILL)
    assert process.wait(10) != 0
    assert process.stderr is not None
    assert b"ended by itself" in process.stderr.read()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_they_need_one_port() -> None:
    """Port 0 would give each its own."""
    with pytest.raises(ConfigError):
        run_ocsp_workers(lambda: pytest.fail("not reached"), Listen("127.0.0.1", 0), 2)

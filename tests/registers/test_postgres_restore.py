"""Preparing a restored data folder: checks, interrupted and repeated calls, missing configuration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.errors import CorruptObject, MissingObject, SourceUnavailable, UsageError
from exclave.ids import now
from exclave.registers import postgres_restore
from exclave.registers.postgres import PostgresCapture
from exclave.registers.postgres_digest import postgres_digest
from exclave.registers.postgres_restore import Prepared, prepare_restored
from exclave.runners.postgres import initdb
from support.captured import write_items
from support.postgres import Server, binaries_of, make_server, open_folder, running_server


@pytest.fixture(scope="module")
def captured() -> Iterator[Path]:
    """A base backup on disk, never touched; tests copy it."""
    with running_server(15) as server, open_folder() as folder:
        server.run("CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 1000) g")
        with PostgresCapture(server.source(), now) as capture:
            write_items(capture.items(), folder / "data")
        yield folder / "data"


@pytest.fixture
def copy(captured: Path) -> Iterator[Server]:
    """A server whose data folder is that backup, not yet prepared."""
    with open_folder() as folder:
        server = make_server(folder, 15)
        shutil.copytree(captured, server.pgdata)
        yield server
        server.stop()


def prepare(server: Server, **options: object) -> Prepared:
    owner = (server.account.uid, server.account.gid) if server.account else None
    chosen = {"port": server.port, "socket_dir": server.socket_dir, "owner": owner, "trust_socket": True} | options
    return prepare_restored(server.pgdata, **chosen)  # type: ignore[arg-type]


def test_changed_file_is_found(copy: Server) -> None:
    """One flipped bit in a table is found by PostgreSQL's own check, and nothing is prepared."""
    victim = max((p for p in (copy.pgdata / "base").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(CorruptObject):
        prepare(copy)
    assert not copy.pgdata.with_name(copy.pgdata.name + ".verified").exists()


@pytest.mark.parametrize("missing", ["backup_label", "backup_manifest", "PG_VERSION"])
def test_incomplete_backup_is_refused(copy: Server, missing: str) -> None:
    """Without its label a copy would start damaged; without its manifest it cannot be checked."""
    (copy.pgdata / missing).unlink()
    with pytest.raises(MissingObject):
        prepare(copy)


def test_lost_log_segment_is_found(copy: Server) -> None:
    """A missing part of the write-ahead log is found before the server starts."""
    next((copy.pgdata / "pg_wal").glob("0*")).unlink()
    with pytest.raises(CorruptObject):
        prepare(copy)


@pytest.mark.parametrize("writes", range(5))
def test_interrupted_call_is_completed_by_the_next(copy: Server, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """A call that dies before its n-th file leaves a folder that the next call checks again and completes."""
    left = [writes]

    def dying(file: Path, text: str) -> None:
        if left[0] == 0:
            file.with_name(file.name + ".exclave-new").write_text("half of")
            raise KeyboardInterrupt
        left[0] -= 1
        real(file, text)

    real = postgres_restore._write
    monkeypatch.setattr(postgres_restore, "_write", dying)
    died = False
    try:
        prepare(copy)
    except KeyboardInterrupt:
        died = True
    assert died == (writes < 3)
    monkeypatch.setattr(postgres_restore, "_write", real)
    assert prepare(copy).verified
    copy.start()
    assert copy.run("SELECT count(*) FROM t") == [(1000,)]


def test_call_after_the_server_ran_changes_settings_only(copy: Server) -> None:
    """A second call, after a start and ALTER SYSTEM, moves the port and keeps the data and the setting."""
    assert prepare(copy).verified
    copy.start()
    copy.run("ALTER SYSTEM SET cluster_name = 'exile'", "INSERT INTO t VALUES (0, 'new')")
    copy.stop()
    assert prepare(copy, settings={"work_mem": "7MB"}).verified
    copy.start()
    assert copy.run("SHOW work_mem") == [("7MB",)]
    assert copy.run("SHOW cluster_name") == [("exile",)]
    assert copy.run("SELECT count(*) FROM t") == [(1001,)]


def test_stale_pid_and_standby_files_are_removed(copy: Server) -> None:
    """What the server at home left in its folder does not keep the copy from starting, nor make it a standby."""
    (copy.pgdata / "postmaster.pid").write_text("1\n")
    (copy.pgdata / "standby.signal").write_text("")
    with pytest.raises(CorruptObject, match=r"postmaster\.pid"):  # not in the manifest: it was put there afterwards
        prepare(copy)
    (copy.pgdata / "postmaster.pid").unlink()
    prepare(copy)
    copy.start()
    assert copy.run("SELECT pg_is_in_recovery()") == [(False,)]


def test_trust_needs_a_closed_socket_folder(copy: Server) -> None:
    """Log-in without password is only set up behind a folder that nobody else can enter."""
    copy.socket_dir.mkdir()
    copy.socket_dir.chmod(0o755)
    with pytest.raises(UsageError, match="open to others"):
        prepare(copy)


def test_other_version_is_refused(copy: Server) -> None:
    """A copy of PostgreSQL 15 is not started with the programs of 17."""
    with pytest.raises(SourceUnavailable, match="here is only 17"):
        prepare(copy, binaries=binaries_of(17))


def test_configuration_outside_the_data_folder_is_replaced() -> None:
    """Debian keeps configuration in /etc: the copy gets its own, with limits as high as home's, and starts."""
    with open_folder() as folder:
        home = make_server(folder, 15)
        initdb(home.bindir, home.pgdata, account=home.account)
        etc = folder / "etc"
        etc.mkdir()
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            shutil.move(home.pgdata / name, etc / name)
        if home.account:
            for path in (etc, *etc.iterdir()):
                os.chown(path, home.account.uid, home.account.gid)
        with (etc / "postgresql.conf").open("a") as stream:
            stream.write("max_prepared_transactions = 7\n")
        home.settings = {
            "config_file": str(etc / "postgresql.conf"),
            "hba_file": str(etc / "pg_hba.conf"),
            "ident_file": str(etc / "pg_ident.conf"),
        }
        home.start()
        try:
            home.run("CREATE TABLE t (v int)", "BEGIN", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'open'")
            with open_folder() as other, PostgresCapture(home.source(), now) as capture:
                copy = make_server(other, 15)
                write_items(capture.items(), copy.pgdata)
                found = capture.digest()
                prepare(copy)
                copy.start()
                try:
                    assert found is not None
                    assert not found.exact  # a prepared transaction is open
                    assert postgres_digest(copy.source()).value == found.value
                    assert copy.run("COMMIT PREPARED 'open'", "SELECT count(*) FROM t") == [(1,)]
                    assert copy.run("SHOW max_prepared_transactions") == [("7",)]
                finally:
                    copy.stop()
        finally:
            home.stop()

"""Base backups of real servers: captured as a stream, restored, started, compared."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from exclave.errors import Bug, ConfigError, KeyFileExposed, SourceUnavailable
from exclave.formats.entry import Kind, walk_order
from exclave.ids import now
from exclave.registers.postgres import PostgresCapture
from exclave.registers.postgres_digest import postgres_digest
from exclave.registers.postgres_restore import prepare_restored
from exclave.registers.postgres_source import PostgresSource, postgres_source, unavailable
from exclave.runners.postgres import initdb
from exclave.runners.unprivileged import unprivileged_user
from support.captured import write_items
from support.postgres import MAJORS, ORDERS, Server, binaries_of, is_root, make_server, open_folder, running_server
from support.postgres import writer_thread as writing


@pytest.fixture(scope="module", params=MAJORS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a few tables of many kinds, for tests that only read it."""
    with running_server(request.param, max_prepared_transactions="3") as running:
        running.run(
            *ORDERS,
            "INSERT INTO orders SELECT g, md5(g::text) FROM generate_series(1, 20000) g",
            "INSERT INTO order_lines SELECT id, 1, what FROM orders",
            "CREATE ROLE archive LOGIN REPLICATION",
            "GRANT pg_read_all_data TO archive",
            "CREATE ROLE reader LOGIN",
            "CREATE ROLE guarded LOGIN REPLICATION PASSWORD 'ö secret'",
        )
        yield running


def restored(items: PostgresCapture, folder: Path, major: int, **settings: str) -> Server:
    """The capture's items in a new server's data folder, checked, prepared and started."""
    copy = make_server(folder, major, **settings)
    write_items(items.items(), copy.pgdata)
    owner = (copy.account.uid, copy.account.gid) if copy.account else None
    prepared = prepare_restored(copy.pgdata, port=copy.port, socket_dir=copy.socket_dir, owner=owner, trust_socket=True)
    assert prepared.verified
    copy.start()
    return copy


def test_captured_server_starts_again_and_says_the_same(server: Server) -> None:
    """A quiet server's copy passes PostgreSQL's own check, starts, and has the exact digest that was captured."""
    before = now()
    with open_folder() as folder, PostgresCapture(server.source("archive"), now) as capture:
        copy = restored(capture, folder, server.binaries.major)
        try:
            found = capture.digest()
            assert found is not None
            assert found.exact
            assert dict(found.rows)["public.orders"] == 20000
            assert postgres_digest(copy.source()) == found
            assert before <= capture.captured_at <= now()
            assert int(capture.facts["pg_version_num"]) // 10000 == server.binaries.major
            assert capture.facts["server_encoding"] == "UTF8"
            assert set(capture.facts) >= {"start_lsn", "stop_lsn", "timeline", "system_identifier"}
            assert copy.run("SELECT pg_is_in_recovery()") == [(False,)]
        finally:
            copy.stop()


def test_items_are_a_tree_with_the_root_first(server: Server) -> None:
    """Every path comes once, after its folder, and the write-ahead log is among them."""
    with PostgresCapture(server.source(), now, with_digest=False) as capture:
        entries = [item.entry for item in capture.items()]
        assert capture.digest() is None
    assert entries[0].path == b""
    assert entries[0].mode == 0o700
    known: set[tuple[bytes, ...]] = set()
    for entry in entries:
        key = walk_order(entry.path)
        assert key not in known
        assert key[:-1] in known or len(key) <= 1
        assert entry.uid == entries[0].uid != 0
        if entry.kind == Kind.FOLDER:
            known.add(key)
    assert any(e.path.startswith(b"pg_wal/0") and e.size == 16 << 20 for e in entries)
    assert entries[-1].path == b"backup_manifest"


@pytest.mark.parametrize("major", MAJORS)
def test_copy_of_a_busy_server_is_consistent(major: int) -> None:
    """Under a writer, every order confirmed before ``captured_at`` is in the copy, and no line lacks its order."""
    with running_server(major) as server, open_folder() as folder:
        server.run(*ORDERS, "CREATE TABLE bulk AS SELECT g, repeat(md5(g::text), 4) t FROM generate_series(1, 60000) g")
        with writing(server) as confirmed, PostgresCapture(server.source(), now) as capture:
            while len(confirmed) < 50:
                time.sleep(0.005)
            seen: list[tuple[int, int]] = []

            def clock() -> int:
                seen.append((now(), len(confirmed)))
                return seen[-1][0]

            capture._clock = clock
            copy = restored(capture, folder, major)
            found = capture.digest()
        try:
            ((highest, count),) = copy.run("SELECT max(id), count(*) FROM orders")
            assert highest == count
            assert copy.run("SELECT count(*) FROM order_lines") == [(count * 5,)]
            orphans = "SELECT 1 FROM order_lines l LEFT JOIN orders o ON o.id = l.order_id WHERE o.id IS NULL"
            assert copy.run(orphans) == []
            assert count >= dict(seen)[capture.captured_at] >= 50
            assert found is not None
            assert not found.exact
            copy.run("INSERT INTO orders VALUES (0, 'in exile')")
        finally:
            copy.stop()


def test_log_is_kept_for_a_slow_consumer() -> None:
    """While the consumer waits the server writes and recycles far more log than it keeps; the copy still starts."""
    with running_server(15) as server, open_folder() as folder:
        server.run("CREATE TABLE t (v text)")
        with PostgresCapture(server.source(), now) as capture:
            items = capture.items()
            copy = make_server(folder, 15)
            first = next(items)
            for _ in range(3):
                server.run(
                    "INSERT INTO t SELECT repeat(md5(g::text), 20) FROM generate_series(1, 50000) g", "CHECKPOINT"
                )

            def rest() -> Iterator[object]:
                yield first
                yield from items

            write_items(rest(), copy.pgdata)  # type: ignore[arg-type]
        owner = (copy.account.uid, copy.account.gid) if copy.account else None
        prepare_restored(copy.pgdata, port=copy.port, socket_dir=copy.socket_dir, owner=owner, trust_socket=True)
        copy.start()
        try:
            assert copy.run("SELECT count(*) % 50000 FROM t") == [(0,)]
        finally:
            copy.stop()
        assert server.run("SELECT count(*) FROM pg_replication_slots") == [(0,)]


def test_digest_is_exact_only_without_commits(server: Server) -> None:
    """A commit during the backup, or a transaction that could be committing, takes the exactness away."""
    with PostgresCapture(server.source(), now) as capture:
        for number, _ in enumerate(capture.items()):
            if number == 5:
                server.run("INSERT INTO orders VALUES (-1, 'late')", "DELETE FROM orders WHERE id = -1")
        found = capture.digest()
        assert found is not None
        assert not found.exact
    with server.connect() as other, PostgresCapture(server.source(), now) as capture:
        for _ in capture.items():
            pass
        other.execute("BEGIN")
        other.execute("INSERT INTO orders VALUES (-1, 'open')")
        found = capture.digest()
        assert found is not None
        assert not found.exact
        other.execute("ROLLBACK")


def test_consumer_that_stops_early_leaves_nothing(server: Server) -> None:
    """No pg_basebackup, no connection of it and no slot are left when the reader goes away."""
    with PostgresCapture(server.source(), now) as capture:
        items = capture.items()
        for _ in range(20):
            next(items)
        process = capture._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None
    deadline = time.monotonic() + 5
    busy = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_replication)"
    while server.run(busy) != [(0,)]:
        assert time.monotonic() < deadline
    with pytest.raises(Bug):
        _ = capture.captured_at


def test_content_cannot_be_read_late(server: Server) -> None:
    """The content of an item that the stream has passed is refused, not silently empty or wrong."""
    with PostgresCapture(server.source(), now) as capture:
        passed = None
        for item in capture.items():
            if passed is not None:
                with pytest.raises(Bug):
                    list(passed.blocks())
                break
            passed = item.content


def test_server_lost_on_the_way(server: Server) -> None:
    """When the server ends the backup half-way the capture fails and says what was said."""
    with PostgresCapture(server.source(), now) as capture:
        items = capture.items()
        assert next(items).entry.path == b""
        server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        with open_folder() as folder, pytest.raises(SourceUnavailable, match=r"terminat|closed|end of data"):
            write_items(items, folder)


def test_password_is_read_from_a_private_file_and_shown_to_nobody(server: Server, tmp_path: Path) -> None:
    """Log-in over TCP works with the password file; no process carries the password among its arguments."""
    file = tmp_path / "password"
    file.write_text("ö secret\n", encoding="utf-8")
    file.chmod(0o600)
    source = PostgresSource("127.0.0.1", server.port, "guarded", "postgres", file)
    with PostgresCapture(source, now, with_digest=False) as capture:
        for _ in capture.items():
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                if process.parent.name == str(capture._process and capture._process.pid):
                    assert "secret" not in process.read_bytes().decode("utf-8", "replace")
            break
    file.chmod(0o640)
    with pytest.raises(KeyFileExposed):
        PostgresCapture(source, now).__enter__()
    file.chmod(0o600)
    file.write_text("wrong", encoding="utf-8")
    with pytest.raises(SourceUnavailable) as caught:
        PostgresCapture(source, now).__enter__()
    assert "password_file" in caught.value.hint


def test_failures_tell_what_to_do(server: Server) -> None:
    """Refused connection, missing rights, unknown database: each has its own hint."""
    with open_folder() as nowhere, pytest.raises(SourceUnavailable) as caught:
        PostgresCapture(PostgresSource(str(nowhere), 5432, "postgres", "postgres"), now).__enter__()
    assert "start it" in caught.value.hint
    with pytest.raises(SourceUnavailable) as caught:
        PostgresCapture(server.source("reader"), now).__enter__()
    assert "REPLICATION" in caught.value.hint
    with pytest.raises(SourceUnavailable) as caught:
        PostgresCapture(server.source(dbname="nothing"), now).__enter__()
    assert "dbname" in caught.value.hint
    with pytest.raises(SourceUnavailable) as caught:
        postgres_digest(server.source("reader"))
    assert "pg_read_all_data" in caught.value.hint


def test_tablespaces_are_refused(server: Server) -> None:
    """A server with a tablespace of its own cannot be streamed; the message says so before any data comes."""
    with open_folder() as folder:
        space = folder / "space"
        space.mkdir()
        if server.account:
            os.chown(space, server.account.uid, server.account.gid)
        server.run(f"CREATE TABLESPACE other LOCATION '{space}'")
        try:
            with (
                PostgresCapture(server.source(), now) as capture,
                pytest.raises(SourceUnavailable, match="tablespace") as caught,
            ):
                list(capture.items())
            assert "pg_default" in caught.value.hint
        finally:
            server.run("DROP TABLESPACE other")


def test_client_programs_may_be_newer_but_not_older() -> None:
    """pg_basebackup 17 captures a server 15; pg_basebackup 15 is refused for a server 17."""
    with running_server(15) as server, open_folder() as folder:
        with PostgresCapture(server.source(), now, binaries=binaries_of(17)) as capture:
            copy = restored(capture, folder, 15)
            assert capture.facts["tool"].startswith("pg_basebackup 17")
        copy.stop()
    with running_server(17) as server, pytest.raises(SourceUnavailable, match="newest pg_basebackup here is 15"):
        PostgresCapture(server.source(), now, binaries=binaries_of(15)).__enter__()


def test_server_that_stays_home_is_not_reached_from_the_copy() -> None:
    """Settings made by ALTER SYSTEM at home neither stop the copy's commits nor write into home's archive."""
    with running_server(15) as server, open_folder() as folder:
        server.run(
            "ALTER SYSTEM SET archive_mode = on",
            "ALTER SYSTEM SET archive_command = 'touch /home-archive'",
            "ALTER SYSTEM SET listen_addresses = '*'",
            "ALTER SYSTEM SET cluster_name = 'kept'",
            "ALTER SYSTEM SET synchronous_standby_names = 'someone'",
        )
        with PostgresCapture(server.source(), now) as capture:
            copy = restored(capture, folder, 15)
        try:
            with psycopg.connect(host=str(copy.socket_dir), port=copy.port, user="postgres", autocommit=True) as link:
                link.execute("SET statement_timeout = '5s'")
                link.execute("CREATE TABLE t ()")
            shown = [copy.run(f"SHOW {name}")[0][0] for name in ("archive_mode", "listen_addresses", "cluster_name")]
            assert shown == ["off", "127.0.0.1", "kept"]
        finally:
            copy.stop()


def test_options_are_checked() -> None:
    """Options become a source; unknown or impossible ones are named."""
    made = postgres_source({"host": "db", "port": 5433, "user": "u", "dbname": "d", "password_file": "/p"})
    assert made == PostgresSource("db", 5433, "u", "d", Path("/p"))
    assert postgres_source({"user": "u", "dbname": "d"}).host == "/var/run/postgresql"
    for wrong in ({"user": "u"}, {"user": "u", "dbname": "d", "pasword": "x"}, {"user": "u", "dbname": "d", "port": 0}):
        with pytest.raises(ConfigError):
            postgres_source(wrong)


def _unprivileged_round() -> None:
    """Runs in a process that is not root: a server, its capture, its copy."""
    account = unprivileged_user()
    if account is not None:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
    assert unprivileged_user() is None
    with open_folder() as folder:
        server = make_server(folder, 15)
        initdb(server.bindir, server.pgdata, account=None)
        server.start()
        try:
            server.run("CREATE TABLE t AS SELECT generate_series(1, 10)")
            with open_folder() as other, PostgresCapture(server.source(), now) as capture:
                copy = restored(capture, other, 15)
                assert postgres_digest(copy.source()) == capture.digest()
                copy.stop()
        finally:
            server.stop()


def test_everything_works_without_root() -> None:
    """The same round as an ordinary user: no account is switched, and nothing needs root."""
    process = multiprocessing.get_context("fork").Process(target=_unprivileged_round)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert is_root() or unprivileged_user() is None


@pytest.mark.parametrize("said", ["invalid page in block 3 of relation base/5/16384", "checksum verification failure"])
def test_a_damaged_server_is_its_own_fault(said: str) -> None:
    """What a server says of damaged files of its own casts no suspicion on any site, and points to earlier versions."""
    error = unavailable(PostgresSource("db", 5432, "exclave", "land"), f"ERROR:  {said}", doing="cannot be captured")
    assert error.exit_code == 14
    assert "last clean" in error.hint

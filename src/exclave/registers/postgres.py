"""Captures a whole PostgreSQL server by its own ``pg_basebackup``, as a stream, without a copy on disk.

The write-ahead log that makes the copy consistent is part of the stream (``-X fetch``). A temporary replication slot
keeps the server from removing that log while the consumer is slow; it goes away with our connection.

Moments. The copy's state is that of the backup's end (``stop_lsn``), which the server does not date. So once a second
we note the clock and then the server's position in its log; ``captured_at`` is the last noted moment whose position
is not beyond ``stop_lsn``. Whatever was confirmed before it is in the copy.
"""

from __future__ import annotations

import contextlib
import io
import re
import secrets
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import IO, Self

import psycopg

from exclave.errors import Bug, SourceUnavailable
from exclave.formats.entry import Captured, Entry, Kind, check_path
from exclave.ids import Instant
from exclave.registers.contract import Clock, DatasetDigest
from exclave.registers.postgres_binaries import PostgresBinaries, find_postgres
from exclave.registers.postgres_digest import postgres_digest
from exclave.registers.postgres_source import PostgresSource, client_environment, connect, unavailable
from exclave.registers.rows import NOTHING, FormerRows

MANIFEST = "backup_manifest"
_BLOCK = 1 << 20
_TAIL = 64 << 10
_SAMPLE_S = 1.0
_STOP_S = 5.0
_LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})\Z")
_WAL_RANGE = re.compile(
    rb'\{ "Timeline": ([0-9]+), "Start-LSN": "([0-9A-F]+/[0-9A-F]+)", "End-LSN": "([0-9A-F]+/[0-9A-F]+)" \}'
)
_POSITION = """
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_insert_lsn() END::text
"""
_WRITERS = "SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock'"
_FACTS = """
SELECT pg_catalog.current_setting('server_version') AS pg_version,
       pg_catalog.current_setting('server_version_num') AS pg_version_num,
       pg_catalog.current_setting('server_encoding') AS server_encoding,
       pg_catalog.current_setting('data_directory_mode') AS data_directory_mode,
       pg_catalog.current_setting('data_checksums') AS data_checksums,
       pg_catalog.pg_is_in_recovery()::text AS standby,
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system_identifier,
       (SELECT datcollate FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) AS lc_collate
"""


@dataclass(slots=True)
class _Moments:
    """Clock readings, each with the log position that the server had afterwards."""

    noted: list[tuple[Instant, int]] = field(default_factory=list)
    last_s: float = 0.0

    def before(self, stop_lsn: int) -> Instant:
        """The latest moment whose position is not beyond ``stop_lsn``; the first one is never beyond it."""
        return max((moment for moment, lsn in self.noted if lsn <= stop_lsn), default=self.noted[0][0])


class _TarContent:
    """A member's bytes while the tar stream stands at them."""

    __slots__ = ("_capture", "_member", "_stream")

    def __init__(self, capture: PostgresCapture, member: tarfile.TarInfo, stream: IO[bytes]) -> None:
        self._capture, self._member, self._stream = capture, member, stream

    def blocks(self) -> Iterator[bytes | memoryview | int]:
        return self._capture.read_member(self._member, self._stream)


class PostgresCapture:
    """One base backup of one server. See ``contract.Capture``.

    Needs a role with ``LOGIN REPLICATION`` and, for the digest, ``pg_read_all_data``; a server with ``wal_level`` of
    at least ``replica``, one free slot and one free walsender; and no tablespaces of its own (``SourceUnavailable``).
    """

    kind = "postgres"
    ordered = False

    def __init__(
        self,
        source: PostgresSource,
        clock: Clock,
        *,
        binaries: PostgresBinaries | None = None,
        with_digest: bool = True,
    ) -> None:
        """``binaries``: whose ``pg_basebackup`` to use; by default that of the server's version, else the newest.

        The digest reads every row of the database once; ``with_digest=False`` saves that.
        """
        self._source, self._clock, self._with_digest = source, clock, with_digest
        self._binaries = binaries
        self._cleanup = contextlib.ExitStack()
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._moments = _Moments()
        self._facts: dict[str, str] = {}
        self._snapshot = ""
        self._captured_at: Instant | None = None
        self._manifest_tail = b""
        self._current: tarfile.TarInfo | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] = io.BytesIO()

    def __enter__(self) -> Self:
        with self._cleanup:
            self._connection = self._cleanup.enter_context(connect(self._source))
            try:
                self._facts = _read_facts(self._connection)
                self._facts["dbname"] = self._source.dbname
                self._binaries = self._suitable_binaries()
                slot = f"exclave_{secrets.token_hex(8)}"
                self._connection.execute(
                    "SELECT pg_catalog.pg_create_physical_replication_slot(%s, true, true)", (slot,)
                )
                self._snapshot = _snapshot(self._connection)
            except psycopg.Error as error:
                raise unavailable(self._source, str(error), doing="cannot be captured") from error
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection = None
        self._cleanup.close()

    @property
    def captured_at(self) -> Instant:
        if self._captured_at is None:
            raise Bug("captured_at of a PostgreSQL capture is known once its items were read to the end")
        return self._captured_at

    @property
    def facts(self) -> Mapping[str, str]:
        if self._captured_at is None:
            raise Bug("facts of a PostgreSQL capture are known once its items were read to the end")
        return self._facts

    def items(self) -> Iterator[Captured]:
        """The data folder as ``pg_basebackup`` sends it, ``backup_manifest`` last."""
        self._note_moment()
        self._said = self._cleanup.enter_context(tempfile.TemporaryFile())
        self._process = process = _start(self._command(), self._source, self._said)
        self._cleanup.callback(_end, process)
        if process.stdout is None:
            raise Bug("pg_basebackup has no output")
        try:
            yield from self._members(process.stdout)
            while process.stdout.read(_BLOCK):
                pass  # the padding after the archive's end; unread, it would end pg_basebackup by SIGPIPE
            if process.wait() != 0:
                raise self._failed(f"pg_basebackup ended with status {process.returncode}")
        except tarfile.TarError as error:
            raise self._failed(str(error)) from error
        finally:
            _end(process)  # also when the consumer stops early
        self._finish()

    def read_member(self, member: tarfile.TarInfo, stream: IO[bytes]) -> Iterator[bytes]:
        """The content of the member that the stream stands at; ``Bug`` for an earlier one."""
        if member is not self._current:
            raise Bug(f"the content of {member.name!r} was read after the next item was asked for, or twice")
        self._current = None
        left = member.size
        while left:
            self._tick()
            try:
                block = stream.read(min(left, _BLOCK))
            except tarfile.TarError as error:
                raise self._failed(str(error)) from error
            left -= len(block)
            if member.name == MANIFEST:
                self._manifest_tail = (self._manifest_tail + block)[-_TAIL:]
            yield block

    def digest(self, former: FormerRows = NOTHING) -> DatasetDigest | None:
        """Taken from the living server after the backup; exact only if nothing was committed since it began.

        That is known when (1) the server's snapshot before the backup and the one after the digest are the same, so
        no transaction came to its end in between, and (2) none holds a transaction id when the digest is done: one
        might have its commit in the log already and not yet show it.
        """
        if self._captured_at is None or self._connection is None:
            raise Bug("the digest of a PostgreSQL capture can be taken once its items were read to the end")
        if not self._with_digest:
            return None
        found = postgres_digest(self._source, former)
        try:
            row = self._connection.execute(_WRITERS).fetchone()
            quiet = row is not None and row[0] == 0  # (2) before (1), so that nobody ends unseen between them
            exact = quiet and self._facts["standby"] == "false" and _snapshot(self._connection) == self._snapshot
        except psycopg.Error as error:
            raise unavailable(self._source, str(error), doing="cannot be digested") from error
        return replace(found, exact=exact)

    def _suitable_binaries(self) -> PostgresBinaries:
        major = int(self._facts["pg_version_num"]) // 10000
        binaries = self._binaries or find_postgres(major, need=("pg_basebackup",))
        if binaries.major < major:
            raise SourceUnavailable(
                f"the server is PostgreSQL {major}, and the newest pg_basebackup here is {binaries.version}",
                hint=f"Install the client programs of PostgreSQL {major} or newer on this machine.",
            )
        self._facts["tool"] = f"pg_basebackup {binaries.version}"
        return binaries

    def _command(self) -> list[str]:
        if self._binaries is None:
            raise Bug("items() of a capture that was not entered")
        source = self._source
        return [
            str(self._binaries.program("pg_basebackup")), "-D", "-", "-F", "tar", "-X", "fetch", "-c", "fast",
            "--manifest-checksums=SHA256", "--no-password", "-l", "exclave",
            "-h", source.host, "-p", str(source.port), "-U", source.user,
        ]  # fmt: skip

    def _members(self, stream: IO[bytes]) -> Iterator[Captured]:
        with tarfile.open(
            fileobj=stream, mode="r|", bufsize=_BLOCK, encoding="utf-8", errors="surrogateescape"
        ) as archive:
            root: Entry | None = None
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it remembers every member of the whole archive
                self._tick()
                if root is None:
                    root = self._root(member)
                    yield Captured(root)
                item = self._captured(archive, member, root)
                yield item
                if member.name == MANIFEST and self._current is member and item.content is not None:
                    for _ in item.content.blocks():
                        pass  # the consumer left it out, and we need to know where the log ends

    def _captured(self, archive: tarfile.TarFile, member: tarfile.TarInfo, root: Entry) -> Captured:
        # Data files are named "pg_wal/…" or "./pg_wal/…", depending on who in the server sent them.
        path = check_path(member.name.removeprefix("./").encode("utf-8", "surrogateescape"))
        if member.isdir():
            return Captured(_entry(member, path, Kind.FOLDER, root))
        if member.issym():
            target = member.linkname.encode("utf-8", "surrogateescape")
            return Captured(_entry(member, path, Kind.SYMLINK, root, target))
        stream = archive.extractfile(member) if member.isreg() else None
        if stream is None:
            raise SourceUnavailable(f"{self._source} sent {member.name!r} of an unexpected kind")
        self._current = member
        return Captured(_entry(member, path, Kind.FILE, root), content=_TarContent(self, member, stream))

    def _root(self, like: tarfile.TarInfo) -> Entry:
        """The data folder itself, which the archive does not name: of the same owner as what is in it."""
        mode = int(self._facts["data_directory_mode"], 8)
        return Entry(b"", Kind.FOLDER, mode, like.uid, like.gid, int(like.mtime) * 1_000_000_000)

    def _tick(self) -> None:
        if time.monotonic() - self._moments.last_s >= _SAMPLE_S:
            self._note_moment()

    def _note_moment(self) -> None:
        if self._connection is None:
            raise Bug("items() of a capture that was not entered or was left")
        moment = self._clock()
        try:
            row = self._connection.execute(_POSITION).fetchone()
        except psycopg.Error as error:
            raise unavailable(self._source, str(error), doing="was lost during the capture") from error
        self._moments.noted.append((moment, _lsn(str(row[0])) if row else 0))
        self._moments.last_s = time.monotonic()

    def _finish(self) -> None:
        ranges = _WAL_RANGE.findall(self._manifest_tail)
        if not ranges:
            raise SourceUnavailable(f"{self._source} sent a backup without a manifest that names its log")
        self._facts["timeline"] = ranges[-1][0].decode("ascii")
        self._facts["start_lsn"] = ranges[0][1].decode("ascii")
        self._facts["stop_lsn"] = ranges[-1][2].decode("ascii")
        self._captured_at = self._moments.before(_lsn(self._facts["stop_lsn"]))

    def _failed(self, problem: str) -> SourceUnavailable:
        """What pg_basebackup said last, or ``problem``."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)  # its output ended: let it say why
        self._said.seek(0)
        lines = self._said.read(_BLOCK).decode("utf-8", "replace").strip().splitlines()[-8:]
        return unavailable(self._source, "\n".join(lines) or problem, doing="could not be captured to the end")


def _start(command: list[str], source: PostgresSource, said: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=said,
        env=client_environment(source),
        bufsize=0,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _entry(member: tarfile.TarInfo, path: bytes, kind: Kind, root: Entry, target: bytes = b"") -> Entry:
    size = member.size if kind is Kind.FILE else 0
    mtime_ns = int(member.mtime) * 1_000_000_000
    # One user owns a whole data folder. The archive names "postgres" whoever that is, and gives the manifest, which
    # pg_basebackup adds itself, to a made-up number: so the first member's numbers count for all, and no names.
    return Entry(path, kind, member.mode & 0o7777, root.uid, root.gid, mtime_ns, size, target)


def _read_facts(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, str]:
    cursor = connection.execute(_FACTS)
    row = cursor.fetchone()
    names = [column.name for column in cursor.description or ()]
    return {name: "" if value is None else str(value) for name, value in zip(names, row or (), strict=True)}


def _snapshot(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    row = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
    return str(row[0]) if row else ""


def _lsn(text: str) -> int:
    match = _LSN.match(text)
    if match is None:
        raise SourceUnavailable(f"not a position in PostgreSQL's log: {text[:40]!r}")
    return int(match[1], 16) << 32 | int(match[2], 16)

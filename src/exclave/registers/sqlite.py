"""Captures a SQLite database while it is in use, by SQLite's own online backup, through a staging copy.

In WAL mode one read transaction is held, so writers go on and the copy is of one moment. In the other modes the copy
is made in steps between which writers may write; SQLite starts over when one did. After a few such restarts the rest
is copied in a single step, for which writers wait.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from exclave.errors import Bug, CorruptObject, SourceUnavailable
from exclave.formats.entry import Captured, Entry, Kind, check_path
from exclave.ids import Instant
from exclave.registers.contract import Clock, DatasetDigest
from exclave.registers.rows import NOTHING, FormerRows
from exclave.registers.sqlite_digest import sqlite_damage, sqlite_digest

_BLOCK = 1 << 20
_STEP_BYTES = 16 << 20
_RESTARTS = 3
_BUSY_S = 0.02
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class _TooBusyError(Exception):
    """Inside this module only: writers made the copy start over too often."""


class SqliteCapture:
    """One copy of one database file. See ``contract.Capture``.

    Entering makes and checks the copy: ``SourceUnavailable`` if the database is missing, locked for more than
    ``patience_s`` seconds, does not fit into ``staging`` or fails SQLite's integrity check.
    """

    kind = "sqlite"
    ordered = True

    def __init__(
        self, database: Path, staging: Path, clock: Clock, *, patience_s: float = 30.0, with_digest: bool = True
    ) -> None:
        """``staging`` is a folder with room for the database; a private folder is made in it, and removed."""
        self._database, self._staging, self._clock = database, staging, clock
        self._patience_s, self._with_digest = patience_s, with_digest
        self._folder: Path | None = None
        self._captured_at: Instant | None = None
        self._facts: dict[str, str] = {}
        self._read = False

    def __enter__(self) -> Self:
        self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A restart finds this folder again as rubbish of a capture that died: nothing in it is ever used.
        self._folder = Path(tempfile.mkdtemp(prefix="sqlite-", dir=self._staging))
        try:
            self._captured_at = _copy(self._database, self._copy_path, self._clock, self._patience_s)
            self._require_undamaged()
            self._facts = _read_facts(self._copy_path)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def captured_at(self) -> Instant:
        if self._captured_at is None:
            raise Bug("a SQLite capture must be entered before it is used")
        return self._captured_at

    @property
    def facts(self) -> Mapping[str, str]:
        return self._facts

    def items(self) -> Iterator[Captured]:
        """The database's folder as the root, and the database in it; nothing of what else lies there."""
        captured_at = self.captured_at
        yield Captured(_root(self._database))
        yield Captured(_file(self._database, self._copy_path, captured_at), content=_Staged(self._copy_path))
        self._read = True

    def digest(self, former: FormerRows = NOTHING) -> DatasetDigest | None:
        """Of the staging copy, so always exact."""
        if not self._read:
            raise Bug("the digest of a SQLite capture can be taken once its items were read to the end")
        if not self._with_digest:
            return None
        try:
            return sqlite_digest(self._copy_path, still=True, former=former)
        except CorruptObject as error:  # the copy's name means nothing to anybody
            raise _damaged(self._database, str(error.__cause__)) from error

    def _require_undamaged(self) -> None:
        if damage := sqlite_damage(self._copy_path, still=True):
            raise _damaged(self._database, damage)

    @property
    def _copy_path(self) -> Path:
        if self._folder is None:
            raise Bug("a SQLite capture must be entered before it is used")
        return self._folder / "copy"

    def _remove(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class _Staged:
    """The staging copy's bytes."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def blocks(self) -> Iterator[bytes | memoryview | int]:
        with self._path.open("rb", buffering=0) as stream:
            while block := stream.read(_BLOCK):
                yield block


class _Progress:
    """Called by SQLite after each step: keeps the moment, counts restarts, and ends a copy that gets nowhere."""

    def __init__(self, clock: Clock, patience_s: float) -> None:
        self.moment = clock()
        self._clock, self._patience_s = clock, patience_s
        self._deadline = time.monotonic() + patience_s
        self._left: int | None = None
        self._restarts = 0

    def __call__(self, status: int, remaining: int, total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() >= self._deadline:
                raise SourceUnavailable("the SQLite database stayed locked", hint="Stop whoever locks it; try again.")
            return
        self._deadline = time.monotonic() + self._patience_s
        if self._left is not None and remaining >= self._left and total > 0:
            self._restarts += 1
            if self._restarts > _RESTARTS:
                raise _TooBusyError
        self._left = remaining
        # The next step first looks for changes: what this copy ends up with was valid now or later.
        self.moment = self._clock()


def _copy(database: Path, target: Path, clock: Clock, patience_s: float) -> Instant:
    """Copies the database; returns a moment at which it had just this content."""
    if not database.is_file():
        raise SourceUnavailable(f"there is no SQLite database {database}")
    try:
        with contextlib.closing(_open_source(database, patience_s)) as source:
            if source.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                moment = clock()
                source.execute("BEGIN")
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on: one snapshot
                _backup(source, target, _Progress(clock, patience_s))
                return moment
            try:
                return _backup(source, target, _Progress(clock, patience_s))
            except _TooBusyError:
                return _backup(source, target, _Progress(clock, patience_s), pages=-1)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in _DAMAGED:
            raise _damaged(database, str(error)) from error
        raise SourceUnavailable(f"the SQLite database {database} cannot be copied: {error}") from error


def _damaged(database: Path, damage: str) -> SourceUnavailable:
    """The source itself is spoilt. That says nothing against any site, and the versions there are as they were."""
    return SourceUnavailable(
        f"the register's own database {database} is damaged: {damage}",
        hint="No version was made; earlier ones are untouched. `exclave snapshots` names the last clean one.",
        database=str(database),
    )


def _open_source(database: Path, patience_s: float) -> sqlite3.Connection:
    """Read-only if that works; a database whose last writer died must be opened for writing to be rolled back."""
    for mode in ("ro", "rw"):
        uri = f"file:{quote(str(database.absolute()))}?mode={mode}"
        source = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=patience_s)
        try:
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            source.close()
            if mode == "rw" or error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
        else:
            return source
    raise Bug("unreachable")


def _backup(source: sqlite3.Connection, target: Path, progress: _Progress, pages: int | None = None) -> Instant:
    page_bytes = int(source.execute("PRAGMA page_size").fetchone()[0])
    target.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # a copy that a crash leaves behind is never used
        step = pages if pages is not None else max(1, _STEP_BYTES // page_bytes)
        source.backup(copy, pages=step, progress=progress, sleep=_BUSY_S)
    return progress.moment


def _read_facts(copy: Path) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(copy))}?immutable=1", uri=True)) as connection:
        names = ("page_size", "encoding", "user_version", "application_id", "auto_vacuum")
        facts = {name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}
    with copy.open("rb") as stream:
        header = stream.read(100)
    # Offset 18 of the header (sqlite.org/fileformat2.html): 2 is WAL. An empty database has no header.
    facts["journal_mode"] = "wal" if len(header) == 100 and header[18] == 2 else "rollback"
    facts["sqlite_version"] = sqlite3.sqlite_version
    return facts


def _root(database: Path) -> Entry:
    found = database.absolute().parent.stat()
    return Entry(
        b"", Kind.FOLDER, found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns,
        user=_user(found.st_uid), group=_group(found.st_gid),
    )  # fmt: skip


def _file(database: Path, copy: Path, captured_at: Instant) -> Entry:
    """Named, owned and permitted as the database; of the copy's size and the captured moment's time."""
    found = database.stat()
    path = check_path(os.fsencode(database.name))
    return Entry(
        path, Kind.FILE, found.st_mode & 0o7777, found.st_uid, found.st_gid, captured_at * 1000,
        size=copy.stat().st_size, user=_user(found.st_uid), group=_group(found.st_gid),
    )  # fmt: skip


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""

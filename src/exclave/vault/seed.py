"""What a successor knows of former epochs' packs: the chunks that it has opened itself while it restored a version.

Chunk tables of former epochs are worth nothing: whoever stole the former writer's keys can seal a table that claims
any chunk for any place. So a restore notes each chunk that it opened and whose id it checked, with a hash of the sealed
bytes it read; a pack is taken over later only if those very bytes lie in a pack that has its own hash.

A SQLite file beside the index, which may be thrown away: the next backup then ships those chunks again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exclave.errors import UnavailableError
from exclave.formats.manifest import Ref
from exclave.formats.pack import HEADER_BYTES, TableRow
from exclave.ids import ChunkId, Digest, sha256
from exclave.vault.opener import PackReader, sealed_digest

SEEDS_NAME: Final = "seeds.sqlite"
_BATCH: Final = 1024
_SCHEMA = (
    "CREATE TABLE seed(pack BLOB NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, raw INTEGER NOT NULL,"
    " id BLOB NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY(pack, offset)) WITHOUT ROWID"
)


@contextlib.contextmanager
def collect_seeds(reader: PackReader, cache: Path) -> Iterator[None]:
    """Notes in the folder ``cache`` every chunk that ``reader`` opens meanwhile. Memory: a thousand rows.

    Replaces what was noted before, once the block has ended well: a restart finds the former notes or these.
    ``UnavailableError`` if they cannot be written.
    """
    fresh = cache / (SEEDS_NAME + ".new")
    book = _Book(fresh)
    reader.verified = book.note
    try:
        yield
        book.finish()
        os.replace(fresh, cache / SEEDS_NAME)
    finally:
        reader.verified = None
        book.close()
        fresh.unlink(missing_ok=True)


class _Book:
    """Takes rows from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._rows: list[tuple[bytes, int, int, int, bytes, bytes]] = []
        path.unlink(missing_ok=True)
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            # Nothing that was written before `finish` is ever read.
            self._db.execute("PRAGMA journal_mode=OFF")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> UnavailableError:
        return UnavailableError(f"{str(self._path)!r} cannot be written: {error}")

    def note(self, ref: Ref, sealed: bytes) -> None:
        with self._lock:
            self._rows.append((ref.pack, ref.offset, ref.length, ref.raw, ref.id, sealed))
            if len(self._rows) >= _BATCH:
                self._write()

    def _write(self) -> None:
        try:
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR REPLACE INTO seed VALUES(?,?,?,?,?,?)", self._rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._rows.clear()

    def finish(self) -> None:
        """All is on the disk after this."""
        with self._lock:
            self._write()
            self._db.close()
        fd = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        with self._lock:
            self._db.close()


class Seeds:
    """What ``collect_seeds`` noted in a folder; nothing if the file is missing or damaged."""

    def __init__(self, cache: Path) -> None:
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        path = cache / SEEDS_NAME
        if path.exists():
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def knows(self, pack: Digest) -> bool:
        """Whether a chunk of ``pack`` was opened."""
        return bool(self._query("SELECT 1 FROM seed WHERE pack=? LIMIT 1", pack))

    def rows(self, pack: Digest, data: bytes) -> list[TableRow] | None:
        """The chunks of ``pack`` that were opened, if ``data``, which has the pack's hash, is what was opened; else
        None: then the bytes that a restore was shown are not those of the pack.
        """
        header, found = sha256(data[:HEADER_BYTES]), []
        query = "SELECT id, offset, length, raw, sealed FROM seed WHERE pack=? ORDER BY offset"
        for chunk, offset, length, raw, sealed in self._query(query, pack):
            if sealed_digest(header, data[offset : offset + length]) != sealed:
                return None
            found.append(TableRow(ChunkId(chunk), offset, length, raw))
        return found

    def _query(self, query: str, pack: Digest) -> list[tuple[bytes, int, int, int, bytes]]:
        with self._lock:
            if self._db is None:
                return []
            try:
                return self._db.execute(query, (pack,)).fetchall()
            except sqlite3.DatabaseError:
                # Notes only save work: without them the chunks are shipped again.
                self._db.close()
                self._db = None
                return []

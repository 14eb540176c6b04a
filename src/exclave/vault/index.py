"""The writer's cache of which chunks it has shipped, where they lie, and which sites hold which packs.

A SQLite file that may be thrown away at any time: it is rebuilt from the packs' chunk tables, which only the writer
can read (``reindex.py``). It is written *before* a pack is put (an intent), so that a process that dies in between
finds the pack again at its next start and ships nothing twice.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from exclave.errors import UnavailableError
from exclave.formats.manifest import Ref
from exclave.formats.pack import TableRow
from exclave.ids import ChunkId, Digest, Epoch

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pack(
    number INTEGER PRIMARY KEY AUTOINCREMENT, name BLOB NOT NULL UNIQUE, size INTEGER NOT NULL,
    epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS chunk(
    id BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    raw INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS placed(
    site TEXT NOT NULL, pack INTEGER NOT NULL, PRIMARY KEY(site, pack)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS placed_by_pack ON placed(pack);
CREATE TABLE IF NOT EXISTS refused(
    site TEXT NOT NULL, name BLOB NOT NULL, size INTEGER NOT NULL, seen INTEGER NOT NULL,
    PRIMARY KEY(site, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS used(boot TEXT NOT NULL);
CREATE TEMP TABLE counted(site TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE seen(site TEXT NOT NULL, pack INTEGER NOT NULL, PRIMARY KEY(site, pack)) WITHOUT ROWID;
"""
_LOOKUP_BATCH = 200
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""First eight bits of SQLite's codes."""
# A pack that a site which counts holds in a spoilt copy cannot be brought there again: its chunks are shipped anew.
_SPOILT = "NOT EXISTS (SELECT 1 FROM refused JOIN counted ON counted.site = refused.site WHERE refused.name = {}.name)"
_NOWHERE = "NOT EXISTS (SELECT 1 FROM placed WHERE placed.pack = pack.number)"


class _MachineWentDown(sqlite3.DatabaseError):
    """While the file was open, so that what it holds is not sure."""


class ChunkIndex:
    """Safe to call from several threads.

    Any method raises ``UnavailableError`` if the file cannot be read or written; a damaged one is removed then.
    """

    def __init__(self, path: Path) -> None:
        """Opens the cache at ``path``; a damaged one is replaced by an empty one (``emptied`` is then true)."""
        self.emptied = not path.exists()
        self._path = path
        self._lock = threading.Lock()
        self._all_count = True
        try:
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._remove()
                self._db = self._open()
                self.emptied = True
        except sqlite3.Error as error:
            raise UnavailableError(f"the cache {str(path)!r} cannot be opened: {error}") from error

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA cache_size=-32768")
            db.executescript(_SCHEMA)
            boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
            if any(found != boot for (found,) in db.execute("SELECT boot FROM used")):
                raise _MachineWentDown("pages of the cache may be missing")  # noqa: TRY301
            # On the disk before anything else is: whoever finds this row after a restart of the machine knows that
            # the file was not closed, and that pages written since may be missing.
            db.execute("PRAGMA synchronous=FULL")
            db.execute("DELETE FROM used")
            db.execute("INSERT INTO used VALUES(?)", (boot,))
            # From here on a crash of the process alone loses nothing, one of the machine the whole cache.
            db.execute("PRAGMA synchronous=OFF")
            db.execute("SELECT count(*) FROM (SELECT 1 FROM chunk LIMIT 1)").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _remove(self) -> None:
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    @contextmanager
    def _using(self, *, writing: bool = False) -> Iterator[sqlite3.Connection]:
        """The database for one call; with ``writing``, as one transaction."""
        with self._lock:
            try:
                if writing:
                    with self._db:
                        self._db.execute("BEGIN")
                        yield self._db
                else:
                    yield self._db
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise UnavailableError(f"the cache {str(self._path)!r} cannot be used: {error}") from error
                self._db.close()
                self._remove()
                raise UnavailableError(
                    f"the cache {str(self._path)!r} was damaged and is removed",
                    hint="Run the command again: the cache is rebuilt from the sites.",
                ) from error

    def close(self) -> None:
        """Everything in the file is on the disk after this."""
        with self._lock:
            try:
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                # Last of all: a crash before this makes the next start rebuild the cache, needlessly.
                self._db.execute("DELETE FROM used")
            except sqlite3.Error:
                pass  # the row stays, and the next start looks at the file with suspicion
            finally:
                self._db.close()

    def count_only(self, sites: Iterable[str]) -> None:
        """From now on only what lies at one of ``sites`` counts as shipped for ``lookup`` and ``held``, and nothing of
        which one of them holds a spoilt copy (``refuse``).
        """
        with self._using(writing=True) as db:
            db.execute("DELETE FROM counted")
            db.executemany("INSERT INTO counted VALUES(?)", ((site,) for site in sites))
            self._all_count = False

    @property
    def _counts(self) -> str:
        return "" if self._all_count else "AND placed.site IN (SELECT site FROM counted)"

    def lookup(self, ids: Sequence[ChunkId]) -> dict[ChunkId, Ref]:
        """Of ``ids``, those that lie in a pack that at least one site (of those that count) holds."""
        found: dict[ChunkId, Ref] = {}
        for at in range(0, len(ids), _LOOKUP_BATCH):
            part = ids[at : at + _LOOKUP_BATCH]
            marks = ",".join("?" * len(part))
            query = (
                "SELECT c.id, p.name, c.offset, c.length, c.raw FROM chunk c JOIN pack p ON p.number = c.pack"  # noqa: S608
                f" WHERE c.id IN ({marks}) AND EXISTS (SELECT 1 FROM placed WHERE placed.pack = c.pack {self._counts})"
                f" AND {_SPOILT.format('p')}"
            )
            with self._using() as db:
                rows = db.execute(query, part).fetchall()
            for chunk, pack, offset, length, raw in rows:
                found[ChunkId(chunk)] = Ref(pack, offset, length, raw, chunk)
        return found

    def intend(self, name: Digest, size_bytes: int, epoch: Epoch, rows: Iterable[TableRow]) -> None:
        """Notes a pack that is about to be put. If the process dies now, ``intents`` names it at the next start."""
        with self._using(writing=True) as db:
            number = _insert_pack(db, name, size_bytes, epoch)
            db.executemany("INSERT OR REPLACE INTO chunk(id, pack, offset, length, raw) VALUES(?,?,?,?,?)",
                           ((r.id, number, r.offset, r.length, r.raw) for r in rows))  # fmt: skip

    def adopt(self, name: Digest, size_bytes: int, epoch: Epoch, rows: Iterable[TableRow], site: str) -> None:
        """Notes a pack that is listed at ``site``; chunks that lie elsewhere already keep their place."""
        with self._using(writing=True) as db:
            known = db.execute("SELECT number FROM pack WHERE name=?", (name,)).fetchone()
            number = known[0] if known else _insert_pack(db, name, size_bytes, epoch)
            db.execute("INSERT OR IGNORE INTO placed(site, pack) VALUES(?,?)", (site, number))
            db.execute("INSERT OR IGNORE INTO seen(site, pack) VALUES(?,?)", (site, number))
            db.executemany(
                "INSERT INTO chunk(id, pack, offset, length, raw) VALUES(?,?,?,?,?) ON CONFLICT(id) DO UPDATE"
                " SET pack=excluded.pack, offset=excluded.offset, length=excluded.length, raw=excluded.raw"
                " WHERE NOT EXISTS (SELECT 1 FROM placed WHERE placed.pack = chunk.pack)",
                ((r.id, number, r.offset, r.length, r.raw) for r in rows),
            )

    def confirm(self, name: Digest, site: str) -> None:
        """``site`` holds the pack durably."""
        with self._using() as db:
            db.execute("INSERT OR IGNORE INTO placed(site, pack) SELECT ?, number FROM pack WHERE name=?", (site, name))

    def lost(self, name: Digest, site: str) -> None:
        """``site`` turned out not to hold the pack."""
        with self._using() as db:
            db.execute("DELETE FROM placed WHERE site=? AND pack=(SELECT number FROM pack WHERE name=?)", (site, name))

    def refuse(self, name: Digest, size_bytes: int, site: str) -> None:
        """What ``site`` holds under a pack's name, of that size, is not that pack or not ours: it is not read again
        until a listing lacks it.
        """
        with self._using(writing=True) as db:
            db.execute("DELETE FROM placed WHERE site=? AND pack=(SELECT number FROM pack WHERE name=?)", (site, name))
            _refuse(db, site, name, size_bytes)

    def repaired(self, names: Iterable[Digest], site: str) -> None:
        """What ``site`` held under these names was put right: the next listing confirms it, or it is read again."""
        with self._using(writing=True) as db:
            db.executemany("DELETE FROM refused WHERE site=? AND name=?", ((site, name) for name in names))

    def spoilt_at(self, site: str) -> set[Digest]:
        """Known packs under whose names ``site`` holds something else."""
        query = "SELECT r.name FROM refused r JOIN pack p ON p.name = r.name WHERE r.site=?"
        with self._using() as db:
            return {Digest(row[0]) for row in db.execute(query, (site,))}

    def forget_before(self, epoch: Epoch) -> bool:
        """Drops all packs that were noted before ``epoch``, with their chunks; whether there was any.

        Who had the pen before may have been robbed of the keys that made their tables believable.
        """
        with self._using(writing=True) as db:
            other = "(SELECT number FROM pack WHERE epoch<?)"
            db.execute(f"DELETE FROM chunk WHERE pack IN {other}", (epoch,))  # noqa: S608
            db.execute(f"DELETE FROM placed WHERE pack IN {other}", (epoch,))  # noqa: S608
            gone = db.execute("DELETE FROM pack WHERE epoch<?", (epoch,)).rowcount
            if gone:
                # Refused under keys of then; seeds of a new restore may tell more.
                db.execute("DELETE FROM refused")
            return gone > 0

    def start_listing(self, site: str) -> None:
        """The packs at ``site`` are about to be listed: see ``found_in_listing``, ``adopt`` and ``end_listing``."""
        with self._using(writing=True) as db:
            db.execute("DELETE FROM seen WHERE site=?", (site,))
            db.execute("UPDATE refused SET seen=0 WHERE site=?", (site,))

    def found_in_listing(self, listed: Mapping[Digest, int], site: str) -> tuple[int, dict[Digest, int]]:
        """Confirms the packs of ``listed`` (name → bytes) that are known with that size; a page of up to 500 names.

        Returns how many of them were not known to be at ``site``, and those of ``listed`` that are not known at all;
        what was refused there with that size is in neither.
        """
        marks = ",".join("?" * len(listed))
        with self._using(writing=True) as db:
            query = f"SELECT name, size, number FROM pack WHERE name IN ({marks})"  # noqa: S608
            known = db.execute(query, list(listed)).fetchall()
            # One of another size is no good copy: it is left out here, so `end_listing` counts it as lost.
            db.executemany("UPDATE refused SET seen=1 WHERE site=? AND name=? AND size=?",
                           ((site, name, size) for name, size in listed.items()))  # fmt: skip
            query = f"SELECT name FROM refused WHERE site=? AND seen=1 AND name IN ({marks})"  # noqa: S608
            spoilt = {Digest(row[0]) for row in db.execute(query, [site, *listed])}
            good = []
            for name, size, number in known:
                if listed[Digest(name)] != size:
                    _refuse(db, site, Digest(name), listed[Digest(name)])
                elif name not in spoilt:
                    good.append((site, number))
            before = db.total_changes
            db.executemany("INSERT OR IGNORE INTO placed(site, pack) VALUES(?,?)", good)
            confirmed = db.total_changes - before
            db.executemany("INSERT OR IGNORE INTO seen(site, pack) VALUES(?,?)", good)
        names = {Digest(name) for name, _, _ in known}
        return confirmed, {name: size for name, size in listed.items() if name not in names and name not in spoilt}

    def end_listing(self, site: str) -> int:
        """The listing came to its end: what was not in it is not at ``site``.

        Returns the number of packs that were thought to be there.
        """
        unseen = "NOT EXISTS (SELECT 1 FROM seen WHERE seen.site = placed.site AND seen.pack = placed.pack)"
        with self._using(writing=True) as db:
            done = db.execute(f"DELETE FROM placed WHERE site=? AND {unseen}", (site,))  # noqa: S608
            # Removed there, so that a good copy can be brought.
            db.execute("DELETE FROM refused WHERE site=? AND NOT seen", (site,))
            db.execute("DELETE FROM seen WHERE site=?", (site,))
            return done.rowcount

    def forget(self, name: Digest) -> None:
        """Drops a pack and its chunks: it never arrived."""
        with self._using(writing=True) as db:
            db.execute("DELETE FROM chunk WHERE pack=(SELECT number FROM pack WHERE name=?)", (name,))
            db.execute("DELETE FROM placed WHERE pack=(SELECT number FROM pack WHERE name=?)", (name,))
            db.execute("DELETE FROM pack WHERE name=?", (name,))

    def forget_intents(self) -> int:
        """Drops all packs that no site holds, and their chunks; returns their number."""
        with self._using(writing=True) as db:
            db.execute(f"DELETE FROM chunk WHERE pack IN (SELECT number FROM pack WHERE {_NOWHERE})")  # noqa: S608
            return db.execute(f"DELETE FROM pack WHERE {_NOWHERE}").rowcount  # noqa: S608

    def held(self) -> set[Digest]:
        """All packs that at least one site (of those that count) is known to hold."""
        query = (
            "SELECT name FROM pack WHERE EXISTS"  # noqa: S608
            f" (SELECT 1 FROM placed WHERE placed.pack = pack.number {self._counts})"
            f" AND {_SPOILT.format('pack')}"
        )
        with self._using() as db:
            return {Digest(row[0]) for row in db.execute(query)}

    def placed_at(self, site: str) -> set[Digest]:
        """All packs that ``site`` is known to hold."""
        query = "SELECT p.name FROM placed JOIN pack p ON p.number = placed.pack WHERE placed.site=?"
        with self._using() as db:
            return {Digest(row[0]) for row in db.execute(query, (site,))}

    def sizes(self) -> dict[Digest, int]:
        """Size in bytes of every known pack."""
        with self._using() as db:
            return {Digest(name): size for name, size in db.execute("SELECT name, size FROM pack")}

    def size_of(self, names: Iterable[Digest]) -> Iterator[tuple[Digest, int]]:
        """Name and size in bytes of each of ``names``; KeyError for an unknown one."""
        sizes = self.sizes()
        return ((name, sizes[name]) for name in names)

    def knows(self, name: Digest) -> bool:
        """Whether the pack is in the cache at all."""
        with self._using() as db:
            return db.execute("SELECT 1 FROM pack WHERE name=?", (name,)).fetchone() is not None


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    if isinstance(error, _MachineWentDown):
        return True
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE or type(error) is sqlite3.DatabaseError


def _refuse(db: sqlite3.Connection, site: str, name: Digest, size_bytes: int) -> None:
    db.execute("INSERT OR REPLACE INTO refused(site, name, size, seen) VALUES(?,?,?,1)", (site, name, size_bytes))


def _insert_pack(db: sqlite3.Connection, name: Digest, size_bytes: int, epoch: Epoch) -> int:
    cursor = db.execute("INSERT INTO pack(name, size, epoch) VALUES(?,?,?)", (name, size_bytes, epoch))
    if cursor.lastrowid is None:
        raise sqlite3.DatabaseError("a new row has no number")
    return cursor.lastrowid

"""What a reading room has taken up: acts, texts and changes, in one SQLite file. It is a cache of verified bundles.

Losing it loses nothing: the bundles lie in the room's folder, and at the sites.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from exclave.serve.reading_acts import Act

SCHEMA: Final = """
create table if not exists bundle (name blob primary key, sequence integer not null) without rowid;
create table if not exists version (sequence integer primary key, time integer not null);
create table if not exists shown (sequence integer primary key, digest blob not null);
create table if not exists act (act text primary key, title text not null, language text not null,
  signed_by text not null, latest integer not null, date text not null, changed integer not null,
  gone integer not null) without rowid;
create index if not exists act_changed on act (changed);
create index if not exists act_date on act (date, act);
create table if not exists day (act text, version integer, date text not null,
  primary key (act, version)) without rowid;
create table if not exists text (act text, version integer, sequence integer not null, digest blob not null,
  size integer not null, proof integer not null, primary key (act, version, sequence)) without rowid;
create index if not exists text_sequence on text (sequence);
create table if not exists part (act text, name text, id text not null, sequence integer not null,
  digest blob not null, size integer not null, proof integer not null, primary key (act, name)) without rowid;
create table if not exists record (act text, sequence integer, title text not null, language text not null,
  signed_by text not null, days text not null, primary key (act, sequence)) without rowid;
create table if not exists fault (path text primary key, why text not null) without rowid
"""


UNRECORDED: Final = "its act has no record that can be read"
"""Why a file waits. Once its act has one, all is taken up again: such a file belongs to pages that were made before."""
_TABLES: Final = ("bundle", "version", "shown", "act", "day", "text", "part", "record", "fault")


@dataclass(frozen=True, slots=True)
class ActRow:
    """An act as lists and pages need it."""

    act: str
    title: str
    language: str
    signed_by: str
    latest: int
    """Number of the text in force."""
    date: str
    changed: int
    """The last version of the register that brought something new about it."""
    gone: bool
    """It is no longer in the register; its addresses stay."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """One text under its permanent address."""

    act: str
    version: int
    sequence: int
    """The version of the register in which it was first public: what its proof speaks of."""
    digest: bytes
    size: int
    proof: bool
    date: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """An act's record as it was at a moment, and the day that it gives a text."""

    title: str
    language: str
    signed_by: str
    date: str


@dataclass(frozen=True, slots=True)
class PartRow:
    """A file that belongs to an act."""

    name: str
    id: str
    sequence: int
    digest: bytes
    size: int
    proof: bool


class RoomStore:
    """Written by one process, in transactions: a restart finds each bundle taken up whole or not at all."""

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = normal")
        self.db.executescript(SCHEMA)

    def close(self) -> None:
        self.db.close()

    @property
    def sequence(self) -> int:
        """The newest version taken up; 0: none."""
        return int(self.db.execute("select coalesce(max(sequence), 0) from shown").fetchone()[0])

    def bundles(self) -> set[bytes]:
        return {row[0] for row in self.db.execute("select name from bundle")}

    @property
    def line(self) -> int:
        """How often all was forgotten: what was made out of an earlier line goes on in none."""
        return int(self.db.execute("pragma user_version").fetchone()[0])

    def has_shown(self, sequence: int, digest: str) -> bool:
        """Whether the edition of version ``sequence`` whose digest begins like that (hex) was taken up in this line."""
        found = self.db.execute("select digest from shown where sequence = ?", (sequence,)).fetchone()
        return found is not None and bytes(found[0]).hex().startswith(digest)

    # Taking up

    def forget(self) -> None:
        """Everything: within a transaction."""
        line = self.line + 1
        for table in _TABLES:
            self.db.execute(f"delete from {table}")  # noqa: S608 - ours
        self.db.execute(f"pragma user_version = {line}")

    def waits_for(self, act: str) -> bool:
        """Whether files of ``act`` could not be taken up for want of its record."""
        begin, end = f"acts/{act}/", f"acts/{act}0"
        return bool(
            self.db.execute(
                "select 1 from fault where path > ? and path < ? and why = ?", (begin, end, UNRECORDED)
            ).fetchone()
        )

    def put_act(self, name: str, act: Act, sequence: int) -> None:
        self.db.execute(
            "insert into act values (?, ?, ?, ?, ?, ?, ?, 0) on conflict (act) do update set title = excluded.title,"
            " language = excluded.language, signed_by = excluded.signed_by, latest = excluded.latest,"
            " date = excluded.date, changed = excluded.changed, gone = 0",
            (name, act.title, act.language, act.signed_by, act.latest, act.dates[act.latest], sequence),
        )
        self.db.execute(
            "insert or replace into record values (?, ?, ?, ?, ?, ?)",
            (name, sequence, act.title, act.language, act.signed_by, json.dumps(act.dates)),
        )
        self.db.execute("delete from day where act = ?", (name,))
        self.db.executemany("insert into day values (?, ?, ?)", [(name, n, day) for n, day in act.dates.items()])

    def put_text(self, text: TextRow) -> None:
        self.db.execute(
            "insert or replace into text values (?, ?, ?, ?, ?, ?)",
            (text.act, text.version, text.sequence, text.digest, text.size, text.proof),
        )
        self._touch(text.act, text.sequence)

    def put_part(self, act: str, part: PartRow) -> None:
        self.db.execute(
            "insert or replace into part values (?, ?, ?, ?, ?, ?, ?)",
            (act, part.name, part.id, part.sequence, part.digest, part.size, part.proof),
        )
        self._touch(act, part.sequence)

    def remove(self, act: str, name: str, sequence: int) -> None:
        """A file is gone: with its record, the act is. Texts keep their addresses."""
        if name == "act.json":
            self.db.execute("update act set gone = 1 where act = ?", (act,))
        self.db.execute("delete from part where act = ? and name = ?", (act, name))
        self._touch(act, sequence)

    def put_fault(self, path: str, why: str) -> None:
        self.db.execute("insert or replace into fault values (?, ?)", (path, why))

    def _touch(self, act: str, sequence: int) -> None:
        self.db.execute("update act set changed = max(changed, ?) where act = ?", (sequence, act))

    # Reading

    def act(self, name: str) -> ActRow | None:
        row = self.db.execute("select * from act where act = ?", (name,)).fetchone()
        return None if row is None else _act(row)

    def recorded(self, text: TextRow) -> Recorded:
        """What the record of the act of ``text`` said when that became public; if there was none, the first one."""
        found = self.db.execute(
            "select title, language, signed_by, days from record where act = ?"
            " order by case when sequence <= ? then -sequence else sequence end limit 1",
            (text.act, text.sequence),
        ).fetchone()
        if found is not None:
            title, language, signed_by, days = found
            return Recorded(title, language, signed_by, json.loads(days).get(str(text.version), ""))
        if (act := self.act(text.act)) is not None:
            return Recorded(act.title, act.language, act.signed_by, "")
        return Recorded(text.act, "und", "", "")

    def acts(self, *, after: int = 0) -> Iterator[ActRow]:
        """Those that changed after version ``after``."""
        for row in self.db.execute("select * from act where changed > ? order by act", (after,)):
            yield _act(row)

    def in_group(self, group: str) -> list[ActRow]:
        """Acts in force whose id begins with the part ``group``."""
        rows = self.db.execute(
            "select * from act where not gone and (act = ? or (act > ? and act < ?)) order by act",
            (group, f"{group}/", f"{group}0"),
        )
        return [_act(row) for row in rows]

    def group_changed(self, group: str) -> int:
        """The last version that changed one of a group's acts, be they in force or not."""
        found = self.db.execute(
            "select max(changed) from act where act = ? or (act > ? and act < ?)", (group, f"{group}/", f"{group}0")
        ).fetchone()[0]
        return int(found or 0)

    def groups(self) -> list[tuple[str, int]]:
        """First parts of ids, with the number of acts in force below each."""
        return self.db.execute(
            "select substr(act || '/', 1, instr(act || '/', '/') - 1) as part, count(*) from act where not gone"
            " group by part order by part desc"
        ).fetchall()

    def newest(self, limit: int) -> list[ActRow]:
        rows = self.db.execute("select * from act where not gone order by date desc, act desc limit ?", (limit,))
        return [_act(row) for row in rows]

    def counts(self) -> tuple[int, int]:
        """Acts in force; texts of all acts."""
        acts = self.db.execute("select count(*) from act where not gone").fetchone()[0]
        return int(acts), int(self.db.execute("select count(*) from text").fetchone()[0])

    def texts(self, act: str) -> list[TextRow]:
        """The newest text first; of one number, the one that was public last first."""
        return [_text(row) for row in self.db.execute(_TEXTS + " where t.act = ?" + _ORDER, (act,))]

    def texts_of(self, sequence: int) -> list[TextRow]:
        """What became public with version ``sequence``."""
        rows = self.db.execute(_TEXTS + " where t.sequence = ? order by t.act, t.version", (sequence,))
        return [_text(row) for row in rows]

    def parts(self, act: str) -> list[PartRow]:
        rows = self.db.execute(
            "select name, id, sequence, digest, size, proof from part where act = ? order by name", (act,)
        )
        return [PartRow(n, i, s, d, size, bool(p)) for n, i, s, d, size, p in rows]

    def versions(self) -> list[tuple[int, int]]:
        """(version, time) of each version that brought something new, the newest first."""
        return self.db.execute("select sequence, time from version order by sequence desc").fetchall()

    def shown(self) -> tuple[int, bytes] | None:
        """(version, digest) of the newest edition taken up."""
        found: tuple[int, bytes] | None = self.db.execute(
            "select sequence, digest from shown order by sequence desc limit 1"
        ).fetchone()
        return found

    def recent(self, limit: int) -> list[tuple[int, TextRow]]:
        """The last texts that became public, with the time of their version."""
        rows = self.db.execute(
            "select e.time, t.act, t.version, t.sequence, t.digest, t.size, t.proof, coalesce(d.date, '')"
            " from text t join version e on e.sequence = t.sequence left join day d on d.act = t.act"
            " and d.version = t.version order by t.sequence desc, 8 desc, t.act desc, t.version desc limit ?",
            (limit,),
        )
        return [(row[0], _text(row[1:])) for row in rows]

    def put_version(self, sequence: int, time: int) -> None:
        self.db.execute("insert or ignore into version values (?, ?)", (sequence, time))

    def mark(self, bundles: Iterable[bytes], sequence: int, digest: bytes) -> None:
        """Everything of an edition is taken up."""
        self.db.executemany("insert or ignore into bundle values (?, ?)", [(name, sequence) for name in bundles])
        self.db.execute("insert or replace into shown values (?, ?)", (sequence, digest))


_TEXTS: Final = (
    "select t.act, t.version, t.sequence, t.digest, t.size, t.proof, coalesce(d.date, '') from text t"
    " left join day d on d.act = t.act and d.version = t.version"
)
_ORDER: Final = " order by t.version desc, t.sequence desc"


def _act(row: tuple[str, str, str, str, int, str, int, int]) -> ActRow:
    return ActRow(*row[:7], gone=bool(row[7]))


def _text(row: tuple[str, int, int, bytes, int, int, str]) -> TextRow:
    act, version, sequence, digest, size, proof, day = row
    return TextRow(act, version, sequence, digest, size, bool(proof), day)

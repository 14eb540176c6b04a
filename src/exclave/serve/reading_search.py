"""Full-text search over the acts in force: SQLite FTS5, one read-only file for each edition.

A query is words, ``"a phrase"`` and ``begin*``; all must occur. Nothing a reader types reaches SQLite's own syntax.
Ranked by BM25 while that takes less than ``RANK_S``; a word that stands in nearly every act has no rank worth waiting
for, and then the newest acts come first. No search runs longer than ``BUDGET_S``: SQLite asks a clock as it works.
"""

from __future__ import annotations

import re
import sqlite3
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from exclave.errors import UsageError

MAX_QUERY: Final = 200
MAX_WORDS: Final = 12
MAX_BEGINNINGS: Final = 3
"""Each is looked up before the first look at the clock: the lists of all words that begin so are merged at once."""
PER_PAGE: Final = 10
MAX_PAGE: Final = 20
RANK_S: Final = 0.030
BUDGET_S: Final = 0.080
_OPENING_S: Final = 5.0
_STEPS: Final = 2_000
"""Instructions of SQLite's machine between two looks at the clock: some 20 µs."""
_CACHED: Final = 2_048
_LOOKED_AT: Final = 20_000
"""Characters of an act in which a beginning is marked: no clock stops that, and acts may be books."""
_PART = re.compile(r'"([^"]*)"?|([^\s"]+)')
_WORD = re.compile(r"[^\W_]+", re.UNICODE)
OPEN, CLOSE = "\x02", "\x03"
"""Around what was found, in titles and snippets; the text itself has no control characters."""

SCHEMA: Final = """
create table act (id integer primary key, act text not null unique, title text not null, language text not null,
  date text not null, version integer not null);
create virtual table found using fts5 (title, body, tokenize = "unicode61 remove_diacritics 2", prefix = 3);
create table edition (sequence integer not null);
"""


@dataclass(frozen=True, slots=True)
class Query:
    """A reader's words, understood."""

    text: str
    match: str
    """In FTS5's syntax, made of quoted words alone."""
    words: tuple[str, ...]
    """Folded as the index folds them; those that are beginnings end in a star."""

    @property
    def begins(self) -> bool:
        """Whether a beginning is looked for."""
        return any(word.endswith("*") for word in self.words)


@dataclass(frozen=True, slots=True)
class Hit:
    """One act that was found; marks stand in title and snippet."""

    act: str
    title: str
    snippet: str
    language: str
    date: str
    version: int


@dataclass(frozen=True, slots=True)
class Found:
    """One page of results."""

    hits: tuple[Hit, ...]
    more: bool
    ranked: bool
    """By relevance; otherwise the newest first."""
    complete: bool = True
    """False: the search was broken off, and there may be more."""


def parse_query(text: str) -> Query:
    """``UsageError`` with a sentence for the reader, if there is nothing to look for or too much."""
    if len(text) > MAX_QUERY:
        raise UsageError(f"Please search for at most {MAX_QUERY} characters.")
    parts: list[str] = []
    words: list[str] = []
    for phrase, plain in _PART.findall(unicodedata.normalize("NFC", text)):
        found = _WORD.findall(phrase or plain)
        if found:
            star = " *" if not phrase and plain.endswith("*") and len(found[-1]) >= 2 else ""
            words += [fold(word) for word in found[:-1]] + [fold(found[-1]) + star.strip()]
            parts.append(f'"{" ".join(found)}"{star}')
    if not parts:
        raise UsageError("Please type a word to look for.")
    if len(words) > MAX_WORDS:
        raise UsageError(f"Please search for at most {MAX_WORDS} words at once.")
    if sum(word.endswith("*") for word in words) > MAX_BEGINNINGS:
        raise UsageError(f"Please search for at most {MAX_BEGINNINGS} beginnings of words at once.")
    return Query(text.strip(), " AND ".join(parts), tuple(words))


def fold(word: str) -> str:
    """``word`` without case and accents."""
    if word.isascii():
        return word.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(c))


def mark(text: str, words: tuple[str, ...], *, around: int = 0) -> str:
    """``text`` with the words that are meant marked; with ``around``, only that many words around the first of them."""
    whole = frozenset(word for word in words if not word.endswith("*"))
    begins = tuple(word[:-1] for word in words if word.endswith("*"))
    tokens = list(_WORD.finditer(text))
    meant = [n for n, t in enumerate(tokens) if (f := fold(t[0])) in whole or (begins and f.startswith(begins))]
    first, last = 0, len(tokens)
    if around:
        first = max(0, (meant[0] if meant else 0) - around // 4)
        last = min(len(tokens), first + around)
    shown = frozenset(meant)
    made, at = ["…" if first else ""], tokens[first].start() if first else 0
    for number in range(first, last):
        token = tokens[number]
        made.append(text[at : token.start()])
        made.append(f"{OPEN}{token[0]}{CLOSE}" if number in shown else token[0])
        at = token.end()
    made.append("…" if last < len(tokens) else text[at:])
    return "".join(made)


class Searcher:
    """One open index. Not safe for several threads: each has its own.

    ``clock``: seconds, monotonic.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma query_only = on")
        self._db.execute("pragma mmap_size = 2147483648")
        self._db.execute("pragma cache_size = -32768")
        self._clock = clock
        self._until = 0.0
        self._db.set_progress_handler(lambda: self._clock() > self._until, _STEPS)
        self._common: OrderedDict[str, None] = OrderedDict()
        self._cache: OrderedDict[tuple[str, int], Found] = OrderedDict()

        self._until = clock() + _OPENING_S
        self._state = self._data_version()

    def close(self) -> None:
        self._db.close()

    def current(self) -> bool:
        """Whether the file is as it was when it was opened: what is remembered of it would be wrong otherwise."""
        self._until = self._clock() + _OPENING_S
        return self._data_version() == self._state

    def _data_version(self) -> int:
        return int(self._db.execute("pragma data_version").fetchone()[0])

    @property
    def sequence(self) -> int:
        """The version that this index is of."""
        self._until = self._clock() + _OPENING_S
        return int(self._db.execute("select max(sequence) from edition").fetchone()[0])

    def search(self, query: Query, page: int) -> Found:
        """Page number ``page``, from 1, of what ``query`` finds."""
        key = query.match, page
        if (known := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return known
        began = self._clock()
        found = self._search(query, page, began)
        if found.complete:
            self._cache[key] = found
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return found

    def _search(self, query: Query, page: int, began: float) -> Found:
        offset = (min(page, MAX_PAGE) - 1) * PER_PAGE
        ranked = query.match not in self._common
        rows: list[tuple[int]] | None = None
        if ranked:
            rows = self._rows("order by rank", query.match, offset, began + RANK_S)
        if rows is None:
            if ranked:
                self._common[query.match] = None
                if len(self._common) > _CACHED:
                    self._common.popitem(last=False)
            ranked = False
            rows = self._rows("order by rowid desc", query.match, offset, began + BUDGET_S)
        if rows is None:
            return Found((), more=False, ranked=False, complete=False)
        self._until = self._clock() + BUDGET_S
        hits = tuple(self._hit(query, row[0]) for row in rows[:PER_PAGE])
        return Found(hits, len(rows) > PER_PAGE and page < MAX_PAGE, ranked)

    def _rows(self, order: str, match: str, offset: int, until: float) -> list[tuple[int]] | None:
        """Row numbers; None if the time was over."""
        self._until = until
        statement = f"select rowid from found where found match ? {order} limit ? offset ?"  # noqa: S608 - ours
        try:
            return self._db.execute(statement, (match, PER_PAGE + 1, offset)).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return None
            raise

    def _hit(self, query: Query, row: int) -> Hit:
        if query.begins:
            # SQLite would merge the lists of all words with that beginning anew for each act.
            found = self._db.execute(
                "select act.act, c.c0, substr(c.c1, 1, ?), language, date, version from act"
                " join found_content c on c.id = act.id where act.id = ?",
                (_LOOKED_AT, row),
            ).fetchone()
            act, title, body, *rest = found
            return Hit(act, mark(title, query.words), mark(body, query.words, around=32), *rest)
        marked = f"highlight(found, 0, '{OPEN}', '{CLOSE}'), snippet(found, 1, '{OPEN}', '{CLOSE}', '…', 32)"
        statement = (
            f"select act, {marked}, language, date, version from found join act on act.id = found.rowid"  # noqa: S608
            " where found match ? and found.rowid = ?"
        )
        try:
            found = self._db.execute(statement, (query.match, row)).fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            found = None
        if found is None:  # no time was left for the passage: the act is named without it
            found = self._db.execute(
                "select act, title, '', language, date, version from act where id = ?", (row,)
            ).fetchone()
        return Hit(*found)


@dataclass(frozen=True, slots=True)
class Indexed:
    """An act as the index takes it up."""

    act: str
    title: str
    body: str
    language: str
    date: str
    version: int


def write_index(
    path: str, sequence: int, changed: Iterable[Indexed], removed: Iterable[str], *, line: int = 0
) -> None:  # fmt: skip
    """Brings the index at ``path`` (made if there is none) to version ``sequence`` of ``line`` (``RoomStore.line``).

    One transaction: a restart finds the former index or the new one.
    """
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("pragma synchronous = normal")
        db.execute("pragma cache_size = -65536")
        db.execute("begin immediate")
        if not db.execute("select 1 from sqlite_master where name = 'act'").fetchone():
            for statement in SCHEMA.strip().split(";\n"):
                db.execute(statement)
        for act in removed:
            _forget(db, act)
        for one in changed:
            _forget(db, one.act)
            row = _row(db, one.date)
            db.execute(
                "insert into act values (?, ?, ?, ?, ?, ?)",
                (row, one.act, one.title, one.language, one.date, one.version),
            )
            db.execute("insert into found (rowid, title, body) values (?, ?, ?)", (row, one.title, one.body))
        db.execute("delete from edition")
        db.execute("insert into edition values (?)", (sequence,))
        db.execute(f"pragma user_version = {line}")
        db.execute("commit")
    finally:
        db.close()


def index_sequence(path: str, line: int = 0) -> int:
    """The version that the index at ``path`` is of; 0 if there is none of ``line``, or none that can be read."""
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    except sqlite3.Error:
        return 0
    try:
        if db.execute("pragma user_version").fetchone()[0] != line:
            return 0
        return int(db.execute("select max(sequence) from edition").fetchone()[0] or 0)
    except (sqlite3.Error, TypeError):
        return 0
    finally:
        db.close()


def _forget(db: sqlite3.Connection, act: str) -> None:
    for (row,) in db.execute("select id from act where act = ?", (act,)).fetchall():
        db.execute("delete from found where rowid = ?", (row,))
        db.execute("delete from act where id = ?", (row,))


def _row(db: sqlite3.Connection, day: str) -> int:
    """A free row number that rises with the day, so that the newest acts come last."""
    start = int(day.replace("-", "") or 0) << 24
    taken = db.execute("select max(id) from act where id >= ? and id < ?", (start, start + (1 << 24))).fetchone()[0]
    return start if taken is None else int(taken) + 1

"""Rows from version to version: additions are never mistaken for harm, and harm is seen among additions."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.formats.signals import MAX_TABLES, TableSignal, TableState
from exclave.registers.contract import DatasetDigest
from exclave.registers.postgres_digest import postgres_digest
from exclave.registers.rows import (
    NOTHING,
    FormerRows,
    TableHasher,
    TableRows,
    decode_rows,
    encode_rows,
    table_signals,
)
from exclave.registers.sqlite_digest import sqlite_digest
from support.postgres import running_server

ROWS = st.lists(st.binary(min_size=1, max_size=6), max_size=40)


def hashed(rows: list[bytes], former: FormerRows = NOTHING, header: bytes = b"h", batch: int = 7) -> TableRows:
    hasher = TableHasher("t", header, former)
    for at in range(0, len(rows), batch):
        hasher.add(rows[at : at + batch])
    return hasher.done()


def after(then: list[bytes], now: list[bytes], *, declared: bool = True, header: bytes = b"h") -> TableSignal:
    names = frozenset({"t"}) if declared else frozenset()
    former = FormerRows({"t": hashed(then, FormerRows({}, names))}, names)
    (signal,) = table_signals([hashed(now, former, header)], former)
    return signal


@given(ROWS, ROWS, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_additions_are_never_harm(then: list[bytes], more: list[bytes], rng: random.Random) -> None:
    """Whatever rows are added, and wherever in the order they land, nothing counts as broken."""
    mixed = [*then, *more]
    rng.shuffle(mixed)
    assert after(then, mixed).broken == 0
    grown = after(then, [*then, *more])
    assert (grown.state, grown.broken) == (TableState.GROWN if more else TableState.SAME, 0)


@given(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=40, unique=True), st.integers(0, 39))
@settings(max_examples=60)
def test_lost_and_altered_rows_are_counted(then: list[bytes], at: int) -> None:
    """A row that is gone or altered is counted, also when others were added; a lost one makes the table smaller."""
    lost = [row for row in then if row is not then[at % len(then)]]
    altered = [*lost, b"altered!"]
    assert after(then, lost).state is TableState.SHRUNK
    assert after(then, lost).broken == 1
    assert after(then, altered).broken == 1
    assert after(then, [*altered, b"a new one", b"and another"]).broken == 1


def test_many_additions_hide_few_alterations() -> None:
    """Among 20,000 new rows, of 50 altered ones at least 40 are seen."""
    rng = random.Random(1)
    then = [rng.randbytes(12) for _ in range(20_000)]
    now = [*then[50:], *[rng.randbytes(12) for _ in range(20_050)]]
    assert 40 <= after(then, now).broken <= 50


def test_states_without_declaration() -> None:
    """Same, grown, altered, shrunk, reshaped, new and gone, from digests alone; nothing is counted as broken."""
    then = [b"a", b"b", b"c"]
    cases = {
        TableState.SAME: then,
        TableState.GROWN: [*then, b"d"],
        TableState.ALTERED: [b"a", b"x", b"c"],
        TableState.SHRUNK: [b"a"],
    }
    for state, now in cases.items():
        assert after(then, now, declared=False) == TableSignal("t", len(now), 3, state, 0, hashed(now).sha256[:16])
    assert after(then, then, header=b"other").state is TableState.RESHAPED
    assert after([], [b"a"]).state is TableState.GROWN
    former = FormerRows({"t": hashed(then)}, frozenset({"never-there"}))
    gone = table_signals([], former)
    assert gone == (TableSignal("never-there", 0, None, TableState.GONE), TableSignal("t", 0, 3, TableState.GONE))
    assert table_signals([hashed(then)], NOTHING)[0].state is TableState.NEW


def test_too_many_tables_leave_out_the_quiet_ones() -> None:
    """Declared tables and those that changed are told before those that stayed."""
    tables = {f"t{n:05d}": TableRows(f"t{n:05d}", 1, "00" * 32, "h") for n in range(MAX_TABLES + 10)}
    former = FormerRows(tables, frozenset({"t00000"}))
    now = [*list(tables.values())[:-1], TableRows(f"t{MAX_TABLES + 9:05d}", 2, "11" * 32, "h")]
    names = [signal.name for signal in table_signals(now, former)]
    assert len(names) == MAX_TABLES
    assert {"t00000", f"t{MAX_TABLES + 9:05d}"} <= set(names)


def test_kept_rows_survive_their_file_and_damage_is_no_rows() -> None:
    """What is kept is read back; a torn, flipped or foreign file is as if there were none."""
    declared = FormerRows({}, frozenset({"t"}))
    table = hashed([b"a", b"b"], declared)
    data = encode_rows([table])
    (kept,) = decode_rows(data).values()
    assert (kept.rows, kept.sha256, kept.summary) == (table.rows, table.sha256, table.summary)
    flipped = data[:40] + bytes([data[40] ^ 1]) + data[41:]
    for bad in (b"", data[:-1], flipped, b"\0\0\0\0", b"something else"):
        assert decode_rows(bad) == {}


def seen(now: DatasetDigest, then: DatasetDigest, *names: str) -> dict[str, tuple[str, int]]:
    former = FormerRows({table.name: table for table in then.tables}, frozenset(names))
    return {signal.name: (signal.state.value, signal.broken) for signal in table_signals(now.tables, former)}


def test_sqlite_tables(tmp_path: Path) -> None:
    """A digest taken with the former one in hand has the same value, and tells tables apart."""
    path = tmp_path / "d.sqlite"
    declared = frozenset({"log"})
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, what TEXT)")
        database.execute("CREATE TABLE people (name TEXT PRIMARY KEY, at TEXT) WITHOUT ROWID")
        database.executemany("INSERT INTO log (what) VALUES (?)", [(f"entry {n}",) for n in range(1200)])
        database.execute("INSERT INTO people VALUES ('aino', 'here')")
        one = sqlite_digest(path, former=FormerRows({}, declared))
        database.execute("INSERT INTO log (what) VALUES ('new')")
        database.execute("INSERT INTO people VALUES ('aada', 'here')")
        former = FormerRows({table.name: table for table in one.tables}, declared)
        two = sqlite_digest(path, former=former)
        assert two.value == sqlite_digest(path).value
        assert seen(two, one, "log") == {"log": ("grown", 0), "people": ("altered", 0)}
        database.execute("UPDATE log SET what = 'forged' WHERE id = 600")
        assert seen(sqlite_digest(path, former=former), one, "log")["log"] == ("altered", 1)


@pytest.mark.parametrize("major", [15])
def test_postgres_tables(major: int) -> None:
    """In PostgreSQL a table with a text key, whose rows have no order of their own, is watched as well as any."""
    declared = frozenset({"deed"})
    with running_server(major) as server:
        server.run(
            "CREATE TABLE deed (number text PRIMARY KEY, owner text)",
            "CREATE TABLE entry (id bigint PRIMARY KEY, what text)",
            "INSERT INTO deed SELECT md5(n::text), 'owner' FROM generate_series(1, 500) n",
            "INSERT INTO entry SELECT n, 'entry' FROM generate_series(1, 500) n",
        )
        one = postgres_digest(server.source(), FormerRows({}, declared))
        former = FormerRows({table.name: table for table in one.tables}, declared)
        server.run(
            "INSERT INTO deed SELECT md5(n::text), 'owner' FROM generate_series(501, 520) n",
            "INSERT INTO entry VALUES (501, 'entry')",
        )
        two = postgres_digest(server.source(), former)
        assert seen(two, one, "deed") == {"public.deed": ("altered", 0), "public.entry": ("grown", 0)}
        assert two.value == postgres_digest(server.source()).value
        server.run("UPDATE deed SET owner = 'thief' WHERE number = md5('7')", "DELETE FROM entry WHERE id = 9")
        three = postgres_digest(server.source(), former)
        assert seen(three, one, "deed") == {"public.deed": ("altered", 1), "public.entry": ("altered", 0)}

"""The trees of records: what they commit to, what they cost, and what a proof of a sealed register betrays."""

from __future__ import annotations

import hashlib
import sqlite3
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.crypto.keyed import content_hash
from exclave.errors import CorruptObject, MalformedError, MissingObject, UsageError
from exclave.formats.manifest import Leaf
from exclave.formats.proof import parse_proof
from exclave.formats.record import FileRecord, RowRecord, file_line, parse_record, record_head
from exclave.ids import Digest, Label, sha256
from exclave.operations.prove import WantedRow
from exclave.operations.records import kept_roots
from exclave.registers.rows import FormerRows, RowRecords, TableHasher
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.rules.records import GrowingTree, LevelTree, RecordsKey, VersionTree, commitment, join, verify_opening
from exclave.vault.records import DocumentBook
from support.proving import DEEDS, DOCS, ID_KEY, NAME, ProvingState, leaves

KEY = RecordsKey(ID_KEY, NAME)
LARGE = 200_000
"""Rows; a million take five times as long and as much memory as these."""


def node(number: int) -> Digest:
    return sha256(number.to_bytes(8))


def plainly(nodes: list[Digest]) -> Digest:
    """The root as the page says it, in its own words."""
    if not nodes:
        return KEY.filler(b"")
    while len(nodes) > 1:
        nodes = nodes if len(nodes) % 2 == 0 else [*nodes, KEY.filler(nodes[-1])]
        pairs = zip(nodes[::2], nodes[1::2], strict=True)
        nodes = [Digest(hashlib.sha256(b"\x01" + min(p) + max(p)).digest()) for p in pairs]
    return nodes[0]


@pytest.mark.parametrize("count", [*range(34), 100, 127, 128, 129, 1000])
def test_both_trees_are_one(count: int) -> None:
    """Kept as a whole or grown in bounded memory, a tree has the page's root, and each way leads there."""
    nodes = [node(n) for n in range(count)]
    whole = LevelTree(nodes, KEY.filler)
    assert whole.root == plainly(nodes)
    height = max(count - 1, 0).bit_length()
    for place in {0, count // 2, count - 1} if count else set():
        grown = GrowingTree(KEY.filler)
        for at, one in enumerate(nodes):
            grown.add(one, keep=at == place)
        assert grown.finish() == whole.root
        assert tuple(grown.way) == whole.way(place)
        assert len(grown.way) == height  # the last one's way is no shorter: it would tell that it is the last
        found = nodes[place]
        for step in grown.way:
            found = join(found, step)
        assert found == whole.root


@settings(max_examples=200, deadline=None)
@given(
    path=st.binary(min_size=1, max_size=60), size=st.integers(0, 2**63 - 1), content=st.binary(min_size=32, max_size=32)
)
def test_records_read_back(path: bytes, size: int, content: bytes) -> None:
    """What a document's record says is read back; a path that no entry can have is refused."""
    record = FileRecord(Label("land"), Label("docs"), path, size, content)
    parts = path.split(b"/")
    if b"\0" in path or any(part in (b"", b".", b"..") for part in parts):
        with pytest.raises(MalformedError):
            parse_record(record.encode())
    else:
        assert parse_record(record.encode()) == record


def _row(row: bytes, kind: str = "postgres") -> RowRecord:
    return RowRecord(Label("land"), Label("deeds"), kind, "public.deed", row)


def test_rows_of_postgres_read_back() -> None:
    """Tabs, newlines and backslashes in names and values, NULL, and a table without columns."""
    row = _row(b"id\tinteger\nna\\tme\ttext\nnote\ttext\n\n17\ta\\nb\\\\c\t\\N\n")
    assert parse_record(row.encode()) == row
    assert row.cells() == (("id", "integer", "17"), ("na\tme", "text", "a\nb\\c"), ("note", "text", None))
    assert _row(b"\n\n").cells() == ()
    assert _row(b"c\ttext\n\n\n").cells() == (("c", "text", ""),)
    for bad in (
        b"",
        b"\n",
        b"id\tinteger\n\n17",
        b"id\tinteger\n\n17\t18\n",
        b"id\n\n17\n",
        b"id\tint\n\n\\x\n",
        b"\xff\n\n\n",
    ):
        with pytest.raises(MalformedError):
            parse_record(_row(bad).encode())


def test_rows_of_sqlite_read_back() -> None:
    """Every kind of value that SQLite has, and nothing else."""
    header = b"\x92\x92\xa1a\xa3INT\x92\xa1b\xa0"
    told = {b"\x01": "1", b"\xa2hi": "hi", b"\xc4\x01\xff": "x'ff'", b"\xc0": None,
            b"\xcb?\xf8\0\0\0\0\0\0": "1.5", b"\xd4\x01\xff": "x'ff' (a text that is not UTF-8)"}  # fmt: skip
    for value, text in told.items():
        row = _row(header + b"\x92\x07" + value, "sqlite")
        assert parse_record(row.encode()) == row
        assert row.cells()[1][2] == text
    ends = (b"", b"\x91\x01", b"\x92\x01\xc3", b"\x92\x01\xcd\0\1", b"\x92\x01\x90", b"\x92\x01\x02\x03")
    for bad in (*(header + end for end in ends), b"\x92", b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(MalformedError):
            parse_record(_row(bad, "sqlite").encode())


def test_openings_lead_to_the_root() -> None:
    """Each document of a dataset, links and folders left out; and no other record, salt or way does."""
    documents = {f"a/{n}".encode(): b"%d" % n for n in range(50)}
    book = DocumentBook(KEY, DOCS, leaves(documents))
    tree = VersionTree(KEY, 7, {DOCS: book.root, DEEDS: node(1)})
    assert sorted(book.paths) == sorted(documents)
    for path in documents:
        opening = tree.extend(DOCS, book.open(path))
        verify_opening(opening, tree.root)
        with pytest.raises(CorruptObject):
            verify_opening(opening, VersionTree(KEY, 8, {DOCS: book.root, DEEDS: node(1)}).root)
    with pytest.raises(MissingObject):
        book.open(b"a")


def test_equal_contents_do_not_show() -> None:
    """Two versions with the same records have different roots, and two equal rows different commitments."""
    roots = {DOCS: node(3)}
    assert VersionTree(KEY, 1, roots).root != VersionTree(KEY, 2, roots).root
    assert KEY.row_salt(0, b"row") != KEY.row_salt(1, b"row")


def _deeds(path: Path, rows: Iterator[tuple[int, str]]) -> None:
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE deed (id INTEGER PRIMARY KEY, consent TEXT)")
        made.executemany("INSERT INTO deed VALUES (?, ?)", rows)
        made.commit()


def test_neighbours_cannot_be_guessed(tmp_path: Path) -> None:
    """Of records with two possible values each, a proof of one holds no other, and whoever tries all values of its
    neighbours finds none of the hashes, for want of their salts. With the salts he would: so the test can fail."""
    made = ProvingState(tmp_path / "state", sites=("home",))
    rows = [(n, "yes" if n % 3 else "no") for n in range(8)]
    documents = {f"person-{n}.txt".encode(): b"yes" if n % 2 else b"no" for n in range(8)}
    made.commit(documents, rows)
    data = made.row(1, "deed:id=2")
    proof = parse_proof(data)
    assert b"person" not in data
    assert proof.opening.record.endswith(b"\x92\x02\xa3yes")
    known = set(proof.opening.path)
    head = proof.opening.record[: -len(b"\x92\x02\xa3yes")]
    salts = [proof.opening.salt, bytes(32), *(KEY_OF_NOBODY.row_salt(n, b"") for n in range(8))]
    guesses = [head + b"\x92" + bytes([n]) + value for n, value in product(range(8), (b"\xa3yes", b"\xa2no"))]
    assert not known & {commitment(salt, guess) for salt, guess in product(salts, guesses)}
    assert not known & {sha256(guess) for guess in guesses}
    assert known & {commitment(KEY.row_salt(n, guess), guess) for n, guess in product(range(8), guesses)}

    document = parse_proof(made.document(1, b"person-3.txt"))
    others = [
        record_head(NAME, DOCS) + file_line(b"person-%d.txt" % n, len(v), content_hash(v))
        for n, v in product(range(8), (b"yes", b"no"))
    ]
    seen = set(document.opening.path)
    assert not seen & {commitment(salt, other) for salt, other in product([document.opening.salt, *salts], others)}
    for other in others:
        assert other == document.opening.record or other not in made.document(1, b"person-3.txt")


KEY_OF_NOBODY = RecordsKey(bytes(32), NAME)


def test_length_tells_no_more_than_bits(tmp_path: Path) -> None:
    """First, middle and last row have ways of one length, and so have five rows and eight."""
    made = ProvingState(tmp_path / "state", sites=("home",))
    made.commit({b"a": b""}, [(n, "x") for n in range(5)])
    made.commit({b"a": b""}, [(n, "x") for n in range(8)])
    lengths = {len(made.open_row(v, f"deed:id={n}").path) for v, n in ((1, 0), (1, 2), (1, 4), (2, 0), (2, 7))}
    assert len(lengths) == 1


def test_which_row(tmp_path: Path) -> None:
    """By one column, several, or the first one; what is not one row is not guessed at."""
    path = tmp_path / "deeds.db"
    _deeds(path, iter([(1, "yes"), (2, "no"), (3, "yes")]))
    for text in ("deed:id=2", "deed:2", "deed:consent=no", "deed:id=1,consent=yes"):
        wanted = WantedRow(text)
        rows = RowRecords(KEY, DEEDS, wanted)
        digest = sqlite_digest(path, former=FormerRows(records=rows))
        assert wanted.found == 1
        assert rows.opening is not None
        assert digest.records is not None
        verify_opening(rows.opening, digest.records)
    for text, found in (("deed:consent=yes", 2), ("deed:id=9", 0), ("other:id=1", 0)):
        wanted = WantedRow(text)
        sqlite_digest(path, former=FormerRows(records=RowRecords(KEY, DEEDS, wanted)))
        assert wanted.found == found
    for text in ("deed", "deed:", ":id=1", ""):
        with pytest.raises(UsageError):
            WantedRow(text)


def test_many_rows_in_bounded_memory() -> None:
    """Memory does not grow with the number of rows, and the digest stays what it is without records."""
    peaks = []
    for count in (LARGE // 10, LARGE):
        rows = RowRecords(KEY, DEEDS, lambda kind, table, row, last=count - 1: row.endswith(b"\t%d\n" % last))
        hasher = TableHasher("deed", b"id\tinteger\n\n", FormerRows(records=rows), kind="postgres", parts=("deed",))
        tracemalloc.start()
        for first in range(0, count, 1000):
            hasher.add([b"%d\t%d\n" % (n, n) for n in range(first, first + 1000)])
        done = hasher.done()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert rows.opening is not None
        assert done.records is not None
        verify_opening(rows.opening, done.records)
    plain = TableHasher("deed", b"id\tinteger\n\n")
    plain.add([b"%d\t%d\n" % (n, n) for n in range(LARGE)])
    assert plain.done().sha256 == done.sha256
    assert peaks[1] < peaks[0] + (1 << 20)


def test_kept_roots_survive_damage(tmp_path: Path) -> None:
    """A torn or foreign line of what home keeps hides no other."""
    line = b'{"sequence":3,"records":"%s","datasets":{"docs":"%s"}}\n' % (b"aa" * 32, b"bb" * 32)
    (tmp_path / "records").write_bytes(b'{"sequ\n\xff\xff\n' + line + b'{"sequence":4,"rec')
    assert kept_roots(tmp_path, Digest(b"\xaa" * 32)) == {DOCS: Digest(b"\xbb" * 32)}
    assert kept_roots(tmp_path, Digest(b"\xbb" * 32)) == {}
    assert kept_roots(tmp_path / "none", Digest(b"\xaa" * 32)) == {}


def test_no_document_at_all() -> None:
    """An empty dataset has a root that tells nothing, and nothing to be shown."""
    none: list[Leaf] = []
    assert DocumentBook(KEY, DOCS, none).root == KEY.filler(b"")
    assert DocumentBook(KEY, DOCS, leaves({})).root == KEY.filler(b"")

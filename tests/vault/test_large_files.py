"""Large files: how they are read, cut and compressed, and that their memory is used again only when nobody reads it."""

from __future__ import annotations

import os
import random
import sqlite3
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.crypto.keyed import content_hash
from exclave.formats.entry import Entry
from exclave.formats.pack import is_stored
from exclave.vault.chunker import Chunker
from exclave.vault.compression import Effort, pack_chunk
from exclave.vault.largefile import ROOM_BYTES, LargeBlock, LargeFile
from exclave.vault.opener import decompress
from exclave.vault.plan import PAGES_BYTES, FixedCutter, plan_for
from exclave.vault.room import Rooms
from exclave.vault.stream import Job
from support.vault import Vault, picture

PAGE = 8192
BY_CONTENT = Chunker(7, average_bytes=512 << 10)


def page(content: bytes, *, special: int = PAGE) -> bytes:
    """A page of PostgreSQL whose rows are ``content``."""
    upper = special - len(content)
    body = bytes(10) + struct.pack("<5H", 0, 28, upper, special, PAGE | 4) + bytes(4)
    return body.ljust(upper, b"\0") + content + bytes(PAGE - special)


def table(pages: int, seed: int = 1) -> bytes:
    noise = random.Random(seed)
    return b"".join(page(noise.randbytes(300) + bytes(3000)) for _ in range(pages))


class Pieces:
    """Content in blocks of their own."""

    def __init__(self, *blocks: bytes | int) -> None:
        self._given = blocks

    def blocks(self) -> Iterator[bytes | memoryview | int]:
        yield from self._given


def read(*blocks: bytes | int) -> tuple[Job, list[tuple[bytes | int, Effort | None]]]:
    """The job after reading, and the chunks in order, holes as their lengths."""
    size = sum(block if isinstance(block, int) else len(block) for block in blocks)
    job = Job(Entry(b"file", 0, 0o644, 0, 0, 0, size), None)
    chunks: list[tuple[bytes | int, Effort | None]] = []
    rooms = Rooms(ROOM_BYTES, kept=2)

    def send(block: LargeBlock) -> None:
        for view in block.views:
            chunks.append((bytes(view), block.effort))
            view.release()
        block.views.clear()
        rooms.give_back(block.room)

    large = LargeFile(job, rooms, BY_CONTENT, send)
    large.read(Pieces(*blocks))
    assert large.total_bytes == size
    found = iter(chunks)
    return job, [(length, None) if slot is None else next(found) for slot, _, length in job.parts]


def test_content_comes_out_as_it_went_in() -> None:
    """Blocks of any length, holes, and a length that is no multiple of anything: same bytes, hash and lengths."""
    noise = random.Random(2)
    blocks = (
        noise.randbytes(5 << 20),
        noise.randbytes(12_345_678),
        3 << 20,
        noise.randbytes(1),
        7,
        noise.randbytes(99),
    )
    job, chunks = read(*blocks)
    whole = b"".join(block if isinstance(block, bytes) else bytes(block) for block in blocks)
    assert b"".join(chunk if isinstance(chunk, bytes) else bytes(chunk) for chunk, _ in chunks) == whole
    assert [length for _, _, length in job.parts] == [c if isinstance(c, int) else len(c) for c, _ in chunks]
    assert job.hash == content_hash(whole)


def test_cuts_do_not_depend_on_where_a_room_ends() -> None:
    """Cut by content, a file of several rooms has the chunks that it would have in one piece."""
    data = random.Random(3).randbytes(3 * ROOM_BYTES + 1234)
    _, chunks = read(data)
    ends = BY_CONTENT.cut(data)
    assert [chunk for chunk, _ in chunks] == [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def test_a_page_that_changes_ships_one_chunk() -> None:
    """A database's file is cut at fixed places, so that a changed page leaves all chunks but its own as they were."""
    before = table(200)
    after = bytearray(before)
    after[100 * PAGE + 5000] ^= 1
    (_, old), (_, new) = read(before), read(bytes(after))
    assert [len(chunk) for chunk, _ in old if isinstance(chunk, bytes)] == [PAGES_BYTES] * 12 + [8 * PAGE]
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1


def test_what_a_file_is_taken_for(tmp_path: Path) -> None:
    """SQLite files and two good pages of PostgreSQL are databases; whatever resembles them is not."""
    database = tmp_path / "a.sqlite"
    with sqlite3.connect(database) as made:
        made.execute("CREATE TABLE t(x)")
        made.executemany("INSERT INTO t VALUES(?)", [(n,) for n in range(100_000)])
    made.close()
    good = table(3)
    assert isinstance(plan_for(memoryview(database.read_bytes()), BY_CONTENT).cutter, FixedCutter)
    assert isinstance(plan_for(memoryview(good), BY_CONTENT).cutter, FixedCutter)
    for bad in (
        b"", b"x", b"SQLite format 3", good[: 2 * PAGE - 1], good[:PAGE] + bytes(PAGE), bytes(2 * PAGE),
        good[:12] + b"\xff\xff" + good[14:], good[:18] + b"\x05" + good[19:], good[:16] + b"\x01\x20" + good[18:],
        os.urandom(1 << 20),
    ):  # fmt: skip
        assert plan_for(memoryview(bad), BY_CONTENT).cutter is BY_CONTENT


def index_page(first: int, rows: int = 366) -> bytes:
    """A leaf of a B-tree over ascending numbers: line pointers, then index tuples of 16 bytes from the end."""
    special, lower = PAGE - 16, 24 + 4 * rows
    lines = b"".join(struct.pack("<I", (special - 16 * (n + 1)) | 1 << 15 | 16 << 17) for n in range(rows))
    tuples = b"".join(
        struct.pack("<HHHHII", 0, n // 61, n % 61 + 1, 16, n, 0) for n in range(first + rows - 1, first - 1, -1)
    )
    head = bytes(10) + struct.pack("<5H", 0, lower, special - len(tuples), special, PAGE | 4) + bytes(4)
    return (head + lines).ljust(special - len(tuples), b"\0") + tuples + bytes(16)


def test_an_index_is_compressed_harder_than_a_table() -> None:
    """What takes more time is chosen where it pays: for many short rows that are much alike."""
    index = b"".join(index_page(366 * n) for n in range(200))
    assert plan_for(memoryview(index), BY_CONTENT).effort is Effort.KEYS
    assert plan_for(memoryview(table(64)), BY_CONTENT).effort is Effort.PAGES


@pytest.mark.parametrize("length", [1, 100, 4096, (64 << 10) - 1, 64 << 10, 1_000_003])
def test_what_does_not_compress_is_stored(length: int) -> None:
    """Random bytes are sealed as they are, text as a frame; the record's length tells which."""
    noise = memoryview(random.Random(4).randbytes(length))
    assert pack_chunk(noise) is noise
    text = memoryview((b"parcel 17, owner unknown; " * (length // 26 + 9))[: length + 200])
    for effort in Effort:
        frame = pack_chunk(text, effort)
        assert isinstance(frame, bytes)
        assert len(frame) < len(text)
        assert not is_stored(len(frame) + 16, len(text))
        assert decompress(frame, len(text)) == text
    assert is_stored(length + 16, length)


def test_half_of_a_chunk_is_worth_its_frame() -> None:
    """A chunk of which any eighth compresses is not taken for dense."""
    noise = random.Random(5)
    for eighth in range(8):
        parts = [noise.randbytes(40_000) for _ in range(8)]
        parts[eighth] = bytes(40_000)
        assert len(pack_chunk(memoryview(b"".join(parts)))) < 300_000


def test_a_room_that_is_still_read_is_not_used_again() -> None:
    """Whoever keeps a slice, or lends it to a library, keeps the bytes that he was given."""
    rooms = Rooms(1 << 20, kept=4)
    room = rooms.take()
    room.view[:5] = b"first"
    kept = room.view[:5]
    rooms.give_back(room)
    others = [rooms.take() for _ in range(6)]
    for other in others:
        other.view[:6] = b"second"
    assert bytes(kept) == b"first"
    for other in others:
        rooms.give_back(other)
    again = rooms.take()
    assert bytes(again.view[:6]) == b"second", "a room that nobody reads is used again"
    assert len(rooms.take(2 << 20).view) == 2 << 20


def test_many_threads_seal_into_the_same_packs(tmp_path: Path) -> None:
    """Packs that several threads fill at once restore bit for bit, dense and compressible chunks mixed."""
    source = tmp_path / "source"
    source.mkdir()
    noise = random.Random(6)
    for n in range(12):
        dense = noise.randbytes((2 << 20) + n)
        (source / f"{n}").write_bytes(dense + b"line %d of a register\n" % n * 100_000 + dense[: 1 << 20])
    with open(source / "sparse", "wb") as sparse:
        for at in (0, 5 << 20, 40 << 20):
            sparse.seek(at)
            sparse.write(noise.randbytes(2 << 20))
        sparse.truncate(64 << 20)
    (source / "16384").write_bytes(table(700))
    vault = Vault(tmp_path / "cache")
    version = vault.back_up(source)
    vault.restore(version, tmp_path / "out")
    assert picture(tmp_path / "out") == picture(source)
    assert threading.active_count() < 20, "threads of the run have ended"

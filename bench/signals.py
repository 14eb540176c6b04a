"""What signals cost a backup: CPU seconds (user and system) with and without them, one after the other in turns.

Run from the repository's root: ``PYTHONPATH=src:tests python bench/signals.py [FOLDER] [FILES]``. A tree of documents
is made in a new folder below FOLDER (default /var/tmp); sites are in memory, so only the writer's work counts.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from exclave.ids import Instant, Label, Sequence, now
from exclave.registers.files import FolderCapture
from exclave.registers.rows import NOTHING, FormerRows
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.vault.index import ChunkIndex
from exclave.vault.signals import Watch
from exclave.vault.writer import VersionWriter
from support.vault import Vault, identity, needs_one

ROUNDS = 3
ROWS = 500_000


def cpu() -> float:
    used = os.times()
    return used.user + used.system


def make(tree: Path, files: int) -> None:
    """Text-like documents of 0 to 16 KiB in folders of 500."""
    rng = random.Random(1)
    words = [rng.randbytes(6).hex().encode() for _ in range(2000)]
    for number in range(files):
        folder = tree / f"{number // 500:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        text = b" ".join(rng.choices(words, k=rng.randint(0, 1200)))
        (folder / f"{number:07d}.{rng.choice(('txt', 'xml', 'csv', 'dat'))}").write_bytes(text)
    time.sleep(0.1)


def change(tree: Path, share: float, seed: int) -> None:
    rng = random.Random(seed)
    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    for path in rng.sample(paths, int(len(paths) * share)):
        path.write_bytes(path.read_bytes() + b" amended %d" % seed)
    time.sleep(0.1)


def back_up(vault: Vault, tree: Path, *, watched: bool) -> float:
    """CPU seconds of one version."""
    began = cpu()
    vault.cache.mkdir(parents=True, exist_ok=True)
    index = ChunkIndex(vault.cache / "index.sqlite")
    writer = VersionWriter(identity(), sites=vault.sites, index=index, cache=vault.cache, check_placement=needs_one)
    watch = Watch(now(), immutable=("*.csv",)) if watched else None
    capture = FolderCapture(tree, now)
    describe = writer.add_dataset(Label("docs"), "files", capture.items(), ordered=True, watch=watch)
    facts = {"signals": writer.signals_of(Label("docs")).encode()} if watched else {}
    describe(Instant(1), facts, None)
    vault.versions += 1
    writer.seal(Sequence(vault.versions), Instant(vault.versions))
    writer.commit_caches()
    writer.close()
    index.close()
    return cpu() - began


def files(place: Path, count: int) -> None:
    make(place / "tree", count)
    vaults = {True: Vault(place / "with"), False: Vault(place / "without")}
    print(f"{count} files                  with signals   without")
    for name, share in (("first", 0.0), ("nothing changed", 0.0), ("1 % changed", 0.01), ("10 % changed", 0.1)):
        best = {True: 1e9, False: 1e9}
        for turn in range(ROUNDS if name != "first" else 1):
            if share:
                change(place / "tree", share, turn + int(share * 1000))
            for watched in (True, False) if turn % 2 else (False, True):
                best[watched] = min(best[watched], back_up(vaults[watched], place / "tree", watched=watched))
        print(f"  {name:20} {best[True]:10.2f} s {best[False]:10.2f} s")


def tables(place: Path) -> None:
    path = place / "rows.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE deed (id INTEGER PRIMARY KEY, parcel TEXT, owner TEXT, at INTEGER)")
        rows = ((f"parcel {n}", f"owner {n % 977}", n) for n in range(ROWS))
        database.executemany("INSERT INTO deed (parcel, owner, at) VALUES (?, ?, ?)", rows)
    known = {table.name: table for table in sqlite_digest(path, former=FormerRows({}, frozenset({"deed"}))).tables}
    kinds = {
        "digest alone": NOTHING,
        "compared": FormerRows(known),
        "append-only": FormerRows(known, frozenset({"deed"})),
    }
    print(f"\ndigest of a table of {ROWS} rows")
    for name, former in kinds.items():
        best = 1e9
        for _ in range(ROUNDS):
            began = cpu()
            sqlite_digest(path, former=former)
            best = min(best, cpu() - began)
        print(f"  {name:20} {best:10.2f} s")


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else "/var/tmp"
    with tempfile.TemporaryDirectory(dir=where) as folder:
        files(Path(folder), int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
        tables(Path(folder))


if __name__ == "__main__":
    main()

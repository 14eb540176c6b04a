"""A state that uses every variant of the formats that a restore reads: the last-resort reader must open all of it.

A change of a format changes what is made here by itself; a *new* variant is added to ``VARIANTS``. ``made`` builds the
state in a folder, ``told`` says of a restored folder what it holds, in a form that can be kept.
"""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from exclave.crypto.keyed import content_hash
from exclave.formats.entry import Captured, Entry, Kind
from exclave.formats.fact import Fact
from exclave.formats.leaf import VersionLeaf
from exclave.formats.warrant import Act
from exclave.ids import Instant, Label, Sequence
from exclave.registers.files import FolderCapture
from exclave.registers.sqlite import SqliteCapture
from exclave.vault.index import ChunkIndex
from exclave.vault.sealer import PackKeys
from exclave.vault.signals import Watch
from exclave.vault.writer import VersionWriter, WriterIdentity
from support.small_state import HOUR, SmallState

VARIANTS = {
    "kinds of datasets": ("files", "sqlite", "postgres", "identity"),
    "kinds of entries": tuple(kind.name.lower() for kind in Kind),
    "content": ("empty", "small", "compressed", "stored as it is", "holes", "inline extents", "listed extents"),
    "trees": ("one leaf", "branches", "entries out of order", "an empty dataset"),
    "epochs": (
        "first",
        "failover, with an ancestor box",
        "rekey, with two ancestors",
        "rekey without the key of an epoch",
        "a later charter",
    ),
    "registers": ("sealed name", "public name"),
    "ledger": ("versions", "facts", "signals in a manifest"),
}
"""What ``made`` contains; for people, and for the test that counts."""
LOST = 2
"""A version that nobody can open any more, since a rekey left its epoch's key out on purpose."""
OLD_NS = 1_600_000_000_123_456_789


class _Bytes:
    def __init__(self, parts: Iterable[bytes | int]) -> None:
        self._parts = tuple(parts)

    def blocks(self) -> Iterator[bytes | int]:
        yield from self._parts


def entries(large: int, *, devices: bool) -> Iterator[Captured]:
    """Every kind of entry and of content; ``large``: bytes of noise in one file. Devices only root can bring back."""
    rng = random.Random(30)
    made: dict[bytes, Captured] = {b"": Captured(Entry(b"", Kind.FOLDER, 0o755, 0, 0, OLD_NS))}

    def add(path: bytes, kind: Kind, mode: int = 0o644, *, target: bytes = b"", device: int = 0) -> None:
        made[path] = Captured(Entry(path, kind, mode, 0, 0, OLD_NS, 0, target, (), device))

    def file(path: bytes, *parts: bytes | int, xattrs: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        size = sum(part if isinstance(part, int) else len(part) for part in parts)
        entry = Entry(path, Kind.FILE, 0o640, 0, 0, OLD_NS + 1, size, b"", xattrs)
        made[path] = Captured(entry, content=_Bytes(part for part in parts if part))

    file(b"empty")
    file(b"compressed", bytes(range(256)) * 600)
    file(b"noise", *(rng.randbytes(min(1 << 20, large - at)) for at in range(0, large, 1 << 20)))
    file(b"holes", 4096, b"in the midst", 1_000_000, b"end", 70_000)
    file(b"pieces", *(part for n in range(1500) for part in (8188, b"%04d" % n)))
    file(b"not-\xff-utf8", b"name in bytes", xattrs=((b"user.comment", b"parcel 7"),))
    add(b"folder", Kind.FOLDER, 0o1777)
    for number in range(700):
        file(b"folder/%04d" % number, b"act %d\n" % number)
    add(b"link", Kind.SYMLINK, 0o777, target=b"../nowhere")
    add(b"same-as-noise", Kind.HARDLINK, 0, target=b"noise")
    add(b"pipe", Kind.FIFO, 0o620)
    add(b"socket", Kind.SOCKET, 0o600)
    if devices:
        add(b"null", Kind.CHAR_DEVICE, 0o666, device=os.makedev(1, 3))
        add(b"loop", Kind.BLOCK_DEVICE, 0o660, device=os.makedev(7, 0))
    for path in sorted(made, key=lambda path: path.split(b"/") if path else []):
        yield made[path]


def out_of_order() -> Iterator[Captured]:
    """As a database's own backup sends its files: a folder before what is in it, and no other order."""
    for path in (b"", b"z", b"z/2", b"base", b"base/2", b"base/1", b"backup_manifest"):
        folder = path in (b"", b"z", b"base")
        entry = Entry(path, Kind.FOLDER if folder else Kind.FILE, 0o700, 0, 0, OLD_NS, 0 if folder else 5)
        yield Captured(entry, content=None if folder else _Bytes([b"page!"]))


class ThirtyYears(SmallState):
    """A ``SmallState`` whose versions have several datasets."""

    def write_datasets(self, *datasets: tuple[str, str, Iterable[Captured], bool]) -> None:
        """One version of (label, kind, items, ordered)."""
        self.sequence += 1
        self.time = Instant(self.time + HOUR)
        epoch = self.epoch
        number = epoch.note.epoch
        keys = PackKeys(
            self.register, number, epoch.opening.public, self.secrets.id_key, self.secrets.index_keys[number]
        )
        who = WriterIdentity(self.state, self.register, "land register", number, keys, self.secrets)
        index = ChunkIndex(self.cache / "index.sqlite")
        writer = VersionWriter(
            who, sites=dict(self.sites), index=index, cache=self.cache, check_placement=lambda g: None
        )
        try:
            for name, kind, items, ordered in datasets:
                label = Label(name)
                describe = writer.add_dataset(label, kind, items, ordered=ordered, watch=Watch(self.time))
                describe(self.time, {"from": "a test", "signals": writer.signals_of(label).encode()}, None)
            sealed = writer.seal(Sequence(self.sequence), self.time)
            writer.commit_caches()
        finally:
            writer.close()
            index.close()
        leaf = VersionLeaf(
            self.register, number, Sequence(self.sequence), self.time, sealed.manifest, sealed.objects.root,
            sealed.objects.count, sealed.objects.size_bytes,
        )  # fmt: skip
        self.append(leaf.encode())


def database(folder: Path) -> Iterator[Captured]:
    """A small SQLite database, captured as the product does."""
    folder.mkdir()
    path = folder / "register.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript("CREATE TABLE deed (id INTEGER PRIMARY KEY, who); INSERT INTO deed VALUES (1, 'õ');")
    with SqliteCapture(path, folder / "staging", lambda: Instant(1)) as capture:
        yield from capture.items()


def journal(folder: Path) -> Iterator[Captured]:
    """A folder as identity services keep one."""
    folder.mkdir()
    (folder / "00000001").write_bytes(b"entries\n" * 40)
    yield from FolderCapture(folder, lambda: Instant(1)).items()


def made(
    folder: Path, *, large: int, register_name: str | None, devices: bool = False, lost: bool = True
) -> ThirtyYears:
    """The state: four versions in four epochs, a charter in between. The second's key is gone: see ``LOST``."""
    state = ThirtyYears(folder, register_name=register_name)
    state.write_datasets(
        ("acts", "files", entries(large, devices=devices), True),
        ("db", "sqlite", database(folder / "sqlite"), True),
        ("cluster", "postgres", out_of_order(), False),
        ("identity", "identity", journal(folder / "journal"), True),
    )
    state.append(Fact(state.register, state.epoch.note.epoch, state.time, Label("note"), None, ("a fact",)).encode())
    state.new_epoch()
    state.write_datasets(("acts", "files", entries(large, devices=devices), True), ("none", "files", iter(()), True))
    state.next_charter()
    state.new_epoch(Act.REKEY)
    state.write_datasets(("acts", "files", small(), True))
    if lost:
        state.new_epoch(Act.REKEY, without=(2,))
        state.write_datasets(("acts", "files", small(), True))
    for person in state.custodians[: state.threshold]:
        state.key_file(str(person.name))
    return state


def small() -> Iterator[Captured]:
    """A tree of one leaf."""
    yield Captured(Entry(b"", Kind.FOLDER, 0o755, 0, 0, OLD_NS))
    yield Captured(Entry(b"act", Kind.FILE, 0o644, 0, 0, OLD_NS, 5), content=_Bytes([b"last\n"]))


def told(folder: Path) -> dict[str, str]:
    """Path → what stands there: kind, mode, time, length, BLAKE3, target, attributes."""
    found: dict[str, str] = {}
    walked: list[Path] = [folder, *sorted(folder.rglob("*"))]
    inodes: dict[int, str] = {}
    for path in walked[1:]:
        info, name = path.lstat(), os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
        first = inodes.setdefault(info.st_ino, name)
        parts = [oct(info.st_mode), str(info.st_mtime_ns)]
        if first != name:
            parts.append(f"same as {first}")
        elif stat.S_ISREG(info.st_mode):
            parts += [str(info.st_size), content_hash(path.read_bytes()).hex()]
        elif stat.S_ISLNK(info.st_mode):
            parts.append(os.readlink(path))
        elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
            parts.append(str(info.st_rdev))
        names = sorted(os.listxattr(path, follow_symlinks=False)) if not stat.S_ISLNK(info.st_mode) else []
        parts += [f"{key}={os.getxattr(path, key)!r}" for key in names if key.startswith("user.")]
        found[name] = " ".join(parts)
    return found


def expected(items: Iterable[Captured], under: str) -> Callable[[dict[str, str]], list[str]]:
    """A check of ``told``: what is missing or has another length than it was captured with."""
    captured = list(items)

    def wrong(found: dict[str, str]) -> list[str]:
        missed = []
        for item in captured:
            name = os.path.join(under, item.entry.path.decode("utf-8", "backslashreplace")).rstrip("/")
            text = found.get(name, "")
            plain = item.entry.kind == Kind.FILE and "same as" not in text
            if not text or (plain and text.split()[2] != str(item.entry.size)):
                missed.append(name)
        return missed

    return wrong

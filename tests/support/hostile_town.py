"""A small state with every kind of object, made by commands once and copied into memory for a host to spoil.

Two epochs with two versions each; restores go the whole way, from the fingerprint to files on the disk.
"""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from exclave.cli.keys import load_key
from exclave.errors import AlreadyExists, HeadMoved, MissingObject, SiteUnavailable
from exclave.formats.objectlist import parse_list_node
from exclave.formats.paths import list_key, pack_key
from exclave.formats.warrant import Act
from exclave.ids import Digest, Fingerprint, Key, RegisterId, now, parse_fingerprint, parse_register_id
from exclave.operations.custody import grant, open_register
from exclave.operations.home import Home
from exclave.operations.restore import open_version, restore_version
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Site, Sources, Tagged
from exclave.sites.memory import MemorySite
from exclave.verify.history import CountedVersion, read_history
from exclave.verify.state import read_state
from support.hostile import PassThrough
from support.shown_sites import filled
from support.small_home import SmallHome, tree_of

LUX = "lux"
KINDS: dict[str, str] = {
    "charter": "/charter/",
    "card": "/card/",
    "warrant": "/warrant/",
    "epoch": "/epoch/",
    "box": "/box/",
    "checkpoint": "/checkpoint",
    "bundle": "/tile/entries/",
    "tile": "/tile/0/",
    "pack": "/pack/",
    "list": "/list/",
}
"""Every kind of object that a restore needs, and what its name has in it."""


def kind_of(key: str) -> str:
    """The kind of the object ``key``, or ``other``."""
    return next((kind for kind, part in KINDS.items() if part in key), "other")


@dataclass(frozen=True, slots=True)
class Town:
    """What was made: objects of each site, now and after the first version, and the content of every version."""

    root: Path
    state: Fingerprint
    register: RegisterId
    objects: Mapping[str, Mapping[Key, bytes]]
    before: Mapping[Key, bytes]
    """What the site ``lux`` held when there was one version."""
    trees: Mapping[int, Mapping[str, bytes]]
    warrant: Path
    key: Path
    answers: tuple[Path, ...]

    def site(self, name: str) -> MemorySite:
        """A fresh copy of one site."""
        return filled(name, self.objects[name])

    def sites(self) -> dict[str, MemorySite]:
        return {name: self.site(name) for name in self.objects}

    def keys(self, kind: str) -> list[Key]:
        """Names of the objects of one kind at ``lux``."""
        return sorted(key for key in self.objects[LUX] if kind_of(key) == kind)

    def versions(self, sources: Sources) -> Iterator[tuple[int, Callable[[], dict[str, bytes]]]]:
        """The number of every version that was made, and a function that restores it from ``sources`` alone."""
        for number in self.trees:
            yield number, lambda number=number: self.restore(sources, number)  # type: ignore[misc]

    def restore(self, sources: Sources, number: int) -> dict[str, bytes]:
        """One version, opened by warrant, as names and contents; nothing of it is taken from elsewhere."""
        view = read_state(sources, self.state)
        machine = load_key(self.key)
        granted = grant(view, self.warrant, self.answers, act=Act.RESTORE, place=None, machine=machine, now=now())
        opened = open_register(view, sources, self.register, granted, machine)
        history = read_history(view, sources, self.register, allow_unwitnessed=True)
        version = _version(history.versions, number)
        reader, root = open_version(view.state, sources, opened, version)
        with TemporaryDirectory() as folder:
            restore_version(reader, root, Path(folder) / "to", compare=True)
            return tree_of(Path(folder) / "to" / "acts")

    def needs(self, number: int) -> set[Key]:
        """Names of the packs and list nodes in the closed set of one version."""
        site = self.site("nord")
        view = read_state({"nord": site}, self.state)
        history = read_history(view, {"nord": site}, self.register, allow_unwitnessed=True)
        found: set[Key] = set()
        waiting: list[Digest] = [_version(history.versions, number).leaf.objects]
        while waiting:
            key = list_key(self.state, self.register, waiting.pop())
            found.add(key)
            node = parse_list_node(site.get(key))
            names = [line.name for line in node.lines]
            if node.level:
                waiting += names
            else:
                found.update(pack_key(self.state, self.register, name) for name in names)
        return found


def _version(versions: tuple[CountedVersion, ...], number: int) -> CountedVersion:
    for version in versions:
        if version.leaf.sequence == number:
            return version
    raise MissingObject(f"version {number} is not shown")


@cache
def town() -> Town:
    """Made once for each process; its folder goes when the process ends."""
    root = Path(mkdtemp(prefix="exclave-town-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    home = SmallHome(root).found()
    trees = {}

    def version(folder: Path, number: int) -> None:
        (dataset,) = Home.open(folder).config.register[0].dataset
        acts = Path(str(dataset.options["path"]))
        (acts / f"act-{number}0").write_bytes(f"act {number} ".encode() * 4000)
        (acts / "changing").write_text(f"as of version {number}")
        home.ok("backup", "--home", str(folder))
        trees[number] = tree_of(acts)

    version(home.folder, 1)
    before = _held(home, LUX)
    version(home.folder, 2)
    home.ok("failover", "run", *home.granted("failover"), "--dir", str(root / "embassy"), *home.where())
    version(root / "embassy", 3)
    version(root / "embassy", 4)
    options = home.granted("restore", machine="reader")
    named: dict[str, list[str]] = {}
    for name, value in zip(options[::2], options[1::2], strict=True):
        named.setdefault(name, []).append(value)
    return Town(
        root, parse_fingerprint(home.fingerprint), parse_register_id(home.id_of()),
        {name: _held(home, name) for name in home.sites}, before, trees,
        Path(named["--warrant"][0]), Path(named["--key"][0]), tuple(map(Path, named["--answer"])),
    )  # fmt: skip


def _held(home: SmallHome, name: str) -> dict[Key, bytes]:
    folder = home.site(name)
    found = {}
    for path in sorted(folder.rglob("*")):
        where = str(path.relative_to(folder))
        if path.is_file() and not where.startswith("."):
            found[Key(where)] = path.read_bytes()
    return found


class Silent(PassThrough):
    """Never answers in time about the chosen objects."""

    def _late(self, key: Key) -> None:
        if self.only(key):
            raise SiteUnavailable(f"{key}: no answer within the time limit")

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self._late(key)
        return self.inner.get(key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        self._late(key)
        return self.inner.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        self._late(key)
        return self.inner.stat(key)

    def read_head(self, key: Key) -> Tagged | None:
        self._late(key)
        return self.inner.read_head(key)


class Away(Silent):
    """Answers nothing at all."""

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        self._late(Key(prefix))
        return self.inner.list(prefix)

    def put_new(self, key: Key, data: bytes) -> None:
        self._late(key)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self._late(key)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        self._late(key)
        return ""


class WrongList(PassThrough):
    """Lists wrongly: ``change`` gets each true listing and returns the one that is shown."""

    def __init__(self, inner: Site, change: Callable[[list[ObjectStat]], list[ObjectStat]]) -> None:
        super().__init__(inner)
        self._change = change

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        yield from self._change(list(self.inner.list(prefix)))


class Late(PassThrough):
    """Says that the chosen writes are done, and does them only at ``arrive``."""

    def __init__(self, inner: Site, only: Callable[[Key], bool]) -> None:
        super().__init__(inner, only)
        self._kept: dict[Key, bytes] = {}

    def put_new(self, key: Key, data: bytes) -> None:
        if not self.only(key):
            self.inner.put_new(key, data)
        elif key in self._kept or self.inner.stat(key) is not None:
            raise AlreadyExists(f"{key} is taken")
        else:
            self._kept[key] = data

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        if self.only(key):
            self._kept[key] = data
        else:
            self.inner.put_same(key, data)

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        if not self.only(key):
            return self.inner.replace_if(key, data, expected)
        head = self.inner.read_head(key)
        if (head.tag if head else None) != expected:
            raise HeadMoved(f"{key} moved")
        self._kept[key] = data
        return "0" * 64

    def arrive(self) -> None:
        """What was said to be done is done now."""
        for key, data in self._kept.items():
            head = self.inner.read_head(key) if key.endswith("/checkpoint") else None
            if key.endswith("/checkpoint"):
                self.inner.replace_if(key, data, head.tag if head else None)
            else:
                self.inner.put_same(key, data)
        self._kept.clear()

"""One register's vault over any sites: back up, reconcile, restore, and compare trees, as an operation would."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass, field
from pathlib import Path

from exclave.crypto.aead import ObjectCipher
from exclave.crypto.hpke import OpeningKey
from exclave.crypto.keyed import chunk_id
from exclave.errors import PlacementUnmet
from exclave.formats.entry import Captured
from exclave.formats.manifest import VERSION, Dataset, Leaf, Record, Ref, Root, Secrets, encode_node
from exclave.formats.pack import HEADER_BYTES, ROOT_ID, TableRow, parse_header, parse_locator, parse_table
from exclave.formats.paths import pack_key, pack_prefix
from exclave.ids import ChunkId, Digest, Epoch, Fingerprint, Instant, Label, RegisterId, Sequence
from exclave.registers.files import FolderCapture
from exclave.registers.files_restore import FolderSink
from exclave.registers.open_file import CaptureNotes
from exclave.sites.contract import Readable, Site
from exclave.sites.memory import MemorySite
from exclave.vault.compression import compress, pack_chunk
from exclave.vault.index import ChunkIndex
from exclave.vault.opener import PackReader
from exclave.vault.reindex import Reconciled, finish_intents, reconcile
from exclave.vault.restore import Restorer
from exclave.vault.sealer import PackKeys, PackSealer, SealedPack, Slot, table_key
from exclave.vault.writer import SealedVersion, VersionWriter, WriterIdentity

STATE = Fingerprint("a" * 64)
REGISTER = RegisterId("b" * 32)
EPOCH = Epoch(1)
OPENING = OpeningKey(b"o" * 32)
SECRETS = Secrets(id_key=b"i" * 32, chunk_seed=0x5EED, index_keys={1: b"x" * 32})
DOCS = Label("docs")
TIME = Instant(1_700_000_000_000_000)
INDEX_KEYS = {EPOCH: SECRETS.index_keys[1]}


def identity(secrets: Secrets = SECRETS) -> WriterIdentity:
    keys = PackKeys(REGISTER, EPOCH, OPENING.public, secrets.id_key, secrets.index_keys[1])
    return WriterIdentity(STATE, REGISTER, "register", EPOCH, keys, secrets)


def needs_one(good: frozenset[Label]) -> None:
    """A placement rule: one copy is enough."""
    if not good:
        raise PlacementUnmet("no site is left")


@dataclass
class Vault:
    """The writer's machine (``cache``) and its sites."""

    cache: Path
    sites: dict[Label, Site] = field(default_factory=lambda: {Label("one"): MemorySite("one")})
    notes: CaptureNotes = field(default_factory=CaptureNotes)
    failed: dict[Label, Exception] = field(default_factory=dict)
    versions: int = 0

    def reconcile(self) -> dict[Label, Reconciled]:
        index = ChunkIndex(self.cache / "index.sqlite")
        try:
            return self._reconcile(index)
        finally:
            index.close()

    def _reconcile(self, index: ChunkIndex) -> dict[Label, Reconciled]:
        done = {label: reconcile(index, label, site, STATE, REGISTER, INDEX_KEYS) for label, site in self.sites.items()}
        finish_intents(index)
        return done

    def back_up(
        self,
        source: Path | Iterable[Captured],
        *,
        reconciling: bool = True,
        check: Callable[[frozenset[Label]], None] = needs_one,
    ) -> SealedVersion:
        """One version of the tree at ``source`` (or of the given items), with its caches committed."""
        self.cache.mkdir(parents=True, exist_ok=True)
        index = ChunkIndex(self.cache / "index.sqlite")
        try:
            if reconciling:
                self._reconcile(index)
            writer = VersionWriter(identity(), sites=self.sites, index=index, cache=self.cache, check_placement=check)
            try:
                if isinstance(source, Path):
                    capture = FolderCapture(source, lambda: TIME)
                    self.notes = capture.notes
                    describe = writer.add_dataset(DOCS, "files", capture.items(), ordered=True)
                else:
                    describe = writer.add_dataset(DOCS, "files", source, ordered=True)
                describe(TIME, {}, None)
                sealed = writer.seal(Sequence(self.versions + 1), TIME)
                writer.commit_caches()
            finally:
                self.failed = dict(writer.shipper.failed)
                writer.close()
        finally:
            index.close()
        self.versions += 1
        return sealed

    def reader(self, sites: Mapping[Label, Readable] | None = None) -> PackReader:
        return PackReader(STATE, REGISTER, self.sites if sites is None else sites, {EPOCH: OPENING})

    def restore(
        self, version: SealedVersion | Digest, target: Path, sites: Mapping[Label, Readable] | None = None
    ) -> tuple[FolderSink, PackReader]:
        reader = self.reader(sites)
        manifest = version if isinstance(version, bytes) else version.manifest
        sink = restore_root(reader, reader.root(Digest(manifest)), target)
        return sink, reader


def restore_root(reader: PackReader, root: Root, target: Path) -> FolderSink:
    sink = FolderSink(target)
    restorer = Restorer(reader)
    try:
        restorer.restore(root.datasets[0], sink)
    finally:
        restorer.close()
    return sink


def tables(site: Readable, index_key: bytes = SECRETS.index_keys[1]) -> dict[Digest, list[TableRow]]:
    """The chunk table of every pack at ``site``."""
    found = {}
    for item in site.list(pack_prefix(STATE, REGISTER)):
        name = Digest(bytes.fromhex(item.key.rpartition("/")[2]))
        header = parse_header(site.get_range(item.key, 0, HEADER_BYTES))
        cipher = ObjectCipher(table_key(index_key, header.salt))
        offset, length = parse_locator(cipher.open(0, header.sealed_locator, b"exclave/table/v1"))
        sealed = site.get_range(pack_key(STATE, REGISTER, name), offset, length)
        found[name] = parse_table(cipher.open(1, sealed, b"exclave/table/v1"))
    return found


def repeated_chunks(site: Readable) -> set[ChunkId]:
    """Chunks that lie at ``site`` more than once."""
    seen: set[ChunkId] = set()
    twice: set[ChunkId] = set()
    for rows in tables(site).values():
        for row in rows:
            (twice if row.id in seen else seen).add(row.id)
    return twice


def packs(site: Readable) -> dict[Digest, int]:
    """Name and size of every pack at ``site``."""
    return {
        Digest(bytes.fromhex(item.key.rpartition("/")[2])): item.size_bytes
        for item in site.list(pack_prefix(STATE, REGISTER))
    }


def picture(root: Path, *, owners: bool = True) -> dict[bytes, tuple[object, ...]]:
    """Everything of a tree that a restore must bring back, by relative path; hard links as sets of names."""
    base = os.fsencode(root)
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[tuple[int, int], set[bytes]] = {}
    stack = [b""]
    while stack:
        path = stack.pop()
        full = base + b"/" + path if path else base
        info = os.lstat(full)
        content: object = None
        if stat.S_ISREG(info.st_mode):
            with open(full, "rb") as file:
                content = file.read()
            inodes.setdefault((info.st_dev, info.st_ino), set()).add(path)
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(full)
        elif stat.S_ISDIR(info.st_mode):
            stack += [path + b"/" + name if path else name for name in os.listdir(full)]
        xattrs = {n: os.getxattr(full, n, follow_symlinks=False) for n in os.listxattr(full, follow_symlinks=False)}
        mode = stat.S_IFMT(info.st_mode) if stat.S_ISLNK(info.st_mode) else info.st_mode
        owner = (info.st_uid, info.st_gid) if owners else None
        found[path] = (mode, owner, info.st_mtime_ns, info.st_rdev, xattrs, content)
    for names in inodes.values():
        for path in names:
            found[path] += (frozenset(names),)
    return found


class Forger:
    """An enemy who has the writer's keys, and makes a version of whatever records he likes with the real encoders."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._sealer = PackSealer(identity().keys, self._ship)

    def _ship(self, finish: Callable[[], SealedPack]) -> None:
        pack = finish()
        self._site.put_same(pack_key(STATE, REGISTER, pack.name), pack.data)
        pack.settle()

    def chunk(self, data: bytes, *, announce: int | None = None, chunk: ChunkId | None = None) -> Ref:
        """Stores ``data`` in a pack of its own; ``announce`` and ``chunk`` lie about its length and id."""
        slot = Slot(len(data) if announce is None else announce)
        slot.id = chunk_id(SECRETS.id_key, data) if chunk is None else chunk
        self._sealer.add(slot, pack_chunk(memoryview(data)))
        self._sealer.flush()
        return slot.ref()

    def leaf(self, records: Iterable[Record], refs: Sequence_[Ref] = ()) -> bytes:
        """A leaf whose chunk table is ``refs``, in that order."""
        names = list(dict.fromkeys(ref.pack for ref in refs))
        chunks = tuple((names.index(r.pack), r.offset, r.length, r.raw, r.id) for r in refs)
        return encode_node(Leaf(VERSION, tuple(names), chunks, tuple(records)))

    def version(self, tree: Ref, *, level: int = 0, entries: int = 0, size: int = 0) -> Digest:
        dataset = Dataset(DOCS, "files", tree, level, entries, size, TIME, {})
        data = encode_node(Root(VERSION, REGISTER, "register", EPOCH, 1, TIME, (dataset,), SECRETS))
        head = Slot(len(data))
        head.id = ROOT_ID
        self._sealer.add(head, compress(data))
        self._sealer.flush(head)
        assert head.pack is not None
        return Digest(head.pack)

    def of_records(self, records: Sequence_[Record], refs: Sequence_[Ref] = ()) -> Digest:
        """A version of one leaf."""
        return self.version(self.chunk(self.leaf(records, refs)), entries=len(records))

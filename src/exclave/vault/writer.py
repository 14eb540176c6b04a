"""One version of one register: datasets in, manifest and object list out.

``VersionWriter`` puts nothing into the ledger: what it stored is unreferenced until the ledger names it, so a run that
dies leaves every earlier version as it was, and the next run finds the packs again.
"""

from __future__ import annotations

import os
import secrets as _random
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from exclave.errors import Bug, CorruptObject, IntegrityError, UnavailableError
from exclave.formats.entry import Captured, Entry, Listed, Stamp, walk_order
from exclave.formats.manifest import FOLDER_KINDS, VERSION, Dataset, Ref, Root, Secrets, encode_node
from exclave.formats.objectlist import BuiltList, build_list
from exclave.formats.pack import ROOT_ID
from exclave.formats.paths import list_key
from exclave.formats.signals import Signals
from exclave.ids import Digest, Epoch, Fingerprint, Instant, Label, RegisterId, Sequence
from exclave.rules.records import RecordsKey
from exclave.sites.contract import Site
from exclave.vault.catalogue import CatalogueWriter, FlatRecord, FormerLeaf, Part, Prior, pack_record, unpack_record
from exclave.vault.chunker import DATABASE_AVERAGE_BYTES, LARGE_AVERAGE_BYTES, SMALL_AVERAGE_BYTES, Chunker
from exclave.vault.compression import compress
from exclave.vault.index import ChunkIndex
from exclave.vault.ingest import ChunkStore, Ingest
from exclave.vault.records import FileCommitter
from exclave.vault.sealer import HERE, PackKeys, PackSealer, Slot
from exclave.vault.shipper import Shipper
from exclave.vault.signals import Watch
from exclave.vault.tree import TreeBuilder

WORKERS = max(2, os.cpu_count() or 2)
_META_NUMBERS = 1 << 40


@dataclass(frozen=True, slots=True)
class WriterIdentity:
    """Which register is written, by which epoch, with which keys."""

    state: Fingerprint
    register: RegisterId
    name: str
    epoch: Epoch
    keys: PackKeys
    secrets: Secrets


@dataclass(frozen=True, slots=True)
class SealedVersion:
    """Everything that the ledger's leaf needs, and what it cost."""

    manifest: Digest
    objects: BuiltList
    needs: frozenset[Digest]
    """Names of all packs of the version."""
    datasets: tuple[Dataset, ...]
    shipped_bytes: int
    packs: int
    new_chunks: int
    new_raw_bytes: int
    read_bytes: int
    reused_files: int


class FoundDigest(Protocol):
    """A digest as a capture gives it (``registers/contract.py``)."""

    @property
    def value(self) -> str: ...
    @property
    def rows(self) -> tuple[tuple[str, int], ...]: ...
    @property
    def exact(self) -> bool: ...


def new_secrets(epoch: Epoch) -> Secrets:
    """Fresh deduplication keys of a register."""
    return Secrets(
        id_key=_random.token_bytes(32), chunk_seed=_random.randbits(63), index_keys={epoch: _random.token_bytes(32)}
    )


class VersionWriter:
    """Use: ``add_dataset`` for each dataset, then ``seal``. Close it whatever happens."""

    def __init__(
        self,
        who: WriterIdentity,
        *,
        sites: Mapping[Label, Site],
        index: ChunkIndex,
        cache: Path,
        check_placement: Callable[[frozenset[Label]], None],
        progress: Callable[[int, int], None] = lambda files, read: None,
    ) -> None:
        """``progress(entries, bytes read)`` is called now and then."""
        self._who = who
        self._index = index
        self._cache = cache
        self._progress = progress
        self.shipper = Shipper(
            state=who.state,
            register=who.register,
            epoch=who.epoch,
            sites=sites,
            index=index,
            check_placement=check_placement,
        )
        self._store = ChunkStore(index, who.secrets.id_key)
        self.shipper.store = self._store
        self._data = PackSealer(who.keys, self.shipper.ship)
        self._meta = PackSealer(who.keys, self.shipper.ship, first_number=_META_NUMBERS, most_waiting=0)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="seal")
        self._needs: set[bytes] = set()
        self._datasets: list[Dataset] = []
        self._tops: list[Slot] = []
        self._caches: list[CatalogueWriter] = []
        self._signals: dict[Label, Signals] = {}
        self._records: dict[Label, Digest] = {}
        self._read_bytes = 0
        self._reused = 0
        # What only a site that takes no part holds does not count: this version must be whole without it.
        index.count_only(sites)
        self._known_packs = frozenset(index.held())

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """What was added so far; where their trees lie is known only once ``seal`` has run."""
        return tuple(self._datasets)

    def signals_of(self, label: Label) -> Signals:
        """What the dataset's watch noticed."""
        return self._signals[label]

    def records_of(self, label: Label) -> Digest | None:
        """Root of the dataset's documents; None if they are no records."""
        return self._records.get(label)

    def close(self) -> None:
        """Ends the threads; uncommitted caches are dropped."""
        self._pool.shutdown(cancel_futures=True)
        self.shipper.close()
        for cache in self._caches:
            cache.drop()

    def add_dataset(
        self,
        label: Label,
        kind: str,
        items: Iterable[Captured | Listed],
        *,
        ordered: bool,
        watch: Watch | None = None,
        records: RecordsKey | None = None,
    ) -> Callable[[Instant, Mapping[str, str], FoundDigest | None], None]:
        """Reads and ships one dataset; returns a function to be called with what its capture says of itself.

        That function takes the captured instant, facts and the source's own digest (None: the one of its files).
        ``watch`` is shown what changes; ``signals_of`` gives what it noticed. With ``records`` the files become
        records, whose root ``records_of`` gives.
        """
        cache_path = self._cache / f"{label}.catalogue"
        prior: Prior | None = None
        cache: CatalogueWriter | None = None
        spool: _Spool | None = None
        if ordered:
            prior = Prior(cache_path, self._known_packs, watch.passed if watch is not None else None)
            cache = CatalogueWriter(cache_path)
            self._caches.append(cache)
        else:
            spool = _Spool(self._cache / f"{label}.spool")
        committer = None if records is None else FileCommitter(records, label)
        tree = TreeBuilder(self._store_node, self._needs, cache, committer)
        large = LARGE_AVERAGE_BYTES if kind in FOLDER_KINDS else DATABASE_AVERAGE_BYTES
        small = min(large, SMALL_AVERAGE_BYTES)
        seed = self._who.secrets.chunk_seed
        if watch is not None:
            watch.compared = prior is not None and prior.known
        before = self._store.tally()
        ingest = Ingest(
            store=self._store, sealer=self._data, pool=self._pool,
            chunkers=(Chunker(seed, average_bytes=small), Chunker(seed, average_bytes=large)),
            prior=prior, sink=tree if spool is None else spool, need=self._needs.update, flush=self._flush_data,
            watch=watch,
        )  # fmt: skip
        for seen, item in enumerate(items):
            ingest.add(item)
            if isinstance(item, Listed) or seen & 0x1FF == 0x1FF:
                self._progress(ingest.entries, ingest.read_bytes)
        ingest.finish()
        if watch is not None:
            new, stored, dense = (now - then for now, then in zip(self._store.tally(), before, strict=True))
            files = ingest.files
            self._signals[label] = watch.signals(
                files=files, read=ingest.read_bytes, new=new, stored=stored, dense=dense
            )
        self._progress(ingest.entries, ingest.read_bytes)
        if spool is not None:
            for record in spool.in_order():
                tree.add(record)
        self._read_bytes += ingest.read_bytes
        self._reused += ingest.reused_files
        top, level = tree.finish(self._place)
        self._tops.append(top)
        if (root := tree.records_root()) is not None:
            self._records[label] = root
        at = len(self._datasets)
        blank = Ref(HERE, 0, 0, 0, b"")
        made = Dataset(label, kind, blank, level, tree.entries, tree.bytes, 0, {})
        if kind in FOLDER_KINDS:
            made = msgspec.structs.replace(made, digest=tree.digest, digest_exact=True, rows={"entries": tree.entries})
        self._datasets.append(made)

        def describe(captured: Instant, facts: Mapping[str, str], found: FoundDigest | None) -> None:
            told = msgspec.structs.replace(self._datasets[at], captured=captured, facts=dict(facts))
            if found is not None:
                told = msgspec.structs.replace(
                    told, digest=found.value, digest_exact=found.exact, rows=dict(found.rows)
                )
            self._datasets[at] = told

        return describe

    def _flush_data(self) -> None:
        self._data.flush()
        self.shipper.wait()

    def _store_node(self, data: bytes) -> Slot:
        slot = Slot(len(data))
        self._store.store([memoryview(data)], [slot], self._meta)
        return slot

    def _place(self, slots: list[Slot], reserve: int) -> tuple[Ref, ...]:
        """References for a node of at most ``reserve`` bytes that is stored next."""
        goes_to = self._meta.room_for(reserve)
        if not all(slot.ready or slot.target.pack_number == goes_to for slot in slots):
            self._meta.flush()
            self.shipper.wait()
        refs: list[Ref] = []
        for slot in slots:
            if slot.ready:
                refs.append(slot.ref())
                self._needs.add(refs[-1].pack)
            else:
                target = slot.target
                refs.append(Ref(HERE, target.offset, target.length, slot.raw, slot.id))
        return tuple(refs)

    def seal(self, sequence: Sequence, time: Instant) -> SealedVersion:
        """Stores root and object list; everything is durable at every good site when this returns."""
        who = self._who
        blank = Root(VERSION, who.register, who.name, who.epoch, sequence, time, tuple(self._datasets), who.secrets)
        refs = self._place(self._tops, len(encode_node(blank)) * 257 // 256 + 256 + 96 * len(self._tops))
        datasets = tuple(
            msgspec.structs.replace(dataset, tree=ref) for dataset, ref in zip(self._datasets, refs, strict=True)
        )
        root = msgspec.structs.replace(blank, datasets=datasets)
        data = encode_node(root)
        head = Slot(len(data))
        head.id = ROOT_ID
        self._meta.add(head, compress(data))
        self._meta.flush(head)
        self.shipper.wait()
        if head.pack is None:
            raise CorruptObject("a version's root was not stored")
        manifest = Digest(head.pack)
        needs = {Digest(pack) for pack in self._needs} | {manifest}
        objects = build_list(self._index.size_of(needs))
        self._put_list(objects)
        return SealedVersion(
            manifest, objects, frozenset(needs), datasets, self.shipper.shipped_bytes, self.shipper.packs,
            self._store.new_chunks, self._store.new_raw_bytes, self._read_bytes, self._reused,
        )  # fmt: skip

    def _put_list(self, objects: BuiltList) -> None:
        for label, site in self.shipper.good_sites.items():
            try:
                for name, data in objects.nodes:
                    # Named by its hash: a crash leaves an unreferenced node, the next run finds it and goes on.
                    site.put_same(list_key(self._who.state, self._who.register, name), data)
            except (UnavailableError, IntegrityError) as error:
                self.shipper.leave_out(label, error)
        self.shipper.check()

    def commit_caches(self) -> None:
        """The version is in the ledger: its catalogues become the base of the next run."""
        for cache in self._caches:
            cache.commit()
        self._caches.clear()


class _Spool:
    """Records that arrive out of order, kept on disk until they can be walked in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "w+b", buffering=1 << 20)
        path.unlink()
        self._places: list[tuple[tuple[bytes, ...], int, int]] = []
        self._at = 0

    def add(self, flat: FlatRecord) -> None:
        encoded = pack_record(flat)
        self._file.write(encoded)
        self._places.append((walk_order(flat.entry.path), self._at, len(encoded)))
        self._at += len(encoded)

    def add_stored(self, entry: Entry, stamp: Stamp | None, content: bytes, slot: Slot, start: int) -> None:
        self.add(FlatRecord(entry, stamp, (Part(slot.ref(), start, entry.size),), content))

    def add_former(self, former: FormerLeaf, start: int, stop: int) -> None:
        raise Bug("a dataset out of order has no former leaves")

    def in_order(self) -> Iterable[FlatRecord]:
        self._file.flush()
        for _, at, length in sorted(self._places):
            yield unpack_record(os.pread(self._file.fileno(), length, at))
        self._file.close()

"""Sealed packs back to chunks, for whoever holds the opening key.

Every chunk is checked twice: AES-GCM binds it to its pack key, place and id, and its keyed BLAKE3 must be the id that
the manifest names; the manifest's own pack must have the name that the ledger gives.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final

import msgspec
import zstandard

from exclave.crypto.aead import ObjectCipher
from exclave.crypto.hpke import OpeningKey
from exclave.crypto.keyed import chunk_id
from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MissingObject, UnavailableError
from exclave.formats.manifest import (
    MAX_LEVEL,
    Branch,
    Dataset,
    Leaf,
    Record,
    Ref,
    Root,
    check_ref,
    parse_branch,
    parse_extents,
    parse_leaf,
    parse_root,
)
from exclave.formats.pack import (
    BULK_BYTES,
    HEADER_BYTES,
    MAX_RAW_BYTES,
    ROOT_ID,
    PackSecret,
    is_stored,
    pack_info,
    parse_header,
    parse_secret,
    record_bound,
)
from exclave.formats.paths import pack_key
from exclave.ids import ChunkId, Digest, Epoch, Fingerprint, Label, RegisterId, sha256
from exclave.sites.contract import Readable
from exclave.vault.sealer import HERE

_SECRETS_KEPT: Final = 4096
NODES_AHEAD: Final = 4
_local = threading.local()


def decompress(frame: bytes, raw: int) -> bytes:
    """The ``raw`` bytes of a zstd frame; ``CorruptObject`` for anything else, before more memory is taken."""
    decompressor = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    try:
        if zstandard.frame_content_size(frame) != raw or raw > MAX_RAW_BYTES:
            raise CorruptObject("a chunk announces another length than its reference")
        data: bytes = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObject("a chunk does not decompress") from error
    if len(data) != raw:
        raise CorruptObject("a chunk has another length than its reference")
    return data


def sealed_digest(header: Digest, sealed: bytes | memoryview) -> Digest:
    """Binds a chunk's sealed bytes to the header (by its SHA-256) whose pack secret opened them."""
    return sha256(header + bytes(sealed))


@dataclass(frozen=True, slots=True)
class Fetched:
    """The sealed bytes of neighbours in a pack, and what opens them. Nothing of it is checked yet."""

    run: Sequence[Ref]
    cipher: ObjectCipher
    header: Digest
    sealed: memoryview
    """From the first chunk's offset on; empty if no site gave them all together."""


class PackReader:
    """Reads chunks of one register from any of several sites; each failure is noted and the next site is tried."""

    def __init__(
        self,
        state: Fingerprint,
        register: RegisterId,
        sites: Mapping[Label, Readable],
        keys: Mapping[Epoch, OpeningKey],
    ) -> None:
        """``keys``: the opening keys of the epochs, the newest first tried."""
        self._state, self._register = state, register
        self._sites = dict(sites)
        self._keys = dict(sorted(keys.items(), reverse=True))
        self._ciphers: OrderedDict[bytes, tuple[ObjectCipher, Digest]] = OrderedDict()
        """By pack: its cipher, and the SHA-256 of the header that gave it."""
        self._lock = threading.Lock()
        self.id_key: bytes | None = None
        self.faults: dict[tuple[Label, str], ExclaveError] = {}
        """What was wrong where: (site, pack) → error."""
        self._silent: set[Label] = set()
        self.verified: Callable[[Ref, Digest], None] | None = None
        """Is told every chunk that was opened and had its id, with the ``sealed_digest`` of what was read."""

    def _order(self, pack: bytes) -> list[tuple[Label, Readable]]:
        """All sites: those that were wrong about this pack, or did not answer at all lately, come last."""
        name = pack.hex()
        with self._lock:
            if not self.faults:
                return list(self._sites.items())
            return sorted(
                self._sites.items(), key=lambda item: ((item[0], name) in self.faults, item[0] in self._silent)
            )

    def _from_any(self, pack: bytes, offset: int, length: int) -> Iterator[tuple[Label, bytes]]:
        key = pack_key(self._state, self._register, Digest(pack))
        for label, site in self._order(pack):
            try:
                data = site.get_range(key, offset, length)
            except (UnavailableError, IntegrityError) as error:
                self._note(label, pack, error)
                continue
            with self._lock:
                self._silent.discard(label)
            yield label, data

    def _note(self, label: Label, pack: bytes, error: ExclaveError) -> None:
        with self._lock:
            self.faults.setdefault((label, pack.hex()), error)
            if isinstance(error, UnavailableError):
                self._silent.add(label)

    def _cipher(self, pack: bytes) -> tuple[ObjectCipher, Digest]:
        with self._lock:
            known = self._ciphers.get(pack)
            if known is not None:
                self._ciphers.move_to_end(pack)
                return known
        for label, header in self._from_any(pack, 0, HEADER_BYTES):
            try:
                made = self._open_header(header)[0], sha256(header)
            except CorruptObject as error:
                self._note(label, pack, error)
                continue
            with self._lock:
                self._ciphers[pack] = made
                while len(self._ciphers) > _SECRETS_KEPT:
                    self._ciphers.popitem(last=False)
            return made
        raise MissingObject(f"no site has a good copy of pack {pack.hex()[:16]}…", pack=pack.hex())

    def _open_header(self, header: bytes) -> tuple[ObjectCipher, PackSecret]:
        parsed = parse_header(header)
        last: CorruptObject | None = None
        for epoch, key in self._keys.items():
            try:
                secret = parse_secret(key.open(parsed.sealed_key, pack_info(self._register, epoch)))
            except CorruptObject as error:
                last = error
                continue
            return ObjectCipher(secret.key), secret
        raise CorruptObject("a pack was sealed to none of the opening keys at hand") from last

    def _record(self, cipher: ObjectCipher, ref: Ref, sealed: bytes | memoryview) -> bytes:
        data = cipher.open(ref.offset, sealed, record_bound(ChunkId(ref.id)))
        if not is_stored(ref.length, ref.raw):
            data = decompress(data, ref.raw)
        if self.id_key is not None and chunk_id(self.id_key, data) != ref.id:
            raise CorruptObject("a chunk is not the one that the manifest names")
        return data

    def chunk(self, ref: Ref) -> bytes:
        """One chunk, from the first site with a good copy. ``MissingObject`` if none has one."""
        ((_, data),) = self.chunks(ref.pack, [ref])
        return data

    def chunks(self, pack: bytes, refs: Sequence[Ref]) -> Iterator[tuple[Ref, bytes]]:
        """The chunks ``refs``, all of one pack, in order of offset. Neighbours are fetched together."""
        for run in runs(sorted(refs, key=_by_offset)):
            yield from self.opened(self.fetch(run))

    def fetch(self, run: Sequence[Ref]) -> Fetched:
        """The sealed bytes of neighbours in one pack (one of ``runs``): all that has to wait for a site."""
        cipher, header = self._cipher(run[0].pack)
        return Fetched(run, cipher, header, self._fetch_run(run))

    def opened(self, fetched: Fetched) -> Iterator[tuple[Ref, bytes]]:
        """The chunks of a run. Those that do not open are sought at each site."""
        cipher, header = fetched.cipher, fetched.header
        start = fetched.run[0].offset
        for ref in fetched.run:
            at = ref.offset - start
            sealed: bytes | memoryview = fetched.sealed[at : at + ref.length]
            try:
                data = self._record(cipher, ref, sealed)
            except CorruptObject:
                data, sealed = self._from_each(ref)
                cipher, header = self._cipher(ref.pack)
            if self.verified is not None and self.id_key is not None:
                self.verified(ref, sealed_digest(header, sealed))
            yield ref, data

    def _fetch_run(self, run: Sequence[Ref]) -> memoryview:
        """The bytes of neighbours, as some site gives them; empty if none gives them all."""
        start = run[0].offset
        length = run[-1].offset + run[-1].length - start
        for _, data in self._from_any(run[0].pack, start, length):
            return memoryview(data)
        return memoryview(b"")

    def _from_each(self, ref: Ref) -> tuple[bytes, bytes]:
        """A chunk that did not open, and its sealed bytes, from the first site where it does.

        The header in use, the record, or both may have been wrong, and may have come from two sites: so each site's
        own header is opened for its own record, and whoever fails that is noted.
        """
        key = pack_key(self._state, self._register, Digest(ref.pack))
        for label, site in self._order(ref.pack):
            try:
                header = site.get_range(key, 0, HEADER_BYTES)
                cipher, _ = self._open_header(header)
                sealed = site.get_range(key, ref.offset, ref.length)
                data = self._record(cipher, ref, sealed)
            except (UnavailableError, IntegrityError) as error:
                self._note(label, ref.pack, error)
                continue
            with self._lock:
                self._ciphers[ref.pack] = cipher, sha256(header)
            return data, sealed
        raise MissingObject(f"no site has a good copy of pack {ref.pack.hex()[:16]}…", pack=ref.pack.hex())

    def root(self, manifest: Digest) -> Root:
        """The root of the version whose manifest is ``manifest``: its whole pack is fetched and must have that name."""
        key = pack_key(self._state, self._register, manifest)
        for label, site in self._sites.items():
            try:
                data = site.get(key, limit=BULK_BYTES)
                if sha256(data) != manifest:
                    raise CorruptObject(f"pack {manifest.hex()[:16]}… at {label} does not have its own hash")
                cipher, secret = self._open_header(data[:HEADER_BYTES])
                sealed = data[secret.head_offset : secret.head_offset + secret.head_length]
                frame = cipher.open(secret.head_offset, sealed, record_bound(ROOT_ID))
                root = parse_root(decompress(frame, _announced(frame)))
            except (UnavailableError, IntegrityError) as error:
                self._note(label, manifest, error)
                continue
            self.id_key = root.secrets.id_key
            return _resolve_root(root, manifest)
        raise MissingObject(f"no site has a good copy of the manifest {manifest.hex()[:16]}…", pack=manifest.hex())

    def leaves(self, dataset: Dataset, *, ahead: Executor | None = None) -> Iterator[Leaf]:
        """All leaves of a dataset's tree, in order. Memory: one node of each level.

        ``ahead`` fetches the next few nodes of each level while the present one is worked on.
        """
        if not 0 <= dataset.level <= MAX_LEVEL:
            raise CorruptObject("a manifest's tree is impossibly deep")
        yield from self._leaves(self.chunk(dataset.tree), dataset.tree.pack, dataset.level, None, ahead)

    def _leaves(
        self, data: bytes, pack: bytes, level: int, first: bytes | None, ahead: Executor | None
    ) -> Iterator[Leaf]:
        """``first``: the path that the parent says it begins with; None for the top."""
        if level == 0:
            leaf = parse_leaf(data)
            # Not empty: else a few branches that repeat an empty leaf would keep a restore busy for ever.
            if first is not None and (not leaf.records or leaf.records[0].entry.path != first):
                raise CorruptObject("a manifest's leaf does not begin where its branch says")
            yield leaf
            return
        branch: Branch = parse_branch(data)
        if branch.level != level:
            raise CorruptObject("a manifest's branch is of another level than its parent says")
        if first is not None and branch.firsts[0] != first:
            raise CorruptObject("a manifest's branch does not begin where its parent says")
        for target, begins, node in self._nodes(branch, pack, ahead):
            yield from self._leaves(node, target.pack, level - 1, begins, ahead)

    def _nodes(self, branch: Branch, pack: bytes, ahead: Executor | None) -> Iterator[tuple[Ref, bytes, bytes]]:
        """A branch's children: where each is, the path it is said to begin with, its bytes. ``pack`` is the branch's
        own."""
        coming: deque[tuple[Ref, bytes, Future[bytes]]] = deque()
        for child, begins in zip(branch.children, branch.firsts, strict=True):
            target = Ref(pack, child.offset, child.length, child.raw, child.id) if child.pack == HERE else child
            check_ref(target)
            if ahead is None:
                yield target, begins, self.chunk(target)
                continue
            coming.append((target, begins, ahead.submit(self.chunk, target)))
            if len(coming) > NODES_AHEAD:
                place, path, node = coming.popleft()
                yield place, path, node.result()
        for place, path, node in coming:
            yield place, path, node.result()

    def content(self, leaf: Leaf, record: Record) -> Iterator[tuple[Ref | None, int, int]]:
        """A record's extents in order: (chunk or None for a hole, start in it, length)."""
        for extent in record.extents:
            yield (None if extent.chunk < 0 else leaf.ref(extent.chunk)), extent.start, extent.length
        total = 0
        for ref in record.lists:
            node = parse_extents(self.chunk(ref))
            for extent in node.extents:
                total += extent.length
                if total > record.entry.size:
                    raise CorruptObject("a file's listed extents are longer than its size")
                yield (None if extent.chunk < 0 else node.ref(extent.chunk)), extent.start, extent.length
        if record.lists and total != record.entry.size:
            raise CorruptObject("a file's listed extents do not add up to its size")


def _announced(frame: bytes) -> int:
    try:
        size: int = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise CorruptObject("a manifest's root does not decompress") from error
    return size


def _resolve_root(root: Root, manifest: Digest) -> Root:
    datasets = []
    for dataset in root.datasets:
        tree = dataset.tree
        if tree.pack == HERE:
            tree = Ref(manifest, tree.offset, tree.length, tree.raw, tree.id)
        datasets.append(msgspec.structs.replace(dataset, tree=tree))
    return msgspec.structs.replace(root, datasets=tuple(datasets))


def runs(refs: Sequence[Ref], *, most: int = BULK_BYTES) -> Iterator[list[Ref]]:
    """Groups of neighbours in one pack, in order of offset, with gaps of at most 64 KiB; none is longer than ``most``
    bytes, unless it is a single chunk."""
    run: list[Ref] = []
    for ref in refs:
        end = ref.offset + ref.length
        if run and (ref.offset - (run[-1].offset + run[-1].length) > 64 << 10 or end - run[0].offset > most):
            yield run
            run = []
        run.append(ref)
    if run:
        yield run


def _by_offset(ref: Ref) -> int:
    return ref.offset

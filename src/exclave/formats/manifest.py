"""Manifests: the sealed tree that names every byte of a version. Page: ``docs/spec/manifest.md``.

A version's *root* names its datasets; a dataset's *branches* lead to *leaves*; a leaf holds records of entries and
where their content lies. Every node is a chunk (``formats/pack.py``), strict MessagePack of the structs below, and is
named by the reference in its parent, so a restore needs no index.

Within a leaf, packs and chunks stand in tables and are referred to by position.
"""

from __future__ import annotations

import msgspec

from exclave.errors import CorruptObject, MalformedError
from exclave.formats.entry import Entry, Kind, check_entry, check_path
from exclave.formats.pack import BULK_BYTES, HEADER_BYTES, MAX_RAW_BYTES
from exclave.ids import parse_label

VERSION = 1
HOLE = -1
"""In place of a chunk's position: so many zero bytes that no chunk holds."""
MAX_INLINE_EXTENTS = 1024
"""A file with more extents keeps them in separate extent nodes."""
FOLDER_KINDS = frozenset({"files", "identity"})
"""Kinds of datasets that are folders as they stand."""
MAX_LEVEL = 12
"""Of a branch: no tree is higher."""


class Ref(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Where one chunk lies and what it must be."""

    pack: bytes
    offset: int
    length: int
    raw: int
    id: bytes


class Extent(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """``length`` bytes of a file: of the chunk at position ``chunk`` from its byte ``start`` on, or a hole."""

    chunk: int
    start: int
    length: int


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One entry: its metadata, its content, and the BLAKE3 of the content (empty for other kinds)."""

    entry: Entry
    extents: tuple[Extent, ...] = ()
    hash: bytes = b""
    lists: tuple[Ref, ...] = ()
    """Extent nodes, in order, where ``extents`` would be too long."""


class _Tables(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    packs: tuple[bytes, ...]
    chunks: tuple[tuple[int, int, int, int, bytes], ...]
    """(position in ``packs``, offset, length, raw length, id) of each chunk."""

    def ref(self, position: int) -> Ref:
        """The chunk at ``position`` of this node's table."""
        pack, offset, length, raw, chunk = self.chunks[position]
        return Ref(self.packs[pack], offset, length, raw, chunk)


class Leaf(_Tables, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Records in walk order."""

    records: tuple[Record, ...]


class ExtentNode(_Tables, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A part of a long file's content."""

    extents: tuple[Extent, ...]


class Branch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """References to the nodes of the next level down, in order; level 1 stands on leaves."""

    version: int
    level: int
    children: tuple[Ref, ...]
    firsts: tuple[bytes, ...]
    """Path of the first entry below each child: whoever looks for one path reads only the nodes on its way."""


class Dataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One dataset of a version."""

    label: str
    kind: str
    tree: Ref
    level: int
    """Level of the node at ``tree``: 0 is a leaf."""
    entries: int
    bytes: int
    captured: int
    """Instant of the captured state, microseconds."""
    facts: dict[str, str]
    digest: str = ""
    digest_exact: bool = False
    rows: dict[str, int] = {}


class Secrets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a successor needs to go on deduplicating: opened only with the version."""

    id_key: bytes
    chunk_seed: int
    index_keys: dict[int, bytes]
    """By epoch."""


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version's head record."""

    version: int
    register: str
    name: str
    epoch: int
    sequence: int
    time: int
    datasets: tuple[Dataset, ...]
    secrets: Secrets


Node = Leaf | ExtentNode | Branch | Root
_ENCODER = msgspec.msgpack.Encoder()
_ROOT = msgspec.msgpack.Decoder(Root, strict=True)
_LEAF = msgspec.msgpack.Decoder(Leaf, strict=True)
_EXTENTS = msgspec.msgpack.Decoder(ExtentNode, strict=True)
_BRANCH = msgspec.msgpack.Decoder(Branch, strict=True)


def encode_node(node: Node) -> bytes:
    return _ENCODER.encode(node)


def _decoded(decoder: msgspec.msgpack.Decoder[Node], data: bytes, what: str) -> Node:
    try:
        node = decoder.decode(data)
        again = _ENCODER.encode(node)
    # UnicodeError: msgspec lets it through for a text that is not UTF-8, or holds half a surrogate pair.
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptObject(f"a manifest's {what} is malformed") from error
    if node.version != VERSION or again != data:
        raise CorruptObject(f"a manifest's {what} is of another version or not in its one canonical form")
    return node


def parse_root(data: bytes) -> Root:
    root = _decoded(_ROOT, data, "root")  # type: ignore[arg-type]
    if not isinstance(root, Root):
        raise CorruptObject("a manifest's root is of another kind")
    for dataset in root.datasets:
        check_ref(dataset.tree)
        _check_dataset(dataset)
    secrets = root.secrets
    if len(secrets.id_key) != 32 or any(len(key) != 32 for key in secrets.index_keys.values()):
        raise CorruptObject("a manifest's root holds a key of the wrong length")
    if len({d.label for d in root.datasets}) != len(root.datasets):
        raise CorruptObject("a manifest's root names a dataset twice")
    return root


def parse_leaf(data: bytes) -> Leaf:
    """Strict; every extent lies inside its chunk, and a file's extents add up to its size."""
    leaf = _decoded(_LEAF, data, "leaf")  # type: ignore[arg-type]
    if not isinstance(leaf, Leaf):
        raise CorruptObject("a manifest's leaf is of another kind")
    _check_tables(leaf)
    for record in leaf.records:
        try:
            check_entry(record.entry)
        except MalformedError as error:
            raise CorruptObject(f"a manifest's leaf is malformed: {error.message}") from error
        if record.entry.kind != Kind.FILE and (record.extents or record.lists):
            raise CorruptObject("something that is no file has content")
        total = _check_extents(leaf, record.extents)
        for ref in record.lists:
            check_ref(ref)
        if record.lists:
            if record.extents:
                raise CorruptObject("a file has both inline and listed extents")
        elif total != record.entry.size:
            raise CorruptObject("a file's extents do not add up to its size")
        if len(record.hash) not in (0, 32):
            raise CorruptObject("a file's hash has the wrong length")
    return leaf


def parse_extents(data: bytes) -> ExtentNode:
    node = _decoded(_EXTENTS, data, "extent node")  # type: ignore[arg-type]
    if not isinstance(node, ExtentNode):
        raise CorruptObject("a manifest's extent node is of another kind")
    _check_tables(node)
    _check_extents(node, node.extents)
    return node


def parse_branch(data: bytes) -> Branch:
    branch = _decoded(_BRANCH, data, "branch")  # type: ignore[arg-type]
    if not isinstance(branch, Branch) or not branch.children or not 1 <= branch.level <= MAX_LEVEL:
        raise CorruptObject("a manifest's branch is of another kind or empty")
    for ref in branch.children:
        check_ref(ref)
    _check_firsts(branch)
    return branch


def walk_key(path: bytes) -> bytes:
    """Bytes that compare as paths do in walk order: no name holds a zero byte, and nothing comes before one."""
    return path.replace(b"/", b"\0")


def _check_firsts(branch: Branch) -> None:
    if len(branch.firsts) != len(branch.children):
        raise CorruptObject("a manifest's branch does not say where each child begins")
    last: bytes | None = None
    for path in branch.firsts:
        try:
            key = walk_key(check_path(path))
        except MalformedError as error:
            raise CorruptObject("a manifest's branch holds an impossible path") from error
        if last is not None and key <= last:
            raise CorruptObject("a manifest's branch is out of order")
        last = key


def check_ref(ref: Ref) -> None:
    """Raises ``CorruptObject`` unless ``ref`` could name a record of a pack."""
    _check_place(ref.offset, ref.length, ref.raw, ref.id)
    if len(ref.pack) != 32:
        raise CorruptObject("a reference names no pack")


def _check_dataset(dataset: Dataset) -> None:
    try:
        parse_label(dataset.label)
    except MalformedError as error:
        raise CorruptObject("a manifest's dataset has an impossible name") from error
    if dataset.entries < 0 or dataset.bytes < 0:
        raise CorruptObject("a manifest's dataset has impossible numbers")


def _check_place(offset: int, length: int, raw: int, chunk: bytes) -> None:
    if offset < HEADER_BYTES or length < 17 or offset + length > BULK_BYTES:
        raise CorruptObject("a reference points outside a pack")
    if not 0 < raw <= MAX_RAW_BYTES or len(chunk) != 32:
        raise CorruptObject("a reference names an impossible chunk")


def _check_tables(node: Leaf | ExtentNode) -> None:
    if any(len(pack) != 32 for pack in node.packs):
        raise CorruptObject("a node names a pack of the wrong length")
    count = len(node.packs)
    for pack, offset, length, raw, chunk in node.chunks:
        if not 0 <= pack < count:
            raise CorruptObject("a node's chunk names no pack")
        _check_place(offset, length, raw, chunk)


def _check_extents(node: Leaf | ExtentNode, extents: tuple[Extent, ...]) -> int:
    """Sum of the extents' lengths, bytes."""
    total = 0
    for extent in extents:
        if extent.length <= 0:
            raise CorruptObject("an extent is empty")
        if extent.chunk != HOLE:
            if not 0 <= extent.chunk < len(node.chunks):
                raise CorruptObject("an extent names no chunk")
            if extent.start < 0 or extent.start + extent.length > node.chunks[extent.chunk][3]:
                raise CorruptObject("an extent reaches beyond its chunk")
        total += extent.length
    return total

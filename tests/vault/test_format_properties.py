"""Formats of packs, manifests and object lists: what parses re-encodes identically, and nothing else parses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.errors import CorruptObject, MalformedError
from exclave.formats.entry import Entry, Kind, walk_order
from exclave.formats.manifest import (
    HOLE,
    Branch,
    Extent,
    ExtentNode,
    Leaf,
    Record,
    Ref,
    encode_node,
    parse_branch,
    parse_extents,
    parse_leaf,
    parse_root,
)
from exclave.formats.objectlist import CUT, MAX_LINES, ListLine, ListNode, build_list, parse_list_node
from exclave.formats.pack import (
    BULK_BYTES,
    HEADER_BYTES,
    TableRow,
    encode_header,
    encode_locator,
    encode_table,
    parse_header,
    parse_locator,
    parse_secret,
    parse_table,
)
from exclave.ids import ChunkId, Digest, sha256

digests = st.binary(min_size=32, max_size=32)
offsets = st.integers(HEADER_BYTES, BULK_BYTES - (1 << 20))
refs = st.builds(Ref, digests, offsets, st.integers(17, 1 << 20), st.integers(1, 8 << 20), digests)


def _parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    header = parse_header(data)
    return header.sealed_key, header.salt, header.sealed_locator


def _same(again: Callable[[bytes], bytes], data: bytes, length: int | None = None) -> None:
    with suppress(CorruptObject):
        assert again(data) == data[:length]


@given(st.sampled_from([b"EXCPACK1", b"EXCPACK2"]), st.binary(min_size=HEADER_BYTES - 16, max_size=HEADER_BYTES + 8))
def test_headers(magic: bytes, data: bytes) -> None:
    """Whatever bytes come first, they are refused, or their parts are those bytes."""
    _same(lambda d: encode_header(*_parts(d)), magic + data, HEADER_BYTES)


@given(st.one_of(st.binary(max_size=60), st.binary(min_size=8, max_size=8)))
def test_any_locator_and_secret(data: bytes) -> None:
    """Locators and pack secrets re-encode identically or are refused."""
    _same(lambda d: encode_locator(*parse_locator(d)), data)
    _same(lambda d: parse_secret(d).encode(), data)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_locators_stay_inside(offset: int, length: int) -> None:
    """A locator is taken exactly if the table lies between header and end of a pack."""
    inside = offset >= HEADER_BYTES and length >= 16 and offset + length <= BULK_BYTES
    try:
        assert parse_locator(encode_locator(offset, length)) == (offset, length)
    except CorruptObject:
        assert not inside
    else:
        assert inside


@given(st.lists(st.tuples(digests, st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 9 << 20)), max_size=8))
def test_tables(rows: list[tuple[bytes, int, int, int]]) -> None:
    """Tables re-encode identically, or are refused for overlaps and impossible rows."""
    data = encode_table([TableRow(ChunkId(i), o, n, r) for i, o, n, r in rows])
    _same(lambda d: encode_table(parse_table(d)), data)


@given(st.binary(max_size=200))
def test_any_table(data: bytes) -> None:
    """Any bytes are refused or re-encode identically."""
    _same(lambda d: encode_table(parse_table(d)), data)


def _is_path(path: bytes) -> bool:
    return b"" not in path.split(b"/")


@st.composite
def nodes(draw: st.DrawFn) -> Leaf | ExtentNode | Branch:
    """Valid manifest nodes."""
    kind = draw(st.sampled_from(["leaf", "extents", "branch"]))
    if kind == "branch":
        children = tuple(draw(st.lists(refs, min_size=1, max_size=4)))
        names = st.text("ab/\x01\xff", min_size=1, max_size=6).map(str.encode).filter(_is_path)
        firsts = draw(st.lists(names, min_size=len(children), max_size=len(children), unique=True))
        return Branch(1, draw(st.integers(1, 12)), children, tuple(sorted(firsts, key=walk_order)))
    packs = tuple(draw(st.lists(digests, min_size=1, max_size=3)))
    row = st.tuples(st.integers(0, len(packs) - 1), offsets, st.integers(17, 1 << 20), st.integers(1, 8 << 20), digests)
    chunks = tuple(draw(st.lists(row, max_size=4)))
    extents = st.lists(_extent(chunks), max_size=4).map(tuple)
    if kind == "extents":
        return ExtentNode(1, packs, chunks, draw(extents))
    records = []
    for path in draw(st.lists(st.binary(min_size=1, max_size=12), max_size=4)):
        parts = draw(extents)
        entry = Entry(
            path,
            Kind.FILE,
            draw(st.integers(0, 0o7777)),
            draw(st.integers(0, 2**31)),
            0,
            draw(st.integers(-(2**62), 2**62)),
            sum(part.length for part in parts),
            user=draw(st.text(max_size=5)),
        )
        records.append(Record(entry, parts, draw(st.one_of(st.just(b""), digests))))
    return Leaf(1, packs, chunks, tuple(records))


def _extent(chunks: tuple[tuple[int, int, int, int, bytes], ...]) -> st.SearchStrategy[Extent]:
    holes = st.integers(1, 2**40).map(lambda length: Extent(HOLE, 0, length))
    if not chunks:
        return holes
    return st.one_of(
        holes,
        st.integers(0, len(chunks) - 1).flatmap(
            lambda at: st.integers(0, chunks[at][3] - 1).flatmap(
                lambda start: st.integers(1, chunks[at][3] - start).map(lambda length: Extent(at, start, length))
            )
        ),
    )


def _parser(node: Leaf | ExtentNode | Branch) -> Callable[[bytes], Leaf | ExtentNode | Branch]:
    return {Leaf: parse_leaf, ExtentNode: parse_extents, Branch: parse_branch}[type(node)]  # type: ignore[return-value]


@given(nodes(), st.data())
def test_manifest_nodes(node: Leaf | ExtentNode | Branch, data: st.DataObject) -> None:
    """A node comes back as it was; a changed byte gives another node that re-encodes identically, or is refused."""
    encoded, parse = encode_node(node), _parser(node)
    assert parse(encoded) == node
    at, value = data.draw(st.integers(0, len(encoded) - 1)), data.draw(st.integers(1, 255))
    changed = encoded[:at] + bytes([encoded[at] ^ value]) + encoded[at + 1 :]
    _same(lambda d: encode_node(parse(d)), changed)
    assert changed != encoded


@given(st.binary(max_size=120))
def test_any_manifest_node(data: bytes) -> None:
    """Any bytes are refused, or re-encode identically, as each kind of node."""
    for parse in (parse_leaf, parse_extents, parse_branch, parse_root):
        _same(lambda d, p=parse: encode_node(p(d)), data)  # type: ignore[misc]


def test_deep_nesting_is_refused() -> None:
    """A message nested a million deep is refused, not a crash."""
    for parse in (parse_leaf, parse_extents, parse_branch, parse_root):
        with pytest.raises(CorruptObject):
            parse(b"\x91" * 1_000_000)


lines = st.builds(ListLine, digests.map(Digest), st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))


@given(st.integers(0, 8), st.lists(lines, max_size=6), st.data())
def test_list_nodes(level: int, found: list[ListLine], data: st.DataObject) -> None:
    """A node of an object list comes back as it was; a changed byte is another node or refused, never the same one."""
    if level == 0:
        sizes = {line.name: line.size_bytes for line in found}
        found = [ListLine(name, 1, size) for name, size in sorted(sizes.items())]
    node = ListNode(level, tuple(found))
    encoded = node.encode()
    if level and not found:
        with pytest.raises(MalformedError):
            parse_list_node(encoded)
        return
    assert parse_list_node(encoded) == node
    at, value = data.draw(st.integers(0, len(encoded) - 1)), data.draw(st.integers(1, 255))
    changed = encoded[:at] + bytes([encoded[at] ^ value]) + encoded[at + 1 :]
    try:
        again = parse_list_node(changed)
    except MalformedError:
        return
    assert again.encode() == changed
    assert again != node


@given(st.binary(max_size=300))
def test_any_list_node(data: bytes) -> None:
    """Any bytes are refused, or re-encode identically."""
    with suppress(MalformedError):
        assert parse_list_node(data).encode() == data


def test_too_many_lines() -> None:
    """A node holds 4096 lines and no more."""
    names = sorted(sha256(b"%d" % n) for n in range(MAX_LINES + 1))
    found = tuple(ListLine(name, 1, 4096) for name in names)
    assert parse_list_node(ListNode(0, found[:-1]).encode()).count == MAX_LINES
    with pytest.raises(MalformedError):
        parse_list_node(ListNode(0, found).encode())


@settings(max_examples=30)
@given(st.sets(st.integers(0, 10**6), max_size=700))
def test_lists_are_trees_of_their_packs(numbers: set[int]) -> None:
    """Every node parses, is named by its SHA-256, ends where the rule says, and the tree holds all packs in order."""
    packs = sorted((sha256(b"%d" % n), 4096 + n) for n in numbers)
    built = build_list([*packs, *packs[:3]])
    nodes_by_name = dict(built.nodes)
    assert all(sha256(data) == name for name, data in built.nodes)

    def walk(name: Digest) -> list[tuple[Digest, int]]:
        node = parse_list_node(nodes_by_name[name])
        if node.level == 0:
            assert all(line.name[-1] >= CUT for line in node.lines[:-1])
            return [(line.name, line.size_bytes) for line in node.lines]
        under = [(line, walk(line.name)) for line in node.lines]
        assert all((line.count, line.size_bytes) == (len(p), sum(s for _, s in p)) for line, p in under)
        return [pack for _, part in under for pack in part]

    assert walk(built.root) == packs
    assert (built.count, built.size_bytes) == (len(packs), sum(size for _, size in packs))

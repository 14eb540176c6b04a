"""Packs, object lists and manifests: every stored vector gives what it says: parse, verify, re-encode."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.crypto.aead import ObjectCipher
from exclave.crypto.hpke import OpeningKey
from exclave.crypto.keyed import chunk_id
from exclave.errors import CorruptObject, ExclaveError, all_errors
from exclave.formats.manifest import (
    Branch,
    ExtentNode,
    Leaf,
    encode_node,
    parse_branch,
    parse_extents,
    parse_leaf,
    parse_root,
)
from exclave.formats.objectlist import parse_list_node
from exclave.formats.pack import (
    BULK_BYTES,
    HEADER_BYTES,
    ROOT_ID,
    SIZE_CLASSES,
    encode_header,
    encode_locator,
    encode_table,
    is_stored,
    pack_info,
    parse_header,
    parse_locator,
    parse_secret,
    parse_table,
    record_bound,
    size_class,
)
from exclave.ids import sha256
from exclave.vault.opener import decompress
from exclave.vault.sealer import table_key

VECTORS = Path(__file__).parent.parent / "vectors"
EXPECTED = {"pack": 30, "objectlist": 25, "manifest": 60}
"""At least so many: a folder that lost its vectors fails."""
Headers = dict[str, str]


def read(path: Path) -> tuple[Headers, bytes]:
    head, _, body = path.read_bytes().partition(b"\n\n")
    return dict(line.split(": ", 1) for line in head.decode().split("\n")), body


def cases() -> list[Path]:
    return [path for folder in EXPECTED for path in sorted((VECTORS / folder).iterdir())]


def open_pack(told: Headers, body: bytes) -> None:
    """A pack from its name to its last chunk, each part parsed and encoded again."""
    if sha256(body).hex() != told["pack-name"]:
        raise CorruptObject("another pack than its name says")
    header = parse_header(body)
    assert encode_header(header.sealed_key, header.salt, header.sealed_locator) == body[:HEADER_BYTES]
    opening = OpeningKey(bytes.fromhex(told["opening-seed"]))
    payload = opening.open(header.sealed_key, pack_info(told["register"], int(told["epoch"])))
    secret = parse_secret(payload)
    assert secret.encode() == payload
    cipher = ObjectCipher(secret.key)
    tables = ObjectCipher(table_key(bytes.fromhex(told["index-key"]), header.salt))
    where = tables.open(0, header.sealed_locator, b"exclave/table/v1")
    offset, length = parse_locator(where)
    assert encode_locator(offset, length) == where
    table = tables.open(1, body[offset : offset + length], b"exclave/table/v1")
    rows = parse_table(table)
    assert encode_table(rows) == table
    chunks = []
    for row in rows:
        plain = cipher.open(row.offset, body[row.offset : row.offset + row.length], record_bound(row.id))
        chunks.append(plain if is_stored(row.length, row.raw) else decompress(plain, row.raw))
        if chunk_id(bytes.fromhex(told["id-key"]), chunks[-1]) != row.id:
            raise CorruptObject("another chunk than its id says")
    if "head" in told:
        sealed = body[secret.head_offset : secret.head_offset + secret.head_length]
        top = bytes.fromhex(told["head"])
        assert decompress(cipher.open(secret.head_offset, sealed, record_bound(ROOT_ID)), len(top)) == top
    else:
        assert (secret.head_offset, secret.head_length) == (0, 0)
    assert sha256(b"".join(chunks)).hex() == told["content"]
    assert len(body) == size_class(offset + length)


def read_list(told: Headers, body: bytes) -> None:
    assert parse_list_node(body).encode() == body


def read_manifest(told: Headers, body: bytes) -> None:
    parsers: dict[str, Callable[[bytes], Leaf | ExtentNode | Branch | object]] = {
        "leaf": parse_leaf,
        "extents": parse_extents,
        "branch": parse_branch,
        "root": parse_root,
    }
    assert encode_node(parsers[told["node"]](body)) == body  # type: ignore[arg-type]


READERS = {"pack": open_pack, "objectlist": read_list, "manifest": read_manifest}


@pytest.mark.parametrize("path", cases(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_vector(path: Path) -> None:
    """Read as its format says, a vector re-encodes to the same bytes or fails as it expects."""
    told, body = read(path)
    code: str = "ok"
    try:
        READERS[path.parent.name](told, body)
    except ExclaveError as error:
        code = error.code
    assert code == told["expect"], told["comment"]


@pytest.mark.parametrize("folder", EXPECTED)
def test_no_corpus_is_empty(folder: str) -> None:
    """A corpus that shrank, or that has only good or only bad vectors, fails; every failure named is one of ours."""
    found = [read(path)[0]["expect"] for path in (VECTORS / folder).iterdir()]
    assert len(found) >= EXPECTED[folder]
    assert "ok" in found
    assert set(found) - {"ok"}
    assert set(found) - {"ok"} <= {error.code for error in all_errors()}


def test_other_node_kinds_are_refused() -> None:
    """A good node of one kind is none of another."""
    for path in (VECTORS / "manifest").glob("*-good"):
        told, body = read(path)
        for kind in {"leaf", "extents", "branch", "root"} - {told["node"]}:
            with pytest.raises(CorruptObject):
                read_manifest({"node": kind}, body)


def test_size_classes() -> None:
    """Classes run from 4 KiB to 16 MiB and waste at most a third."""
    assert (SIZE_CLASSES[0], SIZE_CLASSES[-1]) == (4096, BULK_BYTES)
    for smaller, larger in pairwise(SIZE_CLASSES):
        assert size_class(smaller + 1) == larger
        assert 3 * (larger - smaller - 1) < larger + 3


@functools.cache
def table_place(index_key: str, body: bytes) -> tuple[int, int]:
    """Offset and length of the sealed table."""
    header = parse_header(body)
    cipher = ObjectCipher(table_key(bytes.fromhex(index_key), header.salt))
    return parse_locator(cipher.open(0, header.sealed_locator, b"exclave/table/v1"))


@functools.cache
def good_pack() -> tuple[Headers, bytes]:
    return read(VECTORS / "pack" / "with-head")


@settings(max_examples=200)
@given(st.integers(0, 4095), st.integers(1, 255))
def test_no_flipped_byte_in_a_pack_is_accepted(at: int, value: int) -> None:
    """Whichever byte of a pack is changed, its name tells; and without the name, the seals do, but for the padding."""
    told, body = good_pack()
    changed = body[:at] + bytes([body[at] ^ value]) + body[at + 1 :]
    with pytest.raises(CorruptObject):
        open_pack(told, changed)
    if at < sum(table_place(told["index-key"], body)):
        with pytest.raises(CorruptObject):
            open_pack(told | {"pack-name": sha256(changed).hex()}, changed)

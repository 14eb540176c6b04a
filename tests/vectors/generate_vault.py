"""Writes the vectors of packs, object lists and manifest nodes.

Run from the repository's root: ``PYTHONPATH=src:tests python tests/vectors/generate_vault.py``

A vector is a few header lines, an empty line and the bytes of the object::

    expect: ok, or the code of the failure (``exclave.errors``)
    comment: what is special about it
    <other headers>: what the reader is told beside the object

Packs hold HPKE boxes and padding, which are random, so those files differ from run to run; what each must give does
not. Object lists and manifest nodes come out the same each time.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from exclave.crypto.aead import ObjectCipher
from exclave.crypto.hpke import OpeningKey
from exclave.crypto.keyed import chunk_id
from exclave.formats.entry import Entry, Kind
from exclave.formats.manifest import (
    HOLE,
    Branch,
    Dataset,
    Extent,
    ExtentNode,
    Leaf,
    Record,
    Ref,
    Root,
    Secrets,
    encode_node,
)
from exclave.formats.objectlist import ListLine, ListNode, build_list
from exclave.formats.pack import (
    HEADER_BYTES,
    ROOT_ID,
    PackSecret,
    TableRow,
    encode_header,
    encode_locator,
    encode_table,
    pack_info,
    record_bound,
    size_class,
)
from exclave.ids import ChunkId, Digest, Epoch, Label, RegisterId, sha256
from exclave.vault.sealer import table_key

HERE = Path(__file__).parent
REGISTER = RegisterId("0123456789abcdef0123456789abcdef")
EPOCH = Epoch(1)


def fixed(name: str, length: int = 32) -> bytes:
    """Repeatable bytes."""
    return hashlib.shake_256(name.encode()).digest(length)


OPENING = OpeningKey(fixed("opening seed"))
ID_KEY, INDEX_KEY, PACK_KEY, SALT = (fixed(name) for name in ("id key", "index key", "pack key", "salt"))
CHUNKS = (b"Estonian land register, parcel 1\n" * 40, fixed("chunk two", 700), b"x")


def write(folder: str, name: str, expect: str, comment: str, body: bytes, **headers: str) -> None:
    lines = {"expect": expect, "comment": comment} | headers
    head = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in lines.items())
    (HERE / folder / name).write_bytes(head.encode() + b"\n" + body)


# Packs


def frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def sealed_pack(
    chunks: tuple[bytes, ...] = CHUNKS,
    *,
    head: bytes | None = None,
    rows: list[TableRow] | None = None,
    frames: dict[int, bytes] | None = None,
    table: bytes | None = None,
    locator: bytes | None = None,
    raw: dict[int, int] | None = None,
) -> bytes:
    """A pack of ``chunks``; what is given replaces the right part before it is sealed."""
    cipher, at, parts, right = ObjectCipher(PACK_KEY), HEADER_BYTES, [], []
    for number, data in enumerate(chunks):
        chunk = chunk_id(ID_KEY, data)
        record = cipher.seal(at, (frames or {}).get(number, frame(data)), record_bound(chunk))
        right.append(TableRow(chunk, at, len(record), (raw or {}).get(number, len(data))))
        parts.append(record)
        at += len(record)
    head_at, head_length = 0, 0
    if head is not None:
        record = cipher.seal(at, frame(head), record_bound(ROOT_ID))
        head_at, head_length = at, len(record)
        parts.append(record)
        at += len(record)
    tables = ObjectCipher(table_key(INDEX_KEY, SALT))
    plain = encode_table(right if rows is None else rows) if table is None else table
    sealed_table = tables.seal(1, plain, b"exclave/table/v1")
    where = encode_locator(at, len(sealed_table)) if locator is None else locator
    sealed_key = OPENING.public.seal(PackSecret(PACK_KEY, head_at, head_length).encode(), pack_info(REGISTER, EPOCH))
    used = at + len(sealed_table)
    header = encode_header(sealed_key, SALT, tables.seal(0, where, b"exclave/table/v1"))
    return b"".join([header, *parts, sealed_table, fixed("padding", size_class(used) - used)])


def pack(name: str, expect: str, comment: str, body: bytes, **changed: str) -> None:
    headers = {
        "pack_name": sha256(body).hex(),
        "opening_seed": OPENING.seed.hex(),
        "register": REGISTER,
        "epoch": str(EPOCH),
        "index_key": INDEX_KEY.hex(),
        "id_key": ID_KEY.hex(),
    }
    write("pack", name, expect, comment, body, **(headers | changed))


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def content(*parts: bytes) -> str:
    """SHA-256 of all chunks, one after the other."""
    return sha256(b"".join(parts)).hex()


def packs() -> None:
    bad, good = "corrupt-object", sealed_pack()
    pack("three-chunks", "ok", "three chunks, no head record", good, content=content(*CHUNKS))
    pack(
        "with-head", "ok", "chunks and a head record", sealed_pack(head=b"top"), content=content(*CHUNKS), head="746f70"
    )
    top = sealed_pack((), head=b"top")
    pack("head-only", "ok", "no chunks, so an empty table", top, content=content(), head="746f70")
    long = fixed("long", 40_000)
    pack("larger-class", "ok", "a pack of 48 KiB", sealed_pack((long,)), content=content(long))
    pack("bad-name", bad, "one flipped bit in the padding; the name tells", flipped(good, len(good) - 1),
         pack_name=sha256(good).hex())  # fmt: skip
    noise = sealed_pack(frames={1: CHUNKS[1]})
    pack("stored-chunk", "ok", "the second chunk lies there as it is", noise, content=content(*CHUNKS))
    torn = good[:2048]
    pack("bad-truncated-pack", bad, "the last half is missing; the name tells", torn, pack_name=sha256(good).hex())
    places = [
        ("magic", 0, "another magic"),
        ("encapsulated-key", 8, "the HPKE part was changed"),
        ("sealed-key", 1183, "the last byte of the HPKE tag was changed"),
        ("salt", 1184, "another salt makes another table key"),
        ("locator", 1216, "the sealed locator was changed"),
        ("record", HEADER_BYTES, "a record was changed"),
    ]
    for name, at, comment in places:
        pack(f"bad-{name}", bad, f"{comment}; the name is that of these bytes", flipped(good, at))
    pack("bad-truncated-header", bad, "1239 bytes", good[: HEADER_BYTES - 1])
    pack("bad-empty", bad, "no bytes at all", b"")
    pack("bad-wrong-opening-key", bad, "opened with another key", good, opening_seed=fixed("other").hex())
    pack("bad-wrong-epoch", bad, "opened for another epoch", good, epoch="2")
    pack("bad-wrong-register", bad, "opened for another register", good, register="f" * 32)
    pack("bad-wrong-index-key", bad, "the table has another index key", good, index_key=fixed("other").hex())
    bad_tables(good)
    bad_records()


def bad_tables(good: bytes) -> None:
    bad = "corrupt-object"
    size = len(good)
    pack("bad-locator-early", bad, "the table starts within the header", sealed_pack(locator=encode_locator(1239, 16)))
    pack("bad-locator-late", bad, "the table ends behind 16 MiB", sealed_pack(locator=encode_locator(size, 1 << 24)))
    pack("bad-locator-short", bad, "a table of 15 bytes", sealed_pack(locator=encode_locator(HEADER_BYTES, 15)))
    pack("bad-locator-elsewhere", bad, "the locator points at a record", sealed_pack(locator=encode_locator(1240, 60)))
    one, other = (TableRow(chunk_id(ID_KEY, c), HEADER_BYTES + 40 * n, 40, 1) for n, c in enumerate(CHUNKS[:2]))
    rows = {
        "overlap": [one, TableRow(other.id, one.offset + 39, 40, 1)],
        "order": [other, one],
        "early": [TableRow(one.id, HEADER_BYTES - 1, 40, 1)],
        "late": [TableRow(one.id, (16 << 20) - 39, 40, 1)],
        "short-record": [TableRow(one.id, HEADER_BYTES, 15, 1)],
        "long-chunk": [TableRow(one.id, HEADER_BYTES, 40, (8 << 20) + 1)],
    }
    for name, table in rows.items():
        pack(f"bad-table-{name}", bad, "rightly sealed, but no table", sealed_pack(rows=table))
    pack("bad-table-torn", bad, "a table of 45 bytes", sealed_pack(table=bytes(45)))


def bad_records() -> None:
    bad = "corrupt-object"
    data = CHUNKS[0]
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(data)
    frames = {
        "not-zstd": b"this is no zstd frame",
        "no-size": unsized,
        "extra-data": frame(data) + b"more",
        "two-frames": frame(data) + frame(data),
        "torn-frame": frame(data)[:-3],
        "other-content": frame(data[:-1] + b"!"),
        "stored-other": bytes(len(data)),
    }
    for name, made in frames.items():
        pack(f"bad-record-{name}", bad, "rightly sealed, but not the chunk", sealed_pack(frames={0: made}))
    pack("bad-record-length", bad, "the table announces another length", sealed_pack(raw={0: len(data) - 1}))
    pack("bad-record-moved", bad, "a record under the id of another", _swapped())


def _swapped() -> bytes:
    good = [TableRow(chunk_id(ID_KEY, c), 0, 0, len(c)) for c in CHUNKS[:2]]
    at, rows = HEADER_BYTES, []
    for data, row in zip(CHUNKS[:2], reversed(good), strict=True):
        length = len(frame(data)) + 16
        rows.append(TableRow(row.id, at, length, row.raw))
        at += length
    return sealed_pack(CHUNKS[:2], rows=rows)


# Object lists


def lists() -> None:
    def name(number: int) -> Digest:
        return sha256(f"pack {number}".encode())

    def listed(title: str, expect: str, comment: str, body: bytes) -> None:
        write("objectlist", title, expect, comment, body)

    names = sorted(name(n) for n in range(5))
    one = ListNode(0, (ListLine(names[0], 1, 4096),)).encode()
    five = ListNode(0, tuple(ListLine(n, 1, 4096 + k) for k, n in enumerate(names))).encode()
    branch = ListNode(1, (ListLine(names[3], 7, 28672), ListLine(names[1], 1, 4096))).encode()
    listed("empty", "ok", "a list of nothing", ListNode(0, ()).encode())
    listed("one", "ok", "one pack", one)
    listed("five", "ok", "packs in order of name", five)
    listed("branch", "ok", "nodes are in order of what is under them, not of name", branch)
    listed("level-8", "ok", "the highest level", ListNode(8, (ListLine(names[0], 2**63 - 1, 2**63 - 1),)).encode())
    built = build_list([(name(n), 4096) for n in range(600)])
    for number, (digest, data) in enumerate(built.nodes):
        root = "root" if digest == built.root else f"node-{number}"
        listed(f"tree-600-{root}", "ok", "of the list of 600 packs", data)
    lines = five.decode().split("\n")
    faults = {
        "nothing": b"",
        "version": five.replace(b"objects/v1", b"objects/v2"),
        "no-newline": five[:-1],
        "crlf": five.replace(b"\n", b"\r\n"),
        "blank-line": one + b"\n",
        "order": "\n".join([*lines[:2], lines[3], lines[2], *lines[4:]]).encode(),
        "twice": "\n".join([*lines[:3], lines[2], *lines[3:]]).encode(),
        "upper-case": one.replace(names[0].hex().encode(), names[0].hex().upper().encode()),
        "short-name": one.replace(names[0].hex().encode(), names[0].hex()[:-1].encode()),
        "leading-zero": one.replace(b" 4096", b" 04096"),
        "sign": one.replace(b" 4096", b" +4096"),
        "huge": one.replace(b" 4096", b" 9223372036854775808"),
        "arabic-digit": one.replace(b" 4096", " ٤096".encode()),
        "double-space": one.replace(b"pack ", b"pack  "),
        "extra-field": one.replace(b" 4096", b" 1 4096"),
        "level-9": branch.replace(b"level 1", b"level 9"),
        "level-zero-twice": one.replace(b"level 0", b"level 00"),
        "empty-branch": b"exclave/objects/v1\nlevel 1\n",
        "pack-in-branch": one.replace(b"level 0", b"level 1"),
        "node-in-leaf": branch.replace(b"level 1", b"level 0"),
        "extra-line": one + b"further line\n",
    }
    for title, body in faults.items():
        listed(f"bad-{title}", "malformed", f"not a list node: {title}", body)


# Manifest nodes

PACKS = tuple(fixed(f"pack {n}") for n in range(2))
IDS = tuple(ChunkId(fixed(f"id {n}")) for n in range(3))
REF = Ref(PACKS[0], 1240, 100, 5000, IDS[0])
TABLE = ((0, 1240, 100, 5000, IDS[0]), (1, 4000, 17, 1, IDS[1]))
FILE = Entry(b"a/file", Kind.FILE, 0o644, 1000, 1000, 1_700_000_000_123_456_789, 5200, b"", ((b"user.x", b"1"),))
RECORDS = (
    Record(Entry(b"", Kind.FOLDER, 0o755, 0, 0, -1)),
    Record(Entry(b"a", Kind.FOLDER, 0o1777, 0, 0, 0, user="root", group="root")),
    Record(FILE, (Extent(0, 0, 4999), Extent(HOLE, 0, 200), Extent(1, 0, 1)), fixed("hash")),
    Record(Entry(b"a/hard", Kind.HARDLINK, 0, 1000, 1000, 0, 0, b"a/file")),
    Record(Entry(b"a/huge", Kind.FILE, 0o600, 0, 0, 0, 10**15), (), fixed("hash"), (REF,)),
    Record(Entry(b"a/link", Kind.SYMLINK, 0o777, 0, 0, 0, 0, b"../\xff")),
    Record(Entry(b"a/null", Kind.CHAR_DEVICE, 0o666, 0, 0, 0, device=259)),
)
LEAF = Leaf(1, PACKS, TABLE, RECORDS)
EXTENTS = ExtentNode(1, PACKS, TABLE, (Extent(1, 0, 1), Extent(HOLE, 0, 2**40), Extent(0, 10, 20)))
BRANCH = Branch(1, 3, (REF, Ref(bytes(32), 1240, 60, 900, IDS[1])), (b"", b"a/b"))
DATASET = Dataset(Label("docs"), "files", REF, 3, 7, 10**15, 1_790_000_000_000_000, {"a": "b"}, "", False, {"t": 3})
SECRETS = Secrets(ID_KEY, 2**63 - 1, {1: INDEX_KEY, 2: fixed("second index key")})
ROOT = Root(1, REGISTER, "maakataster", 2, 9, 1_790_000_000_000_000, (DATASET,), SECRETS)

_encode = msgspec.msgpack.Encoder().encode


def manifest(kind: str, name: str, expect: str, comment: str, body: bytes) -> None:
    write("manifest", f"{kind}-{name}", expect, comment, body, node=kind)


def changed(node: Leaf | ExtentNode | Branch | Root, path: tuple[int | str, ...], value: Any) -> bytes:
    """The encoding of ``node`` with what lies at ``path`` replaced by ``value``."""
    plain = msgspec.msgpack.decode(encode_node(node), strict=False)
    at = plain
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return _encode(plain)


def manifests() -> None:
    for kind, node in (("leaf", LEAF), ("extents", EXTENTS), ("branch", BRANCH), ("root", ROOT)):
        body = encode_node(node)
        manifest(kind, "good", "ok", "everything that such a node can hold", body)
        manifest(kind, "bad-trailing", "corrupt-object", "a byte behind the end", body + b"\xc0")
        manifest(kind, "bad-truncated", "corrupt-object", "the last byte is missing", body[:-1])
        manifest(kind, "bad-empty", "corrupt-object", "no bytes", b"")
        first = ("version",) if kind == "root" else (0,)
        manifest(kind, "bad-version", "corrupt-object", "a later version", changed(node, first, 2))
        manifest(kind, "bad-version-text", "corrupt-object", "the version is a text", changed(node, first, "1"))
    manifest("leaf", "no-records", "ok", "an empty leaf", encode_node(Leaf(1, (), (), ())))
    manifest("extents", "none", "ok", "no extents", encode_node(ExtentNode(1, (), (), ())))
    wide = b"\x94\xcd\x00\x01" + encode_node(LEAF)[2:]
    manifest("leaf", "bad-wide-integer", "corrupt-object", "1 written with two bytes more than it needs", wide)
    cut = encode_node(LEAF).replace(b"\xa4root\xa4root", b"\xa4ro\xfft\xa4root")
    manifest("leaf", "bad-utf-8", "corrupt-object", "a user's name that is not UTF-8", cut)
    half = encode_node(LEAF).replace(b"\xa4root\xa4root", b"\xa4r\xed\xa0\x80\xa4root")
    manifest("leaf", "bad-surrogate", "corrupt-object", "a user's name with half a surrogate pair", half)
    bad_leaves()
    for name, path, value in (
        ("level-zero", (1,), 0),
        ("level-13", (1,), 13),
        ("no-children", (2,), []),
        ("offset-early", (2, 0, 1), 1239),
        ("offset-late", (2, 0, 1), (16 << 20) - 99),
        ("length-short", (2, 0, 2), 16),
        ("raw-zero", (2, 0, 3), 0),
        ("raw-long", (2, 0, 3), (8 << 20) + 1),
        ("id-short", (2, 0, 4), bytes(31)),
        ("pack-short", (2, 0, 0), bytes(31)),
        ("child-extra-field", (2, 0), [*msgspec.structs.astuple(REF), 0]),
        ("firsts-missing", (3,), [b""]),
        ("firsts-twice", (3,), [b"a", b"a"]),
        ("firsts-out-of-order", (3,), [b"a b", b"a/b"]),
        ("firsts-leave-the-folder", (3,), [b"", b"a/.."]),
    ):
        body = changed(BRANCH, path, value)
        manifest("branch", f"bad-{name}", "corrupt-object", f"an impossible value: {name}", body)
    for name, path, value in (
        ("dataset-name", ("datasets", 0, "label"), "../docs"),
        ("dataset-entries", ("datasets", 0, "entries"), -1),
        ("dataset-twice", ("datasets",), [msgspec.to_builtins(DATASET, builtin_types=(bytes,))] * 2),
        ("dataset-tree", ("datasets", 0, "tree", 1), 0),
        ("id-key", ("secrets", "id_key"), bytes(31)),
        ("index-key", ("secrets", "index_keys", 1), bytes(33)),
        ("unknown-field", ("comment",), "hello"),
        ("facts-number", ("datasets", 0, "facts", "a"), 1),
    ):
        manifest("root", f"bad-{name}", "corrupt-object", f"an impossible value: {name}", changed(ROOT, path, value))


def bad_leaves() -> None:
    file = (3, 2)
    faults: tuple[tuple[str, tuple[int | str, ...], Any], ...] = (
        ("kind-8", (*file, 0, 1), 8),
        ("mode-too-wide", (*file, 0, 2), 0o10000),
        ("negative-owner", (*file, 0, 3), -1),
        ("size-too-large", (*file, 0, 6), 5201),
        ("size-too-small", (*file, 0, 6), 5199),
        ("file-with-target", (*file, 0, 7), b"x"),
        ("folder-with-size", (3, 1, 0, 6), 1),
        ("folder-with-content", (3, 1, 1), [[0, 0, 1]]),
        ("link-without-target", (3, 5, 0, 7), b""),
        ("inline-and-listed", (*file, 3), [list(msgspec.structs.astuple(REF))]),
        ("empty-extent", (*file, 1, 1), [HOLE, 0, 0]),
        ("negative-extent", (*file, 1, 1, 2), -200),
        ("extent-beyond-chunk", (*file, 1, 0), [0, 2, 4999]),
        ("extent-before-chunk", (*file, 1, 0), [0, -1, 4999]),
        ("extent-of-no-chunk", (*file, 1, 0, 0), 2),
        ("extent-below-hole", (*file, 1, 0, 0), -2),
        ("hash-short", (*file, 2), bytes(31)),
        ("chunk-of-no-pack", (2, 0, 0), 2),
        ("chunk-early", (2, 0, 1), 1239),
        ("chunk-id-short", (2, 0, 4), bytes(31)),
        ("pack-short", (1, 0), bytes(31)),
        ("listed-ref-early", (3, 4, 3, 0, 1), 0),
        ("float", (*file, 0, 5), 1.5),
        ("null", (*file, 2), None),
        ("record-too-short", file, [msgspec.structs.astuple(FILE)]),
    )
    for name, path, value in faults:
        manifest("leaf", f"bad-{name}", "corrupt-object", f"an impossible value: {name}", changed(LEAF, path, value))


def main() -> None:
    for folder in ("pack", "objectlist", "manifest"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    packs()
    lists()
    manifests()


if __name__ == "__main__":
    main()

"""Writes ``tile/vectors.json``: tile numbers as paths, hash tiles and entry bundles, each with its failure class."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.tile import encode_bundle, encode_tile
from exclave.ids import b64
from exclave.rules.tree import leaf_hash


def main() -> None:
    hashes = [leaf_hash(b"%d" % i) for i in range(256)]
    entries = [b"one", b"two\n", b"x" * 4096]
    bundle = encode_bundle(entries)
    tiles = [
        {"name": "one hash", "expect": "ok", "width": 1, "data": b64(encode_tile(hashes[:1]))},
        {"name": "full", "expect": "ok", "width": 256, "data": b64(encode_tile(hashes))},
        {"name": "a hash too few", "expect": "malformed", "width": 3, "data": b64(encode_tile(hashes[:2]))},
        {"name": "a hash too many", "expect": "malformed", "width": 1, "data": b64(encode_tile(hashes[:2]))},
        {"name": "half a hash", "expect": "malformed", "width": 2, "data": b64(encode_tile(hashes[:2])[:-16])},
        {"name": "empty", "expect": "malformed", "width": 0, "data": ""},
        {"name": "257 hashes", "expect": "malformed", "width": 257, "data": b64(encode_tile(hashes) + hashes[0])},
    ]
    bundles = [
        {"name": "three entries", "expect": "ok", "width": 3, "data": b64(bundle)},
        {"name": "full", "expect": "ok", "width": 256, "data": b64(encode_bundle([b"x"] * 256))},
        {"name": "an entry too few", "expect": "malformed", "width": 4, "data": b64(bundle)},
        {"name": "an entry too many", "expect": "malformed", "width": 2, "data": b64(bundle)},
        {"name": "cut within an entry", "expect": "malformed", "width": 3, "data": b64(bundle[:-1])},
        {"name": "cut within a length", "expect": "malformed", "width": 2, "data": b64(b"\x00\x01x\x00")},
        {"name": "empty entry", "expect": "malformed", "width": 2, "data": b64(b"\x00\x01x\x00\x00")},
        {"name": "entry of 4097 bytes", "expect": "malformed", "width": 1, "data": b64(b"\x10\x01" + b"x" * 4097)},
        {"name": "length in little-endian", "expect": "malformed", "width": 1, "data": b64(b"\x01\x00x")},
        {"name": "nothing", "expect": "malformed", "width": 1, "data": ""},
        {"name": "nothing of nothing", "expect": "malformed", "width": 0, "data": ""},
    ]
    paths = {
        "0": "000",
        "5": "005",
        "273": "273",
        "999": "999",
        "1000": "x001/000",
        "1234067": "x001/x234/067",
        "1000000000": "x001/x000/x000/000",
    }
    folder = Path(__file__).parent / "tile"
    folder.mkdir(exist_ok=True)
    shown = {"paths": paths, "tiles": tiles, "bundles": bundles}
    (folder / "vectors.json").write_text(json.dumps(shown, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Writes ``coded/vectors.json``: objects, their shards and descriptors, and descriptors that are malformed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from exclave.sites.coded_form import Code


def main() -> None:
    cut = []
    for k, n, size in ((2, 3, 100), (3, 5, 333), (4, 6, 4096)):
        data = hashlib.shake_256(b"%d %d" % (k, n)).digest(size)
        plan, shards = Code(k, n).cut(data)
        made = {"k": k, "n": n, "object": data.hex(), "shards": [shard.hex() for shard in shards]}
        cut.append({**made, "descriptor": plan.encode().hex()})
    good = bytes.fromhex(str(cut[0]["descriptor"]))
    bad = {
        "another magic": b"EXCLSHD2" + good[8:],
        "k of 1": good[:8] + b"\x01" + good[9:],
        "k as many as n": good[:8] + b"\x03" + good[9:],
        "more shards than it names": good[:9] + b"\x04" + good[10:],
        "not zero": good[:10] + b"\x00\x01" + good[12:],
        "of nothing": good[:12] + bytes(8) + good[20:],
        "longer than an object": good[:12] + b"\x00\x00\x00\x00\x04\x00\x00\x01" + good[20:],
        "cut short": good[:-1],
        "byte too much": good + b"\x00",
        "no room for the last shard": good[:12] + b"\x00\x00\x00\x00\x00\x00\x00\x01" + good[20:],
    }
    folder = Path(__file__).parent / "coded"
    folder.mkdir(exist_ok=True)
    value = {"cut": cut, "malformed": {name: data.hex() for name, data in bad.items()}}
    (folder / "vectors.json").write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()

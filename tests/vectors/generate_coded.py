"""Writes ``coded/vectors.json``: objects, their shards and descriptors, votes, and what is malformed of both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from exclave.ids import Key, sha256
from exclave.sites.coded_form import Code, vote_key
from exclave.sites.coded_votes import Ballot, Vote


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
    value = {
        "cut": cut,
        "malformed": {name: data.hex() for name, data in bad.items()},
        "votes": votes(),
        "malformed votes": {name: data.hex() for name, data in malformed_votes().items()},
    }
    (folder / "vectors.json").write_text(json.dumps(value, indent=1) + "\n")


KEY = Key("state/ledger/checkpoint")
FIRST, SECOND = Ballot(1, b"a" * 16), Ballot(2, b"b" * 16)


def votes() -> list[dict[str, object]]:
    made = {
        "promised": Vote(KEY, FIRST),
        "accepted": Vote(KEY, SECOND, FIRST, sha256(b"head"), b"head"),
        "of nothing": Vote(KEY, FIRST, FIRST, sha256(b""), b""),
        "beside": Vote(KEY, FIRST, FIRST, sha256(b"long"), None),
    }
    return [
        {
            "what": what, "name": vote.key, "stands under": vote_key(vote.key), "promised": vote.promised.counter,
            "accepted": vote.accepted.counter, "vote": vote.encode().hex(),
        }
        for what, vote in made.items()
    ]  # fmt: skip


def malformed_votes() -> dict[str, bytes]:
    good = Vote(KEY, SECOND, FIRST, sha256(b"head"), b"head").encode()
    return {
        "another magic": b"EXCLVOT2" + good[8:],
        "nothing promised": good[:8] + bytes(24) + good[32:],
        "accepted after what is promised": good[:8] + good[32:56] + good[8:32] + good[56:],
        "another value than its hash": good[:-1] + b"D",
        "not zero": good[:90] + b"\x00\x01" + good[92:],
        "no name": good[:88] + bytes(2) + good[90:96] + good[-4:],
        "a name that is none": good.replace(b"state/", b"../../"),
        "cut short": good[:-1],
        "byte too much": good + b"\x00",
        "a counter too large": good[:8] + b"\x40" + good[9:],
    }


if __name__ == "__main__":
    main()

"""Writes the vectors of pages that other generators do not cover: what every reader must find the same for ever.

Run from the repository's root: ``PYTHONPATH=src:tests python tests/vectors/generate_basics.py``

``layout`` names of objects; ``note`` signed notes and their key ids; ``shares`` a split seed, its commitments and what
combines; ``registers`` canonical texts of digests; ``witness`` requests and answers; ``chunking`` where content is cut;
``relying`` services. All come out the same each time.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from exclave.crypto.shares import combine, commitment, split
from exclave.formats import paths
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.note import parse_note, verifier_key
from exclave.formats.relying import RelyingService, encode_service
from exclave.formats.witness import AddCheckpoint, encode_signatures, encode_size
from exclave.ids import Digest, Epoch, Fingerprint, Instant, RegisterId
from exclave.registers.digest import TableDigest, canonical_text, dataset_digest
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.vault.chunker import DATABASE_AVERAGE_BYTES, LARGE_AVERAGE_BYTES, SMALL_AVERAGE_BYTES, Chunker
from support.custody import actor, signed

HERE = Path(__file__).parent
STATE, REGISTER, EPOCH = Fingerprint("5e" * 32), RegisterId("0123456789abcdef0123456789abcdef"), Epoch(3)
TIME = Instant(1_795_443_721_000_000)


def fixed(name: str, length: int = 32) -> bytes:
    return hashlib.shake_256(name.encode()).digest(length)


def write(folder: str, **value: Any) -> None:
    (HERE / folder).mkdir(exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (HERE / folder / "vectors.json").write_text(text)


def layout() -> dict[str, str]:
    """Function of ``formats/paths.py`` → what it makes of the values above."""
    note, name = b"a note", Digest(fixed("a name"))
    return {
        "charter_key": paths.charter_key(STATE, note),
        "card_key": paths.card_key(STATE, name),
        "warrant_key": paths.warrant_key(STATE, note),
        "epoch_key": paths.epoch_key(STATE, REGISTER, note),
        "box_key": paths.box_key(STATE, REGISTER, name),
        "ledger_prefix": paths.ledger_prefix(STATE, REGISTER, EPOCH, name),
        "pack_key": paths.pack_key(STATE, REGISTER, name),
        "list_key": paths.list_key(STATE, REGISTER, name),
        "ledger_origin": paths.ledger_origin(STATE, REGISTER, EPOCH),
        "feed_prefix": paths.feed_prefix(STATE, REGISTER, EPOCH, name),
        "statement_key": paths.statement_key(STATE, REGISTER, note),
        "deletion_key": paths.deletion_key(STATE, REGISTER, name),
        "objection_key": paths.objection_key(STATE, REGISTER, note),
        "public_key": paths.public_key(STATE, REGISTER, name),
        "public_statement_key": paths.public_statement_key(STATE, TIME, note),
    }


def note_cases() -> list[dict[str, str]]:
    line = "— example.org/key AAAAAAECAwQF\n"
    good = {
        "one signature": f"text\n\n{line}",
        "two signatures": f"text\n\n{line}— other AAAAAQID\n",
        "an empty line in the text": f"text\n\nmore\n\n{line}",
        "letters beyond ASCII": f"õ — 城\n\n{line}",
    }
    bad = {
        "no signature": "text\n",
        "no empty line": f"text\n{line}",
        "another dash": "text\n\n- example.org/key AAAAAAECAwQF\n",
        "no newline at the end": f"text\n\n{line}"[:-1],
        "a key id that is cut short": "text\n\n— example.org/key AAAA\n",
        "loose base64": "text\n\n— example.org/key AAAAAAECAwR=\n",
        "carriage returns": f"text\r\n\r\n{line}",
        "nothing": "",
    }
    cases = [{"name": name, "expect": "ok", "text": text} for name, text in good.items()]
    return cases + [{"name": name, "expect": "malformed", "text": text} for name, text in bad.items()]


def shares() -> dict[str, Any]:
    seed, terms = fixed("seed"), iter(fixed(f"term {n}") for n in range(2))
    made = split(seed, 3, 5, lambda length: next(terms))
    if combine(made[1:4]) != seed:
        raise SystemExit("the shares do not give the seed back")
    return {
        "seed": seed.hex(),
        "threshold": 3,
        "terms": [fixed(f"term {n}").hex() for n in range(2)],
        "shares": [share.data.hex() for share in made],
        "register": REGISTER,
        "epoch": EPOCH,
        "commitments": [commitment(REGISTER, EPOCH, share.index, share.data).hex() for share in made],
    }


SCRIPT = (
    "CREATE TABLE deed (id INTEGER PRIMARY KEY, who TEXT, share REAL, seal BLOB);"
    "INSERT INTO deed VALUES (2, 'Ää', 0.5, x'00ff'), (1, NULL, NULL, NULL);"
    'CREATE TABLE "odd name." (k TEXT PRIMARY KEY, v) WITHOUT ROWID;'
    "INSERT INTO \"odd name.\" VALUES ('b', 1), ('a', 2);"
)


def registers() -> dict[str, Any]:
    tables = [TableDigest(("public", "õ tab.le"), 2, "22" * 32), TableDigest(("public", "deed"), 10, "11" * 32)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.sqlite"
        with closing(sqlite3.connect(path)) as database, database:
            database.executescript(SCRIPT)
        found = sqlite_digest(path)
    return {
        "tables": [[list(t.name), t.rows, t.sha256] for t in tables],
        "canonical": canonical_text("postgres", tables),
        "digest": dataset_digest("postgres", tables, exact=True).value,
        "sqlite": {"script": SCRIPT, "digest": found.value, "rows": dict(found.rows)},
    }


def witness() -> dict[str, str]:
    head = Checkpoint(paths.ledger_origin(STATE, REGISTER, EPOCH), 7, Digest(fixed("root")))
    note = signed(head.encode(), actor("anna"))
    proof = (Digest(fixed("one")), Digest(fixed("two")))
    return {
        "request": AddCheckpoint(3, proof, note, head).encode().decode(),
        "first request": AddCheckpoint(0, (), note, head).encode().decode(),
        "signatures": encode_signatures(note.signatures).decode(),
        "size": encode_size(7).decode(),
    }


def chunking() -> list[dict[str, Any]]:
    """Data is SHAKE-256 of ``name``, ``length`` bytes."""
    made = []
    for average, length in (
        (SMALL_AVERAGE_BYTES, 3 << 20),
        (LARGE_AVERAGE_BYTES, 8 << 20),
        (DATABASE_AVERAGE_BYTES, 1 << 20),
    ):
        for seed in (0, 0x5EED, 2**63 - 1):
            ends = Chunker(seed, average_bytes=average).cut(fixed("content", length))
            made.append({"seed": seed, "average": average, "name": "content", "length": length, "ends": ends})
    return made


def relying() -> list[str]:
    plain = RelyingService(
        client_id="tax", name={"en": "Tax office", "et": "Maksuamet"}, redirect_uris=("https://tax.example/cb",),
    )  # fmt: skip
    return [encode_service(plain).decode()]


def main() -> None:
    write(
        "layout",
        state=STATE,
        register=REGISTER,
        epoch=EPOCH,
        note="a note",
        name=fixed("a name").hex(),
        names=layout(),
        time=TIME,
    )
    key = {"name": "example.org/key", "kind": "01", "public": fixed("public").hex()}
    shown = verifier_key(key["name"], bytes.fromhex(key["kind"]), fixed("public"))
    cases = note_cases()
    for case in cases:
        if case["expect"] == "ok":
            parse_note(case["text"].encode())
    write("note", cases=cases, key=key, verifier_key=shown)
    write("shares", **shares())
    write("registers", **registers())
    write("witness", **witness())
    write("chunking", cases=chunking())
    write("relying", services=relying())


if __name__ == "__main__":
    main()

"""Writes ``proof/``: proofs of single records, each with the class of its failure. Keys are the tests'; signatures of
ML-DSA-44 are random, so each run writes other proofs of the same kind."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from exclave.crypto.keyed import content_hash
from exclave.formats.leaf import parse_version_leaf
from exclave.formats.proof import parse_proof
from exclave.formats.record import FileRecord, RowRecord
from exclave.formats.warrant import Act
from exclave.ids import Digest, Label
from exclave.rules.records import commitment
from support.proving import ProvingState

FOLDER = Path(__file__).parent / "proof"
RECORDS = Path(__file__).parent / "record"
DOCUMENTS = {f"2026/act {n}.txt".encode(): b"act %d\n" % n for n in range(6)}
ROWS = [(n, f"owner {n}") for n in range(3)]


def write(name: str, expect: str, state: str, data: bytes) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / name).write_bytes(f"expect: {expect}\nfingerprint: {state}\n\n".encode() + data)


def records() -> list[dict[str, str]]:
    """Records in hexadecimal, each with what is expected of it and, if good, its commitment with a salt of zeros."""
    land, docs = Label("land"), Label("docs")
    document = FileRecord(land, docs, "2026/čl. 3 (a).pdf".encode(), 6, content_hash(b"act 3\n")).encode()
    rows = RowRecord(land, docs, "postgres", "public.deed", b"id\tinteger\nnote\ttext\n\n17\ta\\tb\n").encode()
    lite = RowRecord(land, docs, "sqlite", "deed", b"\x92\x92\xa2id\xa3INT\x92\xa1o\xa4TEXT\x92\x11\xc0").encode()
    bad = {
        "another header": document.replace(b"record/v1", b"record/v2"),
        "a name that is none": document.replace(b"register land", b"register Land"),
        "lower-case escape": document.replace(b"%C4%8D", b"%c4%8d"),
        "needless escape": document.replace(b"2026/", b"%32026/"),
        "path that leaves": document.replace(b"2026/", b"../"),
        "leading zero": document.replace(b" 6 ", b" 06 "),
        "short hash": document[:-3] + b"\n",
        "further line": document + b"x\n",
        "no newline": document[:-1],
        "unknown kind": rows.replace(b"rows postgres", b"rows mariadb"),
        "no empty line": rows.replace(b"deed\n\n", b"deed\n"),
        "field missing": rows.replace(b"17\t", b"17"),
        "unknown escape": rows.replace(b"\\t", b"\\q"),
        "value missing": lite[:-1],
        "not the shortest form": lite[:-2] + b"\xcc\x11\xc0",
        "a boolean": lite[:-1] + b"\xc3",
    }
    good = {"a document": document, "a row of PostgreSQL": rows, "a row of SQLite": lite}
    return [
        {"name": n, "expect": "ok", "record": r.hex(), "commitment": commitment(bytes(32), r).hex()}
        for n, r in good.items()
    ] + [{"name": n, "expect": "malformed", "record": r.hex()} for n, r in bad.items()]


def main() -> None:
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / "vectors.json").write_text(json.dumps({"cases": records()}, indent=1) + "\n")
    for old in FOLDER.glob("*"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        made = ProvingState(Path(folder) / "state", sites=("home",), name="Law gazette")
        made.commit(DOCUMENTS, ROWS)
        made.commit(DOCUMENTS, ROWS)
        good = made.document(1, b"2026/act 3.txt")
        proof = parse_proof(good)
        write("document", "ok", made.state, good)
        write("row", "ok", made.state, made.row(1, "deed:id=2"))
        write("other-fingerprint", "wrong-fingerprint", "0" * 64, good)
        second = parse_proof(made.document(2, b"2026/act 3.txt"))
        write("other-version", "corrupt-object", made.state, replace(proof, opening=second.opening).encode())
        write("other-entry", "corrupt-object", made.state, replace(proof, entry=second.entry).encode())
        bare = replace(parse_version_leaf(proof.entry), records=None).encode()
        write("no-records", "corrupt-object", made.state, replace(proof, entry=bare).encode())
        other = replace(proof.opening, salt=bytes(32))
        write("other-salt", "corrupt-object", made.state, replace(proof, opening=other).encode())
        longer = replace(proof.opening, path=(*proof.opening.path, Digest(bytes(32))))
        write("way-too-long", "corrupt-object", made.state, replace(proof, opening=longer).encode())
        write("card-missing", "missing-object", made.state, replace(proof, cards=proof.cards[1:]).encode())
        write("card-twice", "corrupt-object", made.state, replace(proof, cards=(*proof.cards, proof.cards[0])).encode())
        write("cut-unneeded", "corrupt-object", made.state, replace(proof, cut=(Digest(bytes(32)),)).encode())
        write("head-says-other", "malformed", made.state, good.replace(b"version 1\n", b"version 2\n"))
        write("crlf", "malformed", made.state, good.replace(b"\n", b"\r\n"))
        write("line-missing", "malformed", made.state, good.replace(b"entry\n", b""))
        write("cut-short", "malformed", made.state, good[:-40])
        write("upper-path", "malformed", made.state, good.replace(b"act%203", b"act%203%2e"))
        made.name_witnesses(1, "nova")
        made.commit(DOCUMENTS)
        lonely = made.evidence(3, allow_unwitnessed=True).proof(made.open_document(3, b"2026/act 0.txt"))
        write("no-witness", "quorum-missing", made.state, lonely)
        made.cosign("nova")
        write("cosigned", "ok", made.state, made.document(3, b"2026/act 0.txt"))
        made.new_epoch(Act.FAILOVER)
        after = made.document(1, b"2026/act 3.txt")
        write("after-failover", "ok", made.state, after)
        write("cut-missing", "corrupt-object", made.state, replace(parse_proof(after), cut=()).encode())


if __name__ == "__main__":
    main()

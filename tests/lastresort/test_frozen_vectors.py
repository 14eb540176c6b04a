"""The vectors are frozen, every page of the specification has some, and those of the basics still come out."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sqlite3
from contextlib import closing
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from exclave.crypto.shares import Share, combine, commitment
from exclave.errors import MalformedError
from exclave.formats import paths
from exclave.formats.note import parse_note, verifier_key
from exclave.formats.relying import encode_service, parse_service
from exclave.formats.witness import encode_signatures, parse_add_checkpoint, parse_signatures, parse_size
from exclave.ids import Digest, Epoch, Fingerprint, Instant, RegisterId
from exclave.registers.digest import TableDigest, canonical_text, dataset_digest
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.vault.chunker import Chunker

VECTORS = Path(__file__).parents[1] / "vectors"
SPEC = Path(__file__).parents[2] / "docs" / "spec"
WHAT_TO_DO = (
    "Somebody's stored copies may have this form. If no release wrote it yet and it changed on purpose: change page,"
    " reader, vectors and tools/last_resort.py in one commit, make the archive anew with"
    " `PYTHONPATH=src:tests python tests/vectors/generate_site.py`, and run `python tests/vectors/freeze.py`."
    " If a release wrote it: put the old vectors back, and give the new form a new first line, page and vectors."
)
NOT_STORED = (
    "sent, never stored",
    "never stored",
    "read, never written",
    "written, never read",
    "stays at",
    "decided from",
)
"""Third column of docs/spec/README.md: nobody has to read such a thing in thirty years."""
BY_TESTS = {"status-log.md": "tests/identity/test_acts_status.py"}
"""Pages about files of others that are read; the tests that hold them to it."""


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, VECTORS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def vectors(folder: str) -> dict[str, Any]:
    return dict(json.loads((VECTORS / folder / "vectors.json").read_text()))


def test_vectors_are_frozen() -> None:
    """No vector was changed, added or taken away since they were frozen."""
    lines = (VECTORS / "FROZEN").read_text().splitlines()
    frozen = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    now = module("freeze").digests()
    changed = sorted(path for path in {*frozen, *now} if frozen.get(path) != now.get(path))
    assert not changed, f"{len(changed)} vectors are not as they were frozen: {', '.join(changed[:20])}. {WHAT_TO_DO}"
    assert len(frozen) > 400


def pages() -> dict[str, str]:
    """Page → third column of the index."""
    rows = re.findall(r"^\| \[[\w-]+\]\(([\w-]+\.md)\) \|.*\| (.*) \|$", (SPEC / "README.md").read_text(), re.MULTILINE)
    return dict(rows)


def test_the_index_is_read() -> None:
    """A change of the index's form would let pages pass unseen."""
    assert set(pages()) == {path.name for path in SPEC.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", sorted(pages()))
def test_every_page_has_vectors(page: str) -> None:
    """What is stored, signed or sealed has frozen vectors that its page names; the folder is there and not empty."""
    if any(word in pages()[page] for word in NOT_STORED):
        return
    if page in BY_TESTS:
        assert (SPEC.parents[1] / BY_TESTS[page]).exists()
        return
    named = re.findall(r"`tests/vectors/([\w-]+)`", (SPEC / page).read_text())
    assert named, f"docs/spec/{page} names no vectors: make some, and write `tests/vectors/…` into the page"
    for folder in named:
        assert any(path.is_file() for path in (VECTORS / folder).iterdir())


def test_every_folder_belongs_to_a_page() -> None:
    """No vectors are left of a page that is gone."""
    named = {name for page in SPEC.glob("*.md") for name in re.findall(r"`tests/vectors/([\w-]+)`", page.read_text())}
    folders = {path.name for path in VECTORS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - named == {"site"}


def test_layout() -> None:
    """Objects have the names that they had."""
    v = vectors("layout")
    note, name = v["note"].encode(), Digest(bytes.fromhex(v["name"]))
    state, register, epoch = Fingerprint(v["state"]), RegisterId(v["register"]), Epoch(v["epoch"])
    arguments: dict[str, tuple[Any, ...]] = {
        "charter_key": (state, note), "card_key": (state, name), "warrant_key": (state, note),
        "ledger_prefix": (state, register, epoch, name), "feed_prefix": (state, register, epoch, name),
        "ledger_origin": (state, register, epoch), "epoch_key": (state, register, note),
        "statement_key": (state, register, note), "objection_key": (state, register, note),
        "public_statement_key": (state, Instant(v["time"]), note),
    }  # fmt: skip
    for function, expected in v["names"].items():
        assert getattr(paths, function)(*arguments.get(function, (state, register, name))) == expected


def test_note() -> None:
    """Good notes are read and written the same, bad ones refused; a key id is what it was."""
    v = vectors("note")
    for case in v["cases"]:
        if case["expect"] == "ok":
            assert parse_note(case["text"].encode()).encode() == case["text"].encode()
        else:
            with pytest.raises(MalformedError):
                parse_note(case["text"].encode())
    key = v["key"]
    assert verifier_key(key["name"], bytes.fromhex(key["kind"]), bytes.fromhex(key["public"])) == v["verifier_key"]


def test_shares() -> None:
    """Any three of the five shares give the seed, no two do, and each has its commitment."""
    v = vectors("shares")
    made = [Share(index, bytes.fromhex(data)) for index, data in enumerate(v["shares"], 1)]
    for some in combinations(made, 3):
        assert combine(some).hex() == v["seed"]
    for some in combinations(made, 2):
        assert combine(some).hex() != v["seed"]
    register, epoch = RegisterId(v["register"]), Epoch(v["epoch"])
    assert [commitment(register, epoch, s.index, s.data).hex() for s in made] == v["commitments"]


def test_registers(tmp_path: Path) -> None:
    """The canonical text, its digest, and the digest of a small SQLite database."""
    v = vectors("registers")
    tables = [TableDigest(tuple(name), rows, digest) for name, rows, digest in v["tables"]]
    assert canonical_text("postgres", tables) == v["canonical"]
    assert dataset_digest("postgres", tables, exact=True).value == v["digest"]
    assert hashlib.sha256(v["canonical"].encode()).hexdigest() == v["digest"]
    with closing(sqlite3.connect(tmp_path / "d")) as database, database:
        database.executescript(v["sqlite"]["script"])
    found = sqlite_digest(tmp_path / "d")
    assert (found.value, dict(found.rows)) == (v["sqlite"]["digest"], v["sqlite"]["rows"])


def test_witness() -> None:
    """Requests, signature lines and sizes are read and written the same."""
    v = vectors("witness")
    for name in ("request", "first request"):
        assert parse_add_checkpoint(v[name].encode()).encode() == v[name].encode()
    assert encode_signatures(parse_signatures(v["signatures"].encode())) == v["signatures"].encode()
    assert parse_size(v["size"].encode()) == 7


def test_chunking() -> None:
    """Content is cut where it was, so that a new version of the library does not ship everything again."""
    for case in vectors("chunking")["cases"]:
        data = hashlib.shake_256(case["name"].encode()).digest(case["length"])
        assert Chunker(case["seed"], average_bytes=case["average"]).cut(data) == case["ends"]


def test_relying() -> None:
    """A relying service is read and written the same."""
    for text in vectors("relying")["services"]:
        assert encode_service(parse_service(text.encode())).decode() == text

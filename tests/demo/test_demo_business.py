"""The generated business register and the clerks that write to it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from exclave.demo.business import (
    COMPANIES,
    REFERENCE_COMPANY,
    broken_business_rules,
    business_reference,
    create_business,
    file_document,
    make_filing,
)
from exclave.demo.business_writer import main
from exclave.errors import SourceUnavailable, TargetNotEmpty

SEED = 7


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("business") / "business.sqlite"
    create_business(path, seed=SEED, scale=1)
    return path


@pytest.fixture
def register(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(pristine, tmp_path / "business.sqlite"))


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def start_writer(path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "exclave.demo.business_writer", str(path), *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def count_filings(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM filing").fetchone()[0])


def wait_for_filings(path: Path, wanted: int, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while count_filings(path) < wanted:
        assert time.monotonic() < deadline, "the writer does not write"
        time.sleep(0.02)


def test_same_seed_same_rows(pristine: Path, tmp_path: Path) -> None:
    """One seed gives the same rows, another seed others."""
    facts = create_business(tmp_path / "again", seed=SEED, scale=1)
    create_business(tmp_path / "other", seed=SEED + 1, scale=1)
    assert dump(tmp_path / "again") == dump(pristine) != dump(tmp_path / "other")
    assert facts.companies == COMPANIES
    assert 45_000 <= facts.companies + facts.board_members + facts.filings <= 55_000


def test_new_register_is_consistent_and_in_wal_mode(register: Path) -> None:
    """A new register breaks no rule and is in WAL mode."""
    assert broken_business_rules(register) == ()
    with closing(sqlite3.connect(register)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_nothing_is_written_over(register: Path) -> None:
    """An existing file is refused and left as it is."""
    before = register.read_bytes()
    with pytest.raises(TargetNotEmpty):
        create_business(register, seed=1, scale=1)
    assert register.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM filing WHERE id = 100",
        "UPDATE company SET fees_cents = fees_cents + 1 WHERE code = 10000001",
        "UPDATE total SET value = value + 1 WHERE name = 'filings'",
        "DELETE FROM total WHERE name = 'companies'",
        "INSERT INTO board_member (company_code, name, role, since) VALUES (1, 'x', 'x', 'x')",
    ],
)
def test_inconsistency_shows(register: Path, damage: str) -> None:
    """Each way in which tables may disagree is found."""
    with closing(sqlite3.connect(register)) as database, database:
        database.execute(damage)
    assert broken_business_rules(register) != ()


def test_no_register_is_said(tmp_path: Path) -> None:
    """A missing file and a file of another kind are reported as an unavailable source."""
    (tmp_path / "text").write_text("no database" * 1000)
    for name in ("missing", "text"):
        with pytest.raises(SourceUnavailable):
            broken_business_rules(tmp_path / name)
        assert main([str(tmp_path / name)]) == SourceUnavailable.exit_code
    assert not (tmp_path / "missing").exists()


def test_failed_filing_leaves_nothing(register: Path) -> None:
    """A filing for a company that breaks a rule is rolled back whole."""
    filing = make_filing(random.Random(1), REFERENCE_COMPANY, 0)
    with closing(sqlite3.connect(register, isolation_level=None)) as database:
        database.execute("CREATE TRIGGER no BEFORE UPDATE ON total BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(sqlite3.IntegrityError):
            file_document(database, filing)
        assert not database.in_transaction
    assert broken_business_rules(register) == ()


def test_copies_taken_while_the_writer_works_are_consistent(register: Path) -> None:
    """Copies by SQLite's own backup at any moment break no rule, nor does the register after SIGTERM."""
    before = count_filings(register)
    with start_writer(register, "--rate", "500") as writer:
        for number in range(3):
            wait_for_filings(register, before + 20 * (number + 1))
            copy = register.with_name(f"copy{number}")
            with closing(sqlite3.connect(register)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
            assert broken_business_rules(copy) == ()
        writer.send_signal(signal.SIGTERM)
        said, _ = writer.communicate(timeout=20)
    assert writer.returncode == 0
    assert broken_business_rules(register) == ()
    assert json.loads(said)["filed"] == count_filings(register) - before > 0


def test_killed_writer_leaves_a_consistent_register(register: Path) -> None:
    """SIGKILL between or within transactions leaves whole filings only."""
    before = count_filings(register)
    with start_writer(register, "--rate", "2000") as writer:
        wait_for_filings(register, before + 10)
        writer.kill()
    assert broken_business_rules(register) == ()
    assert count_filings(register) > before


def test_writer_spares_the_reference_company(register: Path) -> None:
    """What the reference query expects stays true whatever the writer does."""
    filed = business_reference(seed=SEED).expected["filing_count"]
    with start_writer(register, "--rate", "10000") as writer:
        wait_for_filings(register, count_filings(register) + 300)
        writer.terminate()
        writer.wait(20)
    with closing(sqlite3.connect(register)) as database:
        found = database.execute("SELECT filing_count FROM company WHERE code = ?", (REFERENCE_COMPANY,)).fetchone()
    assert found == (filed,)

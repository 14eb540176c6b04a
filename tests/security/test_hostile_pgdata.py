"""A version's PostgreSQL folder may be an enemy's: what root writes, reads and believes in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exclave.errors import CorruptObject
from exclave.registers import postgres_restore
from exclave.registers.postgres_binaries import PostgresBinaries
from exclave.registers.postgres_restore import Prepared, prepare_restored

BINARIES = PostgresBinaries(Path("/nonexistent"), 15, "15.0")


@pytest.fixture
def pgdata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a restored one; the check of its files is counted, not made."""
    data = tmp_path / "land" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    for name in ("backup_manifest", "backup_label", "postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (data / name).write_text(f"# {name}\n")
    checks: list[Path] = []
    monkeypatch.setattr(postgres_restore, "_verify", lambda binaries, folder: checks.append(folder))
    monkeypatch.setattr(postgres_restore, "CHECKS", checks, raising=False)
    return data


def _checks() -> int:
    return len(postgres_restore.CHECKS)  # type: ignore[attr-defined]


def _prepare(pgdata: Path) -> Prepared:
    return prepare_restored(
        pgdata, port=5999, socket_dir=pgdata.parent / "socket", trust_socket=True, binaries=BINARIES
    )


def test_a_version_cannot_vouch_for_itself(pgdata: Path) -> None:
    """A mark inside the folder does not spare the check; the one beside it does, if only its owner can write it."""
    digest = postgres_restore._manifest_digest(pgdata)
    (pgdata / "exclave_verified").write_text(digest + "\n")
    assert _prepare(pgdata).verified
    assert _checks() == 1
    mark = pgdata.parent / "data.verified"
    assert mark.stat().st_mode & 0o777 == 0o600
    _prepare(pgdata)
    assert _checks() == 1
    mark.chmod(0o666)
    _prepare(pgdata)
    assert _checks() == 2
    mark.unlink()
    other = pgdata.parent / "other"
    other.write_text(digest + "\n")
    mark.symlink_to(other)
    with pytest.raises(CorruptObject):
        _prepare(pgdata)


@pytest.mark.parametrize("name", ["postgresql.auto.conf.exclave-new", "exclave_hba.conf.exclave-new"])
def test_a_staged_name_that_is_a_link_is_replaced(pgdata: Path, tmp_path: Path, name: str) -> None:
    """A link in the place of a file that is about to be written is removed, and its target stays as it was."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (pgdata / name).symlink_to(victim)
    _prepare(pgdata)
    assert victim.read_text() == "mine"
    assert not (pgdata / name.removesuffix(".exclave-new")).is_symlink()


@pytest.mark.parametrize(
    "name", ["pg_hba.conf", "postgresql.auto.conf", "PG_VERSION", "backup_manifest", "pg_ident.conf"]
)
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_configuration_must_be_plain_files(pgdata: Path, tmp_path: Path, name: str, kind: str) -> None:
    """A link, pipe or folder in the place of a file that is read is refused: nothing is read through it."""
    secret = tmp_path / "secret"
    secret.write_text("15\n")
    (pgdata / name).unlink(missing_ok=True)
    if kind == "link":
        (pgdata / name).symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(pgdata / name)
    else:
        (pgdata / name).mkdir()
    with pytest.raises(CorruptObject):
        _prepare(pgdata)


def test_a_folder_in_the_place_of_a_staged_file_is_refused(pgdata: Path) -> None:
    """What cannot be removed with one call ends the preparation with a clear failure."""
    (pgdata / "postgresql.auto.conf.exclave-new").mkdir()
    with pytest.raises(CorruptObject):
        _prepare(pgdata)

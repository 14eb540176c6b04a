"""Key files: private from the start, refused when exposed, opened by the right passphrase only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from exclave.errors import AlreadyExists, KeyFileExposed, MalformedError, NotAuthorised, UsageError
from exclave.formats.card import parse_card
from exclave.ids import Label, sha256
from exclave.keys.file import KeyFile, KeyKind, create, load, parse_key_file
from exclave.rules.signatures import card_of
from support.custody import stream

SEED = sha256(b"seed")
NAME = Label("anna")


def new(path: Path, passphrase: str | None = None) -> KeyFile:
    return create(
        str(path), KeyKind.CUSTODIAN, NAME, seed=SEED, passphrase=passphrase, log2_n=14, random=stream("salt")
    )


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_private_from_the_start(tmp_path: Path, umask: int) -> None:
    """A new file is 0600 whatever the umask, and gives back what went in."""
    before = os.umask(umask)
    try:
        made = new(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert load(str(tmp_path / "key")) == made == KeyFile(KeyKind.CUSTODIAN, NAME, SEED)


def test_mode_is_never_wider_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that creates the file asks for 0600 and for a file that is not there."""
    seen: list[tuple[int, int]] = []
    real = os.open

    def spy(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        if flags & os.O_CREAT:
            seen.append((flags, mode))
        return real(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", spy)
    new(tmp_path / "key")
    assert [mode for _, mode in seen] == [0o600]
    assert seen[0][0] & os.O_EXCL
    assert seen[0][0] & os.O_NOFOLLOW


def test_file_and_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the content and the name are durable before it returns."""
    kinds: list[bool] = []
    real = os.fsync

    def spy(handle: int) -> None:
        kinds.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        real(handle)

    monkeypatch.setattr(os, "fsync", spy)
    new(tmp_path / "key")
    assert kinds == [False, True]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A file that is there, or a link to nowhere, is left alone."""
    (tmp_path / "key").write_text("precious")
    with pytest.raises(AlreadyExists):
        new(tmp_path / "key")
    assert (tmp_path / "key").read_text() == "precious"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists):
        new(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(UsageError):
        new(tmp_path / "no-folder" / "key")


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full, the name is free again."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space"):
        new(tmp_path / "key")
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666, 0o777])
def test_exposed_files_are_refused(tmp_path: Path, mode: int) -> None:
    """Any permission for group or others is refused, whatever the content."""
    new(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(KeyFileExposed):
        load(str(tmp_path / "key"))
    (tmp_path / "key").chmod(0o400)
    assert load(str(tmp_path / "key")).seed == SEED


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    """A file that belongs to somebody else is refused even if it is 0600."""
    new(tmp_path / "key")
    os.chown(tmp_path / "key", 12345, 12345)
    with pytest.raises(KeyFileExposed, match="another user"):
        load(str(tmp_path / "key"))


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    """Links, folders and pipes are refused without waiting for them."""
    new(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", ".", "pipe", "nothing"):
        with pytest.raises(UsageError):
            load(str(tmp_path / name))


def test_large_files_are_refused(tmp_path: Path) -> None:
    """A file beyond the limit is malformed and is not read whole."""
    path = tmp_path / "key"
    new(path)
    with path.open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(MalformedError, match="longer than"):
        load(str(path))


def test_passphrase(tmp_path: Path) -> None:
    """The right passphrase opens; wrong, empty and missing ones do not; the seed is not in the file."""
    path = tmp_path / "key"
    new(path, "correct horse")
    text = path.read_bytes()
    assert parse_key_file(text).seed is None
    assert SEED not in text
    assert load(str(path), lambda: "correct horse").seed == SEED
    with pytest.raises(NotAuthorised):
        load(str(path), lambda: "correct horse ")
    with pytest.raises(NotAuthorised):
        load(str(path))
    with pytest.raises(UsageError):
        load(str(path), lambda: "")
    with pytest.raises(UsageError):
        new(tmp_path / "other", "")
    assert not (tmp_path / "other").exists()


def test_a_passphrase_is_asked_for_only_when_needed(tmp_path: Path) -> None:
    """An open key file does not make anybody type."""
    new(tmp_path / "key")

    def never() -> str:
        raise AssertionError("asked for a passphrase")

    assert load(str(tmp_path / "key"), never).seed == SEED


def test_errors_do_not_quote_the_secret(tmp_path: Path) -> None:
    """A damaged key file's message holds nothing of its seed, and neither does its cause."""
    path = tmp_path / "key"
    new(path)
    text = path.read_text().replace("=\n", "\n")
    path.write_text(text)
    with pytest.raises(MalformedError) as caught:
        load(str(path))
    secret = text.splitlines()[-1].split()[1][:20]
    assert secret not in caught.value.message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_key_pairs_are_derived_as_the_page_says() -> None:
    """Signing and opening keys come from separate derivations of the seed, and printing shows neither."""
    key = KeyFile(KeyKind.MACHINE, NAME, SEED)
    assert "seed" not in repr(key)
    card = card_of(NAME, key.signing(), key.opening())
    assert parse_card(card.encode().encode()) == card
    assert key.opening().open(key.opening().public.seal(b"x", b"y"), b"y") == b"x"
    assert key.opening().seed != SEED
    assert card == card_of(NAME, key.signing(), key.opening())

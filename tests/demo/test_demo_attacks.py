"""The demo's search for plain text at a host's can find something, and is not fooled by noise."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from exclave.demo.attacks import forms_of, plain_text_at


@pytest.mark.parametrize(
    "leak", [b'{"register":"land"}', b"x land x", b"/srv/land/db", b"\nland\n", msgspec.msgpack.encode(["land"])]
)
def test_a_name_in_the_clear(leak: bytes, tmp_path: Path) -> None:
    """In text, in a path, in a record: found, and the file is named."""
    (tmp_path / "pack").write_bytes(bytes(1000) + leak + bytes(1000))
    assert [str(tmp_path / "pack") in place for place in plain_text_at(tmp_path, forms_of("land"))] != []


def test_four_letters_in_noise(tmp_path: Path) -> None:
    """The letters alone are no leak: a hundred megabytes of noise have them now and then."""
    (tmp_path / "pack").write_bytes(b"\x93\x1eland\xf0" + b"base64IslandQ=")
    assert plain_text_at(tmp_path, forms_of("land")) == []

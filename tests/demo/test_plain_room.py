"""The demo's reading room on a machine without nginx."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave.demo.plain_room import find


@pytest.fixture
def room(tmp_path: Path) -> Path:
    for name in ("current/index.html", "current/acts/index.html", "current/act/2019/0123.html", "current/latest.json",
                 "permanent/act/2019/0123/v1.html", "permanent/act/2019/0123/v1.txt",
                 "permanent/act/2019/0123/v1.proof", "status/status.html", "seen.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/", "current/index.html"), ("/acts/", "current/acts/index.html"),
        ("/act/2019/0123", "current/act/2019/0123.html"), ("/act/2019/0123/v1", "permanent/act/2019/0123/v1.html"),
        ("/act/2019/0123/v1.txt", "permanent/act/2019/0123/v1.txt"),
        ("/act/2019/0123/v1.proof", "permanent/act/2019/0123/v1.proof"),
        ("/status", "status/status.html"), ("/latest.json", "current/latest.json"),
    ],
)  # fmt: skip
def test_addresses(room: Path, path: str, file: str) -> None:
    """The addresses of a reading room lead to its files."""
    assert find(room, path) == room / file


@pytest.mark.parametrize(
    "path", ["/../seen.json", "/act/../../seen.json", "/seen.json", "//seen.json", "/none", "/%2e", "/act"]
)
def test_nothing_else(room: Path, path: str) -> None:
    """Nothing else in its folder or beside it has an address."""
    assert find(room, path) is None

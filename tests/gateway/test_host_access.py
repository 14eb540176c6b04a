"""The host's access log: a line for each answer, without names, bounded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exclave.errors import ConfigError
from exclave.formats.hostconfig import parse_host_config
from exclave.ids import Instant, Key
from exclave.serve.host_access import FILES, AccessLog
from support.gateway import NORTH, SOUTH, host_place, running_gateway

NOW = Instant(1_790_000_000_000_000)
LINE = re.compile(r"2026-09-21T14:13:20Z [012] (GET|HEAD|PUT|POST|other) [0-9]{3} [0-9]+ [0-9]+ [0-9]+\n")


def test_each_answer_is_a_line(tmp_path: Path) -> None:
    """What the gateway answers to a state, to a stranger and to nonsense; and no name of any of it."""
    log = AccessLog(tmp_path, [NORTH, SOUTH], lambda: NOW)
    (tmp_path / "host").mkdir()
    with running_gateway(host_place(tmp_path / "host")) as gateway:
        gateway.counts.note = log.note
        gateway.site().put_same(Key("probe/secret-name"), b"data")
        gateway.site("south").stat(Key("probe/nothing"))
        assert gateway.site().get(Key("probe/secret-name")) == b"data"
    text = (tmp_path / "access.log").read_text()
    lines = text.splitlines(keepends=True)
    assert all(LINE.fullmatch(line) for line in lines)
    assert [line.split()[1:4] for line in lines] == [["1", "PUT", "201"], ["2", "HEAD", "404"], ["1", "GET", "200"]]
    assert not any(word in text for word in ("secret", NORTH, SOUTH, "127.0.0.1"))
    assert (tmp_path / "access.log").stat().st_mode & 0o777 == 0o600


def test_it_is_bounded(tmp_path: Path) -> None:
    """However many answers there are, no file is larger than its limit, and no more than nine are kept."""
    log = AccessLog(tmp_path, [NORTH], lambda: NOW, file_bytes=200)
    for number in range(200):
        log.note(NORTH, "GET", 200, number, 0, 1)
    files = sorted(tmp_path.iterdir())
    assert len(files) == FILES + 1
    assert all(file.stat().st_size <= 200 for file in files)
    assert (tmp_path / "access.log").read_text().endswith(" 199 0 1\n")


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """A folder that is gone costs lines, and no request."""
    AccessLog(tmp_path / "gone", [NORTH], lambda: NOW).note(NORTH, "GET", 200, 0, 0, 1)


def test_it_needs_a_folder(tmp_path: Path) -> None:
    """``access_log`` without ``memory`` is told at the start."""
    place = host_place(tmp_path)
    text = (place.folder / "host.toml").read_text() + "\n[duties]\naccess_log = true\n"
    with pytest.raises(ConfigError, match="access_log needs memory"):
        parse_host_config(text.encode())

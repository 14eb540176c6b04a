"""What a person sees of long work: how far, how fast, how long yet; and that nobody else sees anything."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from exclave.cli import output
from exclave.cli.progress import Meter, Work, describe
from support.small_home import SmallHome, command


@pytest.mark.parametrize(
    ("work", "passed", "read_rate", "shipped_rate", "first", "second"),
    [
        (Work("gazette"), 1.0, 0, 0, "gazette", "  1.0 s"),
        (Work("gazette", "read, 7 entries", 0, None, read=3 << 20), 2.0, 1 << 20, 0,
         "gazette: read, 7 entries", "  read 3.0 MiB at 1.0 MiB/s, 2.0 s"),
        (Work("gazette", "read", 25, 100, True, 1 << 20, 2 << 20), 10.0, 1024, 2048,
         "gazette: read [#####...............] ~25%",
         "  read 1.0 MiB at 1.0 KiB/s, shipped 2.0 MiB at 2.0 KiB/s, 30.0 s left"),
        (Work("lux", "part 1 of 2", 1, 1000, shipped=5), 2.9, 0, 5, "lux: part 1 of 2 [....................] 0%",
         "  shipped 5 B at 5 B/s, 2.9 s"),
        (Work("lux", "", 300, 100), 60.0, 0, 0, "lux [####################] 100%", "  60.0 s"),
        (Work("lux", "", 1, 100_000), 60.0, 0, 0, "lux [....................] 0%", "  69 d 10 h left"),
        (Work("lux", "", 0, 0), 60.0, 0, 0, "lux", "  60.0 s"),
    ],
)  # fmt: skip
def test_lines(
    work: Work, passed: float, read_rate: float, shipped_rate: float, first: str, second: str
) -> None:  # fmt: skip
    """Share, rates and the time that is left, as far as they are known; an estimate is marked."""
    assert describe(work, passed_s=passed, read_rate=read_rate, shipped_rate=shipped_rate, width=79) == (first, second)


@pytest.mark.parametrize("width", [20, 40, 79, 200])
def test_lines_fit(width: int) -> None:
    """No line is longer than the terminal is wide, whatever names and numbers are in it."""
    work = Work("a-register-with-a-long-name-indeed", "x" * 300, 5, 10, True, 1 << 50, 1 << 50)
    lines = describe(work, passed_s=1e6, read_rate=1e12, shipped_rate=1e12, width=width)
    assert all(len(line) <= width for line in lines)


def test_rates_are_of_the_last_seconds() -> None:
    """A rate forgets what was long ago, and begins before it knows twenty seconds."""
    meter = Meter(0.0)
    assert meter.note(0.0, 0) == 0
    assert meter.note(1.0, 100) == 100
    for second in range(2, 60):
        rate = meter.note(float(second), 100)
    assert rate == 0
    for second in range(60, 100):
        rate = meter.note(float(second), 100 + 50 * (second - 59))
    assert 45 < rate <= 50


@pytest.mark.parametrize(("size", "told"), [(0, "land: db, 7 entries"), (2048, "land: db, 7 entries, 2.0 KiB")])
def test_bytes_only_where_they_are_counted(monkeypatch: pytest.MonkeyPatch, size: int, told: str) -> None:
    """Work that counts no bytes does not pretend to have read none of an unknown number."""
    shown = io.StringIO()
    monkeypatch.setattr(output, "err", Console(file=shown, force_terminal=True, width=100))
    with output.progress_bar("land", quiet=False) as update:
        update("db", 7, size)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert told in plain
    assert "?" not in plain
    assert "bytes" not in plain


def _at_a_terminal(*arguments: str, columns: int = 80) -> str:
    """All that a command writes to a terminal of so many columns."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(command(*arguments), stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


def test_at_a_terminal_and_elsewhere(tmp_path: Path) -> None:
    """At a terminal a backup shows lines of at most 80 columns; into a pipe, or with --json, nothing of it."""
    home = SmallHome(tmp_path).found()
    config = home.folder / "exclave.toml"
    slow = 'url = "{0}"\nlimit = ["00:00-24:00 2 Mbit/s"]\n'
    text = config.read_text()
    for url in home.urls.values():
        text = text.replace(f'url = "{url}"\n', slow.format(url))
    config.write_text(text)
    (home.root / "acts" / "bulk").write_bytes(os.urandom(400_000))
    shown = _at_a_terminal("backup", *home.home)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [line for line in re.split(r"[\r\n]+", plain) if "gazette: read" in line or "/s, shipped" in line]
    assert any(re.search(r"read .* at .*/s, shipped .* at .*/s", line) for line in lines)
    assert all(len(line) <= 80 for line in lines)
    (home.root / "acts" / "bulk").write_bytes(os.urandom(400_000))
    said = subprocess.run(command("backup", *home.home), capture_output=True, check=True)
    assert said.stderr == b""
    assert "/s" not in said.stdout.decode()
    assert '"receipts"' in _at_a_terminal("backup", *home.home, "--json")
    assert sys.executable in command()

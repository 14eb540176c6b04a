"""What readers are told of a copy's age: a table of everything that can be."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.errors import ServiceFailed, SiteUnavailable
from exclave.ids import Instant
from exclave.serve import reading_build, reading_run
from exclave.serve.reading_run import Follower
from exclave.serve.reading_status import UNCHECKED_US, Proven, band
from support.gazette_room import FIRST, HOUR, REGISTER, STATE, Press, shown_by, write_status

NOW = Instant(1_795_443_721_000_000)
MINUTE = 60_000_000
FRESH = Proven(12, NOW - 30 * MINUTE, 12, 3600, "", ("lux", "nord"), (), NOW - MINUTE)


@pytest.mark.parametrize(
    ("proven", "level", "says"),
    [
        (FRESH, "good", "Verified copy."),
        (replace(FRESH, time=NOW - 120 * MINUTE), "good", "Verified copy."),
        (replace(FRESH, time=NOW - 121 * MINUTE), "late", "not renewed"),
        (replace(FRESH, exile="lux"), "exile", "kept abroad"),
        (replace(FRESH, exile="lux", time=NOW - 9999 * MINUTE), "exile", "kept abroad"),
        (replace(FRESH, checked=NOW - UNCHECKED_US), "good", "Verified copy."),
        (replace(FRESH, checked=NOW - UNCHECKED_US - 1), "late", "not lately"),
        (replace(FRESH, checked=NOW - 60 * MINUTE, exile="lux"), "late", "not lately"),
        (replace(FRESH, time=NOW + 5 * MINUTE), "good", "Verified copy."),
        (replace(FRESH, time=NOW + 6 * MINUTE), "late", "lies ahead"),
    ],
)
def test_levels(proven: Proven, level: str, says: str) -> None:
    """Fresh, old, abroad, not compared: what is worst to know comes first; the moments are always named."""
    line = band(proven, NOW, "Luxembourg")
    assert line.level == level
    assert says in line.headline
    assert "version 12" in line.detail
    assert "2026" in line.detail


def test_a_room_without_a_place_names_none() -> None:
    """The operator may leave out where it stands."""
    assert " at " not in band(FRESH, NOW, "").detail


class Endless:
    """A source that answers nothing until it is let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> object:
        def never(*_: object, **__: object) -> Iterator[object]:
            self.asked.set()
            self.let_go.wait()
            raise SiteUnavailable("a test")

        return never


def test_a_source_that_never_answers_keeps_no_copy_green(tmp_path: Path) -> None:
    """While a look is held up, the page about the copy's age goes on being renewed: after ten minutes it says so."""
    press = Press()
    edition = press.publish(FIRST)
    write_status(tmp_path, edition, "https://gazette.example")
    source, clock = Endless(), [Instant(edition.time + HOUR // 4)]
    follower = Follower(
        str(tmp_path), {"lux": source}, STATE, REGISTER, origin="https://gazette.example", place="",  # type: ignore[dict-item]
        clock=lambda: clock[0], tell=lambda line: None,
    )  # fmt: skip
    follower.tell_status()
    look = threading.Thread(target=follower.once)
    look.start()
    try:
        assert source.asked.wait(60)
        assert json.loads((tmp_path / "status" / "status.json").read_bytes())["level"] == "good"
        clock[0] = Instant(clock[0] + HOUR)
        with follower.telling(0.01):
            until = time.monotonic() + 60
            while json.loads((tmp_path / "status" / "status.json").read_bytes())["level"] != "late":
                assert time.monotonic() < until
                time.sleep(0.01)
    finally:
        source.let_go.set()
        look.join()


def test_a_full_disk_ends_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be built for want of room is told, once; what was built before is shown on, and its age is true."""
    press = Press()
    edition = press.publish(FIRST)
    builder = press.builder(tmp_path)
    builder.build(edition)
    builder.close()
    write_status(tmp_path, edition, "https://gazette.example")
    later = press.publish({"acts/2024/0001/v1.txt": b"another text"})
    monkeypatch.setattr(reading_run, "look", lambda *_: (None, shown_by(later)))
    monkeypatch.setattr(reading_run, "fetch_bundle", lambda view, sources, register, name: press.objects[name])
    told: list[str] = []
    follower = Follower(
        str(tmp_path), {}, STATE, REGISTER, origin="https://gazette.example", place="",
        clock=lambda: Instant(edition.time + HOUR), tell=told.append,
    )  # fmt: skip

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(reading_build, "write", full)
        assert [follower.once(), follower.once()] == [False, False]
        with pytest.raises(ServiceFailed):
            follower.once(strict=True)
    assert len([line for line in told if "No space left" in line]) == 1
    assert os.readlink(tmp_path / "current").startswith("releases/0000000000000001-")
    with monkeypatch.context() as patch:
        patch.setattr(reading_run, "write", full)
        follower.tell_status()
    assert "cannot be written" in told[-1]
    assert follower.once()

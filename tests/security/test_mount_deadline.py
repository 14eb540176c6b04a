"""A mount ends with its warrant, whatever the machine's timers and clocks do."""

from __future__ import annotations

import signal
import time

import pytest

from exclave.cli import mount
from exclave.ids import Instant, now


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that the process would have got."""
    signals: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: signals.append(number))
    monkeypatch.setattr(mount, "_LOOK_S", 0.01)
    return signals


def _wait(killed: list[int]) -> None:
    until = time.monotonic() + 5
    while not killed and time.monotonic() < until:
        time.sleep(0.01)


def test_sleep_does_not_prolong(killed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that wakes up after the warrant's end takes the mount down, though its timers stood still."""
    end = mount._Deadline(Instant(now() + 3_600_000_000))
    assert not killed
    monkeypatch.setattr(mount, "now", lambda: Instant(now() + 3_600_000_001))
    _wait(killed)
    assert killed == [signal.SIGTERM]
    assert end.passed


def test_clock_set_back_does_not_prolong(killed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that was left at the beginning is all there is."""
    end = mount._Deadline(Instant(now() + 100_000))
    monkeypatch.setattr(mount, "now", lambda: Instant(now() - 3_600_000_000))
    _wait(killed)
    assert killed == [signal.SIGTERM]
    assert end.passed


def test_cancelled_kills_nobody(killed: list[int]) -> None:
    """A mount that was taken down before has nothing to end."""
    end = mount._Deadline(Instant(now() + 50_000))
    end.cancel()
    time.sleep(0.1)
    assert not killed
    assert not end.passed

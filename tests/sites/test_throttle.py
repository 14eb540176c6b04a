"""Bandwidth limits by hour: which rate holds when, and that bulk objects keep to it while everything else passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exclave.app import limited
from exclave.errors import ConfigError, MalformedError
from exclave.formats.config import SiteConfig, parse_config
from exclave.formats.limits import parse_limit, parse_limits, parse_zone
from exclave.ids import Key, parse_instant, sha256
from exclave.rules.bandwidth import rate_at
from exclave.sites.directory import DirectorySite
from exclave.sites.memory import MemorySite
from exclave.sites.opening import open_site
from exclave.sites.throttle import BULK_FROM_BYTES, ThrottledSite, TokenBucket
from support.seaweed import Seaweed

OFFICE = ("08:00-18:00 20 Mbit/s", "22:00-06:00 800 Mbit/s")


@pytest.mark.parametrize(
    ("limits", "zone", "at", "rate"),
    [
        ((), "UTC", "2026-11-26T12:00:00.000000Z", None),
        (OFFICE, "UTC", "2026-11-26T07:59:59.999999Z", None),
        (OFFICE, "UTC", "2026-11-26T08:00:00.000000Z", 2_500_000),
        (OFFICE, "UTC", "2026-11-26T17:59:59.999999Z", 2_500_000),
        (OFFICE, "UTC", "2026-11-26T18:00:00.000000Z", None),
        (OFFICE, "UTC", "2026-11-26T21:59:59.000000Z", None),
        (OFFICE, "UTC", "2026-11-26T22:00:00.000000Z", 100_000_000),
        (OFFICE, "UTC", "2026-11-27T00:00:00.000000Z", 100_000_000),
        (OFFICE, "UTC", "2026-11-27T05:59:59.000000Z", 100_000_000),
        (OFFICE, "UTC", "2026-11-27T06:00:00.000000Z", None),
        # Tallinn is two hours ahead in winter, three in summer.
        (OFFICE, "Europe/Tallinn", "2026-11-26T05:59:59.000000Z", None),
        (OFFICE, "Europe/Tallinn", "2026-11-26T06:00:00.000000Z", 2_500_000),
        (OFFICE, "Europe/Tallinn", "2026-07-01T05:00:00.000000Z", 2_500_000),
        (OFFICE, "Europe/Tallinn", "2026-07-01T04:59:00.000000Z", None),
        # On the night in which clocks go back, the hour of three comes twice: limited both times.
        (("03:00-04:00 8 kbit/s",), "Europe/Tallinn", "2026-10-25T00:30:00.000000Z", 1000),
        (("03:00-04:00 8 kbit/s",), "Europe/Tallinn", "2026-10-25T01:30:00.000000Z", 1000),
        (("03:00-04:00 8 kbit/s",), "Europe/Tallinn", "2026-10-25T02:00:00.000000Z", None),
        (("00:00-24:00 1 Gbit/s",), "UTC", "2026-11-26T23:59:59.999999Z", 125_000_000),
        (("18:00-24:00 1 Gbit/s",), "UTC", "2026-11-27T00:00:00.000000Z", None),
        (("22:00-00:00 1 Gbit/s",), "UTC", "2026-11-26T23:59:00.000000Z", 125_000_000),
        (("22:00-00:00 1 Gbit/s",), "UTC", "2026-11-27T00:00:00.000000Z", None),
    ],
)
def test_rate_by_hour(limits: tuple[str, ...], zone: str, at: str, rate: int | None) -> None:
    """The window that holds the hour, by the clocks of the zone, says the rate."""
    assert rate_at(parse_limits(limits), parse_zone(zone), parse_instant(at)) == rate


@pytest.mark.parametrize(
    "text",
    ["", "08:00-18:00", "8:00-18:00 20 Mbit/s", "08:00-18:00 20 MB/s", "08:00-18:00 0 Mbit/s", "08:00-08:00 1 Gbit/s",
     "24:00-08:00 1 Gbit/s", "08:00-25:00 1 Gbit/s", "08:60-09:00 1 Gbit/s", "08:00-18:00 2.5 Mbit/s",
     "08:00-18:00 20 Mbit/s\n", "08:00-18:00 ٢ Mbit/s", "08:00-18:00 -1 Mbit/s", "08:00-18:00  20 Mbit/s",
     "24:00-24:00 1 Gbit/s", "08:00-24:01 1 Gbit/s"],
)  # fmt: skip
def test_wrong_limits(text: str) -> None:
    """Whatever is not a window of a day and a rate is refused, naming the text."""
    with pytest.raises(MalformedError):
        parse_limit(text)


def test_limits_of_a_configuration() -> None:
    """Overlaps, unknown zones and mistyped limits are refused with the whole configuration."""
    text = '[state]\nname = "X"\nhome = "EE"\nthreshold = 1\n[[site]]\nname = "lux"\nurl = "dir:/x"\ncountry = "LU"\n'
    text += 'operator = "o"\n'
    good = parse_config((text + 'limit = ["08:00-18:00 20 Mbit/s"]\nlimit_zone = "Europe/Tallinn"\n').encode())
    assert good.site[0].limit == ("08:00-18:00 20 Mbit/s",)
    for line in (
        'limit = ["08:00-18:00 20 Mbit/s", "17:59-19:00 1 Mbit/s"]', 'limit = ["fast"]', 'limit_zone = "Mars/Base"',
        'limit_zone = "../../etc/passwd"', "scrub_days = -1", 'limit = "08:00-18:00 20 Mbit/s"',
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            parse_config((text + line + "\n").encode())


class Hours:
    """A clock that only sleeping moves, and the rate of each moment."""

    def __init__(self, rate: Callable[[float], int | None]) -> None:
        self.at, self._rate = 0.0, rate
        self.bucket = TokenBucket(lambda: self._rate(self.at), clock=lambda: self.at, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.5
        self.at += seconds


def test_rate_is_kept() -> None:
    """Twenty objects of 1 MB at 1 MB/s take 19 to 20 seconds: a second's worth may go at once."""
    hours = Hours(lambda at: 1_000_000)
    for _ in range(20):
        hours.bucket.take(1_000_000)
    assert 19.0 <= hours.at <= 20.5


def test_limit_ends_while_waiting() -> None:
    """Whoever waits for hours under a slow limit goes on at once when the hour is over."""
    hours = Hours(lambda at: 1000 if at < 60 else None)
    hours.bucket.take(1 << 20)
    hours.bucket.take(1 << 20)
    assert 60 <= hours.at <= 60.6


def test_limit_begins_while_running() -> None:
    """A limit that begins at the hour holds from then on, and what went before it is not made up for."""
    hours = Hours(lambda at: None if at < 10 else 100_000)
    for _ in range(100):
        hours.bucket.take(16 << 20)
    assert hours.at == 0
    hours.at = 10
    for _ in range(11):
        hours.bucket.take(100_000)
    assert 19.5 <= hours.at <= 20.6


def test_only_bulk_waits() -> None:
    """With the bucket empty, notes, heads, listings and sizes pass at once; a pack does not."""
    hours = Hours(lambda at: 1000)
    site = ThrottledSite(MemorySite(), hours.bucket)
    pack = bytes(BULK_FROM_BYTES)
    site.put_new(Key("a/pack"), pack)
    site.put_same(Key("a/note"), b"note")
    tag = site.replace_if(Key("a/head"), b"1", None)
    site.replace_if(Key("a/head"), b"2", tag)
    site.read_head(Key("a/head"))
    assert site.get(Key("a/note")) == b"note"
    assert site.digest(Key("a/note")).size_bytes == 4
    assert [o.key for o in site.list("a/")] == ["a/head", "a/note", "a/pack"]
    assert site.stat(Key("a/pack")) is not None
    assert hours.at == 0
    site.put_new(Key("a/pack2"), pack)
    assert hours.at >= len(pack) / 1000 - 1
    paid = hours.at
    assert site.get(Key("a/pack")) == pack
    assert site.digest(Key("a/pack")).digest == sha256(pack)
    site.replace_spoilt(Key("a/pack"), bytes(BULK_FROM_BYTES + 1), sha256(pack))
    assert hours.at >= paid + 3 * len(pack) / 1000 - 1


def _timed(site: ThrottledSite, size: int, objects: int) -> float:
    """Seconds in which four threads put and get ``objects`` of ``size`` bytes."""
    left = iter(range(objects))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            key = Key(f"bulk/{time.monotonic_ns()}-{number}")
            site.put_same(key, bytes([number]) * size)
            assert site.get(key) == bytes([number]) * size

    began = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_real_sites(kind: str, seaweed: Seaweed, tmp_path: Path) -> None:
    """On a real clock, puts and gets of four threads together keep to 8 MB/s, in a folder and in a bucket."""
    inner = DirectorySite(str(tmp_path)) if kind == "directory" else open_site(
        seaweed.url("throttled", credentials=seaweed.credentials_file(tmp_path))
    )  # fmt: skip
    rate = 8_000_000
    site = ThrottledSite(inner, TokenBucket(lambda: rate, clock=time.monotonic, sleep=time.sleep))
    moved = 2 * 16 * (1 << 20)
    took = _timed(site, 1 << 20, 16)
    # A burst of one second, and the last object, are not waited for.
    assert took >= (moved - (2 << 20)) / rate - 1.0


def test_configured_site() -> None:
    """What exclave.toml says is put around the site; without limits nothing is."""
    plain = SiteConfig("lux", "dir:/x", "LU", "o")
    assert not isinstance(limited(MemorySite(), plain), ThrottledSite)
    held = SiteConfig("lux", "dir:/x", "LU", "o", limit=("00:00-24:00 8 Gbit/s",))
    assert isinstance(limited(MemorySite(), held), ThrottledSite)

"""``exclave watch`` as people and Prometheus meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exclave.runners.ports import free_port
from support.gazette_state import TITLE, gazette_home
from support.small_home import SmallHome, command, run, start

LONG_S = 120.0


@pytest.fixture
def home(tmp_path: Path) -> SmallHome:
    made = SmallHome(tmp_path).found()
    made.backup()
    return made


def spoil(home: SmallHome, site: str) -> None:
    """A pack is gone from the site's disk."""
    pack = next(home.site(site).rglob("pack/*/*"))
    pack.chmod(0o600)
    pack.unlink()


@contextmanager
def watching(home: SmallHome, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    process = start("watch", *more, *home.home)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LONG_S)


def until(ready: Callable[[], bool]) -> None:
    """Waits for a condition, generously."""
    end = time.monotonic() + LONG_S
    while not ready():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, labels' values …) → value, as Prometheus's own parser reads them."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(port: int) -> dict[tuple[str, ...], float]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return samples(answer.read().decode())
    except OSError:
        return {}


def test_once(home: SmallHome) -> None:
    """The exit code is the verdict: 0, 1 for late or unknown, 20 for damaged; it runs at home and from anywhere."""
    said = run("watch", "--once", *home.home)
    assert (said.code, "fresh" in said.out) == (0, True)
    assert "Proven means: signed in the ledger; " in said.out, "the charter asks for no witness: nobody cosigned"
    assert run("watch", "--once", *home.where()).code == 0
    spoil(home, "lux")
    found = home.fails(20, "watch", "--once", *home.where())
    assert found["worst"] == "damaged"
    assert [alarm["site"] for alarm in found["alarms"]] == ["lux"]
    assert found["registers"][0]["state"] == "fresh", "two whole copies are what the rule asks for"
    os.rename(home.site("nord"), home.site("nord").with_name("away"))
    said = run("watch", "--once", *home.where())
    assert said.code == 20
    assert "nord: unknown" in said.out


def test_a_site_that_is_away_is_no_fault(home: SmallHome) -> None:
    """Exit code 1: nothing is wrong with what could be read."""
    os.rename(home.site("nord"), home.site("nord").with_name("away"))
    assert home.fails(1, "watch", "--once", *home.where())["worst"] == "unknown"


def test_no_site_at_all(home: SmallHome) -> None:
    """If nothing can be read, the command fails with the reason's own code."""
    for name in home.sites:
        os.rename(home.site(name), home.site(name).with_name(f"{name}-away"))
    assert home.fails(11, "watch", "--once", *home.where())["error"] == "site-unavailable"


def test_wrong_words(home: SmallHome) -> None:
    """What was typed wrong is said at once."""
    assert run("watch", "--once", "--every", "1m", *home.home).code == 2
    assert run("watch", "--every", "soon", *home.home).code == 2
    assert run("watch", "--once", "--metrics", "here", *home.home).code == 2
    assert run("watch", "--once", "--site", "lux=dir:/nowhere").code == 2


def test_metrics(home: SmallHome, tmp_path: Path) -> None:
    """Prometheus's parser reads what is served: a heartbeat, each cell's moment, and a fault as soon as it is there."""
    port, register = free_port(), home.id_of()
    (tmp_path / "watch.toml").write_text("[watch]\nproof_s = 1\n")
    config = ("--config", str(tmp_path / "watch.toml"))
    with watching(home, "--every", "1s", "--metrics", f"127.0.0.1:{port}", *config) as process:
        until(lambda: bool(scrape(port)))
        first = scrape(port)
        assert first["exclave_copy_state", register, "gazette", "lux"] == 0
        assert first["exclave_register_state", register, "gazette"] == 0
        assert first["exclave_register_rpo_seconds", register, "gazette"] == 3600
        assert first["exclave_copy_version", register, "gazette", "nord"] == 1
        assert 0 < first["exclave_register_safe_until_timestamp_seconds", register, "gazette"] <= time.time()
        until(lambda: scrape(port)[("exclave_watch_last_look_timestamp_seconds",)] > first[
            ("exclave_watch_last_look_timestamp_seconds",)])  # fmt: skip
        spoil(home, "lux")
        until(lambda: scrape(port).get(("exclave_copy_state", register, "gazette", "lux")) == 4)
        assert scrape(port)[("exclave_watch_alarms",)] == 1
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LONG_S)
        assert process.returncode == 0
        assert b"gazette at lux: damaged" in out
        assert b"Traceback" not in err


def test_a_textfile(home: SmallHome, tmp_path: Path) -> None:
    """For node_exporter the same is written to a file, whole."""
    file = tmp_path / "exclave.prom"
    assert run("watch", "--once", "--textfile", str(file), *home.home).code == 0
    assert samples(file.read_text())["exclave_copy_state", home.id_of(), "gazette", "home"] == 0
    assert run("watch", "--once", "--textfile", "/nowhere/x.prom", *home.home).code == 2


def test_one_name_for_a_register(tmp_path: Path) -> None:
    """A public register is called as `status` calls it: at home by its name there, elsewhere by its public title."""
    home, _ = gazette_home(tmp_path)
    home.backup()
    for options, name in ((home.home, "gazette"), (home.where(), TITLE)):
        file = tmp_path / "exclave.prom"
        said = run("watch", "--once", "--textfile", str(file), *options)
        assert samples(file.read_text())["exclave_copy_state", home.id_of(), name, "home"] == 0
        asked = run("status", *options)
        for shown in (said.out, asked.out):
            assert set(name.split()) <= set(shown.split())
            assert {"gazette": TITLE, TITLE: "gazette"}[name] not in shown


def test_json_lines(home: SmallHome) -> None:
    """With --every and --json each look is one line, which says what was looked at and how deep."""
    argv = command("watch", "--every", "1s", "--json", *home.home)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG_S) == 0
    assert looks[0]["packs_read"] >= 3
    assert looks[1]["packs_read"] == 0, "proven already"
    assert looks[0]["looked"] < looks[1]["looked"]
    assert looks[0]["proof_s"] == 86_400


def test_the_configuration_of_home(home: SmallHome) -> None:
    """``[watch]`` of exclave.toml counts at home: here, a register that is paused, by its name."""
    spoil(home, "lux")
    text = '\n[[watch.pause]]\nregister = "gazette"\nuntil = "2999-01-01T00:00Z"\nreason = "we know"\n'
    (home.folder / "exclave.toml").write_text(home.config() + text)
    found = home.ok("watch", "--once", *home.home)
    assert (found["worst"], found["alarms"]) == ("fresh", [])
    assert found["registers"][0]["worst"] == "damaged"
    assert "we know" in found["registers"][0]["paused"]

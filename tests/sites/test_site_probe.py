"""``exclave site probe`` as an operator meets it: what two real engines differ in, and what is no verdict at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.errors import SiteFull, SiteUnavailable
from exclave.ids import Key
from exclave.sites.conditions import CANNOT_BE_DELETED_FROM, KEEPS_HEADS, KEEPS_OBJECTS
from exclave.sites.memory import MemorySite
from exclave.sites.probe import Promise, probe, while_reached
from support.ceph import Ceph
from support.s3_buckets import Engine, engine_of
from support.seaweed import Seaweed
from support.small_home import SmallHome, run

IGNORED = "it ignores If-None-Match, so an object could be replaced unseen"


@pytest.fixture
def keys(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, with its keys in this process's environment."""
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    return engine


@pytest.mark.parametrize("sort", ["plain", "locked"])
def test_what_the_engines_differ_in(keys: Engine, sort: str) -> None:
    """A bucket with versions: SeaweedFS honours conditions in it, Ceph ignores them and is refused, with the reason."""
    said = run("site", "probe", keys.url(keys.shared(sort), secrets.token_hex(4)), "--json")
    told = said.json
    roles = {role["name"]: role["given"] for role in told["roles"]}
    ignores = keys.name == "ceph" and sort == "locked"
    assert roles == {KEEPS_OBJECTS: not ignores, KEEPS_HEADS: not ignores, CANNOT_BE_DELETED_FROM: False}
    assert said.code == (20 if ignores else 0)
    if ignores:
        assert {p["detail"] for p in told["promises"]} == {f"{KEEPS_OBJECTS}: {IGNORED}"}
        assert not any(p["tried"] or p["kept"] for p in told["promises"])


def test_a_reason_is_said_once(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the role and the reason, one with what was not tried therefore, and where to read on."""
    engine = engine_of(ceph)
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    said = run("site", "probe", engine.url(engine.shared("locked"), secrets.token_hex(4)))
    assert said.out.startswith(f"REFUSED {KEEPS_OBJECTS}: {IGNORED}\n")
    assert said.out.count("REFUSED") == 1
    assert "BROKEN" not in said.out
    assert "this was not tried: round-trip, " in said.out


def test_the_verdict_is_kept(ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It enters the ledger at the other sites; afterwards the site is refused all the same, with the reason."""
    engine = engine_of(ceph)
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    home = SmallHome(tmp_path / "h", urls={"nord": engine.url(engine.shared("locked"), secrets.token_hex(4))}).make()
    home.fingerprint = home.new_charter("draft-1")["fingerprint"]
    home.backup()
    said = run("site", "probe", "nord", *home.home, "--json")
    assert said.code == 20
    assert said.json["entered"] == [home.id_of()]
    shown = run("status", *home.home, "--json").json["registers"][0]["sites"]
    assert next(s for s in shown if s["site"] == "nord")["probed"].endswith("no role (0 of 16 promises kept)")
    assert "nord" not in home.backup()[0]["sites"]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"bucket": "nothing-of-this-name"}, 11, "there is no bucket"),
        ({"secret": "wrong"}, 11, "access refused"),
        ({"endpoint": "http://127.0.0.1:1"}, 11, "Nothing answers there"),
    ],
)
@pytest.mark.parametrize("lock", [{}, {"lock": "compliance", "lock_days": "1"}])
def test_a_wrong_address_is_no_verdict(
    seaweed: Seaweed,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    code: int,
    says: str,
    lock: dict[str, str],
) -> None:
    """A wrong bucket, key or endpoint ends the probe with what it is and what to do next; nothing is called broken."""
    engine = engine_of(seaweed)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", engine.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", change.get("secret", engine.secret_key))
    url = engine.url(change.get("bucket", engine.shared("locked")), "p", **lock)
    said = run("site", "probe", url.replace(engine.endpoint, change.get("endpoint", engine.endpoint)))
    assert said.code == code, said.err
    assert says in said.err
    assert "BROKEN" not in said.out


class Failing(MemorySite):
    """Fails with ``error`` once so many objects were put."""

    def __init__(self, after: int, error: Exception) -> None:
        super().__init__()
        self.left, self.error = after, error

    def put_new(self, key: Key, data: bytes) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error
        super().put_new(key, data)

    def stat(self, key: Key):  # type: ignore[no-untyped-def]
        if self.left < 0 and not isinstance(self.error, SiteFull):
            raise self.error
        return super().stat(key)


@pytest.mark.parametrize("error", [SiteUnavailable("gone", silent=True), SiteFull("full")])
def test_a_site_that_fails_meanwhile_gets_no_verdict(error: Exception) -> None:
    """Lost or full while it is tried, it is not called one that breaks promises: the failure comes instead."""
    site = Failing(5, error)
    found: list[Promise] = []

    def collect(promises: Iterator[Promise]) -> None:
        found.extend(promise for promise in promises)

    with pytest.raises(type(error)):
        collect(while_reached(site, probe(site, token="t")))
    assert all(promise.kept for promise in found)

"""Locks: set on each object, made longer in time, set where they lack; what an engine cannot do is refused."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from exclave.errors import AlreadyExists, HeadMoved, MissingObject, OutcomeUnknown, SiteUnavailable
from exclave.ids import Key, now, sha256
from exclave.sites.conditions import CANNOT_BE_DELETED_FROM, KEEPS_HEADS, KEEPS_OBJECTS
from exclave.sites.locking import Locking, locking_of
from exclave.sites.opening import open_site
from exclave.sites.probe import Promise
from exclave.sites.roles import roles_of
from exclave.sites.s3_probe import LOCK_PROMISES, LockProbe
from support.ceph import Ceph
from support.s3_buckets import LOCK_DAYS, Engine, engine_of
from support.seaweed import Seaweed
from support.small_home import SmallHome

DAY_US = 86_400_000_000
DATA = b"something to be kept"
KEY = Key(f"fp/register/pack/ab/{sha256(DATA).hex()}")


def locks(engine: Engine, url: str) -> Locking:
    found = locking_of(open_site(url, engine.environment))
    assert found is not None
    return found


@pytest.mark.parametrize("name", LOCK_PROMISES)
def test_lock_promises(engine: Engine, name: str) -> None:
    """Both engines keep every promise of a lock."""
    url = engine.locked_url(secrets.token_hex(4))
    promise = LockProbe(url, token="t1", environment=engine.environment).one(name)
    assert promise.kept, promise.detail


def test_lock_of_each_object(engine: Engine) -> None:
    """Objects, claims and heads are locked for the days that the address names, up to the end of a day."""
    url = engine.locked_url(secrets.token_hex(4))
    site, stage, head = open_site(url, engine.environment), Key("fp/stage/001"), Key("fp/checkpoint")
    site.put_same(KEY, DATA)
    site.put_new(stage, b"next")
    site.replace_if(head, b"head", None)
    for key in (KEY, stage, head):
        until = locks(engine, url).locked_until(key)
        assert until is not None
        assert LOCK_DAYS * DAY_US <= until - now() <= (LOCK_DAYS + 1) * DAY_US
    with pytest.raises(MissingObject):
        locks(engine, url).locked_until(Key("fp/nothing"))
    with pytest.raises(MissingObject):
        locks(engine, url).extend(Key("fp/nothing"), now())


def test_put_again_locks(engine: Engine) -> None:
    """What lies there without a lock, or with a shorter one, is locked by putting the same bytes again."""
    prefix = secrets.token_hex(4)
    url = engine.locked_url(prefix)
    bucket = url.removeprefix("s3://").partition("/")[0]
    engine.client().put_object(Bucket=bucket, Key=f"{prefix}/{KEY}", Body=DATA)
    assert locks(engine, url).locked_until(KEY) is None
    open_site(url, engine.environment).put_same(KEY, DATA)
    until = locks(engine, url).locked_until(KEY)
    assert until is not None
    longer = url.replace(f"lock_days={LOCK_DAYS}", f"lock_days={LOCK_DAYS + 100}")
    open_site(longer, engine.environment).put_same(KEY, DATA)
    assert (locks(engine, url).locked_until(KEY) or 0) - until == 100 * DAY_US


def test_claims_are_finished(ceph: Ceph) -> None:
    """A claim whose writer died is put where it counts by whoever comes next, and nobody else's bytes are."""
    engine = engine_of(ceph)
    prefix = secrets.token_hex(4)
    url = engine.locked_url(prefix)
    heads = url.partition("heads=")[2]
    stage = Key("fp/stage/001")
    engine.client().put_object(Bucket=heads, Key=f"{prefix}/{stage}", Body=b"claimed, and then it died")
    site = open_site(url, engine.environment)
    with pytest.raises(AlreadyExists):
        site.put_new(stage, b"other")
    assert site.get(stage) == b"claimed, and then it died"
    assert locks(engine, url).locked_until(stage) is not None
    again = Key("fp/stage/002")
    engine.client().put_object(Bucket=heads, Key=f"{prefix}/{again}", Body=b"mine")
    site.put_new(again, b"mine")  # an earlier try of this very writer
    assert site.get(again) == b"mine"


@pytest.mark.parametrize("method", ["put_new", "put_same", "replace_if"])
def test_ceph_without_heads(ceph: Ceph, method: str) -> None:
    """Where conditions are ignored, the first write of any kind is refused with the role and the reason."""
    engine = engine_of(ceph)
    for more in ({}, {"lock": "compliance", "lock_days": "1"}):
        site = open_site(engine.url(engine.shared("locked"), secrets.token_hex(4), **more), engine.environment)
        calls = {
            "put_new": lambda s=site: s.put_new(KEY, DATA),
            "put_same": lambda s=site: s.put_same(KEY, DATA),
            "replace_if": lambda s=site: s.replace_if(Key("fp/checkpoint"), b"head", None),
        }
        with pytest.raises(SiteUnavailable, match="If-None-Match") as caught:
            calls[method]()
        assert caught.value.facts["permanent"]
        assert caught.value.facts["role"] == KEEPS_OBJECTS
        assert site.stat(KEY) is None


def test_a_bucket_that_cannot_lock(engine: Engine) -> None:
    """The first write says why; nothing is stored without a lock where one was asked for."""
    heads = {"heads": engine.plain_bucket()} if engine.name == "ceph" else {}
    url = engine.url(engine.plain_bucket(), "p", lock="compliance", lock_days="1", **heads)
    site = open_site(url, engine.environment)
    for call in (lambda: site.put_same(KEY, DATA), lambda: site.replace_if(Key("fp/checkpoint"), b"head", None)):
        with pytest.raises((SiteUnavailable, OutcomeUnknown), match="Object Lock is not enabled"):
            call()
    assert site.stat(KEY) is None


def test_a_backup_is_refused_in_time(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A charter is not even published at a site that cannot keep objects; the other sites have it."""
    if engine.name == "seaweedfs":
        url = engine.url(engine.plain_bucket(), "p", lock="compliance", lock_days="1")
    else:
        url = engine.url(engine.shared("locked"), secrets.token_hex(4))
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    home = SmallHome(tmp_path / "h", urls={"nord": url}).make()
    told = home.new_charter("draft-1")
    home.fingerprint = told["fingerprint"]
    assert "is refused the role" in str(told)
    receipt = home.backup()[0]
    assert "nord" not in receipt["sites"]


def test_locks_are_made_longer(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``site lock`` extends what ends too soon, once; the ledger and ``status`` tell until when everything is held."""
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    url = engine.locked_url(secrets.token_hex(4)).replace(f"lock_days={LOCK_DAYS}", "lock_days=1")
    home = SmallHome(tmp_path / "h", sites=("home", "lux"), urls={"lux": url}).found()
    home.backup()
    home.urls["lux"] = url.replace("lock_days=1", "lock_days=90")
    home.write_config()
    first = home.ok("site", "lock", "lux", *home.home)["registers"][0]
    assert first["extended"] == first["objects"] > 10
    assert first["short"] == []
    second = home.ok("site", "lock", "lux", *home.home)["registers"][0]
    assert second["extended"] == 0, "what the first run entered was locked for long when it was written"
    assert second["objects"] > first["objects"]
    lux = next(s for s in home.ok("status", *home.home)["registers"][0]["sites"] if s["site"] == "lux")
    assert (lux["locked"], lux["lock_problem"]) == (second["until"], "")
    home.fails(2, "site", "lock", "home", *home.home)


def test_roles() -> None:
    """A role is given when every promise that it stands for was tried and kept."""
    good = [Promise(name, True, "") for name in ("round-trip", "replace-if", "lock-set")]
    assert [role.given for role in roles_of(good)] == [True, True, True]
    assert [role.given for role in roles_of(good[:2])] == [True, True, False]
    bad = [*good, Promise("one-replacer-wins", False, "")]
    assert {r.name: r.why for r in roles_of(bad) if not r.given} == {KEEPS_HEADS: "broken: one-replacer-wins"}
    assert roles_of([])[2].name == CANNOT_BE_DELETED_FROM
    untried = [Promise(name, False, "keeps objects: it lies", tried=False) for name in ("round-trip", "replace-if")]
    assert [role.why for role in roles_of(untried)[:2]] == ["refused keeps objects: it lies"] * 2


def test_heads_move_once(engine: Engine) -> None:
    """A head that is hidden or gone is not there to be made anew by somebody who saw none."""
    url = engine.locked_url(secrets.token_hex(4))
    site, head = open_site(url, engine.environment), Key("fp/checkpoint")
    site.replace_if(head, b"one", None)
    with pytest.raises(HeadMoved):
        site.replace_if(head, b"two", None)
    bucket = url.partition("heads=")[2] or url.removeprefix("s3://").partition("/")[0]
    prefix = url.removeprefix("s3://").partition("/")[2].partition("?")[0]
    engine.client().delete_object(Bucket=bucket, Key=f"{prefix}/{head}")
    with pytest.raises(HeadMoved):
        site.replace_if(head, b"two", None)
    found = site.read_head(head)
    assert found is not None
    site.replace_if(head, b"two", found.tag)
    assert site.get(head) == b"two"


def test_quotes_of_tags(seaweed: Seaweed, ceph: Ceph) -> None:
    """Engines that want a tag with its quotes, and those that want it without, are both understood."""
    for running in (seaweed, ceph):
        engine = engine_of(running)
        site = open_site(engine.url(engine.shared("plain"), secrets.token_hex(4)), engine.environment)
        tag = site.replace_if(Key("head"), b"one", None)
        second = site.replace_if(Key("head"), b"two", tag)
        with pytest.raises(HeadMoved):
            site.replace_if(Key("head"), b"three", tag)
        site.replace_if(Key("head"), b"three", second)

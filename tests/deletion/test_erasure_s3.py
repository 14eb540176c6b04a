"""Erasing in a bucket of a real S3 engine: every version of an object goes, and what is locked stays and is named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from exclave.errors import ConfigError, SiteReadOnly
from exclave.ids import Key, now
from exclave.sites.erasing import ErasingSite
from exclave.sites.open_erasing import open_erasing
from exclave.sites.opening import open_site
from support.deleting import DAY, AgeingHome
from support.seaweed import ACCESS_KEY, READER_KEY, READER_SECRET, SECRET_KEY, Seaweed, running_seaweed

LOCKING = "exclave-locked"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
READER = {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with running_seaweed(tmp_path_factory.mktemp("weed")) as running:
        client(running).create_bucket(Bucket=LOCKING, ObjectLockEnabledForBucket=True)
        yield running


def client(engine: Seaweed) -> Any:
    return boto3.client(
        "s3", endpoint_url=engine.endpoint, region_name="us-east-1", aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY, config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip


def power(engine: Seaweed, bucket: str = LOCKING, prefix: str = "p") -> ErasingSite:
    return open_erasing(engine.url(prefix, bucket=bucket), ENVIRONMENT)


def put(engine: Seaweed, name: str, data: bytes = b"bytes", bucket: str = LOCKING, **lock: Any) -> str:
    return str(client(engine).put_object(Bucket=bucket, Key=f"p/{name}", Body=data, **lock).get("VersionId", ""))


def versions(engine: Seaweed, name: str, bucket: str = LOCKING) -> list[str]:
    """Everything that the engine keeps under a name, markers too."""
    found = client(engine).list_object_versions(Bucket=bucket, Prefix=f"p/{name}")
    return [item["VersionId"] for part in ("Versions", "DeleteMarkers") for item in found.get(part, ())]


def locked(seconds: float, mode: str = "COMPLIANCE") -> dict[str, Any]:
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": until}


def test_all_versions_go(engine: Seaweed) -> None:
    """Overwritten and hidden ones too: nothing is left that somebody could bring back."""
    for data in (b"one", b"two", b"three"):
        put(engine, "many", data)
    client(engine).delete_object(Bucket=LOCKING, Key="p/many")
    assert len(versions(engine, "many")) == 4
    assert power(engine).erase(Key("many")) is None
    assert versions(engine, "many") == []
    assert power(engine).erase(Key("many")) is None, "again, and of what never was there"


def test_a_bucket_without_versions(engine: Seaweed) -> None:
    """There the object itself goes; another name that begins alike stays."""
    bucket = "exclave-a"
    put(engine, "x", bucket=bucket)
    put(engine, "x-more", bucket=bucket)
    eraser = power(engine, bucket)
    assert eraser.erase(Key("x")) is None
    site = open_site(engine.url("p", bucket=bucket), ENVIRONMENT)
    assert site.stat(Key("x")) is None
    assert site.stat(Key("x-more")) is not None


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_what_is_locked(engine: Seaweed, mode: str) -> None:
    """The store refuses, whatever key asks; it is told until when, and goes after that and not before."""
    name = f"locked-{mode.lower()}"
    put(engine, name, **locked(3, mode))
    refused = power(engine).erase(Key(name))
    assert refused is not None
    assert refused.until is not None
    assert now() < refused.until < now() + 4_000_000
    assert mode in refused.why
    assert len(versions(engine, name)) == 1
    time.sleep(max((refused.until - now()) / 1e6 + 1.1, 0))
    assert power(engine).erase(Key(name)) is None
    assert versions(engine, name) == []


def test_a_legal_hold_of_the_store(engine: Seaweed) -> None:
    """It has no end that could be told."""
    version = put(engine, "held", ObjectLockLegalHoldStatus="ON")
    refused = power(engine).erase(Key("held"))
    assert refused is not None
    assert refused.until is None
    client(engine).put_object_legal_hold(Bucket=LOCKING, Key="p/held", VersionId=version, LegalHold={"Status": "OFF"})
    assert power(engine).erase(Key("held")) is None


def test_since_when(engine: Seaweed) -> None:
    """By the engine's clock, of the first version: putting it again makes it no younger, and no writer sets it."""
    assert power(engine).shown_since(Key("dated")) is None
    put(engine, "dated", Metadata={"last-modified": "Thu, 01 Jan 1970 00:00:00 GMT"})
    first = power(engine).shown_since(Key("dated"))
    assert first is not None
    assert abs(first - now()) < 10_000_000
    time.sleep(1.1)
    put(engine, "dated", b"more")
    assert power(engine).shown_since(Key("dated")) == first


def test_a_key_that_may_only_read(engine: Seaweed) -> None:
    """Refused in words, and nothing is gone."""
    put(engine, "kept")
    with pytest.raises(SiteReadOnly):
        open_erasing(engine.url("p", bucket=LOCKING), READER).erase(Key("kept"))
    assert len(versions(engine, "kept")) == 1
    with pytest.raises(ConfigError):
        open_erasing(engine.url("p") + "&anonymous=yes", {})


def test_an_order_at_a_bucket_with_object_lock(
    engine: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locked packs are pending until their time and never called done; then the same command finishes."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    home = AgeingHome(tmp_path / "state", urls={"lux": engine.url("order", bucket=LOCKING)})
    home.found()
    home.grown(3)
    home.ordered()
    eraser = open_erasing(home.urls["lux"])
    before = home.erase("lux", power=eraser, look=True)
    names = [pending.key for pending in before.pending]
    assert len(names) >= 2
    version = client(engine).head_object(Bucket=LOCKING, Key=f"order/{names[0]}")["VersionId"]
    until = datetime.now(UTC) + timedelta(seconds=4)
    client(engine).put_object_retention(
        Bucket=LOCKING, Key=f"order/{names[0]}", VersionId=version,
        Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
    )  # fmt: skip
    found = home.erase("lux", power=eraser)
    assert (found.complete, found.erased, [p.key for p in found.pending]) == (False, len(names) - 1, names[:1])
    assert found.pending[0].until is not None
    assert found.pending[0].until < now() + DAY
    time.sleep(max(until.timestamp() - time.time() + 1.1, 0))
    done = home.erase("lux", power=eraser)
    assert (done.complete, done.erased, done.absent) == (True, 1, len(names) - 1)
    (lux,) = [s for s in home.verify(code=20)["registers"][0]["sites"] if s["site"] == "lux"]
    assert (lux["complete"], lux["latest_complete"]) == (1, 3), "before the delay is over, what is gone is damage"

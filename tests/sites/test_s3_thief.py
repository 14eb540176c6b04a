"""A thief with all of home's S3 keys tries all that S3 offers against a locked bucket: nothing is altered or lost.

Both engines; the keys are the strongest that there are, which own the buckets. What writers should have is less
(``docs/runbooks/locked-bucket.md``).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from exclave.ids import Key, sha256
from exclave.sites.contract import Site
from exclave.sites.locking import Locking, locking_of, remembering_of
from exclave.sites.opening import open_site
from support.ceph import Ceph
from support.fault_table import FaultTable
from support.s3_buckets import LOCK_DAYS, Engine
from support.small_home import SmallHome, tree_of

PACK = b"a pack " * 30_000
PACK_KEY = Key(f"fp/register/pack/ab/{sha256(PACK).hex()}")
TILE_KEY, TILE = Key("fp/register/ledger/00000001-ab/tile/0/000.p/2"), b"\x01" * 64
STAGE_KEY, STAGE = Key("fp/register/ledger/00000001-ab/stage/001"), b"what comes next"
HEAD_KEY = Key("fp/register/ledger/00000001-ab/checkpoint")
HEADS = (b"head of 1 entry", b"head of 2 entries", b"head of 3 entries")


@dataclass
class Loot:
    """A locked site with something of each kind, and what a thief needs."""

    engine: Engine
    url: str
    prefix: str
    bucket: str
    heads: str
    """The bucket in which heads are replaced; empty: the same."""
    client: Any
    ours: dict[str, list[str]] = field(default_factory=dict)
    """Ids of the locked versions, by key."""

    def site(self) -> Site:
        """As a reader opens it who knows nothing of former runs."""
        return open_site(self.url, self.engine.environment)

    def locks(self) -> Locking:
        found = locking_of(self.site())
        assert found is not None
        return found

    def name(self, key: str) -> str:
        return f"{self.prefix}/{key}"

    def versions(self, key: str, bucket: str = "") -> list[str]:
        """Ids of all versions, the newest first."""
        found = self.client.list_object_versions(Bucket=bucket or self.bucket, Prefix=self.name(key))
        return [v["VersionId"] for v in found.get("Versions", ()) if v["Key"] == self.name(key)]

    def require_whole(self) -> None:
        """Everything is read as it was written, by every method, and listed."""
        site = self.site()
        for key, data in ((PACK_KEY, PACK), (TILE_KEY, TILE), (STAGE_KEY, STAGE)):
            assert site.get(key) == data
            assert site.get_range(key, 1, 5) == data[1:6]
            assert site.stat(key) is not None
        digested = site.digest(PACK_KEY)  # type: ignore[attr-defined]
        assert (digested.digest, digested.size_bytes) == (sha256(PACK), len(PACK))
        assert {PACK_KEY, TILE_KEY, STAGE_KEY, HEAD_KEY} <= {item.key for item in site.list("fp/")}
        remembering = remembering_of(site)
        assert remembering is not None
        kept = list(remembering.states(HEAD_KEY))
        assert set(HEADS) <= set(kept), "every head that was ever shown is there still"


def stolen(engine: Engine) -> Loot:
    prefix = secrets.token_hex(4)
    url = engine.locked_url(prefix, new=True)
    bucket = url.removeprefix("s3://").partition("/")[0]
    heads = url.partition("heads=")[2].partition("&")[0]
    loot = Loot(engine, url, prefix, bucket, heads, engine.client())
    site = loot.site()
    site.put_same(PACK_KEY, PACK)
    site.put_same(TILE_KEY, TILE)
    site.put_new(STAGE_KEY, STAGE)
    tag: str | None = None
    for head in HEADS:
        tag = site.replace_if(HEAD_KEY, head, tag)
    loot.ours = {key: loot.versions(key) for key in (*WRITTEN_ONCE, HEAD_KEY)}
    loot.require_whole()
    return loot


def refused(call: Callable[[], Any]) -> None:
    """S3 says no, by an error or, of several deletions at once, for each."""
    try:
        answer = call()
    except ClientError:
        return
    assert answer.get("Errors"), f"was accepted: {answer}"


WRITTEN_ONCE = (PACK_KEY, TILE_KEY, STAGE_KEY)


def every_version(loot: Loot, act: Callable[..., Any]) -> None:
    """``act(Bucket, Key, VersionId)`` on every version of ours is refused."""
    for key in (*WRITTEN_ONCE, HEAD_KEY):
        for version in loot.ours[key]:
            refused(lambda k=key, v=version: act(Bucket=loot.bucket, Key=loot.name(k), VersionId=v))


def delete(loot: Loot) -> None:
    every_version(loot, loot.client.delete_object)


def bypass(loot: Loot) -> None:
    every_version(loot, lambda **at: loot.client.delete_object(**at, BypassGovernanceRetention=True))


def delete_many(loot: Loot) -> None:
    objects = [{"Key": loot.name(k), "VersionId": v} for k in WRITTEN_ONCE for v in loot.ours[k]]
    answer = loot.client.delete_objects(
        Bucket=loot.bucket, Delete={"Objects": objects}, BypassGovernanceRetention=True
    )  # fmt: skip
    assert len(answer.get("Errors", ())) == len(objects)


def retention(loot: Loot, mode: str, until: timedelta) -> None:
    wanted = {"Mode": mode, "RetainUntilDate": datetime.now(UTC) + until}
    every_version(
        loot,
        lambda **at: loot.client.put_object_retention(**at, Retention=wanted, BypassGovernanceRetention=True),
    )  # fmt: skip


def shorten(loot: Loot) -> None:
    retention(loot, "COMPLIANCE", timedelta(seconds=30))


def downgrade(loot: Loot) -> None:
    retention(loot, "GOVERNANCE", timedelta(days=LOCK_DAYS + 30))


def remove_retention(loot: Loot) -> None:
    every_version(
        loot, lambda **at: loot.client.put_object_retention(**at, Retention={}, BypassGovernanceRetention=True)
    )


def hide_by_markers(loot: Loot) -> None:
    for key in (*WRITTEN_ONCE, HEAD_KEY):
        loot.client.delete_object(Bucket=loot.bucket, Key=loot.name(key))
    objects = [{"Key": loot.name(key)} for key in WRITTEN_ONCE]
    loot.client.delete_objects(Bucket=loot.bucket, Delete={"Objects": objects})


def overwrite(loot: Loot) -> None:
    for key in (*WRITTEN_ONCE, HEAD_KEY):
        for planted in (b"planted", b"", PACK + b"x"):
            loot.client.put_object(Bucket=loot.bucket, Key=loot.name(key), Body=planted)


def overwrite_often(loot: Loot) -> None:
    """More often than versions of one name are told."""
    for number in range(140):
        loot.client.put_object(Bucket=loot.bucket, Key=loot.name(TILE_KEY), Body=b"%d" % number)
        loot.client.put_object(Bucket=loot.bucket, Key=loot.name(PACK_KEY), Body=b"%d" % number)


def overwrite_locked(loot: Loot) -> None:
    """His own versions are locked longer than ours."""
    until = datetime.now(UTC) + timedelta(days=LOCK_DAYS + 400)
    for key in WRITTEN_ONCE:
        loot.client.put_object(
            Bucket=loot.bucket, Key=loot.name(key), Body=b"planted", ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=until, ChecksumAlgorithm="SHA256",
        )  # fmt: skip


def copy_onto(loot: Loot) -> None:
    loot.client.put_object(Bucket=loot.bucket, Key="planted", Body=b"planted")
    for key in (*WRITTEN_ONCE, HEAD_KEY):
        loot.client.copy_object(
            Bucket=loot.bucket, Key=loot.name(key), CopySource={"Bucket": loot.bucket, "Key": "planted"}
        )


def multipart_onto(loot: Loot) -> None:
    at = {"Bucket": loot.bucket, "Key": loot.name(PACK_KEY)}
    upload = loot.client.create_multipart_upload(**at)["UploadId"]
    part = loot.client.upload_part(**at, UploadId=upload, PartNumber=1, Body=b"planted")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    loot.client.complete_multipart_upload(**at, UploadId=upload, MultipartUpload=parts)


def suspend_versions(loot: Loot) -> None:
    refused(
        lambda: loot.client.put_bucket_versioning(
            Bucket=loot.bucket, VersioningConfiguration={"Status": "Suspended"}
        )
    )  # fmt: skip


def change_lock_configuration(loot: Loot) -> None:
    """A default may be set for what comes; what is locked stays so, and Object Lock cannot be turned off."""
    weak = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    loot.client.put_object_lock_configuration(Bucket=loot.bucket, ObjectLockConfiguration=weak)
    refused(
        lambda: loot.client.put_object_lock_configuration(
            Bucket=loot.bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Disabled"}
        )
    )
    delete(loot)


def delete_buckets(loot: Loot) -> None:
    refused(lambda: loot.client.delete_bucket(Bucket=loot.bucket))
    if loot.heads:
        refused(lambda: loot.client.delete_bucket(Bucket=loot.heads))


def close_to_the_public(loot: Loot) -> None:
    """Rights on single objects; the owner reads all the same."""
    for key in WRITTEN_ONCE:
        loot.client.put_object_acl(Bucket=loot.bucket, Key=loot.name(key), ACL="private")


ATTACKS = (
    delete, bypass, delete_many, shorten, downgrade, remove_retention, hide_by_markers, overwrite, overwrite_often,
    overwrite_locked, copy_onto, multipart_onto, suspend_versions, change_lock_configuration, delete_buckets,
    close_to_the_public,
)  # fmt: skip


@pytest.fixture(scope="module")
def loots() -> dict[str, Loot]:
    """One locked site for each engine: what one attack leaves, the next one finds."""
    return {}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_attack(
    engine: Engine, loots: dict[str, Loot], attack: Callable[[Loot], None], fault_table: FaultTable
) -> None:
    """After the attack everything is read as it was written, and the lock is what it was."""
    if engine.name not in loots:
        loots[engine.name] = stolen(engine)
    loot = loots[engine.name]
    before = [loot.locks().locked_until(key) for key in WRITTEN_ONCE]
    attack(loot)
    loot.require_whole()
    assert [loot.locks().locked_until(key) for key in WRITTEN_ONCE] == before
    fault_table.suite("s3", "thief with all credentials", 1)


def test_writing_goes_on(engine: Engine) -> None:
    """Over what a thief planted, the same bytes may be put again, others are refused, and a repair counts."""
    loot = stolen(engine)
    overwrite(loot)
    hide_by_markers(loot)
    site = loot.site()
    site.put_same(PACK_KEY, PACK)
    site.put_same(TILE_KEY, TILE)
    site.replace_spoilt(PACK_KEY, PACK, sha256(b"whatever was read"))
    loot.require_whole()


def test_a_right_version_over_a_wrong_one(engine: Engine) -> None:
    """Where the oldest version is wrong, a repair puts the right bytes over it, and readers find them under garbage."""
    loot = stolen(engine)
    pack = b"another pack"
    key = Key(f"fp/register/pack/cd/{sha256(pack).hex()}")
    loot.client.put_object(Bucket=loot.bucket, Key=loot.name(key), Body=b"spoilt")
    assert loot.site().get(key) == b"spoilt", "the caller compares it with the name"
    loot.site().replace_spoilt(key, pack, sha256(b"spoilt"))
    for body in (b"planted", b"planted again"):
        loot.client.put_object(Bucket=loot.bucket, Key=loot.name(key), Body=body)
    assert loot.site().get(key) == pack
    assert loot.site().get_range(key, 8, 4) == b"pack"
    until = loot.locks().locked_until(key)
    assert until is not None, "the lock that is told is that of the right version"


def test_heads_taken_away(engine: Engine) -> None:
    """Heads that are deleted, replaced or rolled back where they are not locked: the locked ones are found, and the
    writer goes on from them."""
    loot = stolen(engine)
    bucket = loot.heads or loot.bucket
    for body in (b"planted", HEADS[0]):
        loot.client.put_object(Bucket=bucket, Key=loot.name(HEAD_KEY), Body=body)
        loot.require_whole()
    loot.client.delete_object(Bucket=bucket, Key=loot.name(HEAD_KEY))
    loot.require_whole()
    site = loot.site()
    head = site.read_head(HEAD_KEY)
    assert head is not None
    assert head.data in (*HEADS, b"planted")
    site.replace_if(HEAD_KEY, b"head of 4 entries", head.tag)
    found = loot.site().read_head(HEAD_KEY)
    assert found is not None
    assert found.data == b"head of 4 entries"
    loot.require_whole()


def test_lifecycle_rules(engine: Engine, request: pytest.FixtureRequest) -> None:
    """A rule that makes everything expire takes away what is not locked, where the engine runs it, and nothing else."""
    loot = stolen(engine)
    rule = {
        "ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }  # fmt: skip
    loot.client.put_object(Bucket=loot.bucket, Key="unlocked", Body=b"may go")
    loot.client.put_bucket_lifecycle_configuration(Bucket=loot.bucket, LifecycleConfiguration={"Rules": [rule]})
    if engine.name == "ceph":  # SeaweedFS runs its rules once a day and cannot be hurried
        running: Ceph = request.getfixturevalue("ceph")
        deadline = time.monotonic() + 120
        while loot.client.list_object_versions(Bucket=loot.bucket, Prefix="unlocked").get("Versions"):
            assert time.monotonic() < deadline, "the rule never took away what is not locked"
            running.run_lifecycle_rules()
    loot.require_whole()


def test_a_state_is_restored(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one site is attacked with everything at once; then the version is verified and restored from it alone."""
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    prefix = secrets.token_hex(4)
    url = engine.locked_url(prefix, new=True)
    home = SmallHome(tmp_path / "h", sites=("home", "lux"), urls={"lux": url}).found()
    home.backup()
    (home.root / "acts" / "act-3").write_text("Act 3.\n")
    home.backup()
    sack(engine, url)
    assert [v["sequence"] for v in home.versions("", "lux")] == [1, 2]
    target = tmp_path / "restored"
    granted = home.granted("restore", sites=("lux",))
    home.ok("restore", *home.where("lux"), *granted, "--target", str(target))
    restored = {name.rpartition("/")[2]: data for name, data in tree_of(target).items()}
    for name, data in tree_of(home.root / "acts").items():
        assert restored[name] == data


def sack(engine: Engine, url: str) -> None:
    """Whatever takes effect, on every object of both buckets."""
    client = engine.client()
    bucket = url.removeprefix("s3://").partition("/")[0]
    heads = url.partition("heads=")[2].partition("&")[0]
    names: set[str] = set()
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for version in page.get("Versions", ()):
            names.add(version["Key"])
            if not version["Key"].endswith("/probe/conditions"):
                refused(lambda v=version: client.delete_object(Bucket=bucket, Key=v["Key"], VersionId=v["VersionId"]))
    for name in sorted(names):
        client.put_object(Bucket=bucket, Key=name, Body=b"planted")
        client.delete_object(Bucket=bucket, Key=name)
    if heads:
        for item in client.list_objects_v2(Bucket=heads).get("Contents", ()):
            client.put_object(Bucket=heads, Key=item["Key"], Body=b"planted")
            client.delete_object(Bucket=heads, Key=item["Key"])
        client.delete_bucket(Bucket=heads)

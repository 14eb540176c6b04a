"""The rights that the runbook gives a writer: enough for everything that Exclave does, and for nothing else."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from exclave.ids import Key, sha256
from exclave.sites.locking import locking_of
from exclave.sites.opening import open_site
from support.ceph import WRITER
from support.s3_buckets import Engine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runbooks" / "locked-bucket.md"
ACCEPTED = {"seaweedfs": {"hide", "lifecycle"}, "ceph": set[str]()}
"""What the engine lets a writer do all the same: its right to write is one to put markers and lifecycle rules."""
DATA = b"something to be kept"
KEY = Key(f"fp/register/pack/ab/{sha256(DATA).hex()}")


def policy(locked: str, heads: str) -> dict[str, Any]:
    """The runbook's own, for these buckets and the writer."""
    block = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    made: dict[str, Any] = json.loads(block[1].replace("embassy-locked", locked).replace("embassy-heads", heads))
    for statement in made["Statement"]:
        statement["Principal"] = {"AWS": [f"arn:aws:iam:::user/{WRITER}"]}
    return made


def test_a_writer_s_rights(engine: Engine) -> None:
    """All kinds of writes and reads work; deleting, freeing, bypassing and changing the bucket are refused."""
    prefix = secrets.token_hex(4)
    url = engine.locked_url(prefix, new=True)
    bucket = url.removeprefix("s3://").partition("/")[0]
    heads = url.partition("heads=")[2]
    if engine.name == "ceph":
        for name in (bucket, heads):
            engine.client().put_bucket_policy(Bucket=name, Policy=json.dumps(policy(bucket, heads)))
    writer = engine.as_writer()
    site = open_site(url, writer.environment)
    site.put_same(KEY, DATA)
    site.put_new(Key("fp/stage/001"), b"next")
    tag = site.replace_if(Key("fp/checkpoint"), b"one", None)
    site.replace_if(Key("fp/checkpoint"), b"two", tag)
    assert site.get(KEY) == DATA
    assert site.get_range(KEY, 0, 9) == b"something"
    assert {KEY, "fp/checkpoint", "fp/stage/001"} <= {item.key for item in site.list("fp/")}
    locking = locking_of(site)
    assert locking is not None
    before = locking.locked_until(KEY)
    assert before is not None
    site.put_same(KEY, DATA)

    client, name = writer.client(), f"{prefix}/{KEY}"
    version = client.head_object(Bucket=bucket, Key=name)["VersionId"]
    rule = {"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    short = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=30)}
    acts: dict[str, Callable[[], Any]] = {
        "delete": lambda: client.delete_object(Bucket=bucket, Key=name, VersionId=version),
        "bypass": lambda: client.delete_object(
            Bucket=bucket, Key=name, VersionId=version, BypassGovernanceRetention=True
        ),
        "shorten": lambda: client.put_object_retention(Bucket=bucket, Key=name, VersionId=version, Retention=short),
        "suspend": lambda: client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
        "lifecycle": lambda: client.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": [rule]}
        ),
        "policy": lambda: client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy(bucket, heads or bucket))),
        "delete bucket": lambda: client.delete_bucket(Bucket=bucket),
        "delete heads": lambda: client.delete_object(Bucket=heads, Key=f"{prefix}/fp/checkpoint"),
        "hide": lambda: client.delete_object(Bucket=bucket, Key=name),
    }
    accepted = {name for name, act in acts.items() if (heads or "heads" not in name) and not refused(act)}
    assert accepted == ACCEPTED[engine.name]
    assert open_site(url, writer.environment).get(KEY) == DATA


def refused(act: Callable[[], Any]) -> bool:
    try:
        act()
    except ClientError:
        return True
    return False

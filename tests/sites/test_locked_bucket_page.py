"""The runbook of locked buckets is run against SeaweedFS and Ceph, whose real differences it names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docs.test_documents import Shell, placed, same, steps
from support.ceph import Ceph
from support.s3_buckets import Engine, engine_of
from support.seaweed import Seaweed
from support.small_home import SmallHome

PAGE = "docs/runbooks/locked-bucket.md"


def prepared(engine: Engine) -> None:
    """The buckets that the page names."""
    engine.client().create_bucket(Bucket="embassy-locked", ObjectLockEnabledForBucket=True)
    engine.client().create_bucket(Bucket="embassy-heads")


def test_the_page(seaweed: Seaweed, ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command prints what the page shows."""
    weed, rgw = engine_of(seaweed), engine_of(ceph)
    for engine in (weed, rgw):
        prepared(engine)
    urls = {
        "lux": weed.locked_url("page", new=True, credentials=str(weed.credentials_file(tmp_path))),
        "nord": rgw.locked_url("page", new=True, credentials=str(rgw.credentials_file(tmp_path))),
    }
    home = SmallHome(tmp_path / "state", urls=urls).found()
    home.backup()
    places = {
        "/srv/exclave": str(home.folder), "https://s3.weed.example": weed.endpoint,
        "https://s3.ceph.example": rgw.endpoint,
    }  # fmt: skip
    keys = {weed.endpoint: weed, rgw.endpoint: rgw}
    shell = Shell(tmp_path)
    try:
        found = steps(PAGE)
        assert len(found) >= 6
        for at, step in enumerate(found):
            command = step.command
            for name, real in places.items():
                command = command.replace(name, real)
            used = next((engine for endpoint, engine in keys.items() if endpoint in command), None)
            if used is not None:
                command = " ".join(f"{name}={value}" for name, value in used.environment.items()) + " " + command
            code, printed = shell.run(command)
            follows = found[at + 1].command if at + 1 < len(found) else ""
            assert code == 0 or follows == "echo $?", f"exit code {code}: {command}\n{printed}"
            assert same(placed(step.expected, tmp_path, {}), printed), f"{command}\n{printed}"
    finally:
        shell.close()
    assert "AWS_ACCESS_KEY_ID" not in os.environ

"""Both S3 engines, started once for all tests of sites on one worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.ceph import Ceph, running_ceph
from support.s3_buckets import Engine, engine_of
from support.seaweed import Seaweed


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A running Ceph gateway; make a bucket for each test."""
    with running_ceph(tmp_path_factory.mktemp("ceph")) as engine:
        yield engine


@pytest.fixture(params=["seaweedfs", "ceph"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of the two engines."""
    running: Seaweed | Ceph = request.getfixturevalue("seaweed" if request.param == "seaweedfs" else "ceph")
    return engine_of(running)

"""Fixtures that several areas share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.seaweed import Seaweed, running_seaweed


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A running S3 engine with empty buckets; give each test a prefix of its own."""
    with running_seaweed(tmp_path_factory.mktemp("weed")) as engine:
        yield engine

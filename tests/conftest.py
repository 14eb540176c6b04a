"""Fixtures that several areas share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from support.seaweed import Seaweed, running_seaweed


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A running S3 engine with empty buckets; give each test a prefix of its own."""
    with running_seaweed(tmp_path_factory.mktemp("weed")) as engine:
        yield engine


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """A command that runs in this process asks Python to look for cycles seldom; here many follow each other."""
    yield
    if gc.get_threshold()[0] != 700:
        gc.unfreeze()
        gc.set_threshold(700, 10, 10)
        gc.collect()

"""Fixtures that several areas share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from support import fault_table as faults
from support.fault_table import FaultTable
from support.seaweed import Seaweed, running_seaweed


def pytest_configure(config: pytest.Config) -> None:
    """The fault and attack table is collected, shown at the end, and fails the run if anything was lost."""
    faults.register(config)


@pytest.fixture
def fault_table(request: pytest.FixtureRequest) -> FaultTable:
    """Where a test tells what faults it tried, and what became of each."""
    return FaultTable(request.node.user_properties)


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

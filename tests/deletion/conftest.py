"""A small state with an order to delete, made once for a module and put back in place for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.deleting import AgeingHome


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> AgeingHome:
    """Four versions of which three are to go, and an order that is public at all sites."""
    home = AgeingHome(tmp_path_factory.mktemp("deleting") / "state")
    home.found()
    home.grown(4)
    home.ordered()
    return home


@pytest.fixture
def home(made: AgeingHome, tmp_path: Path) -> Iterator[AgeingHome]:
    """The same again for each test: what it did is put back in place."""
    kept = tmp_path / "kept"
    # Copied away and back: the files stay, so that they have been there as long as they say.
    os.rename(made.root, kept)
    shutil.copytree(kept, made.root, symlinks=True)
    yield made
    for name in ("retention_days", "delay_s", "extra"):
        made.__dict__.pop(name, None)
    shutil.rmtree(made.root)
    os.rename(kept, made.root)

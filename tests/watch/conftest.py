"""A home with two versions at three sites, made once."""

from __future__ import annotations

import pytest

from exclave.ids import RegisterId
from exclave.sites.opening import open_site
from support.hostile import StaleSite
from support.small_home import SmallHome
from support.watched import Turning, World


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallHome, dict[str, StaleSite]]:
    root = tmp_path_factory.mktemp("watched")
    home = SmallHome(root).found()
    home.backup()
    then = {name: StaleSite(open_site(url)) for name, url in home.urls.items()}
    for site in then.values():
        site.freeze()
    (root / "acts" / "act-3").write_bytes(bytes(range(256)) * 1000)
    home.backup()
    return home, then


@pytest.fixture
def country(_made: tuple[SmallHome, dict[str, StaleSite]]) -> World:
    home, then = _made
    made = World(home, then, register=RegisterId(home.id_of()))
    made.sites = {name: Turning(open_site(url)) for name, url in home.urls.items()}
    return made

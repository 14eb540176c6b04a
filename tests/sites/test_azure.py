"""A site in a container of Azure Blob Storage, against Azurite."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.errors import ConfigError, MissingObject, SiteUnavailable
from exclave.ids import Key
from exclave.sites.opening import open_site
from exclave.sites.probe import PROMISES, try_promise
from support.azurite import KEY, Azurite, running_azurite
from support.seaweed import free_ports


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with running_azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.mark.parametrize("name", PROMISES)
def test_promise(azurite: Azurite, name: str) -> None:
    """The container keeps this promise of a site."""
    promise = try_promise(open_site(azurite.url(secrets.token_hex(8)), azurite.environment), name, token="t1")
    assert promise.kept, promise.detail


def test_refusals(azurite: Azurite) -> None:
    """A wrong key, a container that is not there and a host that does not answer are told apart, without the key."""
    key = Key("fp/object")
    wrong = open_site(azurite.url("p"), {"AZURE_STORAGE_ACCOUNT_KEY": "d3JvbmctaHVzaA=="})
    with pytest.raises(SiteUnavailable, match="access refused"):
        wrong.get(key)
    with pytest.raises(MissingObject):
        open_site(azurite.url("p"), azurite.environment).get(key)
    absent = open_site(azurite.url("p").replace("az://exclave/", "az://nowhere/"), azurite.environment)
    with pytest.raises(SiteUnavailable, match="no bucket"):
        absent.stat(key)
    nobody = azurite.url("p").replace(azurite.endpoint, f"http://127.0.0.1:{free_ports(1)[0]}/exclavetest")
    with pytest.raises(SiteUnavailable) as caught:
        open_site(nobody, azurite.environment).get(key)
    assert KEY not in str(caught.value)


def test_keys(azurite: Azurite, tmp_path: Path) -> None:
    """The key comes from a private file or the one variable, and no key means no site."""
    path = tmp_path / "key.toml"
    path.touch(mode=0o600)
    path.write_text(f'account_key = "{KEY}"\n')
    site = open_site(f"{azurite.url('keys')}&credentials={path}", {})
    site.put_new(Key("object"), b"bytes")
    assert KEY not in site.address
    with pytest.raises(ConfigError, match="no key"):
        open_site(azurite.url("keys"), {})
    with pytest.raises(ConfigError):
        open_site(azurite.url("keys"), {"AZURE_STORAGE_ACCOUNT_KEY": "not base64!"}).get(Key("object"))

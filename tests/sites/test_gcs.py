"""A site in a bucket of Google Cloud Storage: what is sent, by a stand-in written from the API's description."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.errors import ConfigError, SiteReadOnly
from exclave.ids import Key
from exclave.sites.opening import open_site
from exclave.sites.probe import PROMISES, try_promise
from support.gcs_standin import standing_in


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with standing_in() as found:
        yield found


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A service account without a token service."""
    path = tmp_path / "account.json"
    path.touch(mode=0o600)
    told = {"client_email": "writer@exclave", "private_key": "", "private_key_id": "", "disable_oauth": True}
    path.write_text(json.dumps(told))
    return path


@pytest.mark.parametrize("name", PROMISES)
def test_promise(endpoint: str, account: Path, name: str) -> None:
    """With the requests that we send, a store that follows the API's description keeps this promise."""
    url = f"gs://exclave/{secrets.token_hex(8)}?endpoint={endpoint}&credentials={account}"
    promise = try_promise(open_site(url), name, token="t1")
    assert promise.kept, promise.detail


def test_without_keys(endpoint: str, account: Path) -> None:
    """A public bucket is read without any key, and never written: no key is looked for anywhere else."""
    prefix = secrets.token_hex(8)
    open_site(f"gs://exclave/{prefix}?endpoint={endpoint}&credentials={account}").put_new(Key("object"), b"bytes")
    reader = open_site(f"gs://exclave/{prefix}?endpoint={endpoint}&anonymous=yes")
    assert reader.get(Key("object")) == b"bytes"
    with pytest.raises(SiteReadOnly):
        reader.put_new(Key("other"), b"bytes")


def test_an_account_that_is_none(tmp_path: Path) -> None:
    """A file that is no service account is refused without a word of what is in it."""
    path = tmp_path / "account.json"
    path.touch(mode=0o600)
    for text in ('{"private_key": "hush-hush"}', "hush-hush", "[]"):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            open_site(f"gs://exclave/p?credentials={path}")
        assert "hush" not in str(caught.value)

"""From addresses to sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave.errors import ConfigError, KeyFileExposed
from exclave.sites.contract import Site
from exclave.sites.opening import open_site

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "ID", "AWS_SECRET_ACCESS_KEY": "hush-hush", "AZURE_STORAGE_ACCOUNT_KEY": "aHVzaC1odXNo",
}  # fmt: skip


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("/var/site", "dir:/var/site"),
        ("dir:/var/site", "dir:/var/site"),
        ("dir:/var/odd #name?x=%41", "dir:/var/odd #name?x=%41"),
        ("s3://bucket", "s3://bucket/?endpoint=https://s3.us-east-1.amazonaws.com&region=us-east-1"),
        (
            "s3://bucket/a/b/?region=eu-north-1",
            "s3://bucket/a/b?endpoint=https://s3.eu-north-1.amazonaws.com&region=eu-north-1",
        ),
        (
            "s3://bucket/a?endpoint=http://127.0.0.1:8333/&region=x",
            "s3://bucket/a?endpoint=http://127.0.0.1:8333&region=x",
        ),
        ("s3://bucket/a?endpoint=http%3A%2F%2F[::1]:8333", "s3://bucket/a?endpoint=http://[::1]:8333&region=us-east-1"),
        (
            "s3://bucket/a?lock_days=365&heads=other-bucket&lock=compliance",
            "s3://bucket/a?endpoint=https://s3.us-east-1.amazonaws.com&region=us-east-1&lock=compliance&lock_days=365"
            "&heads=other-bucket",
        ),
        ("az://box/a?account=embassy", "az://box/a?account=embassy&endpoint=https://embassy.blob.core.windows.net"),
        ("gs://bucket/a?anonymous=yes", "gs://bucket/a"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    """An address opens the site it names, and the site tells it again without secrets."""
    site = open_site(url, ENVIRONMENT)
    assert isinstance(site, Site)
    assert site.address == address
    keyless = "&anonymous=yes" if "?" in address else "?anonymous=yes"
    again = site.address + (keyless if address.startswith("gs:") else "")
    assert open_site(again, ENVIRONMENT).address == address
    assert "hush" not in repr(site)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relative/path",
        "dir:relative",
        "dir://host/path",
        "ftp://host/x",
        "file:///x",
        "s3:bucket",
        "s3://",
        "s3://B",
        "s3://id:hush-hush@bucket/x",
        "s3://bucket/UPPER",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://bucket/a#b",
        "s3://bucket/a?color=red",
        "s3://bucket/a?region",
        "s3://bucket/a?region=",
        "s3://bucket/a?region=x&region=y",
        "s3://bucket/a?endpoint=ftp://x",
        "s3://bucket/a?endpoint=https://id:hush-hush@x",
        "s3://bucket/a?endpoint=https://x:port",
        "s3://bucket/a?anonymous=no",
        "s3://bucket/a?anonymous=yes&credentials=/x",
        "s3://bucket/a?credentials=relative",
        "s3://bucket/a?credentials=/does/not/exist",
        "s3://bucket/a?authorities=/does/not/exist",
        "s3://bucket/a?lock=governance&lock_days=3",
        "s3://bucket/a?lock=compliance",
        "s3://bucket/a?lock=compliance&lock_days=0",
        "s3://bucket/a?lock=compliance&lock_days=36501",
        "s3://bucket/a?lock=compliance&lock_days=x",
        "s3://bucket/a?lock_days=3",
        "s3://bucket/a?heads=other",
        "s3://bucket/a?lock=compliance&lock_days=3&heads=bucket",
        "s3://bucket/a?lock=compliance&lock_days=3&heads=",
        "s3://bucket/a?lock=compliance&lock_days=3&heads=Other",
        "az://box/a",
        "az://box/a?account=UPPER",
        "az://b/a?account=embassy",
        "az://box--x/a?account=embassy",
        "az://id:hush-hush@box/a?account=embassy",
        "az://box/a?account=embassy&region=x",
        "az://box/a?account=embassy&anonymous=no",
        "az://box/a?account=embassy&credentials=relative",
        "gs://bucket/a",
        "gs://B/a?anonymous=yes",
        "gs://bucket/a?anonymous=yes&credentials=/x",
        "gs://bucket/a?credentials=/does/not/exist",
        "s3://[bad",
    ],
)
def test_impossible_addresses(url: str) -> None:
    """What cannot be a site's address is refused without repeating a secret that stands in it."""
    with pytest.raises(ConfigError) as caught:
        open_site(url, ENVIRONMENT)
    assert "hush" not in str(caught.value)


def test_no_keys() -> None:
    """Without keys a bucket is not opened; no other source of keys is asked over the network."""
    for environment in ({}, {"AWS_ACCESS_KEY_ID": "ID"}, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}):
        with pytest.raises(ConfigError, match="no keys"):
            open_site("s3://bucket", environment)
    assert open_site("s3://bucket?anonymous=yes", {}).address.startswith("s3://bucket/")


def test_credentials_file(tmp_path: Path) -> None:
    """Keys come from a private file of exactly two texts."""
    path = tmp_path / "keys.toml"
    path.touch(mode=0o600)
    path.write_text('access_key = "ID"\nsecret_key = "hush-hush"\n')
    site = open_site(f"s3://bucket?credentials={path}", {})
    assert "hush" not in site.address
    assert str(path) not in site.address
    path.chmod(0o640)
    with pytest.raises(KeyFileExposed):
        open_site(f"s3://bucket?credentials={path}", {})
    path.chmod(0o600)
    for text in (
        "",
        "access_key = 1",
        'access_key = "ID"\nsecret_key = ""',
        "hush-hush",
        'secret_key = "x"\nmore = "y"',
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            open_site(f"s3://bucket?credentials={path}", {})
        assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError):
        open_site(f"s3://bucket?credentials={tmp_path}", {})

"""Every promise of the contract, on every kind of site."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from exclave.errors import Bug, CorruptObject, MalformedError, MissingObject
from exclave.ids import Key, sha256
from exclave.serve.site_carried import Carriers
from exclave.sites.contract import MAX_HEAD_BYTES, MAX_OBJECT_BYTES, START_BYTES, Digested, Site, digest_of
from exclave.sites.directory import DirectorySite
from exclave.sites.memory import MemorySite
from exclave.sites.opening import open_site
from exclave.sites.probe import PROMISES, probe, try_promise
from exclave.sites.retry import RetryingSite
from exclave.sites.s3 import S3Keys, S3Place, S3Site
from support.gateway import HostPlace, Running, host_place, running_carriers, running_gateway
from support.hostile import FlippingSite, LyingSite, MissingSite, PassThrough
from support.s3_buckets import engine_of
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostPlace:
    """The folder of a host with a gateway."""
    return host_place(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def carriers(host: HostPlace) -> Iterator[Carriers]:
    """Two processes, as a host with two processors has them."""
    with running_carriers(host, 2) as running:
        yield running


@pytest.fixture
def gateway(host: HostPlace, carriers: Carriers) -> Iterator[Running]:
    """A gateway without objects."""
    rmtree(host.folder / "disk-north")
    (host.folder / "disk-north").mkdir()
    with running_gateway(host, carriers=carriers) as running:
        yield running


@pytest.fixture(params=["directory", "memory", "gateway", "s3", "s3-locked", "ceph", "ceph-locked"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """An empty site of each kind."""
    if request.param == "directory":
        return DirectorySite(str(tmp_path))
    if request.param == "memory":
        return MemorySite()
    if request.param == "gateway":
        return request.getfixturevalue("gateway").site()
    engine = engine_of(request.getfixturevalue("ceph" if request.param.startswith("ceph") else "seaweed"))
    prefix = secrets.token_hex(8)
    url = engine.locked_url(prefix) if request.param.endswith("locked") else engine.url(engine.shared("plain"), prefix)
    opened = open_site(url, engine.environment)
    assert isinstance(opened, RetryingSite)
    return opened.inner


@pytest.mark.parametrize("name", PROMISES)
def test_promise(site: Site, name: str) -> None:
    """The site keeps this promise."""
    promise = try_promise(site, name, token="t1")
    assert promise.kept, promise.detail


@pytest.mark.parametrize("name", ["round-trip", "write-once", "one-creator-wins", "other-bytes-found", "replace-if"])
def test_opened_s3_site(seaweed: Seaweed, tmp_path: Path, name: str) -> None:
    """A bucket opened by its address, with retries around it, keeps the promises that retries could break."""
    url = seaweed.url(secrets.token_hex(8), credentials=seaweed.credentials_file(tmp_path))
    promise = try_promise(open_site(url), name, token="t1")
    assert promise.kept, promise.detail


@pytest.mark.parametrize("name", ["listing", "names", "empty-object", "missing"])
@pytest.mark.parametrize("at_once", [0, 1, 3])
def test_s3_listing_by_folders(seaweed: Seaweed, name: str, at_once: int) -> None:
    """Listings that are too long to sort in memory keep the same promises, folder by folder."""
    place = S3Place("exclave-a", secrets.token_hex(8), seaweed.endpoint, "us-east-1")
    promise = try_promise(S3Site(place, S3Keys(ACCESS_KEY, SECRET_KEY), sorted_at_once=at_once), name, token="t1")
    assert promise.kept, promise.detail


def test_caller_duties(site: Site) -> None:
    """A caller that breaks its duties is told of a bug, whatever the kind of site."""
    key = Key("probe/x")
    for broken in (
        lambda: site.put_new(key, bytes(MAX_OBJECT_BYTES + 1)),
        lambda: site.put_same(key, bytes(MAX_OBJECT_BYTES + 1)),
        lambda: site.replace_if(key, bytes(MAX_HEAD_BYTES + 1), None),
        lambda: site.get_range(key, -1, 1),
        lambda: site.get_range(key, 0, MAX_OBJECT_BYTES + 1),
        lambda: list(site.list("probe")),
    ):
        with pytest.raises(Bug):
            broken()


@pytest.mark.parametrize("size", [0, 1, START_BYTES + 1, (256 << 10) + 1, 3 << 20])
def test_digest(site: Site, size: int) -> None:
    """What an object's bytes come to is the same at every kind of site, whether it digests by itself or not."""
    key, data = Key(f"probe/{size}"), secrets.token_bytes(size)
    site.put_new(key, data)
    found = digest_of(site, key, limit=size)
    assert found == Digested(sha256(data), size, data[:START_BYTES])
    assert digest_of(PassThrough(site), key) == found  # a source that cannot
    with pytest.raises(MissingObject):
        digest_of(site, Key("probe/absent"))
    if size:
        with pytest.raises(CorruptObject):
            digest_of(site, key, limit=size - 1)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "a/../b", ".tmp/x", "A", "", "a/", "a\n", "é"])
def test_no_name_leaves_the_site(site: Site, name: str) -> None:
    """A text that is no key is refused by every method before anything is touched."""
    key = Key(name)
    for call in (
        lambda: site.get(key),
        lambda: site.get_range(key, 0, 1),
        lambda: site.stat(key),
        lambda: site.put_new(key, b""),
        lambda: site.put_same(key, b""),
        lambda: site.read_head(key),
        lambda: site.replace_if(key, b"", None),
    ):
        with pytest.raises((MalformedError, Bug)):
            call()


def test_probe_runs_once_per_token() -> None:
    """A probe reports every promise; with a used token it finds its own remains."""
    site = MemorySite()
    assert [p.name for p in probe(site, token="one") if p.kept] == list(PROMISES)
    assert not all(p.kept for p in probe(site, token="one"))
    with pytest.raises(MalformedError):
        next(probe(site, token="../x"))


class _LastWriterWins(PassThrough):
    """A store without conditional writes, as many call themselves S3."""

    def __init__(self) -> None:
        super().__init__(MemorySite())
        self._objects: dict[Key, bytes] = {}

    def put_new(self, key: Key, data: bytes) -> None:
        self._objects[key] = data

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self._objects[key]


@pytest.mark.parametrize(
    ("bad", "broken"),
    [
        (_LastWriterWins, {"write-once", "one-creator-wins"}),
        (lambda: LyingSite(MemorySite()), {"round-trip", "replace-if", "one-first-head-wins"}),
        (lambda: FlippingSite(MemorySite()), {"round-trip", "large-object", "other-bytes-found"}),
        (lambda: MissingSite(MemorySite()), {"round-trip", "listing", "empty-object"}),
    ],
    ids=["unconditional", "lying", "flipping", "missing"],
)
def test_probe_finds_bad_stores(bad: object, broken: set[str]) -> None:
    """The probe names the promises that a bad store breaks."""
    site = bad()  # type: ignore[operator]
    found = {name for name in broken if not try_promise(site, name, token="t").kept}
    assert found == broken

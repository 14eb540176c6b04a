"""The gateway with its own client: states apart, quotas, uploads that go on, guards, a clean stop."""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exclave.errors import (
    AlreadyExists,
    ConfigError,
    CorruptObject,
    ExclaveError,
    KeyFileExposed,
    SiteFull,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.formats.hostconfig import parse_host_config
from exclave.ids import Key, sha256
from exclave.serve.site import read_hosting
from exclave.serve.site_contract import Duties, HostedState, Refusal, Write
from exclave.sites import gateway as client
from exclave.sites.gateway_wire import Wire
from exclave.sites.opening import open_site
from support.gateway import (
    NORTH,
    SOUTH,
    HostPlace,
    Running,
    client_certificate,
    host_place,
    running_gateway,
    wait_until,
)

MIB = 1 << 20
K = Key("a/object")


@pytest.fixture
def place(tmp_path: Path) -> HostPlace:
    return host_place(tmp_path)


@pytest.fixture(params=[1, 2], ids=["one-process", "two-carriers"])
def gateway(place: HostPlace, request: pytest.FixtureRequest) -> Iterator[Running]:
    with running_gateway(place, processes=request.param) as running:
        yield running


def test_states_are_apart(gateway: Running) -> None:
    """The same name is another object for another state, and no certificate opens another state's door."""
    north, south = gateway.site("north"), gateway.site("south")
    north.put_new(K, b"northern")
    assert south.stat(K) is None
    south.put_new(K, b"southern")
    assert (north.get(K), south.get(K)) == (b"northern", b"southern")
    url = gateway.place.url(gateway.port, "north").replace(NORTH, SOUTH)
    intruder = open_site(url)
    with pytest.raises(SiteReadOnly, match="another state"):
        intruder.put_new(Key("b"), b"x")
    assert sorted(item.key for item in south.list("")) == [K]


def test_anybody_reads_if_the_state_allows_it(tmp_path: Path) -> None:
    """A recovery has the address and the fingerprint; a state that wants it otherwise is read by its own alone."""
    with running_gateway(host_place(tmp_path, south="anonymous_reads = false")) as gateway:
        gateway.site("north").put_new(K, b"sealed")
        gateway.site("south").put_new(K, b"sealed")
        anybody = gateway.site("north", anonymous=True)
        assert anybody.get(K) == b"sealed"
        with pytest.raises(SiteReadOnly):
            anybody.put_new(Key("b"), b"x")
        with pytest.raises(SiteUnavailable, match="certificate"):
            gateway.site("south", anonymous=True).get(K)


def test_stranger_with_a_certificate_is_turned_away(gateway: Running) -> None:
    """A certificate that is not pinned ends the handshake, also one that a pinned certificate has signed."""
    folder = gateway.place.folder
    client_certificate(folder, "stranger")
    url = gateway.place.url(gateway.port).replace("north.", "stranger.")
    with pytest.raises(SiteUnavailable):
        open_site(url).stat(K)


def test_quota_holds_under_racing_writers(tmp_path: Path) -> None:
    """Writers that race for the last room get no more than there is, and the neighbour notices nothing."""
    place = host_place(tmp_path, north="quota_bytes = 1_000_000\nquota_objects = 50")
    with running_gateway(place) as gateway:
        site = gateway.site("north")

        def put(number: int) -> bool:
            try:
                site.put_new(Key(f"o/{number}"), bytes([number]) * 300_000)
            except SiteFull:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(put, range(8))) <= 3
        stored = sum(item.size_bytes for item in site.list(""))
        assert 0 < stored <= 1_000_000
        site.put_same(Key("o/small"), b"x" * 1000)
        gateway.site("south").put_new(K, b"y" * 900_000)
    hosted = next(state for state in read_hosting(place.config, str(tmp_path)).states if state.name == "north")
    wait_until(lambda: not hosted.usage.counting, "the folder is counted")
    assert (hosted.usage.bytes_used, hosted.usage.objects_used) == (stored + 1000, stored // 300_000 + 1)


def test_object_quota(tmp_path: Path) -> None:
    """Many empty objects fill a state too; heads that are replaced take no further place."""
    with running_gateway(host_place(tmp_path, north="quota_bytes = 1000\nquota_objects = 3")) as gateway:
        site = gateway.site()
        tag = site.replace_if(Key("head"), b"1", None)
        site.put_new(Key("a"), b"")
        site.put_new(Key("b"), b"")
        with pytest.raises(SiteFull):
            site.put_new(Key("c"), b"")
        for text in (b"2", b"3", b"4"):
            tag = site.replace_if(Key("head"), text, tag)
        assert site.stat(Key("c")) is None


def test_recount_finds_what_a_lost_record_forgot(tmp_path: Path) -> None:
    """Without its record, or with a wrong one, the next start counts what is there."""
    place = host_place(tmp_path)
    with running_gateway(place) as gateway:
        gateway.site().put_new(K, b"x" * 5000)
    record = tmp_path / "disk-north" / ".tmp" / "usage"
    for text in (b"exclave usage 1\nbytes 1\nobjects 77\n", b"rubbish", None):
        record.unlink()
        if text is not None:
            record.write_bytes(text)
        hosted = read_hosting(place.config, str(tmp_path)).states[0]
        wait_until(lambda state=hosted: not state.usage.counting, "the folder is counted")  # type: ignore[misc]
        assert (hosted.usage.bytes_used, hosted.usage.objects_used) == (5000, 1)


def _cut(gateway: Running, data: bytes, sent: int) -> None:
    """Sends the first ``sent`` bytes of an upload of ``data``, and vanishes."""
    wire = Wire(gateway.site()._pool._peer)
    digest = base64.b64encode(sha256(data)).decode()
    headers = {"Exclave-Write": "new", "Repr-Digest": f"sha-256=:{digest}:", "Content-Length": str(len(data))}
    wire.begin("PUT", f"/v1/{NORTH}/o/{K}", headers, "127.0.0.1", 60)
    wire.send_body(memoryview(data)[:sent])
    wire.close()
    wait_until(lambda: gateway.counts.now().answers.get((NORTH, "PUT", 0)) == 1, "the server has noticed")


def test_upload_goes_on_where_it_broke_off(gateway: Running) -> None:
    """After a cut in the middle only the rest is sent, and the whole object is what was meant."""
    data = os.urandom(8 * MIB)
    _cut(gateway, data, 5 * MIB + 1234)
    site = gateway.site()
    digest = sha256(data)
    offset = site._uploaded(K, digest)
    assert offset == 5 * MIB
    site._broken[digest] = None
    site.put_new(K, data)
    wait_until(lambda: gateway.counts.now().bytes_in[NORTH] == 5 * MIB + len(data) - offset, "it is counted")
    assert site.get(K) == data
    assert site._uploaded(K, digest) == 0
    assert not list((gateway.place.folder / "disk-north" / ".tmp").glob("upload-*"))


def test_upload_whose_start_was_spoilt_begins_anew(gateway: Running) -> None:
    """Bytes that a power failure left wrong are found before the object has its name, and the next try is whole."""
    data = os.urandom(8 * MIB)
    _cut(gateway, data, 5 * MIB)
    site, digest = gateway.site(), sha256(data)
    assert site._uploaded(K, digest) == 5 * MIB
    kept = gateway.place.folder / "disk-north" / ".tmp" / f"upload-{digest.hex()}"
    with kept.open("r+b") as file:
        file.write(b"\0" * 4096)
    site._broken[digest] = None
    with pytest.raises(ExclaveError, match="SHA-256"):
        site.put_new(K, data)
    assert site.stat(K) is None
    assert not kept.exists()
    site.put_new(K, data)
    assert site.get(K) == data


def test_upload_file_that_is_an_object_is_not_written_to(gateway: Running) -> None:
    """A crash between naming and unnaming leaves a file with two names: a later upload must not go on in it."""
    data = os.urandom(4 * MIB)
    site = gateway.site()
    site.put_new(K, data)
    folder, digest = gateway.place.folder / "disk-north", sha256(data)
    os.link(folder / K, folder / ".tmp" / f"upload-{digest.hex()}")
    assert site._uploaded(K, digest) == 0
    site.put_new(Key("b/copy"), data)
    assert (site.get(K), site.get(Key("b/copy"))) == (data, data)


def test_wrong_bytes_never_get_a_name(gateway: Running) -> None:
    """What does not come to the told SHA-256 is refused, whole or not."""
    site = gateway.site()
    head = {"Exclave-Write": "new", "Repr-Digest": f"sha-256=:{'A' * 43}=:"}
    told = site._send(K, memoryview(b"bytes"), head)
    assert told.status == 422
    assert site.stat(K) is None


def test_a_name_that_is_a_hash_is_told_as_it_is(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large object under its own SHA-256 is hashed by the host alone; under another's it is hashed here after all."""
    site, data = gateway.site(), os.urandom(2 * MIB)
    right, wrong = Key(f"pack/{sha256(data).hex()}"), Key(f"pack/{'0' * 64}")
    with monkeypatch.context() as patched:
        patched.setattr(client, "sha256", lambda _data: pytest.fail("hashed for nothing"))
        site.put_same(right, data)
    for _ in range(2):
        site.put_same(wrong, data)
    assert (site.get(right), site.get(wrong)) == (data, data)
    with pytest.raises(CorruptObject):
        site.put_same(wrong, bytes(2 * MIB))


def test_guard_is_asked_before_and_after_the_bytes(place: HostPlace) -> None:
    """A refusal names itself to the writer; one that comes while bytes arrive holds too; what is written is told."""
    asked: list[Write] = []
    told: list[Write] = []

    def guard(write: Write) -> Refusal | None:
        asked.append(write)
        if write.key == "ended" or (write.key == "late" and write.data is not None):
            return Refusal("not-now", "a later epoch has the pen")
        return None

    def written(_state: HostedState, write: Write) -> None:
        told.append(write)

    with running_gateway(place, Duties(guards=[guard], written=[written])) as gateway:
        site = gateway.site()
        for key in ("ended", "late"):
            with pytest.raises(SiteReadOnly, match="later epoch") as caught:
                site.put_new(Key(key), b"x")
            assert caught.value.facts["refusal"] == "not-now"
            assert site.stat(Key(key)) is None
        site.put_new(K, b"good")
        site.replace_if(Key("head"), b"1", None)
    assert [(w.key, w.data) for w in asked if w.key == K] == [(K, None), (K, b"good")]
    assert [(w.key, w.kind.value, w.data) for w in told] == [(K, "new", b"good"), ("head", "replace", b"1")]
    assert {w.who for w in asked} == {
        hashlib.sha256(ssl.PEM_cert_to_DER_cert((place.folder / "north.pem").read_text())).hexdigest()
    }


def test_stop_lets_a_running_upload_finish(place: HostPlace) -> None:
    """A stop ends idle connections at once, and the write that is under way is answered."""
    data, reached, go_on = os.urandom(2 * MIB), threading.Event(), threading.Event()

    def guard(write: Write) -> Refusal | None:
        reached.set()
        assert go_on.wait(60)
        return None

    with running_gateway(place, Duties(guards=[guard])) as gateway, ThreadPoolExecutor(2) as pool:
        put = pool.submit(gateway.site().put_new, K, data)
        assert reached.wait(60)
        stopped = pool.submit(gateway.gateway.stop, within_s=60)
        wait_until(lambda: not _connects(gateway), "nobody else is let in")
        go_on.set()
        put.result(60)
        stopped.result(60)
    assert (place.folder / "disk-north" / K).read_bytes() == data


def _connects(gateway: Running) -> bool:
    try:
        gateway.site(timeout_s=5).stat(K)
    except SiteUnavailable:
        return False
    return True


def test_kept_bytes_are_plain_files(gateway: Running) -> None:
    """What the gateway keeps is the same as a directory site: its operator can hand it over as it is."""
    site = gateway.site()
    site.put_new(K, b"bytes")
    assert list(open_site(f"dir:{gateway.place.folder}/disk-north").list("")) == list(site.list(""))


def test_long_listings_come_in_pages(gateway: Running) -> None:
    """More names than a page has are all there, once and in order, with folders that begin alike."""
    folder = gateway.place.folder / "disk-north"
    names = [f"{head}/{number:04}" for head in ("a", "a-b", "a.c", "a0") for number in range(600)] + ["a1"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert [item.key for item in gateway.site().list("")] == sorted(names)
    assert [item.key for item in gateway.site().list("a-b/")] == sorted(n for n in names if n.startswith("a-b/"))


@pytest.mark.parametrize("end", [AlreadyExists, CorruptObject])
def test_no_bytes_are_sent_for_what_is_there(gateway: Running, end: type[ExclaveError]) -> None:
    """A large object whose name is taken costs no transfer."""
    site, data = gateway.site(), os.urandom(MIB)
    site.put_new(K, data)
    site.put_same(K, data)
    with pytest.raises(end):
        (site.put_new if end is AlreadyExists else site.put_same)(K, os.urandom(MIB))
    site.close()
    wait_until(lambda: gateway.counts.now().connections[NORTH] == 0, "all is counted")
    assert gateway.counts.now().bytes_in[NORTH] == MIB


BROKEN = {
    "no folder": ('folder = "disk-north"', 'folder = "disk-none"', "is not there"),
    "one in the other": ('folder = "disk-north"', 'folder = "disk-south/in"', "lies in that of"),
    "the host's own": ('folder = "disk-north"', 'folder = "."', "lies in"),
    "its key": ('key = "server.key"', 'key = "disk-north/server.key"', "server.key lies in the folder of state north"),
    "its memory": ("[limits]", '[duties]\nmemory = "disk-south/m"\n[limits]', "disk-south/m lies in the folder"),
    "same certificate": ('certificates = ["north.pem"]', 'certificates = ["south.pem"]', "same certificate"),
    "no certificate": ('certificates = ["north.pem"]', 'certificates = ["host.toml"]', "certificate"),
    "two in a file": ('certificates = ["north.pem"]', 'certificates = ["both.pem"]', "not 2"),
    "foreign key": ('key = "server.key"', 'key = "north.key"', "does not belong"),
    "same state": (SOUTH, NORTH, "same fingerprint"),
    "unknown word": ("[limits]", "[limits]\nfree = 1", "limits: unknown key `free`"),
    "no states": ("[[state]]", "[[unknown]]", "unknown"),
    "port": ("127.0.0.1:0", "127.0.0.1:70000", "is not address:port"),
}


@pytest.mark.parametrize("folder", [".", "..", "link"])
def test_no_key_of_the_host_is_shown(place: HostPlace, folder: str) -> None:
    """One state, whose folder is by mistake the one with host.toml, one above it, or a link to it: nothing starts, or
    anybody could read the host's keys by their names."""
    (place.folder / "link").symlink_to(place.folder)
    text = place.folder.joinpath("host.toml").read_text().replace('"disk-north"', f'"{folder}"')
    one = text[: text.rindex("[[state]]")]
    with pytest.raises(ConfigError, match="lies in the folder of state north, which readers are shown"):
        read_hosting(parse_host_config(one.encode()), str(place.folder))


@pytest.mark.parametrize("what", BROKEN)
def test_start_says_what_is_wrong(place: HostPlace, what: str) -> None:
    """Each mistake in the host's file is named before anything listens."""
    old, new, said = BROKEN[what]
    (place.folder / "disk-south" / "in").mkdir()
    both = (place.folder / "north.pem").read_bytes() + (place.folder / "south.pem").read_bytes()
    (place.folder / "both.pem").write_bytes(both)
    text = (place.folder / "host.toml").read_text().replace(old, new)
    with pytest.raises(ConfigError, match=said):
        read_hosting(parse_host_config(text.encode()), str(place.folder))


def test_start_refuses_a_key_that_others_can_read(place: HostPlace) -> None:
    """The host's TLS key is private."""
    (place.folder / "server.key").chmod(0o644)
    with pytest.raises(KeyFileExposed):
        read_hosting(place.config, str(place.folder))

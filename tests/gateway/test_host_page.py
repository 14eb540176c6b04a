"""What a host's operator sees: disk, health, duties and quotas by number, and nothing else."""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from exclave.errors import SiteUnavailable
from exclave.formats.hostconfig import HostedConfig, parse_host_config
from exclave.formats.tile import checkpoint_key
from exclave.ids import Key, Label, now, sha256
from exclave.keys.file import KeyKind, create
from exclave.ledger.witness_client import WitnessClient
from exclave.operations.home import key_card
from exclave.operations.host_scrub import scrub_host
from exclave.serve import host_watch
from exclave.serve.host_start import running_host
from exclave.serve.host_watch import HostWatch
from exclave.serve.site import Gateway, read_hosting
from exclave.serve.site_contract import HostedState
from exclave.serve.site_counts import GatewayCounts
from exclave.serve.site_usage import FolderUsage
from exclave.sites.arriving import ArrivingSite
from support.gateway import NORTH, HostPlace, host_place
from support.hosted import Hosted
from support.login_browser import running_chromium

DUTIES = '[duties]\nmemory = "memory"\npage = "127.0.0.1:0"\nwitness_key = "w.key"\nmirror_key = "m.key"\n'


CONFIG = HostedConfig("x", "0" * 64, "x", ("x.pem",), 1 << 30)


class Host:
    """A whole host in this process: gateway, duties, watch and page."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.state = Hosted(root / "state")
        (root / "host").mkdir()
        self.place: HostPlace = host_place(root / "host")
        self.keys = {}
        for name in ("w", "m"):
            key = create(
                str(self.place.folder / f"{name}.key"),
                KeyKind.WITNESS,
                Label(f"lux-{name}"),
                seed=sha256(name.encode()),
            )
            self.keys[name] = key_card(key)
        config = self.place.folder / "host.toml"
        text = config.read_text().replace('"disk-north"', f'"{self.state.folder}"')
        config.write_text(text.replace(NORTH, self.state.state.state) + DUTIES)
        hosting = read_hosting(parse_host_config(config.read_bytes()), str(self.place.folder))
        self.counts, said = GatewayCounts(), list[str]()
        duties = stack.enter_context(running_host(hosting, self.place.folder, self.counts, now, said.append))
        self.gateway = Gateway(hosting, duties, self.counts)
        self.port = self.gateway.start(("127.0.0.1", 0))
        stack.callback(self.gateway.stop, within_s=0)
        self.page = re.search(r"http://\S+", said[0])[0]  # type: ignore[index]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.page + path, headers=headers, trust_env=False, timeout=30)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        yield Host(tmp_path, stack)


def until(what: object, limit_s: float = 60) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + limit_s
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_page_shows_numbers_and_no_names(host: Host) -> None:
    """Space and duties of each state by number; no name, fingerprint, register, object or address of anybody."""
    host.place.site(host.port, "south").put_same(Key("probe/x"), b"data" * 1000)
    page, metrics = host.get("/").text, host.get("/metrics").text
    for text in (page, metrics):
        for secret in ("north", "south", str(host.state.state.state), host.state.state.register, "probe", "pack"):
            assert secret not in text
    assert "Host lux" in page
    assert "Orders to delete" in page
    assert re.search(r'exclave_host_used_objects\{state="1"\} [1-9]', metrics)
    assert re.search(r'exclave_host_answers_total\{method="PUT",state="2",status="201"\} 1', metrics)


def test_health_says_what_is_wrong(host: Host) -> None:
    """Well: 200 and ok. A wrong object found by the host's own reading, or a folder gone: 503 and why."""
    until(lambda: host.get("/health").text == "ok\n")
    until(lambda: "due" not in host.get("/").text.replace("fault", ""))
    os.rename(host.place.folder / "disk-south", host.place.folder / "gone")
    answer = host.get("/health")
    assert answer.status_code == 503
    assert "state 2: its folder cannot be read" in answer.text
    os.rename(host.place.folder / "gone", host.place.folder / "disk-south")
    assert host.get("/health").status_code == 200


def test_the_hosts_own_reading_finds_a_flipped_bit(tmp_path: Path) -> None:
    """An object that no longer has its name's hash is counted on the page, and it is not touched."""
    state = Hosted(tmp_path)
    spoilt = next(path for path in (state.folder / state.state.state).rglob("*") if path.parent.name == "box")
    data = spoilt.read_bytes()
    spoilt.chmod(0o644)
    spoilt.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = scrub_host(state.site)
    assert (found.wrong, found.foreign, found.objects > 10) == (1, 0, True)
    assert found.names[0].endswith(spoilt.name)
    assert spoilt.read_bytes() != data


def test_another_name_reads_nothing(host: Host) -> None:
    """A web site that points its own name at the loopback address gets no page through the operator's browser."""
    for path in ("/", "/health", "/metrics"):
        assert host.get(path, host="evil.example").status_code == 421
    assert host.get("/other").status_code == 404
    assert httpx.post(host.page, trust_env=False).status_code == 405


def test_witness_and_mirror_answer_at_the_states_address(host: Host) -> None:
    """A writer's ordinary client gets the witness's cosignatures, and the mirror's on what lies here."""
    epoch = host.state.view.find(host.state.state.register, host.state.state.epochs[0].note.epoch)
    reader = host.state.view.log(epoch)
    tree = reader.tree(reader.head())
    trusted = ssl.create_default_context(cafile=host.place.folder / "ca.pem")
    base = f"https://127.0.0.1:{host.port}/v1/{host.state.state.state}"
    with httpx.Client(verify=trusted, trust_env=False) as client:
        for name, path in (("w", "witness"), ("m", "held")):
            signatures = WitnessClient(f"{base}/{path}", host.keys[name], client).cosign(tree)
            assert {s.name for s in signatures} == {f"lux-{name}"}
        log = sha256(reader.origin.encode()).hex()
        shown = client.get(f"{base}/mirror/{log}/checkpoint")
        assert shown.status_code == 200
        assert reader.verify(shown.content, [host.keys["m"]]).cosigners
        bundle = client.get(f"{base}/mirror/{log}/tile/entries/000.p/3")
        assert bundle.content == host.state.site.get(Key(f"{reader.prefix}tile/entries/000.p/3"))
        assert client.get(f"{base}/mirror/{log}/../../x").status_code in (400, 404)
        assert client.post(f"{base}/mirror/add-entries", content=b"\0\1x" + bytes(18)).status_code == 401
    assert host.state.site.read_head(checkpoint_key(reader.prefix)) is not None


def test_the_page_in_a_browser(host: Host, tmp_path: Path) -> None:
    """It fits a telephone and a desk, without scripts, and asks nothing of any other server."""

    until(lambda: host.get("/health").text == "ok\n")
    with running_chromium() as browser:
        asked: list[str] = []
        for width in (390, 1280):
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: pytest.fail(message.text) if message.type == "error" else None)
            page.goto(host.page)
            assert page.get_by_text("All is well.").is_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=tmp_path / f"host-{width}.png", full_page=True)
    assert all(url.startswith(host.page) for url in asked)


def watch_of(state: Hosted, folder: Path) -> HostWatch:
    usage = FolderUsage(str(state.folder), ArrivingSite(str(state.folder)), CONFIG, 0)
    hosted = HostedState(
        Label("x"), state.state.state, str(state.folder), ArrivingSite(str(state.folder)), CONFIG, usage
    )
    return HostWatch((hosted,), {}, folder, 30, False, lambda: state.state.time, lambda: 0)


def test_a_look_that_fails_is_told_and_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in the thread that looks after clock and orders makes the host ill, until a look succeeds."""
    watch = watch_of(Hosted(tmp_path), tmp_path)
    ill = "looking after clock and orders failed: the journal of the service says why"
    seen: list[bool] = []

    def step(_: HostWatch) -> None:
        seen.append(ill in watch.look().faults)
        if len(seen) == 1:
            raise ZeroDivisionError
        watch.stop()

    monkeypatch.setattr(host_watch, "LOOK_S", 0.0)
    monkeypatch.setattr(HostWatch, "step", step)
    watch.run()
    assert seen == [False, True]
    assert ill not in watch.look().faults


def test_a_reading_that_does_not_come_to_its_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not even list what it keeps is a fault of the host, and not a reading that is late."""
    state = Hosted(tmp_path)
    watch = watch_of(state, tmp_path)

    def failing(*_: object) -> None:
        raise SiteUnavailable("the disk cannot list a folder: Input/output error")

    monkeypatch.setattr(host_watch, "scrub_host", failing)
    watch._scrub_all()
    assert "state 1: its objects cannot all be read" in watch.look().faults
    monkeypatch.undo()
    watch._tried.clear()
    watch._scrub_all()
    assert "state 1: its objects cannot all be read" not in watch.look().faults


def test_a_folder_that_is_gone_is_no_fault_of_ours(tmp_path: Path) -> None:
    """A write to a state whose disk was unmounted is told to come again."""
    usage = FolderUsage(str(tmp_path / "gone"), ArrivingSite(str(tmp_path / "gone")), CONFIG, 0)
    with pytest.raises(SiteUnavailable), usage.room(Key("probe/x"), 1):
        pass

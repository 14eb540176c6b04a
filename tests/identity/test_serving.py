"""``exclave serve identity`` as processes: health, metrics, stopping, workers, a shared state, and clear refusals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from exclave.demo.pki import pem
from exclave.formats.journal import Confirmed, Issued, Responder, serial_bytes
from exclave.ids import Label, now
from exclave.operations.identity_kit import KitWishes, request_kit
from exclave.runners.ports import free_port
from support.login_site import web_eid_token
from support.moving_places import MovingPlaces, issuer, pki
from support.postgres import running_server
from support.small_home import command, run

CARD = pki().first.card()
CALLBACK = "http://127.0.0.1:9/cb"


def _until(holds: Callable[[], Any], seconds: float = 20) -> Any:
    """What ``holds`` gives once it is true."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends, "it did not come to be"
        time.sleep(0.05)
    return found


class Serving:
    """A place's process. Its log is a file."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.folder, self.log = folder, folder / f"serve-{now()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command("serve", "identity", "--dir", str(folder), *more), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.log.read_text()

    def ready(self) -> Serving:
        _until(lambda: "identity services of" in self.said or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        return self

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(25)


@contextlib.contextmanager
def serving(folder: Path, *more: str) -> Iterator[Serving]:
    made = Serving(folder, *more)
    try:
        yield made.ready()
    finally:
        if made.process.poll() is None:
            made.process.terminate()
            try:
                made.process.wait(25)
            except subprocess.TimeoutExpired:
                made.process.kill()
                made.process.wait(10)


class Served:
    """A state with settings, a relying service and a kit at home; ports of both places."""

    def __init__(self, root: Path) -> None:
        self.state = MovingPlaces(root).made()
        self.ports = {name: (free_port(), free_port()) for name in ("home", "lux")}
        for name, (status, login) in self.ports.items():
            self.state.configure(self.state.at(name), "127.0.0.1:8421", f"127.0.0.1:{status}")
            self.state.configure(self.state.at(name), "127.0.0.1:8422", f"127.0.0.1:{login}")
            self.state.configure(self.state.at(name), "[[site]]", "poll_s = 0.2\nverify_s = 0.5\n\n[[site]]")
        self.issuer = f"http://localhost:{self.ports['home'][1]}"
        self.settings("Demo")
        added = self.state.small.ok(
            "identity", "service", "add", "tax", "--name", "en=Tax", "--redirect-uri", CALLBACK, "--dir",
            str(self.state.at_home),
        )  # fmt: skip
        self.secret = added["secret"]
        self.state.small.ok("identity", "enter", "--dir", str(self.state.at_home))
        self._kit()

    def settings(self, name: str, languages: str = '["en"]') -> None:
        (self.state.at_home / "identity.toml").write_text(
            f'issuer = "{self.issuer}"\nsecure_cookies = false\nlanguages = {languages}\n[state_name]\nen = "{name}"\n'
        )

    def _kit(self) -> None:
        with self.state.place("home") as place:
            wishes = KitWishes("EE", "Demo", rungs=2)
            made = request_kit(
                place.keys, place.store, Label("home"), self.state.root / "kit", wishes, now=now(), say=lambda _: None
            )
            for row in made.requests:
                request = x509.load_pem_x509_csr((self.state.root / "kit" / row.file).read_bytes())
                certificate = pki().first.certify(request, begin=row.window.begin, days=45)
                place.writer.enter([Responder(issuer(), "home", certificate.public_bytes(Encoding.DER))])
            serial = serial_bytes(CARD.serial)
            place.writer.enter([made.place_keys, Issued(issuer(), (serial,)), Confirmed(issuer(), now(), 0)])

    def url(self, path: str, at: str = "home") -> str:
        return f"http://127.0.0.1:{self.ports[at][1]}{path}"

    def get(self, path: str, at: str = "home") -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=10) as client:
            return client.get(self.url(path, at))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("serving") / "state")


@pytest.fixture(scope="module")
def home(served: Served) -> Iterator[Serving]:
    with serving(served.state.at_home) as made:
        yield made


def test_health(served: Served, home: Serving) -> None:
    """Alive, ready, and deciding; what a load balancer is told is no secret, and is never stored."""
    assert served.get("/health/live").text == "ok\n"
    _until(lambda: served.get("/health/ready").json()["problem"] == "")
    for path in ("/health/ready", "/health/decides"):
        answer = served.get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        told = answer.json()
        assert (told["place"], told["state"], told["epoch"], told["decides"]) == ("home", "home", 1, True)
        assert set(told) == {"place", "state", "epoch", "decides", "entries", "problem"}
    assert served.get("/statement/gap").status_code == 404
    assert served.get("/nothing").status_code == 404
    discovery = served.get("/.well-known/openid-configuration").json()
    assert discovery["issuer"] == served.issuer


def test_certificate_status(served: Served, home: Serving) -> None:
    """OpenSSL gets a good answer at the other address."""
    folder = served.state.root
    (folder / "ca.pem").write_bytes(pem(pki().first.certificate))
    (folder / "card.pem").write_bytes(pem(CARD.certificate))
    asked = subprocess.run(
        ["openssl", "ocsp", "-issuer", folder / "ca.pem", "-cert", folder / "card.pem", "-CAfile", folder / "ca.pem",
         "-partial_chain", "-url", f"http://127.0.0.1:{served.ports['home'][0]}/"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Response verify OK" in asked.stderr
    assert "card.pem: good" in asked.stdout


def _metrics(served: Served, at: str = "home") -> dict[str, float]:
    answer = served.get("/metrics", at)
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics(served: Served, home: Serving) -> None:
    """What operators watch has sane values."""
    found = _until(lambda: m if (m := _metrics(served))["exclave_identity_failing"] == 0 else None)
    assert 0 <= found["exclave_identity_age_seconds"] < 10
    assert found["exclave_identity_entries"] >= 7
    assert found["exclave_identity_epoch"] == 1
    states = {name: value for name, value in found.items() if name.startswith("exclave_identity_state")}
    assert len(states) == 4
    assert sum(states.values()) == states['exclave_identity_state{state="home"}'] == 1
    assert any(name.startswith("exclave_ocsp") for name in found), sorted(found)


def test_a_second_process_is_refused(served: Served, home: Serving) -> None:
    """Two that send one journal would fight: the second ends at once and says why; the first goes on."""
    second = Serving(served.state.at_home)
    assert second.process.wait(20) == 43
    assert "are served by another process" in second.said
    assert "Traceback" not in second.said
    assert served.get("/health/live").status_code == 200


@pytest.mark.parametrize("which", [0, 1], ids=["status", "login"])
def test_an_address_that_is_taken(served: Served, home: Serving, which: int) -> None:
    """It ends with one clear sentence and its own code, whichever of its addresses it is."""
    lux, text = served.state.at("lux"), (served.state.at("lux") / "place.toml").read_text()
    mine, taken = served.ports["lux"][which], served.ports["home"][which]
    served.state.configure(lux, f"127.0.0.1:{mine}", f"127.0.0.1:{taken}")
    try:
        made = Serving(lux)
        assert made.process.wait(20) == 2, made.said
    finally:
        (lux / "place.toml").write_text(text)
    assert f"cannot listen at 127.0.0.1:{taken}" in made.said
    assert "Traceback" not in made.said


def test_a_socket_that_cannot_be_made(served: Served, tmp_path: Path) -> None:
    """The folder of the card door's socket is missing."""
    lux, text = served.state.at("lux"), (served.state.at("lux") / "place.toml").read_text()
    served.state.configure(lux, "[serve]", f'[serve]\ncard_socket = "unix:{tmp_path}/none/door.sock"')
    try:
        made = Serving(lux)
        assert made.process.wait(20) == 2, made.said
    finally:
        (lux / "place.toml").write_text(text)
    assert "cannot listen at unix:" in made.said
    assert "Traceback" not in made.said


def test_wrong_folders(tmp_path: Path) -> None:
    """No place, or one whose file says something impossible: refused before anything is served."""
    assert run("serve", "identity", "--dir", str(tmp_path)).code == 2
    (tmp_path / "place.toml").write_text("place = 1\n")
    said = run("serve", "identity", "--dir", str(tmp_path))
    assert said.code == 3
    assert "place.toml" in said.err


def test_settings_that_change(served: Served, home: Serving) -> None:
    """What is entered by another process counts in the one that runs, without a restart."""
    assert served.get("/.well-known/openid-configuration").json()["ui_locales_supported"] == ["en"]
    served.settings("Renamed", '["en", "et"]')
    served.state.small.ok("identity", "enter", "--dir", str(served.state.at_home))
    _until(lambda: served.get("/.well-known/openid-configuration").json()["ui_locales_supported"] == ["en", "et"])
    served.settings("Demo")
    served.state.small.ok("identity", "enter", "--dir", str(served.state.at_home))
    _until(lambda: served.get("/.well-known/openid-configuration").json()["ui_locales_supported"] == ["en"])


def test_an_embassy_stands_by(served: Served, home: Serving) -> None:
    """It follows what home sends, and says that it decides nothing."""
    with serving(served.state.at("lux")):
        told = _until(lambda: (r := served.get("/health/ready", "lux")).status_code == 200 and r.json())
        assert (told["state"], told["decides"]) == ("standby", False)
        assert served.get("/health/decides", "lux").status_code == 503
        _until(
            lambda: (
                served.get("/health/ready", "lux").json()["entries"] == served.get("/health/ready").json()["entries"]
            )
        )
        assert _metrics(served, "lux")['exclave_identity_state{state="standby"}'] == 1
        answer = httpx.post(served.url("/oidc/token", "lux"), data={"grant_type": "authorization_code"})
        assert answer.status_code == 503


def test_a_request_in_flight_ends_well(served: Served, tmp_path: Path) -> None:
    """SIGTERM: nothing new is taken, what was begun is answered, and the process ends by itself with code 0."""
    served.state.ok(["backup", *served.state.small.home])
    lux = served.state.at("lux")
    with serving(lux) as made:
        _until(lambda: served.get("/.well-known/openid-configuration", "lux").status_code != 404)
        body = b"grant_type=authorization_code&code=" + b"A" * 43
        with socket.create_connection(("127.0.0.1", served.ports["lux"][1])) as slow:
            head = f"POST /oidc/token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            slow.sendall(head.encode() + b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + body[:10])
            time.sleep(0.3)
            made.process.terminate()
            time.sleep(0.5)
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", served.ports["lux"][1]), 1).close()
            slow.sendall(body[10:])
            slow.settimeout(10)
            answer = slow.recv(65_536)
        assert re.match(rb"HTTP/1.1 (503|400|401) ", answer), answer[:200]
        assert made.process.wait(20) == 0
        assert "Traceback" not in made.said


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.slow
def test_workers(served: Served) -> None:
    """Two processes share the addresses; a killed worker comes back; when the first ends, all end."""
    lux, text = served.state.at("lux"), (served.state.at("lux") / "place.toml").read_text()
    served.state.configure(lux, "[serve]", "[serve]\nworkers = 2")
    try:
        with serving(lux) as made:
            worker = _until(lambda: _children(made.process.pid))[0]
            _until(lambda: made.said.count("identity services of lux") == 2)
            os.kill(worker, signal.SIGKILL)
            other = _until(lambda: [c for c in _children(made.process.pid) if c != worker])[0]
            _until(lambda: "a worker ended with -9; another one is started" in made.said)
            _until(lambda: made.said.count("identity services of lux") == 3)
            for _ in range(20):  # connections go to both
                assert served.get("/health/live", "lux").status_code == 200
            assert made.stop() == 0
            assert not Path(f"/proc/{other}").exists()
    finally:
        (lux / "place.toml").write_text(text)


@pytest.mark.slow
def test_a_bare_machine_serves(tmp_path: Path) -> None:
    """Nothing stood by there, and no file says what the place is: failover writes one, starts the services, and they
    decide. In a network of its own, since it takes the usual ports."""
    state = MovingPlaces(tmp_path / "state", served=True).made()
    state.enter(Confirmed(issuer(), now(), 0))
    state.step("home")
    bare, granted = tmp_path / "bare", state.small.granted("failover")
    arguments = ["failover", "run", *state.small.where(), *granted, "--dir", str(bare), "--json"]
    alone = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command(*arguments)]
    done = subprocess.run(alone, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    try:
        assert "no identity services stood by here" in done.stderr
        (service,) = json.loads(done.stdout)["services"]
        inside = ["nsenter", f"--net=/proc/{service['pid']}/ns/net"]
        asked = subprocess.run(
            [*inside, "curl", "-s", "http://127.0.0.1:8422/health/decides"], capture_output=True, text=True, check=True
        )
        told = json.loads(asked.stdout)
        assert (told["state"], told["epoch"], told["decides"], told["entries"]) == ("exile", 2, True, 3)
        again = subprocess.run(alone, capture_output=True, text=True, timeout=120, check=False)
        assert again.returncode == 0, again.stderr
    finally:
        assert run("failover", "stop", "--dir", str(bare)).code == 0
    assert state.small.verify()["ok"]


# Two servers side by side, one PostgreSQL


def _log_in(served: Served, first: str, second: str) -> dict[str, Any]:
    """A log-in of which each step goes to the other server; the token endpoint's answer."""
    origin = {"origin": served.issuer}
    jar: dict[str, str] = {}

    def ask(method: str, at: str, path: str, **more: Any) -> httpx.Response:
        headers = {**more.pop("headers", {}), "cookie": "; ".join(f"{k}={v}" for k, v in jar.items())}
        with httpx.Client(trust_env=False, timeout=10) as client:
            answer = client.request(method, at + path, headers=headers, **more)
        jar.update(answer.cookies)
        return answer

    begun = ask("GET", first, "/oidc/authorize", params={
        "client_id": "tax", "redirect_uri": CALLBACK, "response_type": "code", "scope": "openid", "state": "s" * 20,
        "nonce": "n" * 20,
    })  # fmt: skip
    assert begun.status_code in (302, 303), begun.text
    name = parse_qs(urlsplit(begun.headers["location"]).query)["i"][0]
    assert ask("GET", second, "/login", params={"i": name}).status_code == 200
    challenge = ask("POST", first, "/login/web-eid/challenge", json={"i": name}, headers=origin)
    assert challenge.status_code == 200, challenge.text
    token = web_eid_token(CARD, challenge.json()["nonce"], served.issuer)
    done = ask("POST", second, "/login/web-eid", json={"i": name, "token": token}, headers=origin)
    assert done.status_code == 200, done.text
    again = ask("POST", first, "/login/web-eid", json={"i": name, "token": token}, headers=origin)
    assert again.status_code in (400, 403), "one challenge counts once, wherever"
    where = urlsplit(done.json()["location"])
    if not done.json()["location"].startswith(CALLBACK):
        where = urlsplit(ask("GET", first, f"{where.path}?{where.query}").headers["location"])
    code = parse_qs(where.query)["code"][0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
    redeemed = ask("POST", first, "/oidc/token", data=form, auth=("tax", served.secret))
    assert redeemed.status_code == 200, redeemed.text
    assert ask("POST", second, "/oidc/token", data=form, auth=("tax", served.secret)).status_code == 400
    found: dict[str, Any] = redeemed.json()
    return found


@pytest.mark.slow
def test_two_servers_share_a_postgresql(tmp_path: Path) -> None:
    """A log-in that begins at one goes on at the other, step by step; a challenge and a code count once for both."""
    with running_server(17) as database:
        served = Served(tmp_path / "state")
        home = served.state.at_home
        dsn = f"host={database.socket_dir} port={database.port} user=postgres dbname=postgres"
        served.state.configure(home, "[serve]", f'[serve]\nstate = "{dsn}"')
        beside, status, login = tmp_path / "beside", free_port(), free_port()
        beside.mkdir()
        for name in ("journal", "identity-keys", "state"):
            (beside / name).symlink_to(home / name)
        text = (home / "place.toml").read_text()
        key = next(line for line in text.splitlines() if line.startswith("key = "))
        text = text.replace(key, f'key = "{served.state.small.folder}/keys/writer.key"')
        for mine, theirs in zip(served.ports["home"], (status, login), strict=True):
            text = text.replace(f":{mine}", f":{theirs}")
        (beside / "place.toml").write_text(text)
        shutil.copy(home / "lux.card", beside)
        with serving(home), serving(beside, "--worker"):
            urls = (served.url("").rstrip("/"), f"http://127.0.0.1:{login}")
            _until(lambda: all(httpx.get(f"{url}/health/decides", trust_env=False).status_code == 200 for url in urls))
            for first, second in (urls, urls[::-1]):
                assert _log_in(served, first, second)["id_token"]

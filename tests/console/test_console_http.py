"""The console over real HTTP: from the command to what a browser gets."""

from __future__ import annotations

import html
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from exclave.cli.output import error_json
from exclave.cli.status import look, told
from exclave.console import web
from exclave.console.latest import Latest
from exclave.errors import Forked, SiteUnavailable
from exclave.ids import Instant
from exclave.operations.status import StateStatus
from support.small_home import SmallHome, run, start
from support.small_state import SmallState

HOSTILE = "<script>alert(1)</script> \"Gazette\" & 'acts'"


@dataclass(frozen=True, slots=True)
class Console:
    """A running console."""

    url: str
    process: subprocess.Popen[bytes] | None = None

    def get(self, path: str = "/", **more: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, trust_env=False, **more)


@contextmanager
def command(*arguments: str) -> Iterator[Console]:
    """``exclave serve console`` as a process of its own, on a free port."""
    process = start("serve", "console", "--port", "0", *arguments)
    try:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        found = re.search(r"listening at (http://\S+)", line)
        assert found, line + process.stderr.read().decode()
        yield Console(found[1], process)
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextmanager
def serving(latest: Latest, *names: str) -> Iterator[Console]:
    """The application over ``latest``, in a thread."""
    at = web.listen("127.0.0.1", 0)
    server = web.server(web.build_app(latest, told, error_json, names))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]}, daemon=True)
    thread.start()
    try:
        yield Console(f"http://127.0.0.1:{at.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def failing(error: Exception) -> Latest:
    def broken() -> StateStatus:
        raise error

    return Latest(broken, lambda: Instant(0), lambda: 0.0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SmallHome:
    """A state with one version at three sites."""
    made = SmallHome(tmp_path_factory.mktemp("console")).found()
    made.backup()
    return made


@pytest.fixture(scope="module")
def console(home: SmallHome) -> Iterator[Console]:
    """Its console."""
    with command(*home.home) as running:
        yield running


def test_the_page(console: Console, home: SmallHome) -> None:
    """The home's register, its sites and its fingerprint are on the page."""
    answer = console.get()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for words in ("Republic of Small Home", "gazette", *home.sites, home.fingerprint, "The register is protected."):
        assert words in answer.text


def test_json_is_what_the_command_prints(console: Console, home: SmallHome) -> None:
    """The same object, but for the seconds that have passed, and the exile kit, of which no site knows."""
    answer = console.get("/status.json")
    printed = home.ok("status", *home.home)
    assert printed.pop("identity") is None
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["ok"] is True
    shown = answer.json()
    assert [*shown] == [*printed]
    _still(shown)
    _still(printed)
    assert shown == printed


def _still(told_: dict[str, Any]) -> None:
    """Takes out what passes with time."""
    for register in told_["registers"]:
        register["age_s"] = 0
        for site in register["sites"]:
            site["age_s"] = 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/status.json", 200),
        ("GET", "/health", 200),
        ("GET", "/health/", 404),
        ("GET", "/status", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/%2e%2e/%00", 404),
        ("POST", "/", 405),
        ("PUT", "/status.json", 405),
        ("DELETE", "/health", 405),
        ("OPTIONS", "/", 405),
    ],
)
def test_methods_paths_and_headers(console: Console, method: str, path: str, status: int) -> None:
    """Only reading, only three paths; every answer carries the strict headers."""
    answer = httpx.request(method, console.url + path, timeout=30, trust_env=False)
    assert answer.status_code == status
    for name, value in web.HEADERS.items():
        assert answer.headers[name] == value
    assert "server" not in answer.headers
    assert "Traceback" not in answer.text
    if status == 405:
        assert "GET" in answer.headers["allow"]
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "evil.example:8430", "", "[::1].evil"])
def test_other_names_are_refused(console: Console, name: str) -> None:
    """A web site that points its own name here gets nothing (DNS rebinding)."""
    for path in ("/", "/status.json", "/health"):
        answer = console.get(path, headers={"Host": name})
        assert answer.status_code == 421
        assert "gazette" not in answer.text
    assert console.get("/health", headers={"Host": "LOCALHOST:8430"}).text == "ok\n"
    assert console.get("/health", headers={"Host": "[::1]:8430"}).text == "ok\n"


def test_a_name_that_was_given(home: SmallHome) -> None:
    """Behind a web server the console answers under that one's name."""
    with serving(Latest(lambda: look(home.folder, None, ""), lambda: Instant(0), lambda: 0.0), "ops.example") as named:
        assert named.get("/health", headers={"Host": "ops.example"}).status_code == 200


def test_a_lost_site(tmp_path: Path) -> None:
    """When a site is lost, the page says so, and the console goes on."""
    made = SmallHome(tmp_path).found()
    made.backup()
    shutil.rmtree(made.site("nord"))
    with command(*made.home) as running:
        page = running.get()
        assert page.status_code == 200
        assert '<th scope="row"><bdi>nord</bdi></th><td>none</td>' in page.text


def test_hostile_register_name(tmp_path: Path) -> None:
    """A public register's name out of a charter is shown as text, never as markup; JSON holds it as it is."""
    state = SmallState(tmp_path, register_name=HOSTILE)
    where = [f"home=dir:{state.site_folder('home')}"]
    with serving(Latest(lambda: look(Path(), where, state.state), lambda: Instant(0), lambda: 0.0)) as running:
        page = running.get()
        assert page.status_code == 200
        assert "<script" not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &quot;Gazette&quot; &amp; &#x27;acts&#x27;" in page.text
        answer = running.get("/status.json")
        assert answer.json()["registers"][0]["name"] == HOSTILE
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("error", "status"), [(SiteUnavailable("<b>lux</b> is away"), 503), (Forked("two"), 502)])
def test_failures(error: SiteUnavailable | Forked, status: int) -> None:
    """A failure is a page with a message and a hint, and for machines the same object as the command's."""
    with serving(failing(error)) as running:
        page, answer = running.get(), running.get("/status.json")
        assert page.status_code == answer.status_code == status
        assert "<b>" not in page.text
        assert html.escape(error.hint) in page.text
        assert answer.json() == error_json(error)
        assert running.get("/health").status_code == 200


def test_a_bug_shows_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw is a plain page; the traceback is for the operator's terminal."""
    with serving(failing(ZeroDivisionError("the secret of the bug"))) as running:
        for path in ("/", "/status.json"):
            answer = running.get(path)
            assert answer.status_code == 500
            assert "secret" not in answer.text
            assert "Traceback" not in answer.text
            assert answer.headers["content-security-policy"] == web.HEADERS["content-security-policy"]
    assert "the secret of the bug" in capfd.readouterr().err


def test_the_command_ends_well(home: SmallHome) -> None:
    """Ctrl-C ends it at once, without a traceback."""
    with command(*home.home) as running:
        assert running.get("/health").text == "ok\n"
        assert running.process is not None
        running.process.send_signal(signal.SIGINT)
        _, said = running.process.communicate(timeout=20)
        assert b"Traceback" not in said
        assert running.process.returncode in (0, 130, -signal.SIGINT)


def test_a_wrong_home_or_a_taken_port(home: SmallHome, tmp_path: Path) -> None:
    """What was typed wrong is said at once, not on a page."""
    with web.listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        for arguments, says in (
            (("--home", str(tmp_path)), "exclave.toml"),
            (("--site", "lux=dir:/nowhere"), "--fingerprint"),
            ((*home.home, "--port", port), "cannot listen at 127.0.0.1"),
        ):
            said = run("serve", "console", *arguments)
            assert (said.code, says in said.err) == (2, True), said.err

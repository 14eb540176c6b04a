"""The gazette's and the business register's applications over real HTTP, and what all three have in common."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exclave.demo.apps import AppName, write_app
from exclave.demo.business import business_reference, create_business
from exclave.demo.gazette import change_gazette, gazette_reference, write_gazette
from exclave.demo.reference import contains
from exclave.errors import TargetNotEmpty
from support.webapp import WebApp, running_app

SEED = 7
APPS: tuple[AppName, ...] = ("gazette", "land", "business")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gazette") / "data"
    write_gazette(path, seed=SEED, scale=1)
    change_gazette(path, SEED)
    return path


@pytest.fixture(scope="module")
def gazette(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    program = write_app("gazette", tmp_path_factory.mktemp("gazette-app") / "app")
    with running_app(program, "--data", str(folder)) as app:
        yield app


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("business") / "äri register.sqlite"
    create_business(path, seed=SEED, scale=1)
    return path


@pytest.fixture(scope="module")
def business(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    program = write_app("business", tmp_path_factory.mktemp("business-app") / "app")
    with running_app(program, "--db", str(database)) as app:
        yield app


def small_gazette(folder: Path, whole: Path) -> Path:
    """A gazette of the reference act only, to damage."""
    shutil.copytree(whole / "acts/2019/0123", folder / "acts/2019/0123", symlinks=True)
    lines = (whole / "index.jsonl").read_text().splitlines()
    (folder / "index.jsonl").write_text("\n".join(line for line in lines if '"2019/0123"' in line))
    return folder


def test_reference_queries(gazette: WebApp, business: WebApp) -> None:
    """Both answer what the seed alone tells, also after a day's work."""
    for app, reference in ((gazette, gazette_reference(seed=SEED)), (business, business_reference(seed=SEED))):
        reply = app.ask(reference.path)
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json; charset=utf-8"
        assert contains(reply.json, reference.expected)
    assert not contains(gazette.ask("/act/2019/0122").json, gazette_reference(seed=SEED).expected)


def test_versions_of_an_act(gazette: WebApp, folder: Path) -> None:
    """A version is served as it stands on disk; one that is not there is 404."""
    first = gazette.ask("/act/2019/0123/v1").json
    assert (first["version"], first["text"]) == (1, (folder / "acts/2019/0123/v1.txt").read_text())
    latest = gazette.ask("/act/2019/0123").json
    assert latest["version"] == latest["versions"]
    assert gazette.ask(f"/act/2019/0123/v{latest['versions'] + 1}").status == 404


def test_searches(gazette: WebApp, business: WebApp) -> None:
    """Titles are found in any script and case, companies by name and code; wildcards are plain characters."""
    assert gazette.ask("/search?q=K%C3%9CBERTURVALISUSE").json["count"] > 0
    assert gazette.ask("/search?q=%D7%94%D7%A1%D7%9B%D7%9D").json["count"] > 0
    assert gazette.ask("/search?q=2019/0123").json["count"] == 1
    assert business.ask("/search?q=10000017").json["companies"][0]["code"] == 10_000_017
    assert business.ask("/search?q=meretuul").json["companies"]
    assert business.ask("/search?q=%25").json["companies"] == []


def test_pages(gazette: WebApp, business: WebApp) -> None:
    """A browser gets pages with strict headers, a style sheet of our own, and nothing from elsewhere."""
    for app, paths in (
        (gazette, ("/", "/health", "/search?q=seadus", "/act/2019/0123", "/act/2019/0123/v1")),
        (business, ("/", "/health", "/search?q=Meretuul", "/company/10000017")),
    ):
        assert app.ask("/style.css").headers["content-type"] == "text/css; charset=utf-8"
        for path in paths:
            reply = app.ask(path, accept="text/html,*/*")
            text = reply.body.decode()
            assert reply.status == 200
            assert text.startswith("<!doctype html>")
            assert "default-src 'none'" in reply.headers["content-security-policy"]
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert not re.search(r"https?://|<script|style=|\son\w+=", text)


def test_what_is_asked_is_escaped(gazette: WebApp, business: WebApp) -> None:
    """Markup in a search comes back as text."""
    for app in (gazette, business):
        page = app.ask("/search?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", accept="text/html").body.decode()
        assert "<script" not in page
        assert "&quot;&gt;&lt;script&gt;" in page


@pytest.mark.parametrize(
    "path",
    [
        "/act/2019/0123/../../../../../etc/passwd",
        "/act/../../etc/hosts",
        "/act/2019/0123/%2e%2e/%2e%2e/act.json",
        "/act/2019/0123/v1%2f..%2f..%2f..%2fgazette.json",
        "/act/2019/0123/v1%00.txt",
        "/act/2019/0123/act.json",
        "/act/2019/0123/v01",
        "/act/2019/%D9%A0123",
        "/act/2019/0123/v1/",
        "/act/2019/0123/v1%0a",
        "/act//etc/hosts",
        "/act/",
    ],
)
def test_traversal_and_odd_names_are_refused(gazette: WebApp, path: str) -> None:
    """Nothing but acts and versions can even be asked for."""
    reply = gazette.ask(path)
    assert (reply.status, reply.json["status"]) == (400, 400)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/act/1918/0001", 404),
        ("/act/2019/0123/v9999", 404),
        ("/../../etc/passwd", 404),
        ("//etc/passwd", 404),
        ("/desk/outside", 404),
        ("/index.jsonl", 404),
        ("/%ff", 400),
        ("//[", 404),
        ("/search", 400),
        ("/search?q=", 400),
        ("/search?q=%20", 400),
        ("/search?q=" + "x" * 101, 400),
        ("/search?q=%ff", 400),
        ("/search?" + "&".join("q=x" for _ in range(20)), 400),
    ],
)
def test_bad_questions(gazette: WebApp, path: str, status: int) -> None:
    """Each gets a JSON answer with its status and a message."""
    reply = gazette.ask(path)
    assert (reply.status, reply.json["status"]) == (status, status)
    assert reply.json["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/company/99999999", 404),
        ("/company/1", 400),
        ("/company/10000017%20OR%201=1", 400),
        ("/company/100000170", 400),
        ("/company/../10000017", 400),
        ("/search?q=%00", 400),
        ("/nowhere", 404),
    ],
)
def test_bad_questions_about_companies(business: WebApp, path: str, status: int) -> None:
    """Each gets a JSON answer with its status and a message."""
    reply = business.ask(path)
    assert (reply.status, reply.json["status"]) == (status, status)
    assert reply.json["error"]


def test_methods(business: WebApp) -> None:
    """HEAD has headers only; whatever else is refused in JSON."""
    assert business.ask("/company/10000017", method="HEAD").body == b""
    for method in ("POST", "DELETE", "TRACE", "PROPFIND"):
        reply = business.ask("/", method=method)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        assert reply.json["status"] == 405


@pytest.mark.parametrize(
    "line",
    [b"GET http://[/ HTTP/1.0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00 x y z\r\n\r\n", b"G\r\n\r\n"],
)
def test_nonsense_is_answered_without_traceback(business: WebApp, line: bytes) -> None:
    """What is not HTTP gets a short refusal, and the application lives on."""
    with socket.create_connection(("127.0.0.1", business.port), timeout=20) as connection:
        connection.sendall(line)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    assert b'"error"' in answer
    assert b"Traceback" not in answer
    assert business.ask("/health").status == 200


@pytest.mark.parametrize("where", ["version", "latest", "act", "fifo"])
def test_links_that_lead_out_are_not_followed(folder: Path, tmp_path: Path, where: str) -> None:
    """A version, a ``latest``, a whole act that is a link elsewhere, and a pipe: all refused, none read."""
    data = small_gazette(tmp_path / "data", folder)
    act = data / "acts/2019/0123"
    (tmp_path / "secret.txt").write_text("the secret of another register")
    if where == "act":
        shutil.move(act, tmp_path / "elsewhere")
        act.symlink_to(tmp_path / "elsewhere")
    elif where == "latest":
        (act / "latest").unlink()
        (act / "latest").symlink_to("../../../../secret.txt")
    else:
        (act / "v1.txt").unlink()
        if where == "fifo":
            os.mkfifo(act / "v1.txt")
        else:
            (act / "v1.txt").symlink_to(tmp_path / "secret.txt")
    with running_app(write_app("gazette", tmp_path / "app"), "--data", str(data)) as app:
        reply = app.ask("/act/2019/0123" if where == "latest" else "/act/2019/0123/v1")
        assert reply.status == (503 if where == "latest" else 404)
        assert b"secret of" not in reply.body


def test_gazette_health_is_lost_with_its_data(folder: Path, tmp_path: Path) -> None:
    """A changed text, a damaged index and a missing folder each make it unhealthy; mended, it is healthy again."""
    data = small_gazette(tmp_path / "data", folder)
    index, text = (data / "index.jsonl").read_bytes(), data / "acts/2019/0123/latest"
    good = text.read_bytes()
    with running_app(write_app("gazette", tmp_path / "app"), "--data", str(data)) as app:
        assert app.ask("/health").json == {"status": "ok", "acts": 1}
        text.write_bytes(good.replace(b"e", b"a", 1))
        assert (app.ask("/health").status, app.ask("/act/2019/0123").status) == (503, 503)
        text.write_bytes(good)
        for damaged in (index[:-9], b'{"act": "../../etc"}', b"[]", b""):
            (data / "index.jsonl").write_bytes(damaged)
            assert app.ask("/health").status == 503
        (data / "index.jsonl").write_bytes(index)
        assert app.ask("/health").status == 200
        data.rename(tmp_path / "gone")
        assert app.ask("/health").status == 503
        assert app.ask("/").json["error"] == "the register cannot answer this now"
        assert app.stop() == 0


def test_business_health_is_lost_with_its_data(database: Path, tmp_path: Path) -> None:
    """A missing file, no database, and tables that disagree each make it unhealthy; no file is made on the way."""
    path = tmp_path / "b.sqlite"
    with running_app(write_app("business", tmp_path / "app"), "--db", str(path)) as app:
        assert app.ask("/health").status == 503
        assert not path.exists()
        path.write_bytes(b"x" * 9000)
        assert app.ask("/health").status == 503
        path.write_bytes(database.read_bytes())
        assert app.ask("/health").status == 200
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM filing WHERE id = (SELECT max(id) FROM filing)")
            connection.execute("UPDATE company SET filing_count = filing_count + 1")
        assert app.ask("/health").status == 503
        assert app.stop() == 0


def wait_until_closed(port: int) -> None:
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionError:
            return
        time.sleep(0.01)
    raise AssertionError("it still listens")


def test_sigterm_lets_a_request_finish(database: Path, tmp_path: Path) -> None:
    """A request that has begun when SIGTERM comes is still answered, and the port is free afterwards."""
    with running_app(write_app("business", tmp_path / "app"), "--db", str(database)) as app:
        with socket.create_connection(("127.0.0.1", app.port), timeout=20) as connection:
            connection.sendall(b"GET /health HTT")
            assert app.ask("/health").status == 200  # accepted later, so the first one was accepted too
            app.process.terminate()
            wait_until_closed(app.port)
            connection.sendall(b"P/1.0\r\n\r\n")
            answer = b""
            while block := connection.recv(65536):
                answer += block
        assert b" 200 " in answer.split(b"\r\n")[0]
        assert app.process.wait(20) == 0


def test_port_in_use_and_bad_options(database: Path, business: WebApp, tmp_path: Path) -> None:
    """A taken port and impossible options end with a message, not with a traceback."""
    program = write_app("business", tmp_path / "app")
    for options, status in (
        (["--port", str(business.port)], 1),
        (["--port", "65536"], 2),
        (["--port", "-1"], 2),
        (["--port", "٣"], 2),
    ):
        command = [sys.executable, "-I", str(program), "--db", str(database), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == status
        assert "Traceback" not in done.stderr
        assert done.stderr


def test_app_folders_are_the_same_each_time(tmp_path: Path) -> None:
    """The same application gives the same names, bytes, modes and times, and is not written over something."""
    for name in APPS:
        seen = []
        for number in (1, 2):
            folder = tmp_path / f"{name}{number}"
            assert write_app(name, folder) == folder / "app.py"
            entries = sorted([folder, *folder.iterdir()])
            kinds = [(path.name.rstrip("12"), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in entries]
            seen.append((kinds, [path.read_bytes() for path in entries if path.is_file()]))
        assert seen[0] == seen[1]
        with pytest.raises(TargetNotEmpty):
            write_app(name, folder)


def test_what_the_applications_share_is_the_same(tmp_path: Path) -> None:
    """Each is one standalone file; the part that they have in common must not drift apart."""
    shared = set()
    for name in APPS:
        source = write_app(name, tmp_path / name).read_text()
        assert "exclave" not in source
        begin, end = source.index("# ---- From here"), source.index("# ---- Up to here")
        shared.add(source[begin:end])
    assert len(shared) == 1

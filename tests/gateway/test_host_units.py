"""The units of packaging/systemd: right in form, hardened, and enough for what the gateway does."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from exclave.ids import Key
from support.gateway import host_place
from support.pid1 import under_systemd

UNIT = Path(__file__).parents[2] / "packaging" / "systemd" / "exclave-host.service"
EXCLAVE = Path(sys.executable).with_name("exclave")
_BLOCK = re.compile(r"^```ini\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(
    page for page in (Path(__file__).parents[2] / "docs" / "runbooks").glob("*.md")
    if any(word in page.read_text() for word in ("[Service]", "[Timer]"))
)  # fmt: skip
_ALLOWED = re.compile(r"SystemCallFilter=(.*)")
_CALL = re.compile(r"^\d+ +([a-z0-9_]+)\(", re.MULTILINE)


def analyze(*arguments: str) -> str:
    found = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 0, found.stderr + found.stdout
    return found.stdout + found.stderr


def test_the_unit_verifies(tmp_path: Path) -> None:
    """systemd reads every line of it as it is meant, without a warning."""
    copy = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert "/opt/exclave/bin/exclave " in text
    copy.write_text(text.replace("/opt/exclave/bin/exclave", str(EXCLAVE)).replace("Documentation=file", "#"))
    assert not analyze("verify", "--man=no", str(copy)).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_units_of_the_runbooks(page: Path, tmp_path: Path) -> None:
    """systemd reads them without a warning, and the user of each is made by a file that comes along."""
    made = "".join(file.read_text() for file in UNIT.parent.glob("*.sysusers"))
    for number, block in enumerate(_BLOCK.findall(page.read_text())):
        kind = "service" if "[Service]" in block else "timer"
        copy = tmp_path / f"exclave-{number}@x.{kind}"
        copy.write_text(re.sub(r"/opt/exclave/(.venv/)?bin/exclave", str(EXCLAVE), block))
        if kind == "timer":
            (tmp_path / f"exclave-{number}@x.service").write_text(f"[Service]\nType=oneshot\nExecStart={EXCLAVE}\n")
        assert not analyze("verify", "--man=no", str(copy)).strip()
        for user in re.findall(r"^User=(.*)", block, re.MULTILINE):
            assert re.search(rf"^u {user} ", made, re.MULTILINE), f"{page.name}: nothing makes {user}"


@pytest.mark.parametrize("file", sorted(UNIT.parent.glob("*.sysusers")), ids=lambda file: file.name)
def test_the_accounts_can_be_made(file: Path) -> None:
    """systemd-sysusers takes each line: of one that it refuses it says so, and makes no account."""
    found = subprocess.run(
        ["systemd-sysusers", "--dry-run", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert f"{file}:" not in found.stderr + found.stdout


def test_the_unit_is_hardened() -> None:
    """By systemd's own measure, 0 (nothing left open) to 10, the gateway stands below 1.5."""
    found = analyze("security", "--offline=true", "--threshold=15", str(UNIT))
    assert "Overall exposure level" in found


def test_the_unit_runs(tmp_path: Path) -> None:
    """Started by systemd itself with all that the unit forbids: it takes an object, gives it back, and counts."""
    (tmp_path / "host").mkdir()
    place = host_place(tmp_path / "host")
    config = place.folder / "host.toml"
    config.write_text(
        config.read_text() + '\n[duties]\nmemory = "/var/lib/exclave-host/memory"\npage = "127.0.0.1:0"\n'
    )
    home = "/srv/exclave-host"
    (tmp_path / "pid1").mkdir()
    with under_systemd(UNIT.parent, UNIT.name, "exclave-host", home, place.folder, tmp_path / "pid1") as console:
        said = console.wait_for("listening at port")
        port, page = re.search(r"at port (\d+)", said), re.search(r"page is at (http://[0-9.:]+)", said)
        assert port is not None
        assert page is not None
        site = place.site(int(port[1]))
        site.put_same(Key("probe/x"), b"data")
        assert site.get(Key("probe/x")) == b"data"
        tag = site.replace_if(Key("probe/head"), b"1", None)
        site.replace_if(Key("probe/head"), b"2", tag)
        answer = httpx.get(f"{page[1]}/health", trust_env=False)
        assert (answer.status_code, answer.text) == (200, "ok\n")
        assert "Failed" not in console.text


def test_the_gateway_cannot_change_what_it_goes_by() -> None:
    """The files that the host's page names as configuration are read-only for the service, though its folder is not:
    whoever gets hold of the process must not stay when it is started again."""
    page = (UNIT.parents[2] / "docs" / "runbooks" / "host.md").read_text()
    home, text = "/srv/exclave-host", UNIT.read_text()
    kept = re.findall(r'^(?:certificate|key) = "(.*)"', page, re.MULTILINE)
    assert len(kept) == 2
    closed = re.findall(r"^ReadOnlyPaths=(.*)", text, re.MULTILINE)[0].split()
    assert sorted(closed) == sorted(f"-{home}/{name}" for name in ("host.toml", *kept))
    assert f"ReadWritePaths={home}\n" in text


def members(name: str, seen: set[str]) -> set[str]:
    """System calls of a set, with the sets in it."""
    if name in seen:
        return set()
    seen.add(name)
    found: set[str] = set()
    for line in analyze("syscall-filter", name).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= members(word, seen)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def allowed() -> set[str]:
    calls: set[str] = set()
    for line in _ALLOWED.findall(UNIT.read_text()):
        sets = line.lstrip("~").split()
        named = set[str]().union(*(members(one, set()) for one in sets))
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def test_the_gateway_makes_no_call_that_the_unit_refuses(tmp_path: Path) -> None:
    """Started, written to, read from, looked at and stopped under strace: all its system calls are in the filter."""
    (tmp_path / "host").mkdir()
    place = host_place(tmp_path / "host")
    config = place.folder / "host.toml"
    config.write_text(config.read_text() + '\n[duties]\nmemory = "memory"\npage = "127.0.0.1:0"\n')
    trace = tmp_path / "trace"
    command = [str(EXCLAVE), "serve", "site", "--config", str(config)]
    process = subprocess.Popen(["strace", "-f", "-qq", "-o", str(trace), *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = 0
        for line in process.stderr:
            if found := re.search(r"listening at port (\d+)", line):
                port = int(found[1])
                break
        assert port
        threading.Thread(target=process.stderr.read, daemon=True).start()
        site = place.site(port)
        site.put_same(Key("probe/x"), b"data")
        assert site.get(Key("probe/x")) == b"data"
        tag = site.replace_if(Key("probe/head"), b"1", None)
        site.replace_if(Key("probe/head"), b"2", tag)
        assert [stat.key for stat in site.list("probe/")] == ["probe/head", "probe/x"]
    finally:
        child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in child:
            subprocess.run(["kill", "-TERM", pid], check=False)
        try:
            process.wait(timeout=90)
        finally:
            for pid in child if process.poll() is None else ():
                subprocess.run(["kill", "-KILL", pid], check=False)
    # execve, and what precedes it, is systemd's own doing before the filter.
    made = set(_CALL.findall(trace.read_text())) - {"execve"}
    assert len(made) > 30
    assert not made - allowed()

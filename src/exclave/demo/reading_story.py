"""The demo's gazette in public: published at home, read from the reading room in exile, and one act proven."""

from __future__ import annotations

import shutil
import sys
import time

import httpx

from exclave.demo.gazette import REFERENCE_ACT
from exclave.demo.stage import Stage
from exclave.demo.state import TITLE
from exclave.errors import IntegrityError, ServiceFailed
from exclave.ids import Label
from exclave.runners.process import ServiceSpec, is_running, start

_BUILT_WITHIN_S = 180.0


def published(s: Stage) -> None:
    """Everybody may read the gazette: its newest version goes to every site in the clear, each document proven."""
    told = s.commands.run("publish", "gazette", "--dataset", "acts", "--yes", *s.home).result
    s.tell(f"  {told['name']}: version {told['sequence']}, {told['files']} documents with their proofs,"
           f" {told['shipped_bytes'] / 2**20:.1f} MiB to each of {', '.join(told['sites'])}")  # fmt: skip
    _open_room(s)


def read_in_exile(s: Stage) -> None:
    """A citizen reads an act in the embassy's reading room, and proves it with the fingerprint alone."""
    address = f"http://127.0.0.1:{s.ports.room}"
    _await_room(s)
    act = f"/act/{REFERENCE_ACT}"
    pages = [f"{address}{path}" for path in ("/", act, "/acts/", "/status", f"{act}/v1", f"{act}/v1.txt")]
    read = [httpx.get(url, timeout=30, trust_env=False, follow_redirects=True) for url in pages]
    good = [answer.status_code == 200 for answer in read]
    for name in ("txt", "proof"):
        answer = httpx.get(f"{address}{act}/v1.{name}", timeout=30, trust_env=False)
        (s.places.root / "public" / f"act.{name}").write_bytes(answer.content)
    mine = s.places.root / "public" / "act.txt"
    check = ("verify", "--proof", str(mine.with_name("act.proof")), *s.pinned, str(mine))
    told = s.commands.run(*check).result
    s.tell(f"  proven: {told['record']['document']} stood in {told['title']} at {told['time']}")
    s.tell("Somebody alters one letter of the file; the citizen checks it again.")
    mine.write_bytes(mine.read_bytes().replace(b"a", b"o", 1))
    altered = s.commands.run(*check, expect=(IntegrityError.exit_code, 21)).result
    document = told["record"]["document"]
    s.tell(f"  refused: {altered['message']}")
    s.report.reading = {
        "address": address, "pages_read": sum(good), "proof_checked": told["ok"], "document": document,
        "altered_refused": altered["error"],
    }  # fmt: skip
    s.report.services.append({"name": "gazette/reading-room", "address": address})
    s.report.promise("the gazette is read from the reading room in exile", all(good), f"{sum(good)} pages at {address}")
    s.report.promise("an act's proof checks with the fingerprint alone", told["ok"], document)
    s.report.act("a citizen is handed an act with one letter altered", bool(altered["error"]), altered["message"])


def _open_room(s: Stage) -> None:
    """`exclave serve public` with nginx; where there is none, its pages are built once and served as plain files. It
    stands in the embassy from now on, and goes on when home is lost.
    """
    port, folder = s.ports.room, s.places.embassy / "room"
    run, where = s.places.run / "embassy", [*s.sites("south", "west", user="public"), *s.pinned]
    room = (TITLE, "--dir", str(folder), *where, "--origin", f"http://127.0.0.1:{port}", "--place", "Luxembourg")
    if shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
        argv = ("serve", "public", *room, "--port", str(port), "--every", "2")
        s.tell(s.brief_command(argv) + " &")
        spec = (sys.executable, "-m", "exclave.cli.main", *argv)
    else:
        s.tell("There is no nginx on this machine: the pages are built once and served as plain files.")
        s.commands.run("serve", "public", *room, "--once")
        spec = (sys.executable, "-m", "exclave.demo.plain_room", str(folder), str(port))
    start(ServiceSpec(Label("room"), spec, s.places.root, {}, port), run)


def _await_room(s: Stage) -> None:
    run, port = s.places.run / "embassy", s.ports.room
    end = time.monotonic() + _BUILT_WITHIN_S
    while not _answers(port):
        if not is_running(run, Label("room")) or time.monotonic() > end:
            raise ServiceFailed(f"the reading room does not come up: {(run / 'room.log').read_text()[-500:]}")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/latest.json", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False

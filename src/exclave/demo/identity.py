"""Identities in the demo: a certification centre, a citizen with a card, a relying service, and two places that serve.

What the world does (the CA's own work, names, the citizen) is done here; what an operator does are ordinary commands.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.crypto.crl import issuer_id
from exclave.demo.citizen import Citizen, Failed, Settings
from exclave.demo.commands import Commands
from exclave.demo.names import lead_to
from exclave.demo.pki import Card, Pki, make_pki, pem
from exclave.ids import Label, now, parse_instant
from exclave.runners.ports import free_port
from exclave.runners.probe import wait_http
from exclave.runners.process import ServiceSpec, start

REGISTER = "identity"
CLIENT = "tax-board"
OTHERS = 2000
"""Further certificates that the centre has issued."""
FRESH_WITHIN_S = 60.0
OK_RATIO = 0.999


@dataclass(slots=True)
class World:
    """Where identities are in the demo: folders, ports, keys of the world."""

    root: Path
    home: Path
    """Home's folder of identity services."""
    exile: Path
    """The embassy's."""
    pki: Pki = field(default_factory=lambda: make_pki(now()))
    login: int = field(default_factory=free_port)
    """Ports that stand for the two names; then those of the places behind them."""
    status: int = field(default_factory=free_port)
    home_login: int = field(default_factory=free_port)
    home_status: int = field(default_factory=free_port)
    exile_login: int = field(default_factory=free_port)
    exile_status: int = field(default_factory=free_port)
    secret: str = ""
    stolen: Card | None = None

    @property
    def issuer(self) -> str:
        """The OpenID provider's name in every relying service's configuration."""
        return f"http://localhost:{self.login}"

    @property
    def folder(self) -> Path:
        return self.root / "world"

    @property
    def log(self) -> Path:
        return self.folder / "citizen.jsonl"

    @property
    def stop_file(self) -> Path:
        return self.folder / "stop"

    def name_file(self, name: str) -> Path:
        return self.folder / f"{name}.name"

    def lead(self, login: int, status: int) -> None:
        """Both names lead to these ports from now on."""
        lead_to(self.name_file("login"), login)
        lead_to(self.name_file("status"), status)

    def settings(self, folder: str = "citizen") -> Settings:
        """Of a relying service and a status client, for the card in ``folder``."""
        return Settings(
            self.issuer, CLIENT, self.secret, "https://tax.demo.test/callback", f"http://127.0.0.1:{self.status}/",
            self.folder / folder,
        )  # fmt: skip


# The certification centre


def open_centre(world: World) -> None:
    """The centre issues cards to a citizen, to somebody whose card will be stolen, and to some others."""
    world.folder.mkdir()
    _write_card(world, "citizen", world.pki.first.card("MARI", "METS", "48001085718"))
    world.stolen = world.pki.first.card("JAAN", "TAMM", "38001085718")
    _write_card(world, "stolen", world.stolen)
    _write_index(world)


def _write_card(world: World, name: str, card: Card) -> None:
    folder = world.folder / name
    folder.mkdir()
    (folder / "card.pem").write_bytes(pem(card.certificate))
    (folder / "issuer.pem").write_bytes(pem(world.pki.first.certificate))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "card.key").write_bytes(card.key.private_bytes(*form))


def _write_index(world: World) -> None:
    """``index.txt`` as OpenSSL keeps it: what home's services follow."""
    end = time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() + 4 * 365 * 86400))
    serials = [*world.pki.first.issued, *range(1, OTHERS + 1)]
    lines = [f"V\t{end}\t\t{_hex(serial)}\tunknown\t/CN=x\n" for serial in serials]
    (world.folder / "index.txt").write_text("".join(lines))


def _hex(serial: int) -> str:
    text = f"{serial:X}"
    return text if len(text) % 2 == 0 else f"0{text}"


def certify(world: World, requests: Path, listed: list[dict[str, Any]], days: int) -> list[str]:
    """What the centre's people do with requests: certificates as the manifest asks for, as files."""
    made = []
    for one in listed:
        csr = x509.load_pem_x509_csr((requests / one["file"]).read_bytes())
        begin = parse_instant(one["from"])
        certificate = world.pki.first.certify(csr, begin=begin, days=days)
        path = requests / one["file"].replace(".csr", ".crt")
        path.write_bytes(pem(certificate))
        made.append(str(path))
    return made


# What operators write


def register_text(world: World, limits: list[str]) -> list[str]:
    """The identity register's block of ``exclave.toml``; ``limits`` are the lines that all registers have."""
    return [
        "", "[[register]]", f'name = "{REGISTER}"', 'owner = "Police and Border Guard"', 'class = "identity"', *limits,
        "", "[[register.dataset]]", 'name = "journal"', 'kind = "identity"',
        f"options = {{ path = {json.dumps(str(world.home / 'journal'))} }}",
        "", "[[register.service]]", 'name = "services"', 'kind = "identity"', 'dataset = "journal"',
    ]  # fmt: skip


def write_settings(world: World, card: str) -> None:
    """Home's ``identity.toml``, and what ``place.toml`` says besides: who stands by, where the CA's list lies."""
    (world.home / "identity.toml").write_text(
        f'issuer = "{world.issuer}"\nsecure_cookies = false     # everything is on one machine here\n'
        'languages = ["et", "en", "ar"]\n[state_name]\net = "Metsamaa Vabariik"\nen = "Republic of Metsamaa"\n'
    )
    (world.home / "south.card").write_bytes(Path(card).read_bytes())
    (world.home / "esteid.pem").write_bytes(pem(world.pki.first.certificate))
    path = world.home / "place.toml"
    more = (
        '\n[[embassy]]\nplace = "south"\ncard = "south.card"\n\n[[source]]\nissuer = "esteid"\n'
        f'certificate = "esteid.pem"\nkind = "index-txt"\npath = {json.dumps(str(world.folder / "index.txt"))}\n'
    )
    path.write_text(path.read_text() + more)


def serve(world: World, folder: Path, run: Path, name: str, port: int) -> None:
    """``exclave serve identity`` as a process of its own."""
    argv = (sys.executable, "-m", "exclave.cli.main", "serve", "identity", "--dir", str(folder))
    start(ServiceSpec(Label(name), argv, world.root, {}, port, "/health/live"), run)


def wait_served(port: int) -> None:
    """Until the place behind ``port`` answers."""
    wait_http(f"http://127.0.0.1:{port}/health/live", 60.0)


def wait_entries(port: int, least: int) -> None:
    """Until the place behind ``port`` has so many entries of the journal."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        told = httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False, timeout=5).json()
        if told["entries"] >= least:
            return
        time.sleep(0.1)


def make_kit(world: World, commands: Commands) -> None:
    """Each place gets its keys and the centre's certificates; the embassy's are carried home and entered there."""
    kits = world.folder / "kits"
    kits.mkdir()
    places = (("home", world.home, 2, 45), ("south", world.exile, 12, 45))
    asked = commands.together(*(
        ("identity", "csr", "--dir", str(folder), "--out", str(kits / f"{name}-requests"), "--country", "EE",
         "--organization", "Metsamaa State IT", "--rungs", str(rungs), "--days", str(days))
        for name, folder, rungs, days in places
    ))  # fmt: skip
    accept = []
    for (name, folder, _, days), told in zip(places, asked, strict=True):
        files = certify(world, kits / f"{name}-requests", told.result["requests"], days)
        carried = [] if name == "home" else ["--out", str(kits / "south")]
        accept.append(("identity", "accept", "--dir", str(folder), *carried, *files))
    commands.together(*accept)
    commands.run("identity", "enter-kit", "--dir", str(world.home), "south", str(kits / "south"))
    commands.run("identity", "enter", "--dir", str(world.home))


# The world goes on


def start_world(world: World, run: Path) -> None:
    """The names, and a citizen who logs in to the tax board again and again."""
    world.lead(world.home_login, world.home_status)
    for name, port in (("login", world.login), ("status", world.status)):
        leads = (sys.executable, "-m", "exclave.demo.names", str(port), str(world.name_file(name)))
        start(ServiceSpec(Label(f"name-{name}"), leads, world.root, {}, port), run)
    settings = world.settings()
    told = {name: str(getattr(settings, name)) for name in ("issuer", "client_id", "client_secret", "redirect_uri",
                                                           "aia", "folder")}  # fmt: skip
    (world.folder / "settings.json").write_text(json.dumps(told))
    argv = (sys.executable, "-m", "exclave.demo.citizen", str(world.folder / "settings.json"), str(world.log),
            str(world.stop_file))  # fmt: skip
    start(ServiceSpec(Label("citizen"), argv, world.root), run)


def tries(world: World, kind: str) -> list[dict[str, Any]]:
    """What the citizen met, in order."""
    lines = world.log.read_text().splitlines() if world.log.exists() else []
    return [one for one in map(json.loads, lines) if one["kind"] == kind]


def wait_tries(world: World, kind: str, wanted: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
    """The first try that ``wanted`` accepts; an empty one if there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for one in tries(world, kind):
            if wanted(one):
                return one
        time.sleep(0.1)
    return {}


@contextmanager
def names_follow(world: World) -> Iterator[None]:
    """Meanwhile the names lead to the embassy as soon as it decides: what a signed DNS update does elsewhere."""
    done = threading.Event()

    def follow() -> None:
        while not done.is_set():
            try:
                told = httpx.get(f"http://127.0.0.1:{world.exile_login}/health/decides", trust_env=False, timeout=5)
            except httpx.HTTPError:
                told = None
            if told is not None and told.status_code == 200:
                world.lead(world.exile_login, world.exile_status)
                return
            done.wait(0.1)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
        done.set()
        thread.join()


def stolen_status(world: World) -> str:
    """What the status client hears of the stolen card."""
    return Citizen(world.settings("stolen")).status()


def stolen_log_in(world: World) -> str:
    """Empty if the stolen card logs in; else why not."""
    try:
        Citizen(world.settings("stolen")).log_in()
    except Failed as error:
        return str(error)
    return ""


def stolen_csv(world: World) -> tuple[Path, str]:
    """The list that the police hand over, and the issuing CA's id."""
    assert world.stolen is not None
    path = world.folder / "stolen.csv"
    path.write_text(f"serial_hex\n{world.stolen.serial:x}\n")
    return path, issuer_id(world.pki.first.der).hex()


def outage(world: World, lost: float) -> float:
    """From the loss of home to the end of the first log-in after it; seconds."""
    after = [one["ended"] for one in tries(world, "login") if one["ok"] and one["ended"] > lost and one["tries"] > 1]
    return round(min(after, default=lost) - lost, 3)

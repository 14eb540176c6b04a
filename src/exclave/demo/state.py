"""The demo's small state: its folders, its systems at home, and the ``exclave.toml`` that describes them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from exclave.demo.apps import AppName, write_app
from exclave.demo.business import business_reference, create_business
from exclave.demo.gazette import gazette_reference, write_gazette
from exclave.demo.hosts import Hosts
from exclave.demo.identity import World, register_text
from exclave.demo.land import create_land, land_reference
from exclave.demo.reference import ReferenceQuery
from exclave.ids import Label
from exclave.registers.postgres_binaries import find_postgres
from exclave.runners.ports import free_port
from exclave.runners.postgres import initdb, start_postgres
from exclave.runners.probe import wait_http
from exclave.runners.process import ServiceSpec, running, start, stop
from exclave.runners.unprivileged import reachable_binaries, unprivileged_user

STATE_NAME = "Republic of Metsamaa"
CUSTODIANS = (("kaja", "EE"), ("mart", "EE"), ("luc", "LU"), ("aino", "FI"), ("tove", "SE"))
THRESHOLD = 3
REGISTERS: tuple[AppName, ...] = ("gazette", "land", "business")
SEED = 20261123
TITLE = "State Gazette of Metsamaa"
"""What the charter calls the gazette in public."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of the demo lies below ``root``."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def systems(self) -> Path:
        return self.home / "systems"

    @property
    def sites(self) -> Path:
        return self.root / "sites"

    @property
    def embassy(self) -> Path:
        return self.root / "embassy"

    @property
    def exile(self) -> Path:
        return self.embassy / "exile"

    @property
    def custodians(self) -> Path:
        return self.root / "custodians"

    @property
    def run(self) -> Path:
        return self.root / "run"

    def custodian_key(self, name: str) -> Path:
        return self.custodians / name / f"{name}.key"


@dataclass(slots=True)
class Ports:
    """TCP ports of the state's services, all on loopback."""

    gazette: int = field(default_factory=free_port)
    land: int = field(default_factory=free_port)
    business: int = field(default_factory=free_port)
    postgres: int = field(default_factory=free_port)
    witness: int = field(default_factory=free_port)
    room: int = field(default_factory=free_port)


def references(scale: int) -> dict[str, ReferenceQuery]:
    """For each register a question with a known answer."""
    return {
        "gazette": gazette_reference(seed=SEED, scale=scale),
        "land": land_reference(seed=SEED, scale=scale),
        "business": business_reference(seed=SEED, scale=scale),
    }


def make_folders(places: Places) -> None:
    """All folders; passable for the account that PostgreSQL runs as, but not readable."""
    for folder in (places.root, places.home, places.systems, places.sites, places.embassy, places.run):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)
    for name in ("home", "north"):
        (places.sites / name).mkdir()
    for folder in (places.home / "hosts", places.embassy / "hosts", places.root / "public"):
        folder.mkdir(mode=0o700)
    for name, _ in CUSTODIANS:
        (places.custodians / name).mkdir(parents=True, mode=0o700)


def make_systems(places: Places, ports: Ports, scale: int) -> dict[str, object]:
    """Generates the three registers with their applications, and starts PostgreSQL. What was made, in numbers."""
    systems = places.systems
    for name in REGISTERS:
        (systems / name).mkdir()
        (systems / name).chmod(0o711)
        write_app(name, systems / name / "app")
    # The gazette takes as long as the others together: a process of its own for it.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        gazette = apart.submit(write_gazette, systems / "gazette" / "acts", seed=SEED, scale=scale)
        business = create_business(systems / "business" / "business.sqlite", seed=SEED, scale=scale)
        _start_database(places, ports)
        land = create_land(dsn(places, ports), seed=SEED, scale=scale)
        return {"gazette": gazette.result(), "land": land, "business": business}


def socket_folder(places: Places) -> Path:
    return places.run / "pg"


def dsn(places: Places, ports: Ports) -> str:
    """How home's own programs reach the land register's database."""
    return f"host={socket_folder(places)} port={ports.postgres} dbname=postgres user=postgres"


def _start_database(places: Places, ports: Ports) -> None:
    binaries = find_postgres(None, need=("postgres", "initdb", "pg_basebackup", "pg_verifybackup"))
    account = unprivileged_user()
    bindir = reachable_binaries(binaries.bindir, account, places.run / "postgres")
    data = places.systems / "land" / "pgdata"
    initdb(bindir, data, account=account)
    start_postgres(
        bindir, data, places.run / "home", name=Label("postgres"), port=ports.postgres,
        socket_dir=socket_folder(places), account=account, settings={"wal_level": "replica"},
    )  # fmt: skip


def start_services(places: Places, ports: Ports) -> None:
    """Home's applications, and the clerk who goes on filing at the business register."""
    systems = places.systems
    commands = {
        "gazette": (ports.gazette, ["--data", str(systems / "gazette" / "acts")]),
        "land": (ports.land, ["--dsn", dsn(places, ports)]),
        "business": (ports.business, ["--db", str(systems / "business" / "business.sqlite")]),
    }
    for name, (port, arguments) in commands.items():
        argv = (sys.executable, "app.py", "--port", str(port), *arguments)
        start(ServiceSpec(Label(name), argv, systems / name / "app", {}, port, "/health"), places.run / "home")
    clerk = (sys.executable, "-m", "exclave.demo.business_writer", str(systems / "business" / "business.sqlite"))
    start(ServiceSpec(Label("clerk"), clerk, places.root), places.run / "home")
    for port, _ in commands.values():
        wait_http(f"http://127.0.0.1:{port}/health", 30.0)


def end_home(places: Places) -> int:
    """Ends every process of home; how many there were."""
    return len(end_all([places.run / "home"]))


def end_all(folders: Iterable[Path]) -> list[str]:
    """Ends every service of these run folders, databases after the applications that use them; their names."""
    found = [(folder, process.name) for folder in folders for process in running(folder)]
    with ThreadPoolExecutor() as pool:
        for last in (False, True):
            wave = [(folder, name) for folder, name in found if (name == "postgres") is last]
            list(pool.map(lambda one: stop(one[0], one[1], grace_s=5.0), wave))
    return [str(name) for _, name in found]


def lose_home(places: Places) -> Path:
    """Everything at home is gone at once: data, keys, caches, and the copy that lay in the same country.

    Where the ruins lie: nobody looks there, and they may be cleared away at leisure.
    """
    ruins = places.root / "ruins"
    ruins.mkdir(mode=0o700)
    places.home.rename(ruins / "home")
    (places.sites / "home").rename(ruins / "site")
    return ruins


def copy_home(places: Places) -> Path:
    """What somebody took along before home was lost: a copy of its folder and of the site beside it."""
    stolen = places.root / "revived"
    shutil.copytree(places.home, stolen / "home", symlinks=True, ignore=_only_plain)
    # A site replaces files and alters none, so another name for each is as good as a copy.
    shutil.copytree(places.sites / "home", stolen / "site", copy_function=os.link)
    return stolen


def _only_plain(folder: str, names: list[str]) -> set[str]:
    """FIFOs and sockets cannot be copied; the database's folder is of no use to a thief without its server."""
    return {
        name
        for name in names
        if name == "pgdata"
        or not (os.path.isdir(p := os.path.join(folder, name)) or os.path.isfile(p) or os.path.islink(p))
    }


def config_text(places: Places, ports: Ports, scale: int, world: World, hosts: Hosts) -> str:
    """The state's ``exclave.toml``; with the gateway once that knows the state's fingerprint."""
    lines = [
        "# A small state with three registers: copy this file and say in it what yours is.",
        "",
        "[state]",
        f'name = "{STATE_NAME}"',
        'home = "EE"',
        f"threshold = {THRESHOLD}        # of the custodians below must agree to open anything",
        'quorum = "embassy-witness"        # must have cosigned before a version counts',
    ]
    for name, country in CUSTODIANS:
        lines += ["", "[[custodian]]", f'name = "{name}"', f'country = "{country}"', f'card = "custodians/{name}.card"']
    for name, country, operator, can_run in (
        ("home", "EE", "state-it", False), ("north", "FI", "valtori", False), ("south", "LU", "ctie", True),
        ("west", "SE", "molnet", False),
    ):  # fmt: skip
        if name == "south" and not hosts.known:
            continue
        lines += ["", "[[site]]", f'name = "{name}"', f'url = "{hosts.url(name, "home")}"', f'country = "{country}"']
        lines += [f'operator = "{operator}"', f"can_run = {str(can_run).lower()}"]
    lines += ["", "[[witness]]", 'name = "embassy-witness"', f'url = "http://127.0.0.1:{ports.witness}"']
    lines.append('card = "custodians/embassy-witness.card"')
    lines += register_text(world, _limits([]))
    for name in REGISTERS:
        lines += _register(places, ports, name, references(scale)[name])
    if not hosts.known:
        lines = [line for line in lines if not line.startswith("south = ")]
    return "\n".join(lines) + "\n"


def _register(places: Places, ports: Ports, name: str, query: ReferenceQuery) -> list[str]:
    systems = places.systems / name
    about = {
        "gazette": ("Ministry of Justice", "public-law", ["identity"]),
        "land": ("Land Board", "property", ["gazette", "identity"]),
        "business": ("Centre of Registers", "economy", ["gazette", "identity", "land"]),
    }[name]
    owner, kind, depends = about
    lines = ["", "[[register]]", f'name = "{name}"', f'owner = "{owner}"', f'class = "{kind}"']
    if name == "gazette":
        lines += ["public = true            # everybody may read it", f'title = "{TITLE}"']
    lines += _limits(depends)
    kinds: dict[str, tuple[str, str, dict[str, str | int]]] = {
        "gazette": ("acts", "files", {"path": str(systems / "acts")}),
        "land": ("db", "postgres", {"host": str(socket_folder(places)), "port": ports.postgres, "user": "postgres",
                                    "dbname": "postgres"}),
        "business": ("db", "sqlite", {"path": str(systems / "business.sqlite")}),
    }  # fmt: skip
    for label, form, options in (kinds[name], ("app", "files", {"path": str(systems / "app")})):
        pairs = ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
        lines += ["", "[[register.dataset]]", f'name = "{label}"', f'kind = "{form}"', f"options = {{ {pairs} }}"]
    if name == "land":
        lines += ["", "[[register.service]]", 'name = "postgres"', 'kind = "postgres"', 'dataset = "db"']
        lines.append(f"port = {ports.postgres}")
    argument = {"gazette": ["--data", "{path:acts}"], "land": ["--dsn", "{dsn:db}"], "business": ["--db", "{path:db}"]}
    argv = ["{python}", "app.py", "--port", "{port}", *argument[name]]
    lines += ["", "[[register.service]]", 'name = "web"', 'dataset = "app"', f"argv = {json.dumps(argv)}"]
    lines += [f"port = {getattr(ports, name)}", 'probe = "/health"']
    expect = json.dumps(json.dumps(query.expected, ensure_ascii=False), ensure_ascii=False)
    lines.append(f"query = {{ path = {json.dumps(query.path)}, expect = {expect} }}")
    return lines


def _limits(depends: list[str]) -> list[str]:
    """What every register has."""
    return [
        "rpo_s = 3600         # at most this much work may be lost, in seconds",
        "rto_s = 900          # and it may be down for so long",
        "retention_days = 400", f"depends = {json.dumps(depends)}",
        "placement = { copies = 2, countries = 2, outside_home = 1 }",
        "", "[register.legal_basis]   # a site that is not named here never gets this register",
        'home = "State Reserves Act, section 4"',
        'north = "Agreement with Finland, article 3"',
        'south = "Agreement with Luxembourg of 20.06.2017, article 2"',
        'west = "Agreement with Sweden, article 7"',
    ]  # fmt: skip

"""A home folder as a user has it: three custodians (two suffice), directory sites, a register, a charter in force.

Everything is done by the ``exclave`` command: in this process for speed (``run``), or as a process of its own where a
test kills it (``start``).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exclave.cli import main as cli
from exclave.operations.home import Home
from exclave.runners.ports import free_port

CUSTODIANS = {"aino": "FI", "kaja": "EE", "luc": "LU"}
SITES = {"home": "EE", "lux": "LU", "nord": "FI"}
BASIS = "Agreement, article 2"

# A register's whole application: it answers from its data folder, and counts how often it was started.
SERVICE = """\
import http.server, pathlib, sys

port, data = int(sys.argv[1]), pathlib.Path(sys.argv[2])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = data / self.path.lstrip("/")
        body = b"well" if self.path == "/health" else found.read_bytes() if found.is_file() else b""
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str) -> Said:
    """``exclave ARGUMENTS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.run(list(arguments))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return Said(code, out.getvalue(), err.getvalue())


def command(*arguments: str) -> list[str]:
    """The argument vector of ``exclave ARGUMENTS`` as a process of its own."""
    return [sys.executable, "-m", "exclave.cli.main", *arguments]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """``exclave ARGUMENTS`` as a process of its own."""
    return subprocess.Popen(
        command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def toml(value: object) -> str:
    """A TOML value; of a dictionary, an inline table."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


@dataclass
class Register:
    """One block of ``exclave.toml``."""

    name: str
    datasets: list[tuple[str, str, dict[str, object]]]
    """(name, kind, options)"""
    at: tuple[str, ...] = tuple(SITES)
    copies: int = 2
    countries: int = 2
    abroad: int = 1
    depends: tuple[str, ...] = ()
    services: list[dict[str, object]] = field(default_factory=list)

    def block(self) -> str:
        rule = {"copies": self.copies, "countries": self.countries, "outside_home": self.abroad}
        lines = [
            "", "[[register]]", f"name = {toml(self.name)}", 'owner = "Ministry"', 'class = "public-law"',
            "rpo_s = 3600", "rto_s = 900", "retention_days = 400", f"depends = {toml(list(self.depends))}",
            f"placement = {toml(rule)}", f"legal_basis = {toml(dict.fromkeys(self.at, BASIS))}",
        ]  # fmt: skip
        for name, kind, options in self.datasets:
            lines += ["", "[[register.dataset]]", f"name = {toml(name)}", f"kind = {toml(kind)}"]
            lines.append(f"options = {toml(options)}")
        for service in self.services:
            lines += ["", "[[register.service]]", *(f"{key} = {toml(value)}" for key, value in service.items())]
        return "\n".join(lines) + "\n"


def served(name: str, folder: Path, **more: Any) -> Register:
    """A register of files with a small web application that answers from them."""
    acts, app = folder / "acts", folder / "app"
    acts.mkdir(parents=True)
    app.mkdir()
    (acts / "act-1").write_text(f'{{"register": "{name}"}}')
    (acts / "bulk").write_bytes(os.urandom(50_000))
    (app / "app.py").write_text(SERVICE)
    web: dict[str, object] = {
        "name": "web", "dataset": "app", "argv": ["{python}", "app.py", "{port}", "{path:acts}"], "port": free_port(),
        "probe": "/health", "query": {"path": "/act-1", "expect": f'{{"register": "{name}"}}'},
    }  # fmt: skip
    datasets: list[tuple[str, str, dict[str, object]]] = [
        ("acts", "files", {"path": str(acts)}),
        ("app", "files", {"path": str(app)}),
    ]
    return Register(name, datasets, services=[web], **more)


class SmallHome:
    """Use: ``SmallHome(folder).found()``; then ``home.run("backup")`` and so on, always with ``--home``."""

    def __init__(
        self,
        root: Path,
        registers: Iterable[Register] = (),
        *,
        sites: Iterable[str] = tuple(SITES),
        urls: dict[str, str] | None = None,
        threshold: int = 2,
    ) -> None:
        """Without ``registers``, one of files is made, in ``root/acts``. ``urls``: of sites that are no folders."""
        self.root, self.folder, self.threshold = root, root / "home", threshold
        self.sites = tuple(sites)
        self.urls = {name: f"dir:{root / 'sites' / name}" for name in self.sites} | (urls or {})
        self.registers = list(registers) or [self._acts()]
        self.fingerprint = ""

    def _acts(self) -> Register:
        acts = self.root / "acts"
        acts.mkdir(parents=True)
        (acts / "act-1").write_text("Act 1: everybody may read this.\n")
        (acts / "act-2").write_bytes(bytes(range(256)) * 200)
        return Register("gazette", [("acts", "files", {"path": str(acts)})], at=self.sites)

    # Making it

    def config(self) -> str:
        """``exclave.toml``."""
        lines = ["[state]", 'name = "Republic of Small Home"', 'home = "EE"', f"threshold = {self.threshold}"]
        for name, country in CUSTODIANS.items():
            lines += ["", "[[custodian]]", f'name = "{name}"', f'country = "{country}"', f'card = "cards/{name}.card"']
        for name in self.sites:
            lines += ["", "[[site]]", f'name = "{name}"', f"url = {toml(self.urls[name])}"]
            lines += [f'country = "{SITES[name]}"', f'operator = "{name}-it"', "can_run = true"]
        return "\n".join(lines) + "\n" + "".join(r.block() for r in self.registers)

    def make(self) -> SmallHome:
        """Home folder, custodians' keys, site folders and configuration; no charter yet."""
        for name, url in self.urls.items():
            if url.startswith("dir:"):
                self.site(name).mkdir(parents=True, exist_ok=True)
        self.ok("init", str(self.folder))
        for name in CUSTODIANS:
            self.ok("custodian", "new", name, "--out", str(self.folder / "cards"))
        self.write_config()
        return self

    def found(self) -> SmallHome:
        """``make``, and a charter in force."""
        self.make()
        self.fingerprint = str(self.new_charter("draft-1")["fingerprint"])
        return self

    def write_config(self) -> None:
        (self.folder / "exclave.toml").write_text(self.config())

    def new_charter(self, draft: str, *, home: Path | None = None, signers: Iterable[str] = ("kaja", "luc")) -> Any:
        """Proposes, signs and publishes; what ``charter publish`` said."""
        folder, at = self.root / draft, ["--home", str(home or self.folder)]
        number = self.ok("charter", "propose", str(folder), *at)["number"]
        where = self.where() if number > 1 else []
        for name in signers:
            self.ok("charter", "sign", str(folder), "--yes", "--key", str(self.key(name)), *where)
        return self.ok("charter", "publish", str(folder), *at)

    # Where things are

    def site(self, name: str) -> Path:
        return Path(self.urls[name].removeprefix("dir:"))

    def key(self, custodian: str) -> Path:
        return self.folder / "cards" / f"{custodian}.key"

    def id_of(self, register: str = "") -> str:
        name = register or self.registers[0].name
        return str({str(n): r for n, r in Home.open(self.folder).register_ids().items()}[name])

    @property
    def home(self) -> list[str]:
        return ["--home", str(self.folder)]

    def where(self, *names: str) -> list[str]:
        """``--site`` for each of ``names`` (all without), and ``--fingerprint``."""
        options = [part for name in names or self.sites for part in ("--site", f"{name}={self.urls[name]}")]
        return [*options, "--fingerprint", self.fingerprint]

    # Commands

    def ok(self, *arguments: str) -> Any:
        """The JSON of a command that must succeed."""
        return self.fails(0, *arguments)

    def fails(self, code: int, *arguments: str) -> Any:
        """The JSON of a command that must end with ``code``."""
        said = run(*arguments, "--json")
        assert said.code == code, f"exclave {' '.join(arguments)}: {said.code}\n{said.out}\n{said.err}"
        return said.json

    def backup(self, *registers: str) -> list[dict[str, Any]]:
        """Receipts."""
        return list(self.ok("backup", *registers, *self.home)["receipts"])

    def verify(self, *sites: str, code: int = 0) -> Any:
        return self.fails(code, "verify", *self.where(*sites))

    def versions(self, register: str = "", *sites: str) -> list[dict[str, Any]]:
        """Versions that count, as the sites show them."""
        found = self.ok("snapshots", self.id_of(register), *self.where(*sites))
        return list(found["registers"][0]["versions"])

    # Warrants

    def request(
        self,
        act: str,
        *,
        place: str = "lux",
        machine: str = "embassy",
        name: str = "",
        sites: Iterable[str] = (),
        registers: Iterable[str] = (),
    ) -> Path:
        """A request of the machine ``machine``; the warrant's file."""
        warrant = self.root / "warrants" / f"{name or machine + '-' + act}.warrant"
        only = [part for number in registers for part in ("--register", number)]
        self.ok(
            "warrant", "request", str(warrant), "--act", act, "--place", place, "--reason", "A test asks for it",
            "--key", str(self.machine(machine)), "--machine", machine, *only, *self.where(*sites),
        )  # fmt: skip
        return warrant

    def machine(self, name: str = "embassy") -> Path:
        return self.root / "warrants" / f"{name}.key"

    def answer(
        self, warrant: Path, *custodians: str, sites: Iterable[str] = (), order: Path | None = None
    ) -> list[str]:
        """``--answer FILE`` of each custodian, who reads ``order`` if the warrant is for one."""
        options, at = [], [*self.where(*sites), *(["--object", str(order)] if order is not None else [])]
        for name in custodians:
            done = self.ok("warrant", "sign", str(warrant), "--yes", "--key", str(self.key(name)), *at)
            options += ["--answer", done["path"]]
        return options

    def granted(self, act: str, *custodians: str, **more: Any) -> list[str]:
        """``--warrant``, ``--answer`` and ``--key`` of a new warrant that ``custodians`` (kaja and luc) signed."""
        warrant = self.request(act, **more)
        sites = more.get("sites", ())
        key = self.machine(more.get("machine", "embassy"))
        answers = self.answer(warrant, *(custodians or ("kaja", "luc")), sites=sites)
        return ["--warrant", str(warrant), "--key", str(key), *answers]


def tree_of(folder: Path) -> dict[str, bytes]:
    """Names and contents of all files below ``folder``."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

"""A state whose register of identities has a place at home and one or two that stand by, all on this machine.

Made by the ``exclave`` command; steps of a place that would take seconds in a serving process (sending, following) are
made by its own ``Follower`` in this process. The register has no service, so a failover starts no server.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from exclave.app import open_identity
from exclave.cli import main as cli
from exclave.crypto.crl import issuer_id
from exclave.demo.pki import Pki, make_pki
from exclave.formats.fact import Fact, parse_fact
from exclave.formats.gap import GapStatement, parse_gap
from exclave.formats.journal import Body, Entry, Head, Issued, Issuer, Stopped, serial_bytes
from exclave.formats.mergenote import MergeNote, parse_merge
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import statement_prefix
from exclave.identity.contract import Authority
from exclave.identity.journal import Journal
from exclave.identity.status_log import CertificateStatus, Serial
from exclave.ids import Digest, Fingerprint, Instant, RegisterId, now
from exclave.operations.identity_follow import Follower, begin
from exclave.operations.identity_place import IdentityPlace
from exclave.sites.opening import open_site
from exclave.verify.state import StateView, read_state
from support.small_home import Register, Said, SmallHome, run

LONG_AGO_S = 60
"""A place whose clock is so much late looks as if it had fallen silent then: nobody waits for it."""


@cache
def pki() -> Pki:
    return make_pki(now())


def issuer() -> Digest:
    return issuer_id(pki().first.der)


def late() -> Instant:
    """A clock that is a minute late."""
    return Instant(now() - LONG_AGO_S * 1_000_000)


def stop(serial: int, *, since: int = 0, reason: str = "keyCompromise") -> Stopped:
    return Stopped(issuer(), serial_bytes(serial), since or now(), reason)


class MovingPlaces:
    """Use: ``MovingPlaces(folder).made()``; then ``with state.home() as place: place.writer.enter(…)`` and so on."""

    def __init__(self, root: Path, embassies: tuple[str, ...] = ("lux",), *, served: bool = False) -> None:
        """``served``: the register has the service, which a failover starts."""
        self.root, self.embassies = root, embassies
        self.at_home = root / "identity-home"
        self.journal = self.at_home / "journal"
        dataset: dict[str, object] = {"path": str(self.journal)}
        service: dict[str, object] = {"name": "identity", "kind": "identity", "dataset": "journal", "port": 0}
        services = [service] if served else []
        self.small = SmallHome(root, [Register("identity", [("journal", "identity", dataset)], services=services)])

    def made(self) -> MovingPlaces:
        """Places of home and the embassies; five certificates (serials 1 to 5) are known; a version was captured."""
        self.journal.mkdir(parents=True)
        self.small.found()
        self.small.ok("identity", "init", "--dir", str(self.at_home), "--home", str(self.small.folder))
        for name in self.embassies:
            self.stand_by(name)
        serials = tuple(serial_bytes(serial) for serial in range(1, 6))
        self.enter(Issuer("first", pki().first.der, True), Issued(issuer(), serials))
        self.small.backup()
        return self

    def stand_by(self, name: str, *, of: str = "home") -> None:
        """Makes the embassy ``name``, and names it where the place ``of`` is."""
        made = self.small.ok(
            "identity", "init", "--dir", str(self.at(name)), "--place", name, "--register", self.register,
            *self.small.where(),
        )  # fmt: skip
        shutil.copy(made["card"], self.at(of) / f"{name}.card")
        block = f'[[embassy]]\nplace = "{name}"\ncard = "{name}.card"\n\n'
        self.configure(self.at(of), "[serve]", block + "[serve]")

    def configure(self, folder: Path, old: str, new: str) -> None:
        """Changes ``place.toml``."""
        text = (folder / "place.toml").read_text()
        assert old in text
        (folder / "place.toml").write_text(text.replace(old, new, 1))

    # Where things are

    @property
    def register(self) -> RegisterId:
        return RegisterId(self.small.id_of("identity"))

    @property
    def state(self) -> Fingerprint:
        return Fingerprint(self.small.fingerprint)

    def exile(self, name: str = "lux") -> Path:
        """The embassy's folder, in which its failover is made."""
        return self.root / f"exile-{name}"

    def at(self, name: str = "lux") -> Path:
        """The folder of a place."""
        return self.at_home if name == "home" else self.exile(name) / "identity"

    @property
    def view(self) -> StateView:
        return read_state({name: open_site(self.small.urls[name]) for name in self.small.sites}, self.state)  # type: ignore[misc, arg-type]

    # A place's own steps

    @contextmanager
    def place(self, name: str = "home", clock: Callable[[], Instant] = now) -> Iterator[IdentityPlace]:
        """The place, as a process has it before it answers."""
        place = open_identity(self.at(name), clock)
        try:
            begin(place)
            yield place
        finally:
            place.close()

    def enter(self, *bodies: Body, at: str = "home", clock: Callable[[], Instant] = now) -> Head:
        with self.place(at, clock) as place:
            return place.writer.enter(bodies)

    def step(self, name: str = "home", clock: Callable[[], Instant] = now) -> Follower:
        """One step of the place's process: a push where it decides, else a look at the feed."""
        with self.place(name, clock) as place:
            follower = Follower(place)
            follower.step()
            return follower

    def authority(self, name: str) -> Authority:
        with self.place(name) as place:
            return place.authority()

    def status(self, serial: int, name: str) -> CertificateStatus:
        with self.place(name) as place:
            return place.store.status(issuer(), Serial(serial))

    def entries(self, name: str) -> list[Entry]:
        return [entry for entry, _, _ in Journal.open(str(self.at(name) / "journal")).read_after(Head())]

    # Moves

    def fail_over(self, name: str = "lux", *, again: str = "") -> list[str]:
        """A warrant that lets ``name`` take over, and the arguments of the command; ``again``: in another folder."""
        signed = self.warrant("failover", name, self.at(name) / "machine.key", name=again)
        folder = self.root / again if again else self.exile(name)
        return [
            "failover", "run", *self.small.where(), *signed, "--dir", str(folder), "--identity", str(self.at(name))
        ]  # fmt: skip

    def come_back(self) -> list[str]:
        """The same for home, whose writer's key is on the machine to which it returns."""
        signed = self.warrant("failback", "home", self.small.folder / "keys" / "writer.key")
        at = ["--dir", str(self.root / "return"), "--identity", str(self.at_home)]
        return ["failover", "run", *self.small.where(), *signed, *at]

    def warrant(self, act: str, place: str, key: Path, *, name: str = "") -> list[str]:
        warrant = self.root / "warrants" / f"{name or f'{act}-{place}'}.warrant"
        self.small.ok(
            "warrant", "request", str(warrant), "--act", act, "--place", place, "--reason", "A test asks for it",
            "--key", str(key), *self.small.where(),
        )  # fmt: skip
        return ["--warrant", str(warrant), "--key", str(key), *self.small.answer(warrant, "kaja", "luc")]

    def ok(self, arguments: list[str]) -> Said:
        said = run(*arguments, "--json")
        assert said.code == 0, f"{said.out}\n{said.err}"
        return said

    # What was said of them

    def gap(self, name: str = "lux", folder: Path | None = None) -> GapStatement:
        return parse_gap(self._note((folder or self.at(name)) / "state" / "gap.note").text)

    def merge(self) -> MergeNote:
        return parse_merge(self._note(self.at_home / "state" / "merge.note").text)

    def _note(self, path: Path) -> ParsedNote:
        return parse_note(path.read_bytes())

    def statements(self) -> dict[str, list[bytes]]:
        """By site: the notes that lie there."""
        found = {}
        for name in self.small.sites:
            site = open_site(self.small.urls[name])
            found[name] = [site.get(item.key) for item in site.list(statement_prefix(self.state, self.register))]
        return found

    def facts(self) -> list[Fact]:
        """In the newest epoch's ledger."""
        view = self.view
        epoch = view.epoch_chain(self.register).newest
        reader = view.log_reader(epoch, open_site(self.small.urls["lux"]))
        entries = [entry for _, entry in reader.tree(reader.head()).entries()]
        return [parse_fact(entry) for entry in entries if entry.startswith(b"exclave/fact/")]

    def feed_paths(self, site: str, *, epoch: int = 0) -> list[Path]:
        """Files of the feed at a site; of the newest epoch, or of ``epoch``."""
        chain = self.view.epoch_chain(self.register)
        found = chain.epochs[epoch - 1] if epoch else chain.newest
        root = self.small.site(site) / self.state / self.register / "feed"
        return sorted(p for p in root.rglob("*") if p.is_file() and found.digest.hex()[:16] in str(p.parent))

    # Keeping a moment

    def keep(self) -> Path:
        """A copy of everything, for ``back_to``."""
        kept = self.root.with_name(f"{self.root.name}.kept-{now()}")
        shutil.copytree(self.root, kept, symlinks=True)
        return kept

    def back_to(self, kept: Path) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(kept, self.root, symlinks=True)


# Processes that die

DURABLE = ("rename", "replace", "link", "pwrite", "mkdir", "rmdir")
"""Calls of the operating system after which something is there, or gone, that was not before."""


def dying(arguments: list[str], at: int, *, within: tuple[Any, str]) -> tuple[int, int]:
    """``exclave ARGUMENTS`` in a process of its own that is killed right after its ``at``-th durable call while
    ``within`` (a module and the name of a function in it) runs; 0: never. (exit code or minus the signal, calls made)
    """
    count_in, count_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(count_in)
        code = 99
        try:
            with open(os.devnull, "w", encoding="utf-8") as nothing:
                sys.stdout = sys.stderr = nothing
                _arm(at, within, count_out)
                code = cli.run(arguments)
        finally:
            os._exit(code)
    os.close(count_out)
    with os.fdopen(count_in, "rb") as pipe:
        calls = len(pipe.read())
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), calls


def _arm(at: int, within: tuple[Any, str], count: int) -> None:
    """In the child: one byte into ``count`` for each call, and death at the right one."""
    module, name = within
    whole = getattr(module, name)
    seen, inside = 0, False

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            try:
                return real(*args, **kwargs)
            finally:
                if inside:
                    seen += 1
                    os.write(count, b".")
                    if seen == at:
                        os.kill(os.getpid(), signal.SIGKILL)

        return call

    def entered(*args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        inside = True
        try:
            return whole(*args, **kwargs)
        finally:
            inside = False

    for durable in DURABLE:
        setattr(os, durable, counted(getattr(os, durable)))
    setattr(module, name, entered)

"""An embassy in exile that acts on certificates: real sites, ledger, journal and status store, on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import Pki, make_pki
from exclave.errors import MissingObject
from exclave.formats.fact import Fact, parse_fact
from exclave.formats.journal import Body, Entry, Head, Issued, Issuer, serial_bytes
from exclave.formats.statusorder import StatusLine, write_status_order
from exclave.formats.warrant import Act
from exclave.identity.contract import Authority, IdentityState, JournalWriter
from exclave.identity.journal import Journal
from exclave.identity.status_log import CertificateStatus, Serial
from exclave.identity.store import Store
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import Pen, catch_up
from exclave.ids import Digest, Instant, Label, RegisterId
from exclave.operations.act_fact import RegisterFacts
from exclave.operations.acting import Desk
from exclave.operations.custody import request_warrant, sign_warrant
from exclave.verify.state import StateView, read_state
from support.custody import Actor, machine
from support.small_state import START, SmallState

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
LUX = Label("lux")


@cache
def pki() -> Pki:
    return make_pki(START)


def issuer() -> Digest:
    """The CA whose certificates are acted on: live, everything that it issued is known."""
    return issuer_id(pki().first.der)


class Killed(BaseException):
    """The process died here."""


@dataclass
class Writer:
    """A journal writer that dies before or after its ``at``-th entry, if that is not 0."""

    real: JournalWriter
    at: int = 0
    after: bool = False
    calls: int = 0

    def enter(self, bodies: Iterable[object], *, warrant: bytes = b"") -> Head:
        self.calls += 1
        if self.calls == self.at and not self.after:
            raise Killed
        head = self.real.enter(bodies, warrant=warrant)
        if self.calls == self.at:
            raise Killed
        return head


@dataclass
class Granted:
    """Files of a warrant."""

    warrant: Path
    answers: list[Path]


class Place:
    """Use: ``place = Place(folder)``; ``place.desk(place.grant(Act.REVOKE, order))``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.small = SmallState(
            folder / "state", sites=("home", "lux"), custodians=("anna", "boris", "clara"), threshold=2
        )
        self.me = machine("rescue")
        self.small.new_epoch(Act.FAILOVER, by=self.me)
        self.time = Instant(START + DAY)
        self.state, self.epoch, self.label = IdentityState.EXILE, 2, LUX
        (folder / "journal").mkdir()
        self.numbers = 0
        self.open()
        self.add(Issuer("esteid-2018", pki().first.der, True))

    # As ``Desk`` wants it

    def open(self) -> None:
        """As after a restart: nothing is remembered."""
        self.journal = Journal.open(str(self.folder / "journal"))
        self.store: Store = open_sqlite(str(self.folder / "status.sqlite"))
        catch_up(self.journal, self.store)
        self.pen = Writer(Pen(self.journal, self.store, self.authority, self.clock))

    @property
    def writer(self) -> JournalWriter:
        return self.pen

    @property
    def register(self) -> RegisterId:
        return self.small.register

    def authority(self) -> Authority:
        return Authority(self.state, self.label, self.epoch, Instant(0))

    def clock(self) -> Instant:
        return self.time

    # What is there

    @property
    def view(self) -> StateView:
        return read_state(self.small.sites, self.small.state)

    def add(self, *bodies: Body) -> None:
        self.pen.real.enter(bodies)

    def issued(self, *serials: int) -> None:
        self.add(Issued(issuer(), tuple(sorted(serial_bytes(serial) for serial in serials))))

    def status(self, serial: int, of: Digest | None = None) -> CertificateStatus:
        return self.store.status(of or issuer(), Serial(serial))

    def entries(self) -> list[Entry]:
        return [entry for entry, _, _ in self.journal.read_after(Head())]

    def facts(self) -> list[Fact]:
        """Facts in the newest ledger, as every site shows it."""
        epoch = self.view.epoch_chain(self.register).newest
        found = []
        for site in self.small.sites.values():
            reader = self.view.log_reader(epoch, site)
            try:
                found.append([parse_fact(entry) for _, entry in reader.tree(reader.head()).entries()])
            except MissingObject:
                found.append([])
        assert all(each == found[0] for each in found)
        return found[0]

    # Orders and warrants

    def order(self, act: Act, *lines: StatusLine, name: str = "") -> Path:
        self.numbers += 1
        path = self.folder / (name or f"{act}-{self.numbers}.order")
        path.write_bytes(b"".join(write_status_order(act, lines)))
        return path

    def grant(
        self,
        act: Act,
        order: Path | None,
        *,
        place: str = "lux",
        by: Actor | None = None,
        signers: Sequence[str] = ("anna", "boris"),
        hours: int = 12,
    ) -> Granted:
        """A warrant that ``signers`` answered."""
        self.numbers += 1
        path, view = self.folder / f"{act}-{self.numbers}.warrant", self.view
        request_warrant(
            view, (by or self.me).key, path, act=act, registers=[], place=Label(place), reason="A test asks for it",
            now=self.time, valid_s=hours * 3600, object=order,
        )  # fmt: skip
        answers = []
        for custodian in self.small.custodians:
            if custodian.name in signers:
                answers.append(path.with_name(f"{path.stem}-{custodian.name}.answer"))
                sign_warrant(path, view, self.small.sites, custodian.key, answers[-1], now=self.time, object=order)
        return Granted(path, answers)

    def desk(self, granted: Granted, *, by: Actor | None = None) -> Desk:
        me = (by or self.me).key
        view = self.view
        facts = RegisterFacts(view, self.register, me, self.small.sites, {}, self.folder / "outbox", nullcontext)
        return Desk(view, self, facts, granted.warrant, granted.answers, me, self.clock)

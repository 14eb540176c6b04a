"""A home that is gone and the embassy that took its register over, by commands, with certificates to act on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exclave.app import open_identity
from exclave.crypto.crl import issuer_id
from exclave.demo.pki import make_pki
from exclave.formats.fact import Fact, parse_fact
from exclave.formats.journal import Issued, Issuer, serial_bytes
from exclave.identity.status_log import Serial
from exclave.ids import Instant, Label, instant_text, now
from exclave.operations.identity_authority import TakenUp, write_taken_up
from exclave.operations.identity_follow import begin
from exclave.operations.identity_place import place_text
from exclave.sites.opening import open_site
from exclave.verify.state import read_state
from support.small_home import SmallHome, served

PKI = make_pki(now())


class Embassy:
    """A home that is gone, and the embassy that took its register over; its place decides."""

    def __init__(self, root: Path) -> None:
        self.home = SmallHome(root, [served("identity", root / "source")]).found()
        self.home.backup()
        self.folder = root / "embassy"
        failover = self.home.granted("failover")
        self.home.ok("failover", "run", *failover, "--dir", str(self.folder), *self.home.where())
        self.identity, self.register = self.folder / "identity", self.home.id_of()
        self.identity.mkdir()
        text = place_text(
            place="lux", role="embassy", fingerprint=self.home.fingerprint, register=self.register,
            key="../keys/writer.key", sites=self.home.urls, status="127.0.0.1:8421", login="127.0.0.1:8422",
        )  # fmt: skip
        (self.identity / "place.toml").write_text(text)
        write_taken_up(self.identity, TakenUp(2, 0, bytes(32), bytes(32), now()))
        self.card, self.other = PKI.first.card(), PKI.first.card(code="48001085718")
        with self.place() as place:
            begin(place)
            serials = sorted(serial_bytes(card.serial) for card in (self.card, self.other))
            place.writer.enter([
                Issuer("esteid-2018", PKI.first.der, True), Issuer("esteid-2025", PKI.second.der, True),
                Issued(issuer_id(PKI.first.der), tuple(serials)),
            ])  # fmt: skip

    @contextlib.contextmanager
    def place(self) -> Iterator[Any]:
        place = open_identity(self.identity, now)
        try:
            yield place
        finally:
            place.close()

    def status(self, serial: int) -> Any:
        with self.place() as place:
            return place.store.status(issuer_id(PKI.first.der), Serial(serial))

    def facts(self) -> list[Fact]:
        sites = {Label(name): open_site(url) for name, url in self.home.urls.items()}
        view = read_state(sites, self.home.fingerprint)  # type: ignore[arg-type]
        epoch = view.epoch_chain(self.register).newest  # type: ignore[arg-type]
        reader = view.log_reader(epoch, sites[Label("lux")])
        entries = [entry for _, entry in reader.tree(reader.head()).entries()]
        return [parse_fact(entry) for entry in entries if entry.startswith(b"exclave/fact/")]

    def granted(self, act: str, order: Path | None, name: str) -> list[str]:
        """``--warrant`` and ``--answer`` of a warrant for the embassy's own machine."""
        warrant = self.home.root / "warrants" / f"{name}.warrant"
        about = ["--object", str(order)] if order is not None else []
        self.home.ok(
            "warrant", "request", str(warrant), "--act", act, "--place", "lux", "--reason", "A test", *about,
            "--key", str(self.folder / "keys" / "writer.key"), *self.home.where(),
        )  # fmt: skip
        return ["--warrant", str(warrant), *self.home.answer(warrant, "kaja", "luc")]


def moment(days: int) -> str:
    """So many days from now, as a person types it."""
    return instant_text(Instant(now() + days * 86_400_000_000))

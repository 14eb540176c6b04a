"""A small home in which versions get old at once, orders to delete that its custodians sign, and sites that erase."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from exclave.app import open_named_sites
from exclave.cli.delete import writer_facts
from exclave.cli.where import view_of
from exclave.ids import (
    Digest,
    Fingerprint,
    Instant,
    Key,
    Label,
    now,
    parse_digest,
    parse_fingerprint,
    parse_register_id,
)
from exclave.operations.act_fact import RegisterFacts
from exclave.operations.erasure import Here, SiteErasure, carry_out
from exclave.sites.erasing import DirectoryEraser, ErasingSite, Locked
from exclave.verify.history import RegisterHistory, read_history
from exclave.verify.state import StateView
from support.small_home import SmallHome

DAY = 86_400_000_000
DELAY_S = 30 * 86400


class Killed(BaseException):
    """The process ends here."""


class AgeingHome(SmallHome):
    """Only the newest version is kept; an order to delete lies open for thirty days."""

    retention_days = 0
    extra = ""
    delay_s = DELAY_S

    def config(self) -> str:
        rules = f"retention_days = {self.retention_days}\ndeletion = {{ delay_s = {self.delay_s}, objections = 1 }}"
        return super().config().replace("retention_days = 400", f"{rules}\n{self.extra}")

    def grown(self, versions: int) -> AgeingHome:
        """That many versions, each with a file of its own content and one that never changes."""
        (self.root / "acts" / "steady").write_bytes(os.urandom(30_000))
        for _ in range(versions):
            self.change()
            self.backup()
        return self

    def change(self) -> bytes:
        """Another text in place of the former one; noise would be taken for what ransomware leaves."""
        data = os.urandom(550_000).hex().encode()
        (self.root / "acts" / "act-1").write_bytes(data)
        return data

    # Orders

    def propose(self, name: str = "old", *options: str) -> Path:
        order = self.root / "orders" / f"{name}.order"
        self.ok(
            "delete", "propose", "gazette", str(order), "--reason", "Archives Act, section 11", *options, *self.home
        )
        return order

    def signed(self, order: Path, *custodians: str) -> list[str]:
        """``--warrant`` and ``--answer`` for the writer's machine."""
        warrant = self.root / "warrants" / f"{order.stem}.warrant"
        self.ok(
            "warrant", "request", str(warrant), "--act", "delete", "--place", "home", "--reason", "Too old",
            "--key", str(self.folder / "keys" / "writer.key"), "--object", str(order), "--register", self.id_of(),
            *self.where(),
        )  # fmt: skip
        return ["--warrant", str(warrant), *self.answer(warrant, *(custodians or ("kaja", "luc")), order=order)]

    def publish(self, order: Path, signed: Iterable[str]) -> Any:
        return self.ok("delete", "publish", str(order), *signed, *self.home)

    def ordered(self, name: str = "old") -> Digest:
        """Proposed, signed and published; the order's digest."""
        order = self.propose(name)
        return parse_digest(self.publish(order, self.signed(order))["order"])

    def object_to(self, custodian: str, *options: str, sites: Iterable[str] = ()) -> Any:
        return self.ok(
            "delete", "object", self.id_of(), "--key", str(self.key(custodian)), "--reason",
            "Case 7/2027", *options, *self.where(*sites),
        )  # fmt: skip

    # At the sites

    def erase(
        self,
        site: str,
        *others: str,
        days: float = 31,
        power: ErasingSite | None = None,
        brought: Iterable[bytes] = (),
        look: bool = False,
    ) -> SiteErasure:
        """What the operator of ``site`` does ``days`` from now; the outcome of the one order that there is."""
        found = self.erase_all(site, *others, days=days, power=power, brought=brought, look=look)
        assert len(found) == 1
        return found[0]

    def erase_all(
        self,
        site: str,
        *others: str,
        days: float = 31,
        power: ErasingSite | None = None,
        brought: Iterable[bytes] = (),
        look: bool = False,
    ) -> tuple[SiteErasure, ...]:
        """The same for any number of orders. Without ``others``, all other sites are read."""
        names = others or tuple(name for name in self.sites if name != site)
        sites = open_named_sites(f"{name}={self.urls[name]}" for name in (site, *names))
        here = Label(site)
        return carry_out(
            Here(here, sites[here], power or DirectoryEraser(str(self.site(site)))),
            {label: opened for label, opened in sites.items() if label != here},
            self.pinned, now=Instant(now() + int(days * DAY)), brought=brought, look=look,
        )  # fmt: skip

    @property
    def pinned(self) -> Fingerprint:
        return parse_fingerprint(self.fingerprint)

    def packs(self, site: str = "lux") -> set[str]:
        """Names of the packs there."""
        return {path.name for path in (self.site(site) / self.fingerprint / self.id_of() / "pack").rglob("*")
                if path.is_file()}  # fmt: skip

    def objects(self, part: str, site: str = "lux") -> list[Path]:
        folder = self.site(site) / self.fingerprint / self.id_of() / part
        return sorted(path for path in folder.rglob("*") if path.is_file())


class DyingEraser:
    """``inner``, whose process is killed at the ``at``-th erasure, ``before`` it or after."""

    def __init__(self, inner: ErasingSite, at: int, *, before: bool) -> None:
        self._inner, self._left, self._before = inner, at, before

    def shown_since(self, key: Key) -> Instant | None:
        return self._inner.shown_since(key)

    def erase(self, key: Key) -> Locked | None:
        self._left -= 1
        if self._left == 0 and self._before:
            raise Killed
        done = self._inner.erase(key)
        if self._left == 0:
            raise Killed
        return done


def facts_of(home: AgeingHome) -> tuple[StateView, RegisterFacts, RegisterHistory]:
    """The state as its sites show it, the way to enter facts from home, and what the ledger has."""
    where = view_of(home.folder, None, "")
    register = parse_register_id(home.id_of())
    return where.view, writer_facts(where, register), read_history(where.view, where.sites, register)

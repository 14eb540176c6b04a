"""A home at three sites that a watch looks at through sites that lie, each in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from exclave.formats.charter import CharterRegister, CharterSite, ParsedCharter, Placement
from exclave.formats.policy import WitnessPolicy
from exclave.ids import Country, Digest, Epoch, Fingerprint, Instant, Label, RegisterId, now
from exclave.operations.watch import Watch, WatchRule
from exclave.rules.watch import Before, RegisterVerdict
from exclave.sites.contract import Site
from exclave.sites.opening import open_site
from support.hostile import PassThrough, StaleSite
from support.small_home import SmallHome

NOW = Instant(1_800_000_000_000_000)
PLACES = {"fin": "FI", "home": "EE", "lux": "LU"}


def ago(seconds: float) -> Instant:
    return Instant(int(NOW - seconds * 1_000_000))


def charter_of(
    registers: Mapping[RegisterId, str | None], *, copies: int = 2, countries: int = 2, abroad: int = 1
) -> ParsedCharter:
    """A charter that nobody signed: three sites, and ``registers`` (id → public name) with an RPO of an hour."""
    none = Digest(bytes(32))
    rules = tuple(
        CharterRegister(
            number, registers[number], tuple(Label(name) for name in PLACES), Placement(copies, countries, abroad),
            3600, 900, 400, Epoch(1), none, none, none,
        )
        for number in sorted(registers)
    )  # fmt: skip
    said: dict[str, Any] = {
        "number": 1, "previous": None, "issued": ago(9e6), "state_name": "State", "home": Country("EE"),
        "threshold": 1, "policy": WitnessPolicy((), None), "registers": rules,
        "sites": tuple(CharterSite(Label(s), Country(PLACES[s]), Label(f"{s}-it")) for s in PLACES),
    }  # fmt: skip
    nothing: dict[str, Any] = {one.name: () for one in fields(ParsedCharter) if one.name not in said}
    return ParsedCharter(**said, **nothing)


class Turning(PassThrough):
    """A site that becomes another one when ``inner`` is set."""


@dataclass
class World:
    """A state, its sites as they are and as they were at version 1, and a clock that can be set."""

    home: SmallHome
    then: dict[str, StaleSite]
    sites: dict[str, Turning] = field(default_factory=dict)
    skew_s: float = 0.0
    register: RegisterId = RegisterId("")

    def clock(self) -> Instant:
        return Instant(int(now() + self.skew_s * 1e6))

    def watch(self, **rule: int) -> Watch:
        sites: dict[Label, Site] = {Label(name): site for name, site in self.sites.items()}
        return Watch(
            sites, Fingerprint(self.home.fingerprint), WatchRule(**rule), clock=self.clock, choose=lambda n: n - 1
        )

    def look(self, watch: Watch, before: dict[Label | None, Before] | None = None) -> RegisterVerdict:
        known = {self.register: before} if before is not None else None
        (verdict,) = watch.look().judge(self.clock(), known)
        return verdict

    def true(self, name: str) -> Site:
        return open_site(self.home.urls[name])

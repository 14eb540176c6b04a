"""A home at three sites that a watch looks at through sites that lie, each in its own way."""

from __future__ import annotations

from dataclasses import dataclass, field

from exclave.ids import Fingerprint, Instant, Label, RegisterId, now
from exclave.operations.watch import Watch, WatchRule
from exclave.rules.watch import Before, RegisterVerdict
from exclave.sites.contract import Site
from exclave.sites.opening import open_site
from support.hostile import PassThrough, StaleSite
from support.small_home import SmallHome


class Turning(PassThrough):
    """A site that becomes another one when ``inner`` is set."""


@dataclass
class Country:
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

"""A host carries out orders to delete by himself: at his own site, verified by him, when asked or each day.

Whoever asks brings no rights and needs none: what may go is decided by the quorum's order, the delay by this machine's
clock, custodians' objections, and what living versions need. Asking more often changes nothing and costs little.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from exclave.errors import Busy, ConfigError
from exclave.ids import Fingerprint, Instant, Label
from exclave.operations.erasure import Here, SiteErasure, carry_out
from exclave.sites.contract import Site
from exclave.sites.erasing import ErasingSite

REST_US = 60_000_000
"""So long the answer to one asking is also that to the next: each costs a reading of the state."""


@dataclass(slots=True)
class HostErasure:
    """Of one hosted state. For many threads."""

    label: Label | None
    """What the state's charter calls this site."""
    site: Site
    power: ErasingSite
    state: Fingerprint
    others: Callable[[], Mapping[Label, Site]]
    """Opens the other sites of the state that this host was told of."""
    erased: Callable[[], None] = lambda: None
    """Told when objects are gone."""
    last: tuple[SiteErasure, ...] = ()
    last_at: Instant = Instant(0)
    _failed_at: Instant = Instant(0)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def run(self, now: Instant, *, clock_fault: str = "") -> tuple[SiteErasure, ...]:
        """Carries out what is due; what became of each order. ``ConfigError`` if the host does not know which site he
        is; ``Busy`` if this machine's clock cannot be trusted, or a run is under way or has just failed; other errors
        as of ``carry_out``.
        """
        if self.label is None:
            raise ConfigError(
                "host.toml does not say what the state's charter calls this site",
                hint="Set site in its [[state]]; nothing was erased.",
            )
        if clock_fault:
            raise Busy(f"nothing is erased while the clock cannot be trusted: {clock_fault}")
        if not self._lock.acquire(blocking=False):
            raise Busy("somebody asked already, and it is under way")
        try:
            return self._run(self.label, now)
        finally:
            self._lock.release()

    def _run(self, label: Label, now: Instant) -> tuple[SiteErasure, ...]:
        if self.last_at and 0 <= now - self.last_at < REST_US:
            return self.last
        if self._failed_at and 0 <= now - self._failed_at < REST_US:
            raise Busy("it failed less than a minute ago; ask again later")
        self._failed_at = now
        try:
            others = {name: site for name, site in self.others().items() if name != label}
            # Killed in here: some objects are gone, those that may go; the next run goes on.
            found = carry_out(Here(label, self.site, self.power), others, self.state, now=now)
        except BaseException:
            self.erased()
            raise
        if any(one.erased for one in found):
            self.erased()
        self.last, self.last_at, self._failed_at = found, now, Instant(0)
        return found

"""How long to wait for a site over a network."""

from __future__ import annotations

from dataclasses import dataclass, field

from exclave.sites.retry import RetryPolicy

SMALL_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5  # two lost SYNs are sent again within it
LARGE_TIMEOUT_S = 600  # 64 MiB in this time is 0.9 Mbit/s


@dataclass(frozen=True, slots=True)
class Patience:
    """Of whoever opens a site."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    small_timeout_s: float = SMALL_TIMEOUT_S
    """For one request of at most 1 MiB; also what a connection costs that was open when the line was cut."""
    large_timeout_s: float = LARGE_TIMEOUT_S


USUAL = Patience()

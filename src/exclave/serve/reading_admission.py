"""Who may search now: limits for each client and its neighbourhood, and a fair line in front of the few workers.

Pure and clocked from outside. Memory is bounded: what is remembered of clients is forgotten, the oldest first. A flood
from many addresses of one network waits behind itself, since whoever asked least is served first.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

REMEMBERED: Final = 65_536
"""Clients and networks that are remembered, of each."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, one network and all together may ask."""

    client_per_s: float = 2.0
    client_burst: float = 20.0
    network_per_s: float = 20.0
    """Of a /24 (IPv4) or /48 (IPv6): a ministry or a village may stand behind one."""
    network_burst: float = 100.0
    at_work: int = 2
    """Searches that run at once."""
    waiting: int = 64
    waiting_of_network: int = 4
    patience_s: float = 0.3
    """Whoever waited longer is sent away: an answer that late is of no use, and the line must move."""


@dataclass(frozen=True, slots=True)
class Client:
    """An address and its network, as text: what limits go by."""

    address: str
    network: str


def client_of(address: str) -> Client:
    """IPv6 clients count by their /64: a household has as many addresses as it likes. Unknown ones share one name."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return Client("?", "?")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    own, near = (32, 24) if ip.version == 4 else (64, 48)
    return Client(
        str(ipaddress.ip_network((ip, own), strict=False)), str(ipaddress.ip_network((ip, near), strict=False))
    )


class Bucket:
    """Tokens that come back with time."""

    __slots__ = ("at", "tokens")

    def __init__(self, burst: float, now: float) -> None:
        self.tokens, self.at = burst, now

    def fill(self, now: float, per_s: float, burst: float) -> None:
        self.tokens = min(burst, self.tokens + max(0.0, now - self.at) * per_s)
        self.at = now


class Answer(Enum):
    """What becomes of a request that just came."""

    RUN = "run"
    WAIT = "wait"
    TOO_MANY = "too many"
    """This client or its network asked too much: 429."""
    FULL = "full"
    """Everybody together asks too much: 503."""


@dataclass(slots=True)
class Ticket:
    """A request in the line."""

    client: Client
    since: float
    number: int


@dataclass(slots=True)
class Admission:
    """Use: ``arrive``; on ``WAIT`` wait until ``leave`` names the ticket, else ``give_up``; after work, ``leave``."""

    limits: Limits = field(default_factory=Limits)
    running: int = 0
    _clients: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)
    _networks: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)
    _line: dict[int, Ticket] = field(default_factory=dict)
    _number: int = 0

    def arrive(self, client: Client, now: float) -> tuple[Answer, Ticket | None, Ticket | None]:
        """The answer, its ticket if it waits, and the ticket of somebody who loses his place to it."""
        limits = self.limits
        own = self._bucket(self._clients, client.address, now, limits.client_per_s, limits.client_burst)
        near = self._bucket(self._networks, client.network, now, limits.network_per_s, limits.network_burst)
        if own.tokens < 1 or near.tokens < 1:
            return Answer.TOO_MANY, None, None
        own.tokens -= 1
        near.tokens -= 1
        if self.running < limits.at_work and not self._line:
            self.running += 1
            return Answer.RUN, None, None
        if sum(t.client.network == client.network for t in self._line.values()) >= limits.waiting_of_network:
            return Answer.FULL, None, None
        pushed: Ticket | None = None
        if len(self._line) >= limits.waiting:
            pushed = min(self._line.values(), key=self._claim)
            if self._left(client) <= self._left(pushed.client):
                return Answer.FULL, None, None
            del self._line[pushed.number]
        self._number += 1
        ticket = Ticket(client, now, self._number)
        self._line[ticket.number] = ticket
        return Answer.WAIT, ticket, pushed

    def leave(self, now: float) -> Ticket | None:
        """A search has ended: the ticket that runs in its place, if somebody waits."""
        self.running -= 1
        for network in {t.client.network for t in self._line.values()}:
            self._networks[network].fill(now, self.limits.network_per_s, self.limits.network_burst)
        if not self._line:
            return None
        first = max(self._line.values(), key=self._claim)
        del self._line[first.number]
        self.running += 1
        return first

    def give_up(self, ticket: Ticket) -> None:
        """Whoever waited has gone away, or waited longer than the patience."""
        self._line.pop(ticket.number, None)

    @property
    def waiting(self) -> int:
        return len(self._line)

    def _claim(self, ticket: Ticket) -> tuple[float, float, int]:
        """Larger goes first: the network that has most left, then the client, then who came first."""
        near, own = self._left(ticket.client)
        return near, own, -ticket.number

    def _left(self, client: Client) -> tuple[float, float]:
        near, own = self._networks.get(client.network), self._clients.get(client.address)
        return (near.tokens if near else 0.0), (own.tokens if own else 0.0)

    @staticmethod
    def _bucket(of: OrderedDict[str, Bucket], name: str, now: float, per_s: float, burst: float) -> Bucket:
        found = of.get(name)
        if found is None:
            if len(of) >= REMEMBERED:
                of.popitem(last=False)
            found = of[name] = Bucket(burst, now)
        else:
            of.move_to_end(name)
            found.fill(now, per_s, burst)
        return found

"""Which connections may stay: places by class of client, so that no class takes another's.

Classes: a TLS handshake that has not ended; anybody without a certificate, and of those each network address; each
state. A class that is full makes room by its own longest idle connection, or refuses the new one. What all classes
together may have is the sum of the states' places and those of anybody, cut at the host's ``connections``.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from exclave.formats.hostconfig import HostLimits
from exclave.serve.site_connection import Connection
from exclave.serve.site_contract import ANYBODY
from exclave.serve.site_message import BadRequest

_HANDSHAKES_PER_ADDRESS_SHARE = 2


class Places:
    """Of one listener."""

    def __init__(self, limits: HostLimits, states: Mapping[str, int]) -> None:
        """``states``: places of each state's own connections, by fingerprint."""
        self._limits = limits
        self._most = {ANYBODY: limits.anonymous_connections, **states}
        self._shaking: dict[Connection, None] = {}
        self._in: dict[str, dict[Connection, None]] = {name: {} for name in self._most}
        self._class: dict[Connection, str] = {}
        self._lock = Lock()

    def come(self, connection: Connection) -> Connection | None:
        """A new connection begins its handshake; another one that must go for it."""
        with self._lock:
            self._shaking[connection] = None
            mine = [c for c in self._shaking if c.address == connection.address]
            if len(mine) > max(1, self._limits.handshakes // _HANDSHAKES_PER_ADDRESS_SHARE):
                leaving = mine[0]
            elif len(self._shaking) > self._limits.handshakes:
                leaving = next(iter(self._shaking))
            else:
                return None
            del self._shaking[leaving]
            return leaving

    def settle(self, connection: Connection, state: str) -> Connection | None:
        """The handshake is over; an idle connection of the same class that must go. ``BadRequest`` if there is no
        place."""
        with self._lock:
            members = self._in[state]
            leaving: Connection | None = None
            if state == ANYBODY:
                near = [c for c in members if c.address == connection.address]
                if len(near) >= self._limits.connections_per_address:
                    leaving = self._idle(near)
            if leaving is None and (len(members) >= self._most[state] or len(self._class) >= self._limits.connections):
                leaving = self._idle(list(members))
            if leaving is not None:
                self._forget(leaving)
            # Only now: one that finds no place is told so, and is still among the handshakes, which are few.
            self._shaking.pop(connection, None)
            members[connection] = None
            self._class[connection] = state
            return leaving

    def leave(self, connection: Connection) -> None:
        with self._lock:
            self._shaking.pop(connection, None)
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        state = self._class.pop(connection, None)
        if state is not None:
            del self._in[state][connection]

    @staticmethod
    def _idle(among: list[Connection]) -> Connection:
        idle = [connection for connection in among if connection.idle_since]
        if not idle:
            raise BadRequest(503, "no-place", "all places for connections like this one are taken; come again")
        return min(idle, key=lambda connection: connection.idle_since)

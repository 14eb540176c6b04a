"""Challenges of log-ins: 256 random bits that one browser answers once, within five minutes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from exclave.errors import NotAuthorised
from exclave.identity.contract import Tickets
from exclave.ids import Instant

CHALLENGE_BYTES = 32
CHALLENGE_S = 300


@dataclass(frozen=True, slots=True)
class Challenges:
    """One challenge at a time for each (kind, log-in, browser): a newer one replaces the older.

    It lies under the hash of the log-in's id and the browser's cookie, so the answer does not name it and another
    browser's is never found. ``randomness(n)`` gives n unpredictable bytes.
    """

    tickets: Tickets
    randomness: Callable[[int], bytes]

    def new(self, kind: str, interaction: str, browser: str, *, now: Instant) -> bytes:
        """A new one, ``CHALLENGE_BYTES`` long."""
        challenge = self.randomness(CHALLENGE_BYTES)
        expires = Instant(now + CHALLENGE_S * 1_000_000)
        self.tickets.put(kind, bound(interaction, browser), challenge, expires)
        return challenge

    def take(self, kind: str, interaction: str, browser: str, *, now: Instant) -> bytes:
        """The one that waits; it is gone then, whatever the answer is worth. ``NotAuthorised`` if there is none."""
        found = self.tickets.take(kind, bound(interaction, browser), now=now)
        if found is None:
            raise NotAuthorised(
                "no challenge waits for this browser: answered already, or too late", reason="challenge"
            )
        return found


def bound(interaction: str, browser: str) -> bytes:
    """The name of what belongs to this log-in in this browser; neither text holds a zero byte."""
    return hashlib.sha256(f"{interaction}\0{browser}".encode("utf-8", "surrogatepass")).digest()

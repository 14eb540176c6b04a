"""Which logs a host knows: those of the states whose objects it keeps, by their own charters and epoch notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exclave.errors import MalformedError, MissingObject
from exclave.formats.card import Card
from exclave.ids import Epoch, Fingerprint, parse_fingerprint, parse_positive, parse_register_id
from exclave.sites.contract import Site
from exclave.verify.hosted import HostedView, KnownEpoch
from exclave.verify.logs import LogReader

_MAX_EPOCH = 99_999_999


@dataclass(frozen=True, slots=True)
class HostedLog:
    """One epoch's log, and where it is kept."""

    site: Site
    known: KnownEpoch
    reader: LogReader


class HostedLogs:
    """The logs of all states of a host. For many threads."""

    def __init__(self, states: Mapping[Fingerprint, tuple[Site, HostedView]]) -> None:
        self._states = dict(states)

    def find(self, origin: str) -> HostedLog:
        """The log with this origin. ``MissingObject`` if no state here has granted it."""
        unknown = MissingObject(f"no state here has the log {origin[:200]}")
        parts = origin.split("/")
        if len(parts) != 4 or parts[0] != "exclave":
            raise unknown
        try:
            state, register = parse_fingerprint(parts[1]), parse_register_id(parts[2])
            number = Epoch(parse_positive(parts[3], limit=_MAX_EPOCH))
        except MalformedError as error:
            raise unknown from error
        if state not in self._states:
            raise unknown
        site, view = self._states[state]
        known = view.find(register, number)
        return HostedLog(site, known, view.log(known))

    def writer(self, origin: str) -> Card:
        """Who writes the log: what a witness goes by. ``Fenced`` if its epoch is over."""
        log = self.find(origin)
        log.known.require_open()
        return log.known.epoch.writer

"""What the gateway counts, as plain numbers: for metrics and the host's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock


@dataclass(frozen=True, slots=True)
class Counted:
    """The numbers of one moment. States by their fingerprint; the empty one is anybody without a state."""

    connections: Mapping[str, int]
    """Open now."""
    refused_connections: Mapping[str, int]
    """By reason."""
    answers: Mapping[tuple[str, str, int], int]
    """By state, method and status."""
    bytes_in: Mapping[str, int]
    bytes_out: Mapping[str, int]


@dataclass(slots=True)
class GatewayCounts:
    """Counts from several threads."""

    note: Callable[[str, str, int, int, int, int], None] | None = None
    """Told of each answer: state, method, status, bytes in and out, milliseconds. It is quick and raises nothing."""
    _lock: Lock = field(default_factory=Lock, repr=False)
    _connections: dict[str, int] = field(default_factory=dict, repr=False)
    _refused: dict[str, int] = field(default_factory=dict, repr=False)
    _answers: dict[tuple[str, str, int], int] = field(default_factory=dict, repr=False)
    _in: dict[str, int] = field(default_factory=dict, repr=False)
    _out: dict[str, int] = field(default_factory=dict, repr=False)

    def connection(self, state: str, change: int) -> None:
        with self._lock:
            self._connections[state] = self._connections.get(state, 0) + change

    def refused(self, reason: str) -> None:
        with self._lock:
            self._refused[reason] = self._refused.get(reason, 0) + 1

    def answered(self, state: str, method: str, status: int, bytes_in: int, bytes_out: int, took_ms: int = 0) -> None:
        """``method`` is one that the gateway knows, or ``other``: clients do not choose what is kept here."""
        with self._lock:
            answer = (state, method, status)
            self._answers[answer] = self._answers.get(answer, 0) + 1
            self._in[state] = self._in.get(state, 0) + bytes_in
            self._out[state] = self._out.get(state, 0) + bytes_out
        if self.note is not None:
            self.note(state, method, status, bytes_in, bytes_out, took_ms)

    def now(self) -> Counted:
        with self._lock:
            return Counted(
                dict(self._connections), dict(self._refused), dict(self._answers), dict(self._in), dict(self._out)
            )

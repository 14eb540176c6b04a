"""Which alarms are to be told to whom now: once when they rise, again after a while, and when they end. Pure.

What is wrong is a ``Condition``; it becomes an alarm when it has lasted long enough. Each channel (e-mail, webhook)
has its own memory of what it was told, changed only after a delivery that succeeded: so a channel that is down hears
everything later, and none waits for another. Told at least once: whoever dies between a delivery and writing it down
says it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from exclave.ids import Instant, Label, RegisterId
from exclave.rules.watch import Before, RegisterVerdict, State

_US = 1_000_000
WHOLE_STATE = "state"
"""Key of the condition that the state itself cannot be read."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is not as it should be."""

    key: str
    """``REGISTER`` or ``REGISTER/SITE``; ``state``."""
    register: RegisterId | None
    site: Label | None
    """None: the register as a whole."""
    state: State
    since: Instant
    time: Instant
    """The moment up to which data was good; 0: none."""
    patience_s: int
    """So long it must last before it is an alarm."""
    why: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a channel was last told under a key."""

    state: State
    since: Instant
    at: Instant


class Happened(StrEnum):
    RAISED = "raised"
    REPEATED = "repeated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to tell a channel."""

    happened: Happened
    key: str
    state: State
    """Of a resolved alarm, the state that it had."""
    since: Instant
    condition: Condition | None
    """None if it is resolved."""


def conditions_of(verdicts: Iterable[RegisterVerdict], *, patience_s: int) -> tuple[Condition, ...]:
    """What is wrong now. Silence must last ``patience_s``, or half of the RPO if that is less; all else is urgent."""
    found: list[Condition] = []
    for one in verdicts:
        calm = min(patience_s, one.rpo_s // 2)
        if one.state is not State.FRESH:
            wait = calm if one.state is State.UNKNOWN else 0
            found.append(Condition(one.register, one.register, None, one.state, one.since, one.time, wait, one.why))
        for cell in one.cells:
            if cell.state is not State.FRESH:
                wait = calm if cell.state is State.UNKNOWN else 0
                key = f"{one.register}/{cell.site}"
                found.append(Condition(key, one.register, cell.site, cell.state, cell.since, cell.time, wait, cell.why))
    return tuple(found)


def before_of(conditions: Iterable[Condition]) -> dict[RegisterId, dict[Label | None, Before]]:
    """How cells and registers stood, for the next judgement."""
    known: dict[RegisterId, dict[Label | None, Before]] = {}
    for one in conditions:
        if one.register is not None:
            known.setdefault(one.register, {})[one.site] = Before(one.state, one.since)
    return known


def due(
    conditions: Iterable[Condition],
    told: Mapping[str, Told],
    paused: frozenset[RegisterId],
    *,
    repeat_s: int,
    now: Instant,
) -> tuple[Event, ...]:
    """What a channel that was told ``told`` is to hear now. Of paused registers nothing, neither rise nor end."""
    events: list[Event] = []
    wrong = {one.key: one for one in conditions}
    for key, one in wrong.items():
        if one.register in paused or now - one.since < one.patience_s * _US:
            continue
        last = told.get(key)
        if last is None or last.state is not one.state:
            events.append(Event(Happened.RAISED, key, one.state, one.since, one))
        elif now - last.at >= repeat_s * _US:
            events.append(Event(Happened.REPEATED, key, one.state, one.since, one))
    for key, last in told.items():
        if key not in wrong and key.partition("/")[0] not in paused:
            events.append(Event(Happened.RESOLVED, key, last.state, last.since, None))
    return tuple(events)


def told_after(told: Mapping[str, Told], events: Iterable[Event], now: Instant) -> dict[str, Told]:
    """A channel's memory once it has heard ``events``."""
    after = dict(told)
    for event in events:
        if event.happened is Happened.RESOLVED:
            after.pop(event.key, None)
        else:
            after[event.key] = Told(event.state, event.since, now)
    return after

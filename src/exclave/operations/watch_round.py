"""One round of the watch: look, judge, tell whoever has to hear of it, and write down what was told.

The state file is a cache: since when what is wrong, and what each channel was told. It is replaced durably after each
round. A restart finds the former file or the new one: at worst an alarm is told twice. Lost or damaged, it is made
anew: every alarm that stands is told once more, and what was proven is proven anew in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from exclave.errors import ExclaveError, IntegrityError, UsageError
from exclave.formats.watchconfig import WatchConfig
from exclave.ids import Fingerprint, Instant, RegisterId, parse_moment
from exclave.operations.home import read_limited, write_private
from exclave.operations.telling import Channel, Heartbeat, Lane, Message
from exclave.operations.watch import Look, Watch
from exclave.rules.alarms import WHOLE_STATE, Condition, Told, before_of, conditions_of, due, told_after
from exclave.rules.watch import RegisterVerdict, State, worst_of

_FORMAT = "exclave/watch-state/v1"
_MAX_STATE_BYTES = 64 << 20


class Memory(msgspec.Struct):
    """What the state file holds."""

    format: str
    fingerprint: str
    looked: int = 0
    conditions: tuple[Condition, ...] = ()
    told: dict[str, dict[str, Told]] = {}
    """By channel, then by key."""


def read_memory(path: Path | None, state: Fingerprint) -> Memory:
    """The memory in ``path``; a new one if there is none, or if it is damaged. ``UsageError`` if another state's."""
    fresh = Memory(_FORMAT, state)
    if path is None or not path.exists():
        return fresh
    try:
        found = msgspec.json.decode(read_limited(path, _MAX_STATE_BYTES), type=Memory)
    except (msgspec.DecodeError, UnicodeError):
        return fresh
    if found.format != _FORMAT:
        return fresh
    if found.fingerprint != state:
        raise UsageError(f"{path} belongs to a watch of another state", hint="Name another file with --state.")
    return found


@dataclass(slots=True)
class ChannelHealth:
    """How one channel does."""

    succeeded: Instant = Instant(0)
    failures: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found."""

    look: Look
    verdicts: tuple[RegisterVerdict, ...]
    conditions: tuple[Condition, ...]
    alarms: tuple[Condition, ...]
    """Conditions that have lasted long enough, of registers that are not paused."""
    paused: Mapping[RegisterId, str]
    """Why, and until when."""

    @property
    def worst(self) -> State:
        """Of what is not paused; unknown or damaged if the state itself could not be read."""
        heard = worst_of(v for v in self.verdicts if v.register not in self.paused)
        if self.look.problem is None:
            return heard
        return max(heard, _state_of(self.look.problem), key=list(State).index)


def _state_of(problem: ExclaveError) -> State:
    """What it means that the state itself could not be read."""
    return State.DAMAGED if isinstance(problem, IntegrityError) else State.UNKNOWN


@dataclass(slots=True)
class Duty:
    """A watch with its channels and its memory."""

    watch: Watch
    config: WatchConfig
    state: Fingerprint
    names: dict[RegisterId, str]
    """Home's names of its registers; those that it does not know are called by their public titles from a look on."""
    channels: tuple[Channel, ...]
    memory: Memory
    path: Path | None
    """Of the state file; None: nothing is remembered."""
    clock: Callable[[], Instant]
    own: frozenset[RegisterId] = frozenset()
    """Registers that home has a name for: they keep it, here as in all other commands."""
    lanes: list[Lane] = field(default_factory=list)
    health: dict[str, ChannelHealth] = field(default_factory=dict)
    rounds: int = 0

    def __post_init__(self) -> None:
        self.own = frozenset(self.names)
        self.lanes = [Lane(channel) for channel in self.channels]
        if self.config.heartbeat_url:
            self.lanes.append(Lane(Heartbeat(self.config.heartbeat_url)))
        self.health = {lane.channel.name: ChannelHealth() for lane in self.lanes}
        known = {lane.channel.name for lane in self.lanes}
        self.memory.told = {name: told for name, told in self.memory.told.items() if name in known}

    def round(self) -> Round:
        """One look; deliveries go on after it returns."""
        look = self.watch.look()
        now = self.clock()
        if look.charter is not None:
            titles = {r.id: r.public_name for r in look.charter.registers if r.public_name}
            self.names |= {number: title for number, title in titles.items() if number not in self.own}
        verdicts = look.judge(now, before_of(self.memory.conditions))
        conditions = (*conditions_of(verdicts, patience_s=self.config.patience_s), *self._whole(look.problem, now))
        paused = self._paused(now)
        ready = [c for c in conditions if c.register not in paused and now - c.since >= c.patience_s * 1_000_000]
        self.memory.conditions, self.memory.looked = conditions, look.at
        self.rounds += 1
        self._collect()
        for lane in self.lanes:
            self._tell(lane, look, frozenset(paused), now)
        self._save()
        return Round(look, verdicts, conditions, tuple(ready), paused)

    def settle(self, seconds: float) -> None:
        """Waits for deliveries under way, and writes down how they ended."""
        for lane in self.lanes:
            lane.wait(seconds)
        self._collect()
        self._save()

    def _whole(self, problem: ExclaveError | None, now: Instant) -> tuple[Condition, ...]:
        if problem is None:
            return ()
        state = _state_of(problem)
        before = next((c for c in self.memory.conditions if c.key == WHOLE_STATE and c.state is state), None)
        since = before.since if before is not None else now
        wait = self.config.patience_s if state is State.UNKNOWN else 0
        return (Condition(WHOLE_STATE, None, None, state, since, Instant(0), wait, problem.message),)

    def _paused(self, now: Instant) -> dict[RegisterId, str]:
        """Registers whose alarms are held back: by name or id."""
        by_name = {name: number for number, name in self.names.items()}
        found: dict[RegisterId, str] = {}
        for pause in self.config.pause:
            if now < parse_moment(pause.until):
                number = by_name.get(pause.register, RegisterId(pause.register))
                found[number] = f"paused until {pause.until}: {pause.reason}"
        return found

    def _tell(self, lane: Lane, look: Look, paused: frozenset[RegisterId], now: Instant) -> None:
        if lane.busy:
            return
        told = self.memory.told.get(lane.channel.name, {})
        beats = isinstance(lane.channel, Heartbeat)
        events = () if beats else due(
            self.memory.conditions, told, paused, repeat_s=self.config.repeat_s, now=now
        )  # fmt: skip
        if events or beats:
            name = look.charter.state_name if look.charter is not None else str(self.state)[:16]
            lane.start(Message(self.state, name, now, events, dict(self.names)))

    def _collect(self) -> None:
        for lane in self.lanes:
            name = lane.channel.name
            for done in lane.finished():
                health = self.health[name]
                health.problem = done.problem
                if done.problem:
                    health.failures += 1
                else:
                    health.succeeded = done.at
                    self.memory.told[name] = told_after(self.memory.told.get(name, {}), done.events, done.at)

    def _save(self) -> None:
        # Dies before: the former file, and what was told since is told again. After: this one.
        if self.path is not None:
            write_private(self.path, msgspec.json.encode(self.memory))

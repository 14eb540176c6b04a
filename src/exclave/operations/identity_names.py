"""Names that move: when another place takes over, the names of the services lead to it, and back when home returns.

Page: docs/spec/names.md. One signed update changes all records or none. What they were is written down first, durably,
so that ``undo_names`` restores it exactly. Every verb looks at the zone first and may be run again at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exclave.durable import replace_file, sync_folder
from exclave.errors import Busy, HeadMoved, UsageError
from exclave.formats.dnsplan import HOME, DnsPlan, RecordPlan, TsigKey
from exclave.formats.namesmoved import (
    HEADER,
    MAX_MOVED_BYTES,
    MovedSet,
    NamesMoved,
    encode_names_moved,
    parse_names_moved,
)
from exclave.ids import Instant, Label
from exclave.rules.names import Change, RecordSet, Spot, changes_to
from exclave.runners.dns import Asked, apply_changes, ask_all, first_server, load_tsig_key, read_sets

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NameRow:
    """What one server tells the world of one record."""

    server: str
    name: str
    type: str
    values: tuple[str, ...]
    ttl_s: int
    """So long a resolver goes on saying it."""
    there: bool
    """It leads to the place that was asked for."""
    why: str
    """If not: whose values these are, that there are none, or why there is no answer."""


@dataclass(frozen=True, slots=True)
class NamesReport:
    """Where the names lead."""

    place: Label
    server: str
    """The primary server that was used; empty if only the world was asked."""
    changes: tuple[Change, ...]
    """What this run changed."""
    rows: tuple[NameRow, ...]
    """Primary servers, then resolvers."""

    @property
    def everywhere(self) -> bool:
        """All servers that were asked lead to the place."""
        return all(row.there for row in self.rows)

    @property
    def settles_in_s(self) -> int:
        """After so long no server that answered should say anything older; 0 if all lead to the place."""
        return max((row.ttl_s for row in self.rows if not row.there), default=0)


def prepare_names(plan: DnsPlan, folder: Path, say: Say) -> NamesReport:
    """In peace: gives the records the plan's time to live and leaves their values. ``folder`` holds the key file.

    ``HeadMoved`` if a record has other values than home's; see ``move_names`` for the rest.
    """
    key = _key(plan, folder)
    server = first_server(plan, key)
    wanted = [_wanted(plan, record, HOME) for record in plan.record]
    changes = changes_to(read_sets(plan, key, server, _spots(plan)), wanted, {}, with_ttl=True)
    _apply(plan, key, server, changes, say)
    return NamesReport(HOME, server, changes, check_names(plan, HOME).rows)


def move_names(plan: DnsPlan, place: Label, folder: Path, state_folder: Path, *, now: Instant, say: Say) -> NamesReport:
    """Makes the names lead to ``place``. Done already: it says so and changes nothing.

    ``HOME`` is a place, too: its values then, and nothing remains to be undone. ``folder`` holds the plan's key file.
    (1) find a server · (2) read · (3) decide · (4) write down what was · (5) one update · (6) ask the world.
    ``UnavailableError`` if no server answers, ``NotAuthorised`` if the key may not, ``HeadMoved`` if somebody else
    changed the names, ``ConfigError`` if the plan does not know the place, ``Busy`` if another process is at it.
    """
    wanted = [_wanted(plan, record, place) for record in plan.record]
    key = _key(plan, folder)
    with _state(plan, state_folder) as path:
        server = first_server(plan, key)  # (1)
        current = read_sets(plan, key, server, _spots(plan))  # (2)
        held = _load(path)
        changes = changes_to(current, wanted, _known(plan, held), with_ttl=False)  # (3)
        if not changes:
            say(f"The names lead to {place} already.")
            return NamesReport(place, server, (), check_names(plan, place).rows)
        _save(path, _moved(plan, place, held, current, wanted, now))  # (4)
        # A restart after (4) finds what was, and a zone that has it still: undoing it is then nothing to do.
        _apply(plan, key, server, changes, say)  # (5)
        if place == HOME:
            _forget(path)  # they are where they belong; nothing is to be undone
        return NamesReport(place, server, changes, check_names(plan, place).rows)  # (6)


def undo_names(plan: DnsPlan, folder: Path, state_folder: Path, say: Say) -> NamesReport:
    """Gives the names the values and times to live that they had before the first move; then forgets the move.

    ``UsageError`` if no move is written down; else as ``move_names``.
    """
    key = _key(plan, folder)
    with _state(plan, state_folder) as path:
        held = _load(path)
        if held is None:
            raise UsageError(
                f"no move of {plan.zone} is written down in {state_folder}", hint="Nothing is to be undone."
            )
        wanted = [RecordSet(s.name, s.type, s.before_ttl_s, s.before) for s in held.sets]
        server = first_server(plan, key)
        current = read_sets(plan, key, server, [target.spot for target in wanted])
        changes = changes_to(current, wanted, _known(plan, held), with_ttl=True)
        _apply(plan, key, server, changes, say)
        _forget(path)
        # A restart before this finds the zone as it was, changes nothing and forgets the move.
        asked = [*plan.servers, *plan.resolvers]
        rows = _rows(ask_all(plan, [t.spot for t in wanted], asked), {t.spot: t.values for t in wanted}, plan)
        return NamesReport(HOME, server, changes, rows)


def check_names(plan: DnsPlan, place: Label) -> NamesReport:
    """Asks the primary servers and every resolver where the names lead. Needs no key and changes nothing."""
    wanted: dict[Spot, tuple[str, ...]] = {(r.name, r.type): plan.values(r, place) for r in plan.record}
    asked = ask_all(plan, _spots(plan), [*plan.servers, *plan.resolvers])
    return NamesReport(place, "", (), _rows(asked, wanted, plan))


def _apply(plan: DnsPlan, key: TsigKey, server: str, changes: Sequence[Change], say: Say) -> None:
    """In one update; then it is read back, since a server may take an update and still not do all of it."""
    if not changes:
        return
    for change in changes:
        say(f"{change.before.says()} -> {' '.join(change.after.values)} ({change.after.ttl_s} s)")
    apply_changes(plan, key, server, changes)
    found = read_sets(plan, key, server, [change.after.spot for change in changes])
    for change in changes:
        if found.get(change.after.spot) != change.after:
            there = found[change.after.spot].says() if change.after.spot in found else "gone"
            raise HeadMoved(
                f"{server} took the update, but {change.after.name} {change.after.type} is {there}",
                hint="Correct it at the name server by hand, then run this again.",
            )
    say(f"{server} has taken {len(changes)} change{'s' if len(changes) > 1 else ''} of {plan.zone} in one update.")


def _rows(asked: Sequence[Asked], wanted: Mapping[Spot, tuple[str, ...]], plan: DnsPlan) -> tuple[NameRow, ...]:
    places: dict[Spot, dict[tuple[str, ...], Label]] = {
        (r.name, r.type): {plan.values(r, p): p for p in _places(plan)} for r in plan.record
    }
    rows: list[NameRow] = []
    for answer in asked:
        values = answer.found.values if answer.found else ()
        there = bool(answer.found) and values == wanted[answer.spot]
        why = answer.problem or ("there is no such record" if answer.found is None else "")
        if not there and not why:
            why = f"as of {places.get(answer.spot, {}).get(values, 'no place of the plan')}"
        ttl_s = answer.found.ttl_s if answer.found else 0
        rows.append(NameRow(answer.server, *answer.spot, values, ttl_s, there, why))
    return tuple(rows)


def _key(plan: DnsPlan, folder: Path) -> TsigKey:
    return load_tsig_key(str(folder / plan.key_file))


def _spots(plan: DnsPlan) -> list[Spot]:
    return [(record.name, record.type) for record in plan.record]


def _places(plan: DnsPlan) -> list[Label]:
    return [*sorted(plan.places()), HOME]


def _wanted(plan: DnsPlan, record: RecordPlan, place: Label) -> RecordSet:
    return RecordSet(record.name, record.type, plan.ttl_s, plan.values(record, place))


def _known(plan: DnsPlan, held: NamesMoved | None) -> dict[Spot, list[tuple[str, ...]]]:
    """The values that any place of the plan has, and those that the last move found and left."""
    found: dict[Spot, list[tuple[str, ...]]] = {
        (r.name, r.type): [plan.values(r, place) for place in _places(plan)] for r in plan.record
    }
    for moved in held.sets if held else ():
        found.setdefault((moved.name, moved.type), []).extend((moved.before, moved.after))
    return found


def _moved(
    plan: DnsPlan, place: Label, held: NamesMoved | None, current: Mapping[Spot, RecordSet],
    wanted: Sequence[RecordSet], now: Instant,
) -> NamesMoved:  # fmt: skip
    """What to write down. A second move, on to another place, keeps what was before the first, also if it was cut off;
    a set that no embassy has written is taken as it is."""
    first = {(s.name, s.type): s for s in held.sets} if held else {}
    abroad = {(r.name, r.type): [plan.values(r, p) for p in plan.places()] for r in plan.record}
    sets: list[MovedSet] = []
    for record, target in zip(plan.record, wanted, strict=True):
        there, earlier = current[target.spot], first.get(target.spot)
        before, ttl_s = there.values, there.ttl_s
        if earlier is not None and there.values in (earlier.after, *abroad[record.name, record.type]):
            before, ttl_s = earlier.before, earlier.before_ttl_s
        sets.append(MovedSet(target.name, target.type, before, ttl_s, target.values, target.ttl_s))
    return NamesMoved(HEADER, plan.zone, place, held.begun if held else now, tuple(sets))


def _path(plan: DnsPlan, state_folder: Path) -> Path:
    return state_folder / f"names-{plan.zone}.json"


@contextlib.contextmanager
def _state(plan: DnsPlan, state_folder: Path) -> Iterator[Path]:
    """The file with the move, for this process alone."""
    path = _path(plan, state_folder)
    try:
        state_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"{state_folder} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another process moves the names of {plan.zone}") from error
        yield path
    finally:
        os.close(lock)


def _load(path: Path) -> NamesMoved | None:
    try:
        with path.open("rb") as file:
            return parse_names_moved(file.read(MAX_MOVED_BYTES + 1))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _save(path: Path, moved: NamesMoved) -> None:
    """Durably; a restart finds the old one or the new one."""
    try:
        replace_file(path, encode_names_moved(moved))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="No name was changed.") from error


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync_folder(path.parent)

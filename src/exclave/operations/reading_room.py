"""Reading room: the freshest edition of a public register, from any of several sites, checked before anybody reads it.

Nobody's key and no warrant is needed: pinned fingerprint → charters → epochs → ledger → newest fact ``published`` →
edition → bundles. Each arrow is a signature or a SHA-256, so it does not matter which host an object came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from exclave.errors import MissingObject
from exclave.formats.epochnote import ParsedEpoch
from exclave.formats.warrant import Act, parse_warrant
from exclave.ids import Fingerprint, Instant, Label, RegisterId
from exclave.sites.contract import Readable
from exclave.verify.history import RegisterHistory, read_history
from exclave.verify.published import Published, newest_edition
from exclave.verify.state import StateView, read_state

_LOOKS: Final = (1, 16, 256)
"""Versions that are read from the end of the ledger before all of it is: the newest edition and its version are seldom
far."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a reading room may say of a register, all of it proven."""

    state: Fingerprint
    state_name: str
    register: RegisterId
    name: str
    published: Published
    newest: int
    """The register's newest version; it may not be public yet."""
    newest_time: Instant
    rpo_s: int
    epoch: int
    exile: Label | None
    """The place that has the register since a failover; None: it is at home."""
    sources: tuple[str, ...]
    """Sites that answered."""
    away: tuple[str, ...]


def look(sources: Mapping[Any, Readable], pinned: Fingerprint, register: RegisterId | str) -> tuple[StateView, Shown]:
    """What ``sources`` prove of a public register now; ``register``: its id or its public name.

    Raises ``MissingObject`` if nothing was published, and what ``read_state`` and ``read_history`` raise.
    """
    view = read_state(sources, pinned)
    charter = view.chain.newest.charter
    named = [r for r in charter.registers if register in (r.id, r.public_name)]
    if len(named) != 1 or named[0].public_name is None:
        raise MissingObject(
            f"the charter has no public register {register!r}",
            hint="It has: "
            + ("; ".join(f"{r.public_name} ({r.id})" for r in charter.registers if r.public_name) or "none"),
        )
    rule = named[0]
    answering = {name: source for name, source in sources.items() if name in view.shown}
    history = read_history(view, answering, rule.id, newest=_LOOKS[0])
    published = newest_edition(view, answering, history)
    for newest in (*_LOOKS[1:], None):
        if published is not None and _tells_of(history, published):
            break
        history = read_history(view, answering, rule.id, newest=newest)
        published = newest_edition(view, answering, history)
    if published is None:
        raise MissingObject(
            f"nothing of {rule.public_name} was published yet",
            hint="Its writer does so with `exclave publish` after a backup.",
        )
    return view, Shown(
        pinned, charter.state_name, rule.id, rule.public_name or "", published, history.latest.leaf.sequence,
        history.latest.leaf.time, rule.rpo_s, view.epoch_chain(rule.id).newest.number, _exile(view, rule.id),
        tuple(str(n) for n in answering), tuple(str(n) for n in sources if n not in answering),
    )  # fmt: skip


def _tells_of(history: RegisterHistory, published: Published) -> bool:
    """Whether so much was read that the edition was compared with the ledger's entry of its version."""
    return any(version.leaf.sequence <= published.edition.sequence for version in history.versions)


def _exile(view: StateView, register: RegisterId) -> Label | None:
    """The place of the newest failover, unless the register came home since."""
    place: Label | None = None
    for epoch in view.epoch_chain(register).epochs:
        act, where = _granted(view, epoch.note)
        if act is Act.FAILOVER:
            place = where
        elif act is Act.FAILBACK:
            place = None
    return place


def _granted(view: StateView, note: ParsedEpoch) -> tuple[Act | None, Label | None]:
    if note.authority is None or note.authority not in view.warrants:
        return None, None
    warrant = parse_warrant(view.warrants[note.authority].text)
    return warrant.act, warrant.place

"""Reading room: the freshest edition of a public register, from any of several sites, checked before anybody reads it.

Nobody's key and no warrant is needed: pinned fingerprint → charters → epochs → ledger → newest fact ``published`` →
edition → bundles. Each arrow is a signature or a SHA-256, so it does not matter which host an object came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, MissingObject, UnavailableError
from exclave.formats.edition import KIND, MAX_EDITION_BYTES, Edition, parse_edition, parse_published
from exclave.formats.epochnote import ParsedEpoch
from exclave.formats.paths import public_key
from exclave.formats.warrant import Act, parse_warrant
from exclave.ids import Digest, Fingerprint, Instant, Label, RegisterId, sha256
from exclave.sites.contract import MAX_OBJECT_BYTES, Readable
from exclave.verify.history import RegisterHistory, read_history
from exclave.verify.state import StateView, read_state

_LOOKS: Final = (1, 16, 256)
"""Versions that are read from the end of the ledger before all of it is: the newest edition is seldom far."""


@dataclass(frozen=True, slots=True)
class Published:
    """An edition that the register's ledger names."""

    edition: Edition
    digest: Digest
    entered: Instant
    """When its writer entered it."""


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
    published: Published | None = None
    history = read_history(view, answering, rule.id, newest=_LOOKS[0])
    for newest in (*_LOOKS[1:], None):
        published = newest_edition(view, answering, history)
        if published is not None:
            break
        history = read_history(view, answering, rule.id, newest=newest)
    published = published or newest_edition(view, answering, history)
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


def newest_edition(view: StateView, sources: Mapping[Any, Readable], history: RegisterHistory) -> Published | None:
    """The edition that the newest readable fact of ``history`` names; None if it names none.

    ``MissingObject`` if one is named and no source has it. A fact that does not parse is passed over.
    """
    for counted in reversed(history.facts):
        if counted.fact.kind != KIND:
            continue
        try:
            sequence, digest = parse_published(counted.fact)
        except MalformedError:
            continue
        data = fetch_bundle(view, sources, history.register, digest, limit=MAX_EDITION_BYTES)
        try:
            edition = parse_edition(data)
        except MalformedError as error:
            raise CorruptObject(f"the writer's edition of version {sequence} is none: {error.message}") from error
        if (edition.state, edition.register, edition.sequence) != (view.state, history.register, sequence):
            raise CorruptObject("the ledger names an edition of another state, register or version")
        return Published(edition, digest, counted.fact.time)
    return None


def fetch_bundle(
    view: StateView,
    sources: Mapping[Any, Readable],
    register: RegisterId,
    name: Digest,
    *,
    limit: int = MAX_OBJECT_BYTES,
) -> bytes:  # fmt: skip
    """A published object, from the first source that has its right bytes. ``MissingObject`` if none has."""
    key = public_key(view.state, register, name)
    last: ExclaveError | None = None
    for source in sources.values():
        try:
            data = source.get(key, limit=limit)
        except (UnavailableError, IntegrityError) as error:
            last = error
            continue
        if sha256(data) == name:
            return data
        last = CorruptObject(f"{key} has other bytes than its name says")
    raise MissingObject(f"no site has a good copy of {key}", key=key) from last


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

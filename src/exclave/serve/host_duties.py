"""What a host does besides keeping bytes: guards writes, witnesses, mirrors, erases by order.

Plugged into the gateway by ``serve/site_contract.py``. Below a state's address:

    witness/add-checkpoint, witness/HASH/checkpoint    C2SP tlog-witness
    mirror/add-checkpoint, mirror/add-entries          C2SP tlog-mirror
    mirror/HASH/checkpoint, mirror/HASH/tile/…         the same, for monitors
    held/add-checkpoint                                the mirror's cosignature on what this site holds already
    erase                                              carries out what is due
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from exclave.errors import (
    ConfigError,
    CorruptObject,
    ExclaveError,
    HeadMoved,
    MalformedError,
    UnavailableError,
)
from exclave.formats.objectname import Part, parse_object_name
from exclave.formats.paths import ledger_origin
from exclave.ids import Fingerprint, Instant, instant_text
from exclave.ledger.coded_guard import Wanted
from exclave.ledger.hosted_logs import HostedLogs
from exclave.ledger.mirror import Mirror
from exclave.ledger.witness import Witness
from exclave.ledger.witness_store import log_name
from exclave.ledger.write_guard import WriteGuard
from exclave.operations.erasure import SiteErasure
from exclave.operations.host_erasure import HostErasure
from exclave.serve.host_cosigners import MirrorDuty, WitnessDuty
from exclave.serve.host_room import QuotaSite
from exclave.serve.site_contract import Answer, Asked, Duties, Duty, HostedState, Kind, Refusal, Write
from exclave.verify.hosted import HostedView
from exclave.verify.state import StateView

_MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Signers:
    """The host's own cosigners; None: it is none."""

    witness: Witness | None = None
    mirror: Mirror | None = None


@dataclass(frozen=True, slots=True)
class HostedViews:
    """What the host believes of each of its states, and the guard that goes by it."""

    views: Mapping[Fingerprint, HostedView]
    guards: Mapping[Fingerprint, WriteGuard]
    logs: HostedLogs
    origins: dict[str, str] = field(default_factory=dict)
    """Prefix of a log by the SHA-256 of its origin, as heads come and monitors ask."""
    listed: dict[Fingerprint, StateView] = field(default_factory=dict)
    """What each state showed when its logs were put there: who asks for what is not there costs no more."""


def read_views(states: tuple[HostedState, ...], clock: Callable[[], Instant]) -> HostedViews:
    """Reads nothing yet. ``clock``: the host's."""
    views = {s.fingerprint: HostedView(s.folder, s.site, s.fingerprint) for s in states}
    guards = {s.fingerprint: WriteGuard(s.site, views[s.fingerprint], s.folder, clock) for s in states}
    counted = {s.fingerprint: (QuotaSite(s.site, s.usage), views[s.fingerprint]) for s in states}
    return HostedViews(views, guards, HostedLogs(counted))


def make_duties(
    views: HostedViews,
    signers: Signers,
    erasures: Mapping[Fingerprint, HostErasure],
    clock: Callable[[], Instant],
    clock_fault: Callable[[], str],
) -> Duties:
    """All duties of a host. ``erasures``: of the states whose orders are carried out when somebody asks."""
    duties: list[Duty] = []
    written: list[Callable[[HostedState, Write], None]] = []
    if signers.witness is not None:
        duties.append(WitnessDuty("witness", signers.witness.add_checkpoint, signers.witness.latest, clock))
    if signers.mirror is not None:
        duties.append(MirrorDuty(signers.mirror, partial(prefix_of, views), clock))
        duties.append(WitnessDuty("held", signers.mirror.add_held, signers.mirror.latest, clock))
        written.append(partial(_note_head, signers.mirror, clock))
    if erasures:
        duties.append(_Erase(erasures, clock, clock_fault))
    return Duties((partial(guard_write, views.guards),), tuple(duties), tuple(written))


def guard_write(guards: Mapping[Fingerprint, WriteGuard], write: Write) -> Refusal | None:
    """The guard's answer to one write. ``UnavailableError`` if it cannot tell now."""
    guard = guards[write.state]
    wanted = Wanted(write.key, write.digest, write.size_bytes, write.data)
    try:
        if write.kind is Kind.REPLACE:
            guard.check_head(wanted, write.expected)
        elif write.kind is Kind.SPOILT:
            guard.check_spoilt(wanted)
        else:
            guard.check_put(wanted)
    except UnavailableError as error:
        if error.code == "site-full":
            return _refusal(error, 507)
        raise
    except (HeadMoved, MalformedError) as error:
        return _refusal(error, error.http_status)
    except ExclaveError as error:
        # Not 409, which says that the name is taken.
        return _refusal(error, 403)
    return None


def _refusal(error: ExclaveError, status: int) -> Refusal:
    text = error.message.encode("ascii", "replace").decode().replace("\n", " ")
    return Refusal(error.code, text[:_MAX_MESSAGE], status)


def _note_head(mirror: Mirror, clock: Callable[[], Instant], state: HostedState, write: Write) -> None:
    """A log's head was replaced: the mirror cosigns it if all of it is here."""
    if write.kind is not Kind.REPLACE or not write.key.endswith("/checkpoint"):
        return
    try:
        name = parse_object_name(write.key)
    except MalformedError:
        return
    if name.part is Part.HEAD and name.register is not None:
        mirror.note_head(ledger_origin(state.fingerprint, name.register, name.epoch), clock())


def prefix_of(views: HostedViews, state: HostedState, origin_hash: str) -> str | None:
    """Prefix of the state's log whose origin has this hash; None if it has none."""
    if origin_hash not in views.origins:
        try:
            view = views.views[state.fingerprint].view()
        except ExclaveError:
            return None
        if views.listed.get(state.fingerprint) is view:
            return None
        for register, chain in view.epochs.items():
            for epoch in chain.epochs:
                name = log_name(ledger_origin(state.fingerprint, register, epoch.number)).hex()
                views.origins[name] = view.log_reader(epoch, state.site).prefix
        views.listed[state.fingerprint] = view
    prefix = views.origins.get(origin_hash)
    return prefix if prefix and prefix.startswith(state.fingerprint) else None


@dataclass(frozen=True, slots=True)
class _Erase:
    """Orders to delete: whoever asks, the host decides by what he verifies himself."""

    erasures: Mapping[Fingerprint, HostErasure]
    clock: Callable[[], Instant]
    clock_fault: Callable[[], str]
    name: str = "erase"
    body_bytes: int = 0
    anybody: bool = True
    waits: bool = True

    def answer(self, state: HostedState, asked: Asked) -> Answer:
        if asked.method != "POST" or asked.path:
            return _json(405, {"error": "method", "message": "POST asks the host to carry out what is due"})
        erasure = self.erasures.get(state.fingerprint)
        if erasure is None:
            return _json(404, {"error": "unknown-path", "message": "this host erases only by hand"})
        try:
            found = erasure.run(self.clock(), clock_fault=self.clock_fault())
        except (ConfigError, CorruptObject) as error:
            return _json(503, {"error": error.code, "message": error.message})
        except ExclaveError as error:
            return _json(error.http_status, {"error": error.code, "message": error.message})
        return _json(200, {"orders": [_told(one) for one in found]})


def _told(one: SiteErasure) -> dict[str, object]:
    return {
        "order": one.order.hex(), "register": one.register, "state": str(one.verdict.state), "why": one.verdict.why,
        "due": instant_text(one.verdict.due) if one.verdict.due else None, "erased": one.erased,
        "erased_bytes": one.erased_bytes, "absent": one.absent, "complete": one.complete, "waits": one.waits,
        "pending": len(one.pending), "unasked": list(one.unasked), "objected": list(one.objected),
    }  # fmt: skip


def _json(status: int, value: Mapping[str, object]) -> Answer:
    return Answer(status, (json.dumps(value, indent=2) + "\n").encode(), "application/json")

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
    MissingObject,
    UnavailableError,
)
from exclave.formats.mirror import MAX_BODY_BYTES
from exclave.formats.objectname import Part, parse_object_name
from exclave.formats.paths import ledger_origin
from exclave.formats.witness import MAX_REQUEST_BYTES
from exclave.ids import Digest, Fingerprint, Instant, instant_text, parse_digest, parse_key
from exclave.ledger.hosted_logs import HostedLogs
from exclave.ledger.mirror import Mirror
from exclave.ledger.witness import Witness, WitnessAnswer
from exclave.ledger.witness_store import log_name
from exclave.ledger.write_guard import Wanted, WriteGuard
from exclave.operations.erasure import SiteErasure
from exclave.operations.host_erasure import HostErasure
from exclave.serve.site_contract import Answer, Asked, Duties, Duty, HostedState, Kind, Refusal, Write
from exclave.verify.hosted import HostedView

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


def read_views(states: tuple[HostedState, ...]) -> HostedViews:
    """Reads nothing yet."""
    views = {s.fingerprint: HostedView(s.folder, s.site, s.fingerprint) for s in states}
    guards = {s.fingerprint: WriteGuard(s.site, views[s.fingerprint], s.folder) for s in states}
    return HostedViews(views, guards, HostedLogs({s.fingerprint: (s.site, views[s.fingerprint]) for s in states}))


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
        duties.append(_Cosigner("witness", signers.witness.add_checkpoint, signers.witness.latest, clock))
    if signers.mirror is not None:
        duties += [_MirrorDuty(signers.mirror, views, clock), _Held(signers.mirror, clock)]
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


def _answer(answer: WitnessAnswer) -> Answer:
    return Answer(answer.status, answer.body, answer.content_type)


def _plain(status: int, text: str) -> Answer:
    return Answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _is_of(state: HostedState, origin_hash: str, views: HostedViews) -> str | None:
    """Prefix of the state's log whose origin has this hash; None if it has none."""
    if origin_hash not in views.origins:
        try:
            view = views.views[state.fingerprint].view()
        except ExclaveError:
            return None
        for register, chain in view.epochs.items():
            for epoch in chain.epochs:
                name = log_name(ledger_origin(state.fingerprint, register, epoch.number)).hex()
                views.origins[name] = view.log_reader(epoch, state.site).prefix
    prefix = views.origins.get(origin_hash)
    return prefix if prefix and prefix.startswith(state.fingerprint) else None


@dataclass(frozen=True, slots=True)
class _Cosigner:
    """A witness below one state's address."""

    name: str
    add: Callable[[bytes, Instant], WitnessAnswer]
    latest: Callable[[Digest], bytes | None]
    clock: Callable[[], Instant]
    body_bytes: int = MAX_REQUEST_BYTES
    anybody: bool = True
    waits: bool = False

    def answer(self, state: HostedState, asked: Asked) -> Answer:
        if asked.path == "add-checkpoint" and asked.method == "POST":
            return _answer(self.add(asked.body, self.clock()))
        return _latest(self.latest, asked)


def _latest(latest: Callable[[Digest], bytes | None], asked: Asked) -> Answer:
    log, _, what = asked.path.partition("/")
    if what != "checkpoint" or asked.method not in ("GET", "HEAD"):
        return _plain(404, "there is nothing of that name")
    try:
        data = latest(parse_digest(log))
    except MalformedError:
        data = None
    return _plain(404, "unknown log") if data is None else Answer(200, data, "text/plain; charset=utf-8")


@dataclass(frozen=True, slots=True)
class _MirrorDuty:
    """The mirror below one state's address."""

    mirror: Mirror
    views: HostedViews
    clock: Callable[[], Instant]
    name: str = "mirror"
    body_bytes: int = MAX_BODY_BYTES
    anybody: bool = True
    waits: bool = False

    def answer(self, state: HostedState, asked: Asked) -> Answer:
        if asked.method == "POST" and asked.path == "add-checkpoint":
            return _answer(self.mirror.add_checkpoint(asked.body, self.clock()))
        if asked.method == "POST" and asked.path == "add-entries":
            return self._add_entries(state, asked.body)
        log, _, what = asked.path.partition("/")
        if what == "checkpoint":
            return _latest(self.mirror.latest, asked)
        prefix = _is_of(state, log, self.views)
        if prefix is None or not what.startswith("tile/") or asked.method not in ("GET", "HEAD"):
            return _plain(404, "there is nothing of that name")
        if not state.config.anonymous_reads and asked.who not in state.certificates:
            return _plain(401, "this needs a certificate of the state")
        try:
            data = state.site.get(parse_key(prefix + what))
        except (MalformedError, MissingObject):
            return _plain(404, "there is nothing of that name")
        return Answer(200, data, "application/octet-stream")

    def _add_entries(self, state: HostedState, body: bytes) -> Answer:
        """Whoever uploads needs no certificate: what it costs is the state's space, and its writer signed all of it."""
        if f"exclave/{state.fingerprint}/".encode() not in body[:200]:
            return _plain(404, "unknown log")
        if state.usage.bytes_used + 2 * len(body) > state.config.quota_bytes:
            return _plain(507, "the state's quota is used up")
        answer = self.mirror.add_entries(body, self.clock())
        if answer.status in (200, 202):
            state.usage.recount()
        return _answer(answer)


@dataclass(frozen=True, slots=True)
class _Held:
    """The mirror, asked as a witness is, about what lies here already."""

    mirror: Mirror
    clock: Callable[[], Instant]
    name: str = "held"
    body_bytes: int = MAX_REQUEST_BYTES
    anybody: bool = True
    waits: bool = False

    def answer(self, state: HostedState, asked: Asked) -> Answer:
        if asked.path == "add-checkpoint" and asked.method == "POST":
            return _answer(self.mirror.add_held(asked.body, self.clock()))
        return _latest(self.mirror.latest, asked)


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
            return _plain(405, "POST asks the host to carry out what is due")
        erasure = self.erasures.get(state.fingerprint)
        if erasure is None:
            return _plain(404, "this host erases only by hand")
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

"""A host's witness and mirror below a state's address: C2SP tlog-witness and tlog-mirror over the gateway's HTTP."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Final

from exclave.errors import ExclaveError, MalformedError, MissingObject
from exclave.formats.mirror import MAX_BODY_BYTES
from exclave.formats.witness import MAX_REQUEST_BYTES
from exclave.ids import Digest, Instant, parse_digest, parse_key
from exclave.ledger.mirror import Mirror
from exclave.ledger.witness import WitnessAnswer
from exclave.serve.site_contract import Answer, Asked, HostedState

_PACKED: Final = "gzip"
_MOST_UNPACKED: Final = 2
"""So many packed bodies are unpacked at once: a small one may become 33 MB."""
_GZIP_WINDOW: Final = 31


@dataclass(frozen=True, slots=True)
class WitnessDuty:
    """Who cosigns: a witness, or a mirror that is asked as a witness about what lies here (``held``)."""

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


@dataclass(frozen=True, slots=True)
class MirrorDuty:
    """A mirror. ``prefix``: of the log whose origin has a SHA-256, in hex, if the state has it; else None."""

    mirror: Mirror
    prefix: Callable[[HostedState, str], str | None]
    clock: Callable[[], Instant]
    name: str = "mirror"
    body_bytes: int = MAX_BODY_BYTES
    anybody: bool = True
    waits: bool = False
    _unpacking: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(_MOST_UNPACKED), init=False)

    def answer(self, state: HostedState, asked: Asked) -> Answer:
        if asked.method == "POST" and asked.path == "add-checkpoint":
            return _answer(self.mirror.add_checkpoint(asked.body, self.clock()))
        if asked.method == "POST" and asked.path == "add-entries":
            return self._add_entries(state, asked)
        log, _, what = asked.path.partition("/")
        if what == "checkpoint":
            return _latest(self.mirror.latest, asked)
        prefix = self.prefix(state, log)
        if prefix is None or not what.startswith("tile/") or asked.method not in ("GET", "HEAD"):
            return _plain(404, "there is nothing of that name")
        if not state.config.anonymous_reads and asked.who not in state.certificates:
            return _plain(401, "this needs a certificate of the state")
        try:
            data = state.site.get(parse_key(prefix + what))
        except (MalformedError, MissingObject):
            return _plain(404, "there is nothing of that name")
        return Answer(200, data, "application/octet-stream")

    def _add_entries(self, state: HostedState, asked: Asked) -> Answer:
        """Its writer signed all of it, but it is a write: it costs the state's space, and moves its head here. Anybody
        who read it elsewhere could else show a ledger here before the packs that it speaks of have come."""
        if asked.who not in state.certificates:
            return _plain(401, "this needs a certificate of the state")
        coding = asked.headers.get("content-encoding", "").lower()
        if coding == "":
            return self._add(state, asked.body)
        if coding != _PACKED:
            return _plain(415, "a body is packed with gzip, or not at all")
        if not self._unpacking.acquire(blocking=False):
            return _plain(503, "others send packed bodies now; come again")
        try:
            return self._add(state, unpack(asked.body, MAX_BODY_BYTES))
        except MalformedError as error:
            return _plain(400, error.message)
        finally:
            self._unpacking.release()

    def _add(self, state: HostedState, body: bytes) -> Answer:
        if f"exclave/{state.fingerprint}/".encode() not in body[:200]:
            return _plain(404, "unknown log")
        return _answer(self.mirror.add_entries(body, self.clock()), ("Accept-Encoding", _PACKED))


def unpack(data: bytes, limit: int) -> bytes:
    """One gzip member of at most ``limit`` bytes, and nothing after it. ``MalformedError``."""
    member = zlib.decompressobj(_GZIP_WINDOW)
    try:
        found = member.decompress(data, limit)
    except zlib.error as error:
        raise MalformedError("the body is not packed with gzip") from error
    if not member.eof or member.unused_data:
        raise MalformedError(f"a packed body is one whole gzip member of at most {limit} bytes")
    return found


def _answer(answer: WitnessAnswer, *headers: tuple[str, str]) -> Answer:
    return Answer(answer.status, answer.body, answer.content_type, headers)


def _plain(status: int, text: str) -> Answer:
    more = (("Accept-Encoding", _PACKED),) if status == 415 else ()
    return Answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8", more)


def _latest(latest: Callable[[Digest], bytes | None], asked: Asked) -> Answer:
    log, _, what = asked.path.partition("/")
    if what != "checkpoint" or asked.method not in ("GET", "HEAD"):
        return _plain(404, "there is nothing of that name")
    try:
        data = latest(parse_digest(log))
    except MalformedError:
        data = None
    except ExclaveError:
        return _plain(503, "not available now")
    return _plain(404, "unknown log") if data is None else Answer(200, data, "text/plain; charset=utf-8")

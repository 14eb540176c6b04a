"""From a request's head to the state and the act it asks for, and from failures to answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Final

from exclave.errors import (
    ConflictError,
    CorruptObject,
    ExclaveError,
    HeadMoved,
    MalformedError,
    MissingObject,
    OutcomeUnknown,
    SiteFull,
    SiteReadOnly,
)
from exclave.ids import parse_count, parse_digest, parse_fingerprint, parse_key
from exclave.serve.site_connection import Connection, Exchange, Gone
from exclave.serve.site_contract import ANYBODY, Answer, Asked
from exclave.serve.site_counts import GatewayCounts
from exclave.serve.site_message import BadRequest, Head, told
from exclave.serve.site_objects import (
    LARGE_BODY_BYTES,
    MAX_PAGE,
    Tenant,
    read_digest,
    read_list,
    read_object,
    read_upload,
    write_object,
)

METHODS: Final = ("GET", "HEAD", "PUT", "POST")
_OF: Final = {"o": ("GET", "HEAD", "PUT"), "list": ("GET",), "digest": ("GET",), "uploads": ("HEAD",)}
_PREFIX: Final = "/v1/"


class Requests:
    """Answers the requests of all connections."""

    def __init__(
        self,
        tenants: Mapping[str, Tenant],
        strangers: Mapping[str, Tenant],
        counts: GatewayCounts,
        goes_on: Callable[[], bool],
    ) -> None:
        """By fingerprint: what a state's own requests share, and those of whoever has no certificate of that state.
        ``goes_on()``: False once the server is to stop."""
        self._tenants, self._strangers = tenants, strangers
        self._counts = counts
        self._goes_on = goes_on

    def answer(self, connection: Connection, head: Head) -> bool:
        """Whether the connection can take another request. ``Gone``."""
        exchange = Exchange(connection, head, keep=self._goes_on)
        state, began_s = ANYBODY, time.monotonic()
        try:
            state, rest = self._addressed(head)
            own = connection.who in self._tenants[state].state.certificates
            self._act(exchange, (self._tenants if own else self._strangers)[state], rest)
        except BadRequest as error:
            self._tell(exchange, told(error.status, error.code, error.message))
        except ExclaveError as error:
            self._tell(exchange, explained(error))
        finally:
            method = head.method if head.method in METHODS else "other"
            took_ms = round((time.monotonic() - began_s) * 1000)
            self._counts.answered(state, method, exchange.status, exchange.bytes_in, exchange.bytes_out, took_ms)
        if exchange.left and exchange.status:
            connection.linger()
        return exchange.keeps

    @staticmethod
    def _tell(exchange: Exchange, answer: Answer) -> None:
        if exchange.status:  # an answer has begun and cannot be taken back: the connection ends before its length
            raise Gone
        exchange.answer(answer)

    def _addressed(self, head: Head) -> tuple[str, str]:
        """The state's fingerprint and what follows it."""
        if not head.path.startswith(_PREFIX):
            raise BadRequest(404, "unknown-path", "every path here begins with /v1/ and a state's fingerprint")
        name, _, rest = head.path.removeprefix(_PREFIX).partition("/")
        fingerprint = parse_fingerprint(name)
        if fingerprint not in self._tenants:
            raise BadRequest(404, "unknown-state", "this host keeps nothing for that state")
        return fingerprint, rest

    def _act(self, exchange: Exchange, tenant: Tenant, path: str) -> None:
        tenant.requests_left.take(1)
        noun, _, rest = path.partition("/")
        if noun not in _OF:
            return self._do_duty(exchange, tenant, noun, rest)
        head = exchange.head
        if head.method not in _OF[noun]:
            return exchange.answer(told(405, "method", "not a method of this path", allow=", ".join(_OF[noun])))
        _allow(exchange, tenant, writes=head.method == "PUT", anybody=tenant.state.config.anonymous_reads)
        if head.method != "PUT" and exchange.left:
            raise BadRequest(400, "bad-request", f"{head.method} has no body")
        if noun == "o" and head.method == "PUT":
            return exchange.answer(write_object(tenant, exchange, parse_key(rest)))
        if noun == "o":
            return read_object(tenant, exchange, parse_key(rest))
        if noun == "digest":
            return exchange.answer(read_digest(tenant, parse_key(rest)))
        if noun == "uploads":
            return exchange.answer(read_upload(tenant, parse_digest(rest)))
        return exchange.answer(self._list(tenant, head.query, rest))

    @staticmethod
    def _list(tenant: Tenant, query: Mapping[str, str], rest: str) -> Answer:
        if rest or query.keys() - {"prefix", "after", "most"}:
            raise MalformedError("a list takes prefix, after and most")
        most = parse_count(query.get("most", str(MAX_PAGE)), limit=1 << 30)
        return read_list(tenant, query.get("prefix", ""), query.get("after", ""), most)

    @staticmethod
    def _do_duty(exchange: Exchange, tenant: Tenant, noun: str, rest: str) -> None:
        duty = next((duty for duty in tenant.duties.duties if duty.name == noun), None)
        if duty is None:
            raise BadRequest(404, "unknown-path", "this host does nothing of that name")
        _allow(exchange, tenant, writes=False, anybody=duty.anybody)
        with _place_for_body(tenant, exchange.left):
            body = exchange.whole_body(duty.body_bytes)
            head = exchange.head
            asked = Asked(head.method, rest, head.query, head.headers, body, exchange.who)
            with nullcontext() if duty.waits else tenant.turn():
                answer = duty.answer(tenant.state, asked)
        exchange.answer(answer)


@contextmanager
def _place_for_body(tenant: Tenant, size_bytes: int) -> Iterator[None]:
    """A large body is in memory whole, however slowly it comes: of those there are few at once."""
    if size_bytes <= LARGE_BODY_BYTES:
        yield
        return
    if not tenant.bodies.acquire(blocking=False):
        raise BadRequest(503, "no-place", "others send such large bodies now; come again")
    try:
        yield
    finally:
        tenant.bodies.release()


def _allow(exchange: Exchange, tenant: Tenant, *, writes: bool, anybody: bool) -> None:
    """``BadRequest`` unless the client may do this. One state's certificate counts as none with another."""
    if exchange.who in tenant.state.certificates or (anybody and not writes):
        return
    if exchange.who == ANYBODY:
        raise BadRequest(401, "no-certificate", "this needs a certificate of the state")
    raise BadRequest(403, "not-authorised", "this certificate speaks for another state")


def explained(error: ExclaveError) -> Answer:
    """The answer to a failure; messages name nothing but keys and numbers."""
    match error:
        case MissingObject():
            return told(404, "missing-object", "there is no such object")
        case HeadMoved():
            more = {"upload_offset": str(error.facts["offset"])} if "offset" in error.facts else {}
            return told(412, "head-moved", error.message, **more)
        case SiteFull():
            return told(507, "site-full", error.message)
        case SiteReadOnly():
            return told(403, "site-read-only", "the host's folder takes no writes")
        case OutcomeUnknown():
            return told(500, "outcome-unknown", "the write may or may not be there; look before repeating it")
        case CorruptObject():
            return told(409, "corrupt-object", error.message)
        case MalformedError():
            return told(400, "malformed", error.message)
        case ConflictError():
            return told(409, error.code, error.message)
    return told(503, "unavailable", "the host cannot do this now", retry_after="5")

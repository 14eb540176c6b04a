"""Certificate status over HTTP: OCSP by POST and GET (RFC 6960, appendix A; RFC 9919, sections 5 to 7), and CRLs.

Page: docs/spec/ocsp.md. It has a listener of its own: AIA addresses are plain HTTP, and no log-in page shares their
port.
"""

from __future__ import annotations

import binascii
import re
import resource
import time
from base64 import b64decode
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate
from threading import Lock
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from exclave.crypto.ocsp import MAX_GET_BYTES, MAX_REQUEST_BYTES
from exclave.identity.contract import Clock
from exclave.identity.responder import Outcome, Reply
from exclave.ids import Instant, Label
from exclave.serve.http_connection import Edge
from exclave.serve.http_edge import RunningEdge, start_edge
from exclave.serve.http_message import PLAIN, Limits, Request, Response

LIMITS: Final = Limits(body_bytes=MAX_REQUEST_BYTES)
RETRY_AFTER_S: Final = 30
CRL_FRESH_S: Final = 300
"""How long a cache may keep a list."""

_TYPE = b"Content-Type: application/ocsp-response\r\n"
# RFC 9919, section 7.2, forbids no-store where something was signed and asks for it elsewhere.
_SIGNED = _TYPE + b"Cache-Control: max-age=0, must-revalidate\r\n"
_ERROR = _TYPE + b"Cache-Control: no-store\r\n"
_POST_PATH = re.compile(rb"/(?:[A-Za-z0-9._~-]{1,80}/?){0,2}\Z")
_CRL_PATH = re.compile(rb"/crl/([a-z][a-z0-9-]{0,39})\.crl\Z")
_ABSOLUTE = re.compile(rb"http://[^/?#]*", re.IGNORECASE)
_SECOND = 1_000_000
_BUCKETS_S: Final = (0.00005, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0)
# A client with another responder to ask does so if the status is not 200, whatever the body says.
_HTTP_STATUS: Final = {
    Outcome.RETURNING: 503,
    Outcome.STALE: 503,
    Outcome.UNAVAILABLE: 503,
    Outcome.NO_DELEGATE: 500,
    Outcome.FAILED: 500,
}


class Answers(Protocol):
    """``identity.responder.Responder``."""

    def answer(self, request: bytes) -> Reply: ...


class PublishedCrl(Protocol):
    """A CRL as it is given out."""

    @property
    def data(self) -> bytes: ...
    @property
    def this_update(self) -> Instant: ...
    @property
    def next_update(self) -> Instant: ...
    @property
    def tag(self) -> str: ...


class Crls(Protocol):
    """``identity.crl_publisher.CrlPublisher``."""

    def latest(self, label: Label) -> PublishedCrl | None: ...


class OcspMetrics(Collector):
    """What is counted, for Prometheus; the ``http_message.Meter`` too. Plain numbers until they are asked for: an
    answer takes so little time that the client library's own counters would be a good part of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._lock = Lock()
        self._answers = dict.fromkeys(Outcome, 0)
        self._refused: dict[int, int] = {}
        self._connections = 0
        self._seconds = 0.0
        self._within = [0] * (len(_BUCKETS_S) + 1)
        registry.register(self)

    def answered(self, outcome: Outcome, seconds: float) -> None:
        with self._lock:
            self._answers[outcome] += 1
            self._seconds += seconds
            self._within[bisect_left(_BUCKETS_S, seconds)] += 1

    def connections(self, number: int) -> None:
        self._connections = number

    def refused(self, status: int) -> None:
        with self._lock:
            self._refused[status] = self._refused.get(status, 0) + 1

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            answers, refused, within, seconds = (
                dict(self._answers), dict(self._refused), list(accumulate(self._within)), self._seconds
            )  # fmt: skip
        told = CounterMetricFamily("exclave_ocsp_answers", "Answers about certificates", labels=["outcome"])
        for outcome, count in answers.items():
            told.add_metric([outcome.value], count)
        yield told
        told = CounterMetricFamily("exclave_ocsp_refused", "HTTP requests refused", labels=["status"])
        for status, count in refused.items():
            told.add_metric([str(status)], count)
        yield told
        yield GaugeMetricFamily("exclave_ocsp_connections", "Open connections", self._connections)
        bounds = [*map(str, _BUCKETS_S), "+Inf"]
        buckets = list(zip(bounds, map(float, within), strict=True))
        yield HistogramMetricFamily("exclave_ocsp_answer_seconds", "Time to make an answer", buckets, seconds)


@dataclass(frozen=True, slots=True)
class OcspSite:
    """Requests to answers. ``healthy`` says whether a load balancer may send clients here."""

    responder: Answers
    clock: Clock
    metrics: OcspMetrics
    crls: Crls | None = None
    healthy: Callable[[], bool] = lambda: True

    def respond(self, request: Request) -> Response:
        """The handler of the edge. Raises nothing for what a client does."""
        target = request.target
        if target[:1] != b"/":  # as a proxy is asked (RFC 9112, section 3.2.2)
            target = _ABSOLUTE.sub(b"", target, count=1) or b"/"
        match request.method:
            case b"POST":
                return self._post(target, request)
            case b"GET" | b"HEAD":
                return self._get(target, request)
        return _plain(405, b"Allow: GET, HEAD, POST\r\n")

    def _post(self, target: bytes, request: Request) -> Response:
        wrong = _wrong_post(target, request.headers.get(b"content-type", b""))
        if wrong:
            return self._refused(wrong)
        reply = self._answer(request.body)
        return Response(_HTTP_STATUS.get(reply.outcome, 200), reply.data, _head(reply))

    def _get(self, target: bytes, request: Request) -> Response:
        if target == b"/health":
            return _plain(200) if self.healthy() else _plain(503)
        crl = _CRL_PATH.match(target)
        if crl:
            return self._crl(Label(crl[1].decode()), request)
        asked = request_in_path(target)
        if asked is None:
            return self._refused(400 if b"/M" in target else 404)  # "M" begins the base64 of every request
        reply = self._answer(asked)
        if not reply.cacheable:
            return Response(_HTTP_STATUS.get(reply.outcome, 200), reply.data, _head(reply))
        tag = sha256(reply.data).hexdigest()
        return self._cacheable(request, reply.data, _TYPE, tag, reply.this_update, reply.fresh_until)

    def _crl(self, label: Label, request: Request) -> Response:
        found = self.crls.latest(label) if self.crls is not None else None
        if found is None:
            return self._refused(404)
        kind = b"Content-Type: application/pkix-crl\r\n"
        fresh_until = min(Instant(self.clock() + CRL_FRESH_S * _SECOND), found.next_update)
        return self._cacheable(request, found.data, kind, found.tag, found.this_update, fresh_until)

    def _cacheable(
        self, request: Request, data: bytes, kind: bytes, name: str, this_update: Instant, fresh_until: Instant
    ) -> Response:
        """RFC 9919, section 7.2, except Expires: a cache without max-age would hide a revocation until nextUpdate."""
        left_s = max(0, (fresh_until - self.clock()) // _SECOND)
        tag = b'"' + name.encode() + b'"'
        head = kind + b"".join((
            b"Cache-Control: max-age=%d, public, no-transform, must-revalidate\r\n" % left_s,
            b"ETag: " + tag + b"\r\n",
            b"Last-Modified: " + _http_date(this_update) + b"\r\n",
            b"Expires: " + _http_date(fresh_until) + b"\r\n",
        ))  # fmt: skip
        asked = request.headers.get(b"if-none-match", b"")
        if asked and (asked.strip() == b"*" or tag in [part.strip().removeprefix(b"W/") for part in asked.split(b",")]):
            return Response(304, b"", head)
        return Response(200, data, head)

    def _answer(self, asked: bytes) -> Reply:
        begin = time.perf_counter()
        reply = self.responder.answer(asked)
        self.metrics.answered(reply.outcome, time.perf_counter() - begin)
        return reply

    def _refused(self, status: int) -> Response:
        self.metrics.refused(status)
        return _plain(status)


@lru_cache(maxsize=256)
def _wrong_post(target: bytes, content_type: bytes) -> int:
    """The status that refuses a POST to ``target``; 0: none. Clients send the same two again and again."""
    if not _POST_PATH.match(target):
        return 404
    kind = content_type.partition(b";")[0].strip().lower()
    return 0 if kind == b"application/ocsp-request" else 415


def request_in_path(target: bytes) -> bytes | None:
    """The DER that the path of a GET carries in base64, percent-encoded or not, behind up to two segments; or None.

    Base64 may hold "/", so it is not plain where it begins: it is the first begin at which the rest decodes to one
    whole DER element. What is in it is not looked at here.
    """
    path = target.partition(b"?")[0]
    if path != target:
        return None
    at = 0
    for _ in range(3):
        if target[at + 1 : at + 2] == b"M":
            der = _decoded(unquote_to_bytes(target[at + 1 :]))
            if der is not None:
                return der
        at = target.find(b"/", at + 1)
        if at < 0:
            return None
    return None


def _decoded(text: bytes) -> bytes | None:
    try:
        der = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not 2 <= len(der) <= MAX_GET_BYTES or der[0] != 0x30:
        return None
    octets = max(0, der[1] - 0x80)
    size = int.from_bytes(der[2 : 2 + octets], "big") if octets else der[1]
    return der if 2 + octets + size == len(der) else None


def _head(reply: Reply) -> bytes:
    if reply.next_update:
        return _SIGNED
    if _HTTP_STATUS.get(reply.outcome) == 503:
        return _ERROR + b"Retry-After: %d\r\n" % RETRY_AFTER_S
    return _ERROR


def _plain(status: int, more: bytes = b"") -> Response:
    text = b"ok\n" if status == 200 else b"%d\n" % status
    return Response(status, text, PLAIN + more)


def _http_date(instant: Instant) -> bytes:
    return formatdate(instant // _SECOND, usegmt=True).encode()


@dataclass(frozen=True, slots=True)
class Listen:
    """Where and how to listen."""

    host: str
    port: int
    """0: any free one."""
    reuse_port: bool = False
    """Several processes share the port (SO_REUSEPORT); the kernel spreads the connections over them."""
    threads: int = 0
    """Where answers are made: 0: in the event loop, the fastest for keys in files and a store in a file. Where each
    answer waits (a key in a token, a store in another machine): as many as may wait at once."""
    limits: Limits = LIMITS


async def start_ocsp(site: OcspSite, listen: Listen) -> RunningEdge:
    """Listens in the running event loop; for a process that serves other things as well. ``stop()`` ends it."""
    executor = ThreadPoolExecutor(listen.threads, "ocsp") if listen.threads else None
    edge = Edge(site.respond, listen.limits, site.metrics, executor)
    return await start_edge(edge, listen.host, listen.port, reuse_port=listen.reuse_port)


def raise_file_limit(connections: int) -> None:
    """Lets this process open as many files as its connections need, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 256
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted, hard)
        )

"""The operator's page of a host, ``/health`` and ``/metrics``: numbers, no names of states, no objects, no orders.

A listener of its own without TLS, at the loopback interface unless host.toml says otherwise. It only reads.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from html import escape
from typing import Final

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exclave.errors import ConfigError
from exclave.ids import instant_text
from exclave.serve.host_watch import HostLook, HostWatch, StateLook
from exclave.serve.site_counts import GatewayCounts

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_STYLE: Final = """
:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{margin:0 auto;max-width:60rem;padding:1.5rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
.well{border-left:.4rem solid #2a7d3f;padding:.4rem .8rem;margin:1rem 0}
.ill{border-left:.4rem solid #b3261e;padding:.4rem .8rem;margin:1rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid #8886;white-space:nowrap}
td.n,th.n{text-align:right}small{opacity:.75}
@media(max-width:40rem){thead{display:none}tr{display:block;padding:.5rem 0;border-bottom:1px solid #8886}
td{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.1rem 0;white-space:normal}
td::before{content:attr(data-n);opacity:.75}}
"""
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_STEPS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def build_app(host: str, watch: HostWatch, counts: GatewayCounts, names: frozenset[str] = frozenset()) -> Starlette:
    """The pages of the host called ``host``; ``names``: under which it may be asked besides the loopback ones."""
    registry = CollectorRegistry()
    registry.register(_HostMetrics(watch, counts))

    def check(request: Request) -> None:
        """Else a web site could point its own name at 127.0.0.1 and read the page through the operator's browser."""
        name = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        if name.lower() not in _LOOPBACK | names:
            raise HTTPException(421, "This host does not answer under that name.")

    def page(request: Request) -> Response:
        check(request)
        return Response(host_page(host, watch.look()), media_type="text/html", headers=_HEADERS)

    def health(request: Request) -> Response:
        check(request)
        faults = watch.look().faults
        text = "".join(f"{fault}\n" for fault in faults) or "ok\n"
        return Response(text, 503 if faults else 200, media_type="text/plain", headers=_HEADERS)

    def metrics(request: Request) -> Response:
        check(request)
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4", headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/", page, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
        ]
    )


def start(app: Starlette, address: tuple[str, int]) -> tuple[int, Callable[[], None]]:
    """Serves in a thread of its own; the port, and what ends it. ``ConfigError`` if it cannot listen there."""
    try:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        at = socket.create_server(address, family=family)
    except OSError as error:
        raise ConfigError(
            f"host.toml: the page cannot listen at {address[0]}:{address[1]}: {error.strerror}",
            hint="Choose another page in [duties], or none.",
        ) from error
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=20,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=lambda: server.run(sockets=[at]), name="page", daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(timeout=5)
        at.close()

    return int(at.getsockname()[1]), stop


def host_page(host: str, look: HostLook) -> str:
    """The one page, as HTML."""
    faults = look.faults
    if faults:
        told = "".join(f"<p>{escape(fault)}</p>" for fault in faults)
        state = f"<div class=ill><strong>Look at this:</strong>{told}</div>"
    else:
        state = "<div class=well><strong>All is well.</strong></div>"
    rows = "".join(_row(one) for one in look.states)
    at = instant_text(look.at)[:19].replace("T", " ")
    return (
        f'<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{escape(host)} – host</title><style>{_STYLE}</style></head><body>"
        f"<h1>Host {escape(host)}</h1><p><small>as of {at} UTC</small></p>{state}"
        "<h2>Space</h2><div class=wide><table><thead><tr><th>State<th class=n>Used<th class=n>Quota<th class=n>Objects"
        f"<th class=n>Disk free</thead><tbody>{rows}</tbody></table></div>"
        "<h2>Duties</h2><div class=wide><table><thead><tr><th>State<th>All bytes read<th>Wrong objects"
        f"<th>Orders to delete</thead><tbody>{''.join(_duties(one) for one in look.states)}</tbody></table></div>"
        "<p><small>You keep sealed bytes for states that you need not know. What they are, and who asks for them, is "
        "shown nowhere here.</small></p></body></html>\n"
    )


def _row(one: StateLook) -> str:
    disk = "cannot be read"
    if one.disk is not None:
        disk = f"{size_text(one.disk.free_bytes)} of {size_text(one.disk.total_bytes)}"
    used = size_text(one.bytes_used) + (" (counting)" if one.counting else "")
    return (
        f"<tr><td data-n=State>{one.number}"
        f"<td class=n data-n=Used>{used} ({one.bytes_used * 100 // max(1, one.quota_bytes)} %)"
        f"<td class=n data-n=Quota>{size_text(one.quota_bytes)}<td class=n data-n=Objects>{one.objects_used:,}"
        f'<td class=n data-n="Disk free">{disk}</tr>'
    )


def _duties(one: StateLook) -> str:
    read = "never" if not one.scrubbed_at else instant_text(one.scrubbed_at)[:10]
    orders = "not looked yet" if one.orders_open < 0 else f"{one.orders_open or 'none'} open"
    return (
        f'<tr><td data-n=State>{one.number}<td data-n="All bytes read">{read}{" – due" if one.scrub_due else ""}'
        f'<td data-n="Wrong objects">{one.wrong}<td data-n="Orders to delete">{orders}</tr>'
    )


def size_text(size: int) -> str:
    """``1.5 GiB``."""
    value, step = float(size), 0
    while value >= 1024 and step < len(_STEPS) - 1:
        value, step = value / 1024, step + 1
    return f"{value:.0f} {_STEPS[step]}" if value >= 10 or step == 0 else f"{value:.1f} {_STEPS[step]}"


class _HostMetrics(Collector):
    """The same numbers for Prometheus, and what the gateway counted. States by number."""

    def __init__(self, watch: HostWatch, counts: GatewayCounts) -> None:
        self._watch, self._counts = watch, counts

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        look = self._watch.look()
        yield GaugeMetricFamily("exclave_host_faults", "What is not well now.", value=len(look.faults))
        yield GaugeMetricFamily("exclave_host_clock_fault", "1: the clock was set.", value=int(bool(look.clock_fault)))
        gauges: tuple[tuple[str, str, Callable[[StateLook], float]], ...] = (
            ("used_bytes", "Bytes that a state holds.", lambda s: s.bytes_used),
            ("quota_bytes", "Bytes that it may hold.", lambda s: s.quota_bytes),
            ("used_objects", "Objects that it holds.", lambda s: s.objects_used),
            ("quota_objects", "Objects that it may hold.", lambda s: s.quota_objects),
            ("disk_free_bytes", "Free on its disk; -1 if that cannot be read.",
             lambda s: s.disk.free_bytes if s.disk else -1),
            ("wrong_objects", "With wrong bytes, by the last scrub.", lambda s: s.wrong),
            ("scrubbed_timestamp_seconds", "When all bytes were read last.", lambda s: s.scrubbed_at / 1e6),
        )  # fmt: skip
        for name, text, of in gauges:
            gauge = GaugeMetricFamily(f"exclave_host_{name}", text, labels=["state"])
            for one in look.states:
                gauge.add_metric([str(one.number)], of(one))
            yield gauge
        yield from self._counted()

    def _counted(self) -> Iterator[Metric]:
        counted = self._counts.now()
        numbers: dict[str, str] = {state.fingerprint: str(i) for i, state in enumerate(self._watch.states, 1)}
        answers = CounterMetricFamily(
            "exclave_host_answers", "Requests answered.", labels=["state", "method", "status"]
        )
        for (state, method, status), count in counted.answers.items():
            answers.add_metric([numbers.get(state, "0"), method, str(status)], count)
        yield answers
        for name, text, values in (
            ("received_bytes", "Bytes of bodies that came.", counted.bytes_in),
            ("sent_bytes", "Bytes of bodies that went.", counted.bytes_out),
        ):
            counter = CounterMetricFamily(f"exclave_host_{name}", text, labels=["state"])
            for state, count in values.items():
                counter.add_metric([numbers.get(state, "0")], count)
            yield counter
        opened = GaugeMetricFamily("exclave_host_connections", "Open now.", labels=["state"])
        for state, count in counted.connections.items():
            opened.add_metric([numbers.get(state, "0")], count)
        yield opened
        refused = CounterMetricFamily("exclave_host_refused_connections", "By reason.", labels=["reason"])
        for reason, count in counted.refused_connections.items():
            refused.add_metric([reason], count)
        yield refused

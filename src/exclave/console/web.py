"""The console as an HTTP service: ``/``, ``/status.json``, ``/health``. It only reads, and it asks for no log-in:
it listens at the loopback interface unless it is told otherwise."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exclave.console.latest import Latest
from exclave.console.page import STYLE_HASH, failure_page, status_page
from exclave.errors import ExclaveError, UsageError
from exclave.operations.status import StateStatus

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_REFUSALS = {
    404: "There is no such page.",
    405: "This console only shows; it takes no orders.",
    421: "This console does not answer under that name.",
}
_CONNECTIONS = 50
_HOST = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def build_app(
    latest: Latest,
    as_json: Callable[[StateStatus], Mapping[str, Any]],
    error_json: Callable[[ExclaveError], Mapping[str, Any]],
    names: Iterable[str],
) -> Starlette:
    """The pages over ``latest``. ``as_json`` and ``error_json`` make what the command line prints with ``--json``.

    ``names``: host names under which it may be asked. Any other is refused: else a web site that a user visits could
    point its own name at 127.0.0.1 and read the pages through his browser (DNS rebinding).
    """
    allowed = LOOPBACK_NAMES | {name.lower() for name in names}

    def check_host(request: Request) -> None:
        if _host(request.headers.get("host", "")) not in allowed:
            raise HTTPException(421)

    async def index(request: Request) -> Response:
        check_host(request)
        looked = await run_in_threadpool(latest.get)
        if isinstance(looked.found, ExclaveError):
            error = looked.found
            page = failure_page("The state cannot be shown now", error.message, error.hint)
            return _html(page, error.http_status)
        return _html(status_page(looked.found, looked.at))

    async def status_json(request: Request) -> Response:
        check_host(request)
        found = (await run_in_threadpool(latest.get)).found
        if isinstance(found, ExclaveError):
            return _json(error_json(found), found.http_status)
        return _json(as_json(found))

    async def health(request: Request) -> Response:
        check_host(request)
        return Response("ok\n", media_type="text/plain", headers=HEADERS)

    app = Starlette(
        routes=[
            Route("/", index, methods=["GET"]),
            Route("/status.json", status_json, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _refused, Exception: _broken},
    )
    app.router.redirect_slashes = False
    return app


async def _refused(_: Request, error: Exception) -> Response:
    """Wrong path, method or host."""
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    return _html(failure_page(f"Error {status}", _REFUSALS.get(status, error.detail)), status, error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    """A bug: its traceback goes to the operator's terminal, not to the browser."""
    page = failure_page("A fault in Exclave", "The page could not be made.", "The console's own output says why.")
    return _html(page, 500)


def _html(page: str, status: int = 200, more: Mapping[str, str] | None = None) -> Response:
    return Response(page, status, media_type="text/html", headers={**HEADERS, **(more or {})})


def _json(value: Mapping[str, Any], status: int = 200) -> Response:
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    return Response(text, status, media_type="application/json", headers=HEADERS)


def _host(header: str) -> str:
    """The name in a Host header, without its port; empty if it is not one."""
    found = _HOST.fullmatch(header.lower())
    return found[1] if found else ""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. ``UsageError`` if it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            hint="Choose another --port, or end what is using this one.",
        ) from error


def server(app: Starlette) -> uvicorn.Server:
    """A server for ``app`` that tells nobody what it is."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
        )
    )


def run(app: Starlette, at: socket.socket) -> None:
    """Serves until the process is told to stop."""
    server(app).run(sockets=[at])

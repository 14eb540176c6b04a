"""The door for TLS client certificates: an application of its own, which only nginx reaches, at a Unix socket.

Page: docs/spec/login.md. It takes a certificate from nginx, leaves it for the log-in pages, and sends the browser back
to them. It decides nothing and knows no log-in; a request that came over TCP is refused, so that a header which anybody
can send does nothing where everybody can connect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exclave.errors import ExclaveError, NotAuthorised
from exclave.identity.contract import Clock
from exclave.identity.tls_card import INTERACTION, Handover, client_certificate

DOOR_PATH = "/card"
_PRIVATE = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def build_card_door(handover: Handover, clock: Clock, back: str) -> Starlette:
    """``GET /card?i=…``. ``back``: address of the log-in pages' ``/login/card``."""

    async def card(request: Request) -> Response:
        if not over_unix_socket(request.scope):
            return PlainTextResponse("this answers at a Unix socket only\n", 403, headers=_PRIVATE)
        interaction = request.query_params.get("i", "")
        if not INTERACTION.match(interaction):
            return PlainTextResponse("no such log-in\n", 403, headers=_PRIVATE)
        shown = {}
        try:
            certificate = client_certificate(request.headers.raw)
            shown["shown"] = await run_in_threadpool(_leave(handover, interaction, certificate, clock))
        except NotAuthorised:
            pass  # the log-in pages say it, in the citizen's language
        except ExclaveError as error:
            return PlainTextResponse(f"{error.message}\n", error.http_status, headers=_PRIVATE)
        where = f"{back}?{urlencode({'i': interaction, **shown})}"
        return Response(b"", 303, headers={**_PRIVATE, "location": where})

    return Starlette(routes=[Route(DOOR_PATH, card, methods=["GET"])])


def _leave(handover: Handover, interaction: str, certificate: bytes, clock: Clock) -> Callable[[], str]:
    return lambda: handover.leave(interaction, certificate, now=clock())


def over_unix_socket(scope: Mapping[str, Any]) -> bool:
    """Whether the server itself listens at a Unix socket (ASGI: ``server`` is a path without a port)."""
    server = scope.get("server")
    return server is not None and server[1] is None

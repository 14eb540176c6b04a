"""A witness as an HTTP service: C2SP tlog-witness, with the monitoring path and a health check."""

from __future__ import annotations

from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exclave.errors import ExclaveError, MalformedError
from exclave.formats.witness import MAX_REQUEST_BYTES
from exclave.ids import Instant, parse_digest
from exclave.ledger.witness import TEXT, Witness

_CONNECTIONS = 200
_NEVER_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def build_app(witness: Witness, clock: Callable[[], Instant]) -> Starlette:
    """``POST /add-checkpoint``, ``GET /<sha256 of an origin>/checkpoint``, ``GET /health``."""

    async def add_checkpoint(request: Request) -> Response:
        body = await _limited_body(request)
        if body is None:
            return PlainTextResponse("the request is too long\n", status_code=413, headers=_NEVER_STORE)
        answer = await run_in_threadpool(witness.add_checkpoint, body, clock())
        headers = {**_NEVER_STORE, "content-type": answer.content_type}
        return Response(answer.body, status_code=answer.status, headers=headers)

    async def monitor(request: Request) -> Response:
        try:
            log = parse_digest(request.path_params["log"])
            data = await run_in_threadpool(witness.latest, log)
        except MalformedError:
            data = None
        except ExclaveError as error:
            return PlainTextResponse("not available now\n", status_code=error.http_status, headers=_NEVER_STORE)
        if data is None:
            return PlainTextResponse("unknown log\n", status_code=404, headers=_NEVER_STORE)
        return Response(data, headers={**_NEVER_STORE, "content-type": TEXT})

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_NEVER_STORE)

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{log:str}/checkpoint", monitor, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
        ]
    )


async def _limited_body(request: Request) -> bytes | None:
    """The request's body, or None as soon as it is longer than any good one."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)


def run(app: Starlette, host: str, port: int) -> None:
    """Serves until the process is told to stop."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=15,
    )

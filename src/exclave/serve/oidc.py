"""The OpenID provider over HTTP, under TARA's paths. What is answered is decided in ``identity/op``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from exclave.identity.op import authorize, logout, par, token, userinfo
from exclave.identity.op.provider import Provider
from exclave.identity.op.wire import MAX_BODY_BYTES, Call, Reply, json_reply

DISCOVERY_PATHS = ("/.well-known/openid-configuration", "/oidc/.well-known/openid-configuration")
JWKS_PATH = "/oidc/jwks"
_TOO_LONG = json_reply(413, {"error": "invalid_request", "error_description": "the request is too long"})

Handler = Callable[[Request], Awaitable[Response]]


def routes(provider: Provider) -> list[Route]:
    """The endpoints, to be put into an application. They trust the caller's address as the server reports it: behind a
    reverse proxy, the server must be told to believe that proxy and nobody else."""

    async def discovery(_: Request) -> Response:
        return _response(provider.discovery())

    async def jwks(_: Request) -> Response:
        return _response(await run_in_threadpool(provider.jwks))

    return [
        *(Route(path, discovery, methods=["GET"]) for path in DISCOVERY_PATHS),
        Route(JWKS_PATH, jwks, methods=["GET"]),
        Route(authorize.PATH, _for_browsers(provider.authorize), methods=["GET", "POST"]),
        Route(logout.PATH, _for_browsers(provider.logout), methods=["GET", "POST"]),
        Route(token.PATH, _for_clients(provider.token), methods=["POST"]),
        Route(par.PATH, _for_clients(provider.push), methods=["POST"]),
        Route(userinfo.PATH, _for_clients(provider.profile), methods=["GET", "POST"]),
    ]


def _for_clients(endpoint: Callable[[Call], Reply]) -> Handler:
    async def handler(request: Request) -> Response:
        call = await _call(request)
        return _response(_TOO_LONG if call is None else await run_in_threadpool(endpoint, call))

    return handler


def _for_browsers(endpoint: Callable[[Call, str], Reply]) -> Handler:
    async def handler(request: Request) -> Response:
        call = await _call(request)
        language = request.headers.get("accept-language", "")[:200]
        return _response(_TOO_LONG if call is None else await run_in_threadpool(endpoint, call, language))

    return handler


async def _call(request: Request) -> Call | None:
    """The request as a value; None if its body is longer than any good one."""
    body = bytearray()
    if request.method == "POST":
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    return None
        except ClientDisconnect:
            body.clear()
    headers = request.headers
    return Call(
        method=request.method,
        query=request.scope["query_string"],
        body=bytes(body),
        content_type=headers.get("content-type", ""),
        authorization=tuple(headers.getlist("authorization")),
        cookies=tuple(headers.getlist("cookie")),
        address=request.client.host if request.client is not None else "",
    )


def _response(reply: Reply) -> Response:
    response = Response(reply.body, status_code=reply.status)
    response.raw_headers.extend((name.encode("ascii"), value.encode("latin-1")) for name, value in reply.headers)
    return response

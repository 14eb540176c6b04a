"""The OpenID provider over HTTP, under TARA's paths. What is answered is decided in ``identity/op``.

The endpoints are plain ASGI applications: a log-in is several short requests, and what a framework does around each
would cost as much as the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from exclave.identity.op import authorize, logout, par, token, userinfo
from exclave.identity.op.provider import Provider
from exclave.identity.op.wire import MAX_BODY_BYTES, Call, Reply, json_reply
from exclave.serve.threads import in_thread

DISCOVERY_PATHS = ("/.well-known/openid-configuration", "/oidc/.well-known/openid-configuration")
JWKS_PATH = "/oidc/jwks"
_TOO_LONG = json_reply(413, {"error": "invalid_request", "error_description": "the request is too long"})


def routes(provider: Provider) -> list[Route]:
    """The endpoints, to be put into an application. They trust the caller's address as the server reports it: behind a
    reverse proxy, the server must be told to believe that proxy and nobody else."""
    both, post, get = ["GET", "POST"], ["POST"], ["GET"]
    document = _Endpoint(lambda _, __: provider.discovery())
    return [
        Route(authorize.PATH, _Endpoint(lambda call, scope: provider.authorize(call, _language(scope))), methods=both),
        Route(token.PATH, _Endpoint(lambda call, _: provider.token(call)), methods=post),
        Route(userinfo.PATH, _Endpoint(lambda call, _: provider.profile(call)), methods=both),
        Route(par.PATH, _Endpoint(lambda call, _: provider.push(call)), methods=post),
        Route(logout.PATH, _Endpoint(lambda call, scope: provider.logout(call, _language(scope))), methods=both),
        Route(JWKS_PATH, _Endpoint(lambda _, __: provider.jwks()), methods=get),
        *(Route(path, document, methods=get) for path in DISCOVERY_PATHS),
    ]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """An ASGI application: whole request in, whole answer out. ``answer`` runs in a thread, since it may wait for a
    database or a PKCS#11 token."""

    answer: Callable[[Call, Scope], Reply]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(scope, receive)
        reply = _TOO_LONG if body is None else await in_thread(self.answer, _call(scope, body), scope)
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in reply.headers]
        headers.append((b"content-length", b"%d" % len(reply.body)))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else reply.body})


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """What was posted; None if it is longer than any good request. A client that leaves posted nothing."""
    if scope["method"] != "POST":
        return b""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _call(scope: Scope, body: bytes) -> Call:
    client = scope.get("client")
    kinds = _values(scope, b"content-type")
    return Call(
        method=scope["method"],
        query=scope["query_string"],
        body=body,
        content_type=kinds[0] if len(kinds) == 1 else "",
        authorization=_values(scope, b"authorization"),
        cookies=_values(scope, b"cookie"),
        address=client[0] if client else "",
    )


def _values(scope: Scope, name: bytes) -> tuple[str, ...]:
    return tuple(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _language(scope: Scope) -> str:
    return ",".join(_values(scope, b"accept-language"))[:200]

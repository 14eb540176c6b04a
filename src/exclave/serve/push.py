"""Where CA software pushes its decisions: ``POST /push/v1``. Page: docs/spec/push.md."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from exclave.errors import CorruptObject, ExclaveError, MalformedError
from exclave.formats.push import MAX_PUSH_BYTES
from exclave.identity.feeding.pushing import PushDesk

MAX_BODY_BYTES = MAX_PUSH_BYTES * 4 // 3 + 2048
_NEVER_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def routes(desk: PushDesk) -> list[Route]:
    """``POST /push/v1``"""

    async def push(request: Request) -> JSONResponse:
        body = await _limited_body(request)
        if body is None:
            return _answer(413, {"error": "too-long", "message": f"a push takes at most {MAX_BODY_BYTES} bytes"})
        return _answer(*await run_in_threadpool(answer_push, desk, body))

    return [Route("/push/v1", push, methods=["POST"])]


def answer_push(desk: PushDesk, body: bytes) -> tuple[int, dict[str, object]]:
    """(HTTP status, JSON) for the message in ``body``."""
    try:
        sender, content = desk.verify(body)
    except (MalformedError, CorruptObject) as error:
        return 401, {"error": "signature", "message": error.message}
    try:
        taken = desk.take(sender, content)
    except MalformedError as error:
        return 422, _error(error)
    except ExclaveError as error:
        if "expected" in error.facts:
            return 409, {"error": "sequence", "message": error.message, "expected": error.facts["expected"]}
        return 503 if error.retryable else error.http_status, _error(error)
    head = {"number": taken.head.number, "chain": taken.head.chain.hex()}
    ignored = [f"{serial:X}" for serial in taken.ignored]
    return 200, {
        "sequence": taken.sequence, "head": head, "changed": taken.changed, "ignored": ignored,
        "repeated": taken.repeated,
    }  # fmt: skip


def _error(error: ExclaveError) -> dict[str, object]:
    return {"error": error.code, "message": error.message}


def _answer(status: int, content: dict[str, object]) -> JSONResponse:
    headers = _NEVER_STORE | ({"retry-after": "5"} if status == 503 else {})
    return JSONResponse(content, status_code=status, headers=headers)


async def _limited_body(request: Request) -> bytes | None:
    """The request's body, or None as soon as it is longer than any good one."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)

"""Where CA software pushes its decisions: ``POST /push/v1``. Page: docs/spec/push.md."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from exclave.crypto.jws import MAX_HEADER_CHARS
from exclave.errors import CorruptObject, ExclaveError, MalformedError
from exclave.formats.push import MAX_PUSH_BYTES
from exclave.identity.feeding.pushing import PushDesk

MAX_BODY_BYTES = MAX_PUSH_BYTES * 4 // 3 + 2048
SHORT_BYTES = 64 << 10
"""Some 400 changes: so long a message is always read, however many long ones are under way."""
MAX_LONG = 4
"""Messages beyond ``SHORT_BYTES`` at once; 23 MB."""
BODY_S = 30.0
_NEVER_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def routes(desk: PushDesk) -> list[Route]:
    """``POST /push/v1``"""
    return [Route("/push/v1", _Door(desk).push, methods=["POST"])]


@dataclass(slots=True)
class _Door:
    """Anybody may knock: who names no sender is not read to the end, and few long messages are held at once. For one
    event loop."""

    desk: PushDesk
    long: int = 0
    """Long messages that are being read or taken."""

    async def push(self, request: Request) -> JSONResponse:
        body, known, counted = bytearray(), False, False
        try:
            async with asyncio.timeout(BODY_S):
                async for piece in request.stream():
                    body += piece
                    if not known and (b"." in piece or len(body) > MAX_HEADER_CHARS):
                        self.desk.check_sender(bytes(body[: MAX_HEADER_CHARS + 1]))
                        known = True
                    if len(body) > MAX_BODY_BYTES:
                        return _answer(413, _told("too-long", f"a push takes at most {MAX_BODY_BYTES} bytes"))
                    if not counted and len(body) > SHORT_BYTES:
                        if self.long >= MAX_LONG:
                            return _answer(503, _told("busy", f"{MAX_LONG} long messages are being taken already"))
                        self.long, counted = self.long + 1, True
            return _answer(*await run_in_threadpool(answer_push, self.desk, bytes(body)))
        except (MalformedError, CorruptObject) as error:
            return _answer(401, _told("signature", error.message))
        except TimeoutError:
            return _answer(408, _told("too-slow", f"a message arrives within {BODY_S:g} s"))
        finally:
            self.long -= counted


def answer_push(desk: PushDesk, body: bytes) -> tuple[int, dict[str, object]]:
    """(HTTP status, JSON) for the message in ``body``."""
    try:
        sender, content = desk.verify(body)
    except (MalformedError, CorruptObject) as error:
        return 401, _told("signature", error.message)
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
    return _told(error.code, error.message)


def _told(code: str, message: str) -> dict[str, object]:
    return {"error": code, "message": message}


def _answer(status: int, content: dict[str, object]) -> JSONResponse:
    headers = _NEVER_STORE | ({"retry-after": "5"} if status == 503 else {})
    return JSONResponse(content, status_code=status, headers=headers)

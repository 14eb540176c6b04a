"""Anybody can reach the address for pushes: who is no sender is not listened to, and few long messages are held."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from starlette.applications import Starlette

from exclave.crypto.jws import parse_sender_key
from exclave.identity.contract import Authority, IdentityState
from exclave.identity.feeding.pushing import PushDesk, Sender
from exclave.identity.journal import Journal
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import Pen
from exclave.ids import Instant, Label
from exclave.serve import push
from exclave.serve.push import MAX_BODY_BYTES, MAX_LONG, SHORT_BYTES, routes

PIECE = b"x" * (16 << 10)
NAME = Label("ca-one")


@pytest.fixture
def app(tmp_path: Path) -> Starlette:
    """A place with one sender, whose key nobody here has."""
    (tmp_path / "journal").mkdir()
    journal, store = Journal.open(str(tmp_path / "journal")), open_sqlite(str(tmp_path / "status.db"))
    writer = Pen(
        journal, store, lambda: Authority(IdentityState.HOME, Label("home"), 1, Instant(1)), lambda: Instant(1)
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(serialization.Encoding.PEM, form)
    sender = Sender(NAME, parse_sender_key(pem), Label("ca"))
    return Starlette(routes=routes(PushDesk({NAME: sender}, store, writer, lambda: Instant(1))))


def _header(kid: str = NAME, alg: str = "Ed25519") -> bytes:
    return base64.urlsafe_b64encode(json.dumps({"alg": alg, "kid": kid}).encode()).rstrip(b"=") + b"."


async def _post(app: Starlette, pieces: AsyncIterator[bytes]) -> tuple[int, str, dict[str, str], int]:
    """(status, error, headers, pieces that were read)"""
    told: list[dict[str, Any]] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}
        read += 1
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(event: dict[str, Any]) -> None:
        told.append(event)

    scope = {"type": "http", "method": "POST", "path": "/push/v1", "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)  # type: ignore[arg-type]
    headers = {name.decode(): value.decode() for name, value in told[0]["headers"]}
    return told[0]["status"], json.loads(told[1]["body"])["error"], headers, read


async def _body(first: bytes, until: Callable[[], bool] = lambda: False) -> AsyncIterator[bytes]:
    yield first
    for _ in range(MAX_BODY_BYTES // len(PIECE) + 2):
        if until():
            return
        yield PIECE


@pytest.mark.parametrize("first", [_header("stranger"), _header(alg="HS256"), b"!!!.", PIECE])
def test_who_names_no_sender_is_not_read_to_the_end(app: Starlette, first: bytes) -> None:
    """The header stands first, and says enough."""
    status, error, _, read = asyncio.run(_post(app, _body(first)))
    assert (status, error, read) == (401, "signature", 1)


def test_a_known_name_is_read_up_to_the_limit(app: Starlette) -> None:
    """It proves nothing, so the limit holds for it as well."""
    status, error, _, read = asyncio.run(_post(app, _body(_header())))
    assert (status, error) == (413, "too-long")
    assert read <= MAX_BODY_BYTES // len(PIECE) + 2


def test_few_long_messages_are_held_at_once(app: Starlette) -> None:
    """Beyond them a long one is put off, and a short one is taken all the same; afterwards there is room again."""

    async def flood() -> None:
        done = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield _header() + b"x" * SHORT_BYTES
            await done.wait()

        held = [asyncio.create_task(_post(app, slow())) for _ in range(MAX_LONG)]
        await asyncio.sleep(0.05)
        status, error, headers, _ = await _post(app, _body(_header()))
        assert (status, error, headers["retry-after"]) == (503, "busy", "5")
        assert (await _post(app, _body(_header(), lambda: True)))[:2] == (401, "signature")
        done.set()
        assert {(await task)[0] for task in held} == {401}
        assert (await _post(app, _body(_header())))[0] == 413

    asyncio.run(flood())


def test_a_message_that_does_not_end_is_given_up(app: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its place for so long and no longer."""
    monkeypatch.setattr(push, "BODY_S", 0.05)

    async def never() -> AsyncIterator[bytes]:
        yield _header() + b"x" * SHORT_BYTES
        await asyncio.Event().wait()

    for _ in range(MAX_LONG + 1):
        assert asyncio.run(_post(app, never()))[:2] == (408, "too-slow")

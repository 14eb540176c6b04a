"""Searches over HTTP, behind nginx on a Unix socket: ``GET /search?q=…&page=…``, ``GET /health``.

An ASGI application without a framework: there is one page. It opens the index of the release that readers see, and
the next one as soon as readers see that.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from exclave.errors import MalformedError, UsageError
from exclave.ids import parse_positive
from exclave.serve.reading_admission import Admission, Answer, Client, Ticket, client_of
from exclave.serve.reading_pages import Pages
from exclave.serve.reading_search import MAX_PAGE, Searcher, parse_query

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ADDRESS: Final = b"reader-address"
"""The header by which nginx tells who asks."""
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_REFUSED: Final = {Answer.TOO_MANY: 429, Answer.FULL: 503}


@dataclass(frozen=True, slots=True)
class _Open:
    """A searcher, and the file that it reads."""

    searcher: Searcher
    path: str


class SearchApp:
    """``folder``: the room's. ``admission`` is asked for each search, with the time of ``clock`` (seconds)."""

    def __init__(
        self, folder: str, pages: Pages, admission: Admission, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = os.path.join(folder, "current", "search.sqlite")
        self._pages, self._admission, self._clock = pages, admission, clock
        self._pool = ThreadPoolExecutor(admission.limits.at_work, thread_name_prefix="search")
        self._idle: queue.SimpleQueue[_Open] = queue.SimpleQueue()
        self._turns: dict[int, asyncio.Future[bool]] = {}
        self.counts: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await _lifespan(receive, send)
            return
        if scope["path"] == "/health":
            await _answer(send, 200, self._health(), (b"content-type", b"application/json"))
        elif scope["path"] == "/search":
            await self._search(scope, send)
        else:
            await _answer(send, 404, b"")

    def _health(self) -> bytes:
        told = {"running": self._admission.running, "waiting": self._admission.waiting, **self.counts}
        return msgspec.json.encode(told)

    async def _search(self, scope: Scope, send: Send) -> None:
        address = next((value for name, value in scope["headers"] if name == ADDRESS), b"?")
        refused = await self._turn(client_of(address.decode("latin-1")))
        if refused is not None:
            self.counts[refused.value] += 1
            await _answer(send, _REFUSED[refused], b"", (b"retry-after", b"5"))
            return
        try:
            status, body = await asyncio.get_running_loop().run_in_executor(
                self._pool, self._page, scope["query_string"]
            )
        finally:
            self._next()
        self.counts["answered"] += 1
        await _answer(send, status, b"" if scope["method"] == "HEAD" else body, _HTML)

    async def _turn(self, client: Client) -> Answer | None:
        """None when it is this request's turn; otherwise why it is not answered."""
        answer, ticket, pushed = self._admission.arrive(client, self._clock())
        if pushed is not None:
            self._tell(pushed, turn=False)
        if answer is Answer.RUN:
            return None
        if ticket is None:
            return answer
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._turns[ticket.number] = turn
        try:
            granted = await asyncio.wait_for(asyncio.shield(turn), self._admission.limits.patience_s)
        except TimeoutError:
            granted = turn.done() and turn.result()
        finally:
            self._turns.pop(ticket.number, None)
            self._admission.give_up(ticket)
        return None if granted else Answer.FULL

    def _next(self) -> None:
        following = self._admission.leave(self._clock())
        if following is not None:
            self._tell(following, turn=True)

    def _tell(self, ticket: Ticket, *, turn: bool) -> None:
        waiting = self._turns.get(ticket.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(turn)
        elif turn:  # it has just gone away: whoever is next
            self._next()

    # In a thread

    def _page(self, query_string: bytes) -> tuple[int, bytes]:
        text = ""
        try:
            asked = dict(parse_qsl(query_string.decode("ascii"), keep_blank_values=True, max_num_fields=4))
            text = asked.get("q", "")
            page = parse_positive(asked.get("page", "1"), limit=MAX_PAGE)
            query = parse_query(text)
        except UsageError as error:
            sentence = "There are no further pages." if isinstance(error, MalformedError) else error.message
            return 400 if text else 200, self._pages.search(None, text[:200], None, 1, sentence)
        except ValueError:
            return 400, self._pages.search(None, "", None, 1, "This address cannot be understood.")
        opened = self._take()
        try:
            found = opened.searcher.search(query, page)
        except sqlite3.Error:
            opened.searcher.close()
            return 503, b""
        self._idle.put(opened)
        return 200, self._pages.search(query, text, found, page)

    def _take(self) -> _Open:
        path = os.path.realpath(self._link)
        while True:
            try:
                opened = self._idle.get_nowait()
            except queue.Empty:
                return _Open(Searcher(path), path)
            if opened.path == path and opened.searcher.current():
                return opened
            opened.searcher.close()


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return

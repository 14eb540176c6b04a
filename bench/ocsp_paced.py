"""Asks at a fixed rate, whether the answers come or not, and prints how long they took, as JSON.

    python bench/ocsp_paced.py PORT REQUEST RATE SECONDS

One connection for each request; the 32 bytes ``n`` in the request are its nonce and differ each time. Time counts from
when a request was due, so a server (or this client) that falls behind is not flattered. ``late_ms`` is how late this
client itself began the slowest of the middle 99 % of its requests: what of the figures may be its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import uvloop

MARK = b"n" * 32


class Ask(asyncio.Protocol):
    """One request."""

    def __init__(self, data: bytes, due: float, took: list[float]) -> None:
        self._data, self._due, self._took = data, due, took
        self._got = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._data)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self._got == 0 and not data.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            raise SystemExit(f"not an answer: {data[:60]!r}")
        self._got += len(data)

    def eof_received(self) -> None:
        self._took.append(time.perf_counter() - self._due)

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or not self._got:
            self._took.append(float("inf"))


async def paced(port: int, body: bytes, rate: float, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    head = (
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/ocsp-request\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    took: list[float] = []
    late: list[float] = []
    running: set[asyncio.Task[object]] = set()

    async def one(due: float) -> None:
        try:
            nonce = os.urandom(16).hex().encode()
            await loop.create_connection(lambda: Ask(head + body.replace(MARK, nonce), due, took), "127.0.0.1", port)
        except OSError:
            took.append(float("inf"))

    begin = time.perf_counter() + 0.1
    total = int(rate * seconds)
    for number in range(total):
        due = begin + number / rate
        while (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait if wait > 0.001 else 0)
        late.append(time.perf_counter() - due)
        task = loop.create_task(one(due))
        running.add(task)
        task.add_done_callback(running.discard)
        if number % 16 == 0:
            await asyncio.sleep(0)
    reached = total / (time.perf_counter() - begin)
    await asyncio.sleep(1)
    took += [float("inf")] * (total - len(took))
    took.sort()
    late.sort()
    at = lambda part: round(took[int(len(took) * part)] * 1000, 3)  # noqa: E731
    return {
        "rate": round(reached), "p50_ms": at(0.5), "p99_ms": at(0.99), "failed": sum(t == float("inf") for t in took),
        "late_ms": round(late[int(len(late) * 0.99)] * 1000, 3),
    }  # fmt: skip


if __name__ == "__main__":
    figures = uvloop.run(
        paced(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), float(sys.argv[3]), float(sys.argv[4]))
    )
    print(json.dumps(figures))

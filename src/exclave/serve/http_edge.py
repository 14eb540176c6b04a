"""A small, fast HTTP/1.1 edge for short requests from anybody: whole bodies in, whole bodies out.

For the plain HTTP of status services only, whose clients come by the thousands and whose answers take 50 µs to make;
everything else is served by ASGI, which would take 1.5 to 2 times as long for a connection each (docs/spec/ocsp.md).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from exclave.serve.http_connection import Connection, Edge


@dataclass(slots=True)
class RunningEdge:
    """A listener in a running event loop."""

    edge: Edge
    port: int
    _server: asyncio.Server = field(repr=False)
    _ticker: asyncio.Task[None] = field(repr=False)

    async def stop(self, *, within_s: float = 5.0) -> None:
        """Takes no more connections, ends idle ones, and waits for the others up to ``within_s``."""
        self.edge.stopping = True
        self._server.close()
        for connection in list(self.edge.open):
            connection.finish()
        deadline = asyncio.get_running_loop().time() + within_s
        while self.edge.open and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        for connection in list(self.edge.open):
            connection.drop()
        self._ticker.cancel()
        if self.edge.executor is not None:
            self.edge.executor.shutdown(wait=False, cancel_futures=True)


async def start_edge(edge: Edge, host: str, port: int, *, reuse_port: bool = False) -> RunningEdge:
    """Listens at ``host``:``port`` (0: any free one) in the running event loop. Raises ``OSError`` if it cannot.

    ``reuse_port``: several processes share the port (SO_REUSEPORT); the kernel spreads the connections.
    """
    loop = asyncio.get_running_loop()
    edge.tick(loop.time())
    server = await loop.create_server(
        lambda: Connection(edge, loop), host, port, reuse_port=reuse_port or None, backlog=2048
    )

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)
            edge.tick(loop.time())

    return RunningEdge(edge, server.sockets[0].getsockname()[1], server, loop.create_task(tick()))

"""Stands for a name of the world: whoever connects to this port reaches the place that a file names at that moment.

On a real network DNS does this, and failover changes it by a signed update (docs/spec/names.md); a demo without root
has no name server of its own, so its names are ports of this machine.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

_CONNECTIONS = 200


def main(arguments: list[str]) -> int:
    """``PORT FILE``: forwards connections to 127.0.0.1:PORT to the port that FILE holds, until the process is ended."""
    port, file = int(arguments[0]), Path(arguments[1])
    asyncio.run(_forward(port, file))
    return 0


def lead_to(file: Path, port: int) -> None:
    """The name leads to 127.0.0.1:``port`` from now on."""
    fresh = file.with_suffix(".new")
    fresh.write_text(f"{port}\n")
    fresh.replace(file)


async def _forward(port: int, file: Path) -> None:
    slots = asyncio.Semaphore(_CONNECTIONS)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with slots:
            await _pair(reader, writer, int(file.read_text()))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


async def _pair(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    try:
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, onward), _copy(onward_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 << 10):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # either side may go at any moment
    finally:
        writer.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

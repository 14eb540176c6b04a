"""Exclave's status service as the benchmark measures it: the SQLite store, keys in a folder, the service's own edge.

python bench/ocsp_server.py FOLDER PORT      FOLDER as bench/ocsp.py prepared it
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from exclave import ids
from exclave.identity.contract import Authority, IdentityState
from exclave.identity.key_folder import KeyFolder
from exclave.identity.keyring import Keyring
from exclave.identity.responder import Responder
from exclave.identity.store_sqlite import open_sqlite
from exclave.ids import Instant, Label
from exclave.serve.ocsp import Listen, OcspMetrics, OcspSite, raise_file_limit, start_ocsp


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    store = open_sqlite(str(folder / "status.sqlite"))
    place = Label("embassy")
    authority = Authority(IdentityState.EXILE, place, 1, Instant(0))
    keys = Keyring(KeyFolder(folder / "keys"), store, place)
    site = OcspSite(Responder(store, keys, lambda: authority, ids.now), ids.now, OcspMetrics(CollectorRegistry()))
    listen = Listen("127.0.0.1", port)
    raise_file_limit(listen.limits.connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(site, listen))


async def _serve(site: OcspSite, listen: Listen) -> None:
    """Until SIGTERM or SIGINT, then lets running answers end."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    running = await start_ocsp(site, listen)
    await stopped.wait()
    await running.stop()


if __name__ == "__main__":
    main()

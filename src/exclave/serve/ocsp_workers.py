"""The status service in several processes that share one port: one for each core."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

from exclave.errors import ConfigError, ServiceFailed
from exclave.serve.ocsp import Listen, OcspSite, run_ocsp


def run_ocsp_workers(make_site: Callable[[], OcspSite], listen: Listen, workers: int) -> None:
    """Serves from ``workers`` processes until SIGTERM or SIGINT.

    Call it before this process has started any thread. ``make_site`` is called in each child, so that no connection to
    a store or token is shared. If a child ends by itself the others are stopped and ``ServiceFailed`` is raised: what
    supervises this process starts it again. ``ConfigError`` for port 0, which would be another one for each.
    """
    if listen.port == 0 or workers < 1:
        raise ConfigError("several processes need a port of their own choice, and one at least")
    shared = replace(listen, reuse_port=True)
    children = {_child(make_site, shared) for _ in range(workers)}
    asked_to_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True
        _tell(children)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    failed = 0
    while children:
        pid, status = os.wait()
        children.discard(pid)
        if not asked_to_stop and not failed:
            failed = pid
            _tell(children)
        failed = failed or (pid if status else 0)
    if failed:
        raise ServiceFailed(f"process {failed} of the status service ended by itself")


def _child(make_site: Callable[[], OcspSite], listen: Listen) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:  # whatever happens, this process must not go on as its parent
        run_ocsp(make_site(), listen)
        code = 0
    finally:
        os._exit(code)


def _tell(children: set[int]) -> None:
    for pid in set(children):
        os.kill(pid, signal.SIGTERM)

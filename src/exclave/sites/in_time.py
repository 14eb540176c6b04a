"""One request to somebody who may drip: the answer within a time, or none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from exclave.errors import SiteUnavailable

Answer = TypeVar("Answer")


def in_time(seconds: float, ask: Callable[[], Answer], who: str) -> Answer:
    """What ``ask`` returns or raises; ``SiteUnavailable`` if it takes longer than ``seconds``.

    A socket's timeout begins anew with each byte, and nobody is asked between two bytes of a header. A thread that is
    left behind ends when its caller closes the connection, and keeps no process alive.
    """
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True, name=f"asking {who}").start()
    if wait([answer], seconds).not_done:
        raise SiteUnavailable(f"{who} answers too slowly", silent=True)
    return answer.result()

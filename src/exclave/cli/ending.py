"""How commands that go on until they are told to stop hear of it."""

from __future__ import annotations

import signal
import threading
import time
from typing import Final

_STEP_S: Final = 0.5


class Told(threading.Event):
    """Waits in short steps: a signal may go to another thread, and then does not wake the one that waits here."""

    def wait(self, timeout: float | None = None) -> bool:
        """True as soon as it is told; False if it was not within ``timeout`` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while not super().wait(_STEP_S if end is None else max(0.0, min(_STEP_S, end - time.monotonic()))):
            if end is not None and time.monotonic() >= end:
                return False
        return True


def told_to_end(*, forever: bool = True) -> Told:
    """Set by SIGTERM or Ctrl-C, which end nothing by themselves any more: what is under way is finished first.

    Without ``forever``, or outside of a process's first thread, it is never set, and signals act as usual.
    """
    told = Told()
    if forever and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: told.set())
    return told

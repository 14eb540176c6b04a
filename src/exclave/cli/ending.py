"""How commands that go on until they are told to stop hear of it."""

from __future__ import annotations

import signal
import threading


def told_to_end(*, forever: bool = True) -> threading.Event:
    """Set by SIGTERM or Ctrl-C, which end nothing by themselves any more: what is under way is finished first.

    Without ``forever``, or outside of a process's first thread, it is never set, and signals act as usual.
    """
    told = threading.Event()
    if forever and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: told.set())
    return told

"""Where the log-in service does what may wait for a disk, a database or a PKCS#11 token.

Four threads and not the framework's forty: what they do is mostly short and needs the interpreter's lock, and the more
threads want it, the longer each waits for it (bench/login.py: a fifth less time for each log-in).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

THREADS = 4
_P = ParamSpec("_P")
_T = TypeVar("_T")
_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="serve")


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What ``function`` returns or raises, without holding up the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_pool, lambda: function(*args, **kwargs))

"""The reference query: one question whose right answer shows that a service works on the right data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from exclave.errors import ServiceFailed
from exclave.runners.probe import wait_http

_MAX_ANSWER_BYTES = 1 << 20


def holds(answer: object, expected: object) -> bool:
    """Whether ``answer`` has everything that ``expected`` names.

    An object needs each named member, a list the same length and items; all else the same value and type.
    """
    if isinstance(expected, Mapping):
        return isinstance(answer, Mapping) and all(k in answer and holds(answer[k], v) for k, v in expected.items())
    if isinstance(expected, list):
        if not isinstance(answer, list) or len(answer) != len(expected):
            return False
        return all(holds(one, other) for one, other in zip(answer, expected, strict=True))
    return type(answer) is type(expected) and answer == expected


def ask(url: str, expected: object, timeout_s: float, *, alive: Callable[[], bool] = lambda: True) -> object:
    """The JSON answer at ``url`` on loopback, once it holds ``expected``; ``ServiceFailed`` otherwise."""
    response = wait_http(url, timeout_s, alive=alive)
    if len(response.content) > _MAX_ANSWER_BYTES:
        raise ServiceFailed(f"the answer from {url} is too long to be the reference answer", url=url)
    try:
        answer: object = json.loads(response.content)
    except ValueError as error:
        raise ServiceFailed(f"the answer from {url} is not JSON", url=url) from error
    if not holds(answer, expected):
        raise ServiceFailed(
            f"the reference query at {url} got another answer than the register's own",
            hint="The service runs, but on other data than it should: do not open it to the public.",
            url=url,
        )
    return answer

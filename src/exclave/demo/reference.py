"""Questions whose answers are known from the seed alone: what a restored register must say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReferenceQuery:
    """One request to a register's application and what its JSON answer must contain.

    ``path`` starts with ``/`` and is ready to be sent. ``expected`` is a part of the answer: see ``contains``.
    Neither a day's work nor the writer of the demo touches what it asks for, so it holds at any time.
    """

    path: str
    expected: Mapping[str, object]


def contains(answer: object, expected: object) -> bool:
    """Whether ``answer`` has everything that ``expected`` names.

    An object must have each named member, a list must have the same length and contain item by item; all else must
    be equal and of the same type (``1`` is not ``True``).
    """
    if isinstance(expected, Mapping):
        return isinstance(answer, Mapping) and all(
            name in answer and contains(answer[name], value) for name, value in expected.items()
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(answer, list | tuple)
            and len(answer) == len(expected)
            and all(contains(one, other) for one, other in zip(answer, expected, strict=True))
        )
    return type(answer) is type(expected) and answer == expected

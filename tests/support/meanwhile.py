"""Something that happens just while a verb is at one of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object], *, after: bool
) -> None:
    """``act`` happens once, right before or after the next call of ``owner.name``."""
    real, done = getattr(owner, name), []

    def call(*arguments: Any, **more: Any) -> Any:
        first = not done
        done.append(1)
        if first and not after:
            act()
        result = real(*arguments, **more)
        if first and after:
            act()
        return result

    monkeypatch.setattr(owner, name, call)

"""Somebody who walks through all versions of a mount does not fill the machine's memory with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from exclave.ids import Fingerprint, Instant
from exclave.operations import mount
from exclave.operations.custody import OpenedRegister
from exclave.operations.mount import MountedRegister
from exclave.verify.history import CountedVersion


def test_few_versions_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many versions are looked into, the nodes of a few are kept; each of the others is opened again."""
    opened: list[int] = []

    def open_version(*about: Any) -> tuple[Any, Any]:
        opened.append(about[-1].leaf.sequence)
        return SimpleNamespace(faults={}), SimpleNamespace(datasets=())

    monkeypatch.setattr(mount, "open_version", open_version)
    versions = tuple(
        cast(CountedVersion, SimpleNamespace(leaf=SimpleNamespace(sequence=n, time=Instant(0)))) for n in range(1, 101)
    )
    register = cast(OpenedRegister, SimpleNamespace(keys={}))
    shown = MountedRegister(Fingerprint("a" * 64), {}, register, versions, tell=lambda line: None)
    names = [name for name, _ in shown.names(b"") if name != b"latest"]
    for name in names:
        assert list(shown.names(name)) == []
        assert len(shown._open) <= 8
    assert list(shown.names(names[-1])) == list(shown.names(names[0])) == []
    assert opened == [*range(1, 101), 1]
    shown.note_faults()
    shown.close()

"""What the demo's chapters share: the report, and where the story is played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from exclave.demo.commands import Commands
from exclave.demo.identity import World
from exclave.demo.state import Places, Ports
from exclave.ids import Instant


@dataclass(slots=True)
class Report:
    """What was promised and what was seen; ``exclave demo --report`` writes it."""

    ok: bool = False
    seconds: float = 0.0
    folder: str = ""
    fingerprint: str = ""
    registers: list[dict[str, Any]] = field(default_factory=list)
    hostile_acts: list[dict[str, Any]] = field(default_factory=list)
    promises: list[dict[str, Any]] = field(default_factory=list)
    services: list[dict[str, Any]] = field(default_factory=list)
    identity: dict[str, Any] = field(default_factory=dict)
    """Log-ins and certificate status through the crisis; the signed gap statement."""

    def promise(self, what: str, kept: bool, measured: str) -> None:
        self.promises.append({"promise": what, "kept": bool(kept), "measured": measured})

    def act(self, what: str, found: bool, how: str) -> None:
        self.hostile_acts.append({"act": what, "detected": bool(found), "how": how})


@dataclass
class Stage:
    """Where the story is played."""

    places: Places
    ports: Ports
    scale: int
    commands: Commands
    tell: Callable[[str], None]
    chapter: Callable[[str], None]
    report: Report
    fingerprint: str = ""
    ids: dict[str, str] = field(default_factory=dict)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    spoilt: list[Path] = field(default_factory=list)
    """Objects that a host has altered."""
    lost: Instant = Instant(0)

    @cached_property
    def world(self) -> World:
        """Names, cards and the two places of the identity services."""
        return World(self.places.root, self.places.home / "identity", self.places.exile / "identity")

    def sites(self, *names: str) -> list[str]:
        """Options that name sites by address."""
        found = []
        for name in names:
            found += ["--site", f"{name}=dir:{self.places.sites / name}"]
        return found

    @property
    def pinned(self) -> list[str]:
        return ["--fingerprint", self.fingerprint]

    @property
    def home(self) -> list[str]:
        return ["--home", str(self.places.home)]

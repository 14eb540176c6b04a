"""What the demo's chapters share: the report, and where the story is played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from exclave.demo.commands import Commands, Told, typed
from exclave.demo.hosts import Hosts
from exclave.demo.identity import World
from exclave.demo.state import Places, Ports
from exclave.errors import ExclaveError
from exclave.ids import Instant

P = ParamSpec("P")
T = TypeVar("T")


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
    sites: list[dict[str, str]] = field(default_factory=list)
    """Name, kind and country of each."""
    reading: dict[str, Any] = field(default_factory=dict)
    """The reading room in exile: pages that were read, and the proof of an act."""
    statement: dict[str, Any] = field(default_factory=dict)
    """The statement to the public, and whether it holds."""

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
    clearing: list[Future[None]] = field(default_factory=list)
    """What is lost, being cleared away."""
    lost: Instant = Instant(0)
    short: dict[str, str] = field(default_factory=dict)
    """Long texts of commands, and the shell variables that stand for them."""

    @cached_property
    def world(self) -> World:
        """Names, cards and the two places of the identity services."""
        return World(self.places.root, self.places.home / "identity", self.places.exile / "identity")

    @cached_property
    def hosts(self) -> Hosts:
        """The hosts abroad."""
        p = self.places
        return Hosts(p.root, {"home": p.home / "hosts", "embassy": p.embassy / "hosts", "public": p.root / "public"})

    def brief(self, line: str) -> str:
        """A command with what it says again and again in shell variables that stand above it."""
        for text, name in self.short.items():
            line = line.replace(text, name)
        line = line.replace(self.report.folder, "$D")
        return line.replace(self.fingerprint, "$F") if self.fingerprint else line

    def brief_command(self, arguments: Sequence[str]) -> str:
        """``exclave ARGUMENTS`` as a person would type it."""
        return self.brief(typed(arguments))

    def beside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Work of the world that the story does not wait for; it must be over before the story is."""
        return self.commands.apart.submit(work, *args, **kwargs)

    def sites(self, *names: str, user: str = "embassy") -> list[str]:
        """Options that name sites by address, with the credentials of ``user``."""
        found = []
        for name in names:
            found += ["--site", f"{name}={self.hosts.url(name, user)}"]
        return found

    def refused(self, act: str, told: Told, error: type[ExclaveError]) -> None:
        """A hostile act that a command refuses with this error."""
        self.report.act(act, told.result["error"] == error.code, told.result["message"])

    @property
    def pinned(self) -> list[str]:
        return ["--fingerprint", self.fingerprint]

    @property
    def home(self) -> list[str]:
        return ["--home", str(self.places.home)]

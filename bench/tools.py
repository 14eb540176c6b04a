"""How the benchmark calls each program: one class for each, all with the same commands.

The settings are of one class: encryption on, zstd at its level 3 or restic's default (which is zstd too), one local
folder on the same disk as repository, the program's own caches on and kept between the full and the second backup.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import peers

PASSWORD = "benchmark only"  # the repositories are thrown away


class ToolMissing(Exception):
    """The program is not there or cannot be set up; the message says why and stands in the table."""


@dataclass(frozen=True, slots=True)
class Command:
    """One process to measure."""

    argv: list[str]
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)  # added to the small environment that every tool gets
    inside: tuple[str, ...] = ()  # what enters a network namespace first, if it is to run in one


@dataclass(frozen=True, slots=True)
class State:
    """One fresh repository with what the tool needs around it."""

    work: Path  # the tool's own folder for this round: repository, caches, keys
    tree: Path  # what is saved
    repository: Path  # whose size is reported


class Tool(Protocol):
    """A compared program. `prepare` is not measured; the commands are."""

    name: str
    version: str

    def prepare(self, work: Path, tree: Path) -> State:
        """Make a fresh, empty, encrypted repository under work."""

    def backup(self, state: State) -> list[Command]:
        """Save the tree for the first time."""

    def again(self, state: State) -> list[Command]:
        """Save the tree again: unchanged, or after its change."""

    def restore(self, state: State, target: Path) -> list[Command]:
        """Write the newest version into the empty folder target."""

    def restored(self, state: State, target: Path) -> Path:
        """Where below target the saved tree's own content stands."""


def run_quietly(command: Command, environment: dict[str, str]) -> str:
    """Run a preparing command and return its output. Raises ToolMissing with the end of it."""
    done = subprocess.run(
        [*command.inside, *command.argv],
        cwd=command.cwd,
        env=environment | command.env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise ToolMissing(f"{Path(command.argv[0]).name} failed ({done.returncode}): {said}")
    return done.stdout


class Restic:
    """restic, repository format 2, `--compression auto`."""

    name = "restic"

    def __init__(self, environment: dict[str, str]) -> None:
        try:
            peer = peers.find_restic()
        except peers.PeerMissing as error:
            raise ToolMissing(str(error)) from error
        self.version = " ".join(peer.version.split()[:2])
        self._program = str(peer.program)
        self._environment = environment

    def prepare(self, work: Path, tree: Path) -> State:
        state = State(work, tree, work / "repository")
        run_quietly(self._command(state, "init"), self._environment)
        return state

    def backup(self, state: State) -> list[Command]:
        return [self._command(state, "backup", "--compression", "auto", ".")]

    again = backup

    def restore(self, state: State, target: Path) -> list[Command]:
        return [self._command(state, "restore", "latest", "--target", str(target))]

    def restored(self, state: State, target: Path) -> Path:
        return target

    def _command(self, state: State, *arguments: str) -> Command:
        env = {"RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(state.repository)}
        env["RESTIC_CACHE_DIR"] = str(state.work / "cache")
        return Command([self._program, "--quiet", *arguments], state.tree, env)


class Borg:
    """borg 1.4, repokey-blake2, zstd level 3."""

    name = "borg"

    def __init__(self, environment: dict[str, str]) -> None:
        try:
            peer = peers.find_borg()
        except peers.PeerMissing as error:
            raise ToolMissing(str(error)) from error
        self.version = peer.version
        self._program = str(peer.program)
        self._environment = environment

    def prepare(self, work: Path, tree: Path) -> State:
        state = State(work, tree, work / "repository")
        init = self._command(state, tree, "init", "--encryption", "repokey-blake2", str(state.repository))
        run_quietly(init, self._environment)
        return state

    def backup(self, state: State) -> list[Command]:
        return [self._create(state, "1")]

    def again(self, state: State) -> list[Command]:
        return [self._create(state, str(len(self._archives(state)) + 1))]

    def restore(self, state: State, target: Path) -> list[Command]:
        return [self._command(state, target, "extract", f"{state.repository}::{len(self._archives(state))}")]

    def _archives(self, state: State) -> list[str]:
        """The archives there are: they are numbered from 1."""
        command = self._command(state, state.tree, "list", "--short", str(state.repository))
        return run_quietly(command, self._environment).split()

    def restored(self, state: State, target: Path) -> Path:
        return target

    def _create(self, state: State, archive: str) -> Command:
        return self._command(
            state, state.tree, "create", "--compression", "zstd,3", f"{state.repository}::{archive}", "."
        )

    def _command(self, state: State, cwd: Path, *arguments: str) -> Command:
        env = {"BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": str(state.work / "base")}
        return Command([self._program, *arguments], cwd, env)


TOOLS: dict[str, Callable[[dict[str, str]], Tool]] = {"restic": Restic, "borg": Borg}

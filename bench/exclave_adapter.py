"""How the benchmark calls Exclave: the one file to change when its command line changes.

The embassy that is measured is a small whole one: a state with one register of one `files` dataset, one site (a local
folder), three custodians of whom two are needed, a writer, no witnesses. Making it (`SETUP`) is not measured, as the
`init` of the other tools is not. In every argv below, {work}, {tree}, {site} and {target} are filled in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tools import Command, State, ToolMissing, run_quietly

REGISTER = "bench"

# exclave.toml of the measured embassy.
SETTINGS = """\
[state]
name = "Benchmark"
home = "EE"
threshold = 2
custodians = ["one", "two", "three"]

[[site]]
label = "local"
country = "LU"
operator = "bench"
url = "dir:{site}"

[[register]]
name = "bench"
class = "benchmark"
owner = "bench"
sites = ["local"]
placement = {{ copies = 1, countries = 1, outside-home = 1 }}

[[register.dataset]]
name = "tree"
kind = "files"
path = "{tree}"
"""

SETUP = [
    ["exclave", "init", "{work}/embassy"],
]
BACKUP = [["exclave", "backup", REGISTER]]
INCREMENTAL = BACKUP
RESTORE = [["exclave", "restore", REGISTER, "--into", "{target}"]]
VERIFY = [["exclave", "verify"]]
RESTORED = "tree"  # the dataset's folder below the target of a restore


class Exclave:
    """Exclave as it is installed beside this Python."""

    name = "exclave"

    def __init__(self, environment: dict[str, str]) -> None:
        beside = Path(sys.executable).parent / "exclave"
        program = str(beside) if beside.exists() else shutil.which("exclave")
        if program is None:
            raise ToolMissing("exclave CLI not available")
        self._program = program
        self._environment = environment
        done = subprocess.run([program, "--version"], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolMissing(f"exclave CLI not available: exclave --version failed ({done.returncode})")
        self.version = done.stdout.strip()

    def prepare(self, work: Path, tree: Path) -> State:
        state = State(work, tree, work / "site")
        state.repository.mkdir()
        (work / "embassy").mkdir()
        (work / "embassy" / "exclave.toml").write_text(SETTINGS.format(site=state.repository, tree=tree))
        for command in self._commands(SETUP, state):
            run_quietly(command, self._environment)
        return state

    def backup(self, state: State) -> list[Command]:
        return self._commands(BACKUP, state)

    def incremental(self, state: State) -> list[Command]:
        return self._commands(INCREMENTAL, state)

    def restore(self, state: State, target: Path) -> list[Command]:
        return self._commands(RESTORE, state, target)

    def verify(self, state: State) -> list[Command]:
        return self._commands(VERIFY, state)

    def restored(self, state: State, target: Path) -> Path:
        return target / RESTORED

    def _commands(self, argvs: list[list[str]], state: State, target: Path | None = None) -> list[Command]:
        """The argvs with their places filled in, run in the embassy's folder; several are measured as one sum."""
        places = {"work": state.work, "tree": state.tree, "site": state.repository, "target": target}
        filled = [[self._program if word == "exclave" else word.format(**places) for word in argv] for argv in argvs]
        return [Command(argv, state.work / "embassy") for argv in filled]

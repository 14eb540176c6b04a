"""How the benchmark calls Exclave: the one file to change when its command line changes.

The embassy that is measured is a small whole one: a state with one register of one `files` dataset, one site (a local
folder), three custodians of whom two are needed, a writer, no witnesses. Making it (`SETUP`) is not measured, as the
`init` of the other tools is not. In every argv below, {work}, {tree}, {url} and {target} are filled in.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tools import Command, State, ToolMissing, run_quietly

REGISTER = "bench"

CUSTODIANS = ("one", "two", "three")

# exclave.toml of the measured embassy, without its custodians.
SETTINGS = """\
[state]
name = "Benchmark"
home = "EE"
threshold = 2

[[site]]
name = "local"
url = "{url}"
country = "LU"
operator = "bench"

[[register]]
name = "bench"
owner = "bench"
class = "benchmark"
rpo_s = 3600
rto_s = 3600
retention_days = 400
placement = {{ copies = 1, countries = 1, outside_home = 1 }}
legal_basis = {{ local = "none: a benchmark" }}

[[register.dataset]]
name = "tree"
kind = "files"
options = {{ path = "{tree}" }}
"""
CUSTODIAN = """
[[custodian]]
name = "{name}"
country = "EE"
card = "custodians/{name}.card"
"""

SETUP = [
    ["exclave", "init", "{work}/embassy"],
    *(["exclave", "custodian", "new", name, "--out", "{work}/embassy/custodians"] for name in CUSTODIANS),
]
# Once exclave.toml is written:
CHARTER = [
    ["exclave", "charter", "propose", "{work}/draft"],
    *(["exclave", "charter", "sign", "{work}/draft", "--yes", "--key", f"custodians/{n}.key"] for n in CUSTODIANS[:2]),
    ["exclave", "charter", "publish", "{work}/draft"],
]
# Once the state has its fingerprint. What people do is not measured: the request for the restore and two answers.
WHERE = ["--site", "local={url}", "--fingerprint", "{fingerprint}"]
WARRANT = [
    ["exclave", "warrant", "request", "{work}/r.warrant", "--act", "restore", "--place", "local",
     "--reason", "benchmark", "--key", "{work}/machine.key", *WHERE],
    *(["exclave", "warrant", "sign", "{work}/r.warrant", "--yes", "--key", f"custodians/{name}.key", *WHERE]
      for name in CUSTODIANS[:2]),
]  # fmt: skip
BACKUP = [["exclave", "backup", REGISTER]]
RESTORE = [
    ["exclave", "restore", "--warrant", "{work}/r.warrant", "--key", "{work}/machine.key", "--target", "{target}",
     *(part for name in CUSTODIANS[:2] for part in ("--answer", f"{{work}}/r-{name}.answer")), *WHERE],
]  # fmt: skip
VERIFY = [["exclave", "verify"]]
VERIFY_WITHOUT_PACKS = [["exclave", "verify", "--quick"]]
RESTORED = "tree"  # the dataset's folder below the target of a restore


class Exclave:
    """Exclave as it is installed beside this Python."""

    name = "exclave"

    def __init__(self, environment: dict[str, str], *, url: str = "", inside: tuple[str, ...] = ()) -> None:
        """``url``: the site, instead of a local folder. ``inside``: what enters the network namespace to work in."""
        self._url, self._inside = url, inside
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
        """An embassy whose one site is a local folder, or the one that `at` names."""
        state = State(work, tree, work / "site")
        state.repository.mkdir()
        home = work / "embassy"
        for command in self._commands(SETUP, state):
            run_quietly(command, self._environment)
        people = "".join(CUSTODIAN.format(name=name) for name in CUSTODIANS)
        (home / "exclave.toml").write_text(
            SETTINGS.format(url=self._url or f"dir:{state.repository}", tree=tree) + people
        )
        for argvs in (CHARTER, WARRANT):
            for command in self._commands(argvs, state):
                run_quietly(command, self._environment)
        return state

    def backup(self, state: State) -> list[Command]:
        return self._commands(BACKUP, state)

    again = backup

    def restore(self, state: State, target: Path) -> list[Command]:
        return self._commands(RESTORE, state, target)

    def verify(self, state: State) -> list[Command]:
        """Check the whole site without any key."""
        return self._commands(VERIFY, state)

    def verify_at(self, work: Path, fingerprint: str) -> list[Command]:
        """The same as an outsider does it: with the site's address and the fingerprint, away from home."""
        argv = [self._program, "verify", "--site", f"local=dir:{work}/site", "--fingerprint", fingerprint]
        return [Command(argv, work, inside=self._inside)]

    def verify_without_packs(self, state: State) -> list[Command]:
        """The same but for the packs: what the start, the signatures and the ledger take of it."""
        return self._commands(VERIFY_WITHOUT_PACKS, state)

    def restored(self, state: State, target: Path) -> Path:
        return target / RESTORED

    def _commands(self, argvs: list[list[str]], state: State, target: Path | None = None) -> list[Command]:
        """The argvs with their places filled in, run in the embassy's folder; several are measured as one sum."""
        url = self._url or f"dir:{state.repository}"
        places: dict[str, object] = {"work": state.work, "tree": state.tree, "url": url, "target": target}
        pinned = state.work / "embassy" / "state" / "fingerprint"
        if pinned.exists():
            places["fingerprint"] = pinned.read_text().strip()
        commands = []
        for argv in argvs:
            words = [self._program if word == "exclave" else word.format(**places) for word in argv]
            home = state.work / "embassy"
            commands.append(Command(words, home if home.is_dir() else state.work, inside=self._inside))
        return commands

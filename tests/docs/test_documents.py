"""The documents are run: every console block marked ``<!-- run -->``, in one folder, as a reader would type it.

``<!-- file PATH -->`` before a block makes it a file; ``<!-- do COMMAND -->`` is what the world does meanwhile. In a
console block ``$ `` starts a command; the lines up to the next one are what it prints, with ``…`` for anything; a
command that shows nothing is not compared. A command that fails must be followed by ``$ echo $?``. The tutorial and
the runbooks tell one story, so they share one state.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
import typer

from exclave.cli.main import app
from support.seaweed import free_ports

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = {"/tmp/tutorial": ""}
RUNBOOK = {
    "/srv/exclave": "/home",
    "/srv/drafts": "/drafts",
    "/srv/embassy": "/embassy",
    "/mnt/tallinn": "/sites/tallinn",
    "/mnt/luxembourg": "/sites/luxembourg",
    "/mnt/helsinki": "/sites/helsinki",
    "/mnt/ottawa": "/sites/ottawa",
    "/media/stick": "/keys",
    "/run/exclave": "/desk",
}
SHOWN = {"/srv/look": "/look", "/srv/export": "/export"}
STORY = (
    ("docs/tutorial.md", TUTORIAL),
    ("docs/runbooks/protect.md", RUNBOOK),
    ("docs/runbooks/new-site.md", RUNBOOK),
    ("docs/runbooks/custodian.md", RUNBOOK),
    ("docs/runbooks/looking-inside.md", RUNBOOK | TUTORIAL | SHOWN),
    ("docs/runbooks/exporting.md", RUNBOOK | SHOWN),
    ("docs/runbooks/worst-day.md", RUNBOOK),
    ("docs/runbooks/after-failover.md", RUNBOOK),
)
KEEPING = (
    ("docs/tutorial.md", TUTORIAL),
    ("docs/runbooks/protect.md", RUNBOOK),
    ("docs/runbooks/new-site.md", RUNBOOK),
    ("docs/runbooks/scrub.md", RUNBOOK),
    ("docs/runbooks/watch.md", RUNBOOK),
    ("docs/runbooks/carried-disk.md", RUNBOOK),
)
APART = (
    ("docs/tutorial.md", TUTORIAL),
    ("docs/runbooks/clean-version.md", RUNBOOK | TUTORIAL),
)
"""An attack on the tutorial's state: it would spoil the other story."""
DELETING = (("docs/runbooks/deleting.md", RUNBOOK | {"/srv/notices": "/notices"}),)
"""A register that keeps its newest version alone, so that something can be deleted at once."""
CHANGING = (
    ("docs/tutorial.md", TUTORIAL),
    ("docs/runbooks/custodians-change.md", RUNBOOK),
)
"""Other custodians than the other stories go on with."""
PROVING = (
    ("docs/tutorial.md", TUTORIAL),
    (
        "docs/runbooks/proofs.md",
        RUNBOOK | {"/srv/gazette": "/acts", "/srv/entries.db": "/entries.db", "/srv/proofs": "/proofs"},
    ),
)
"""The gazette gets a database."""
READING = (
    ("docs/tutorial.md", TUTORIAL),
    ("docs/runbooks/reading-room.md", RUNBOOK | {"/srv/gazette": "/acts", "/srv/reading": "/reading"}),
)
"""A register that becomes public: the other stories keep it sealed."""
HOSTING = (
    ("docs/runbooks/host.md", {"/srv/exclave-host": "/host"}),
    ("docs/runbooks/gateway.md", {"/srv/host": "/gateway", "/srv/writer": "/writer"}),
)
"""A machine of somebody else, who knows no state."""
AUDITING = (
    ("docs/tutorial.md", TUTORIAL),
    ("docs/runbooks/auditor.md", RUNBOOK),
)
"""A site is altered."""
LEAVING = (
    ("docs/tutorial.md", TUTORIAL),
    ("docs/runbooks/protect.md", RUNBOOK),
    ("docs/runbooks/new-site.md", RUNBOOK),
    ("docs/runbooks/lost-site.md", RUNBOOK),
    ("docs/runbooks/leaving-a-host.md", RUNBOOK),
)
"""One site fewer in the end."""
PORTS = dict(zip(("18443", "18440"), map(str, free_ports(2)), strict=True))
"""What is used for the ports that pages show: another program may have those."""
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)  # fmt: skip

_BLOCK = re.compile(
    r"^<!-- do (?P<do>[^\n]*) -->$|(?:^<!-- (?P<mark>run|file) ?(?P<path>\S*) -->\n)?"
    r"^```(?P<kind>\w+)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_DRAWN = str.maketrans("┃│━╇┼─", "      ")


@dataclass(frozen=True, slots=True)
class Step:
    """A file to be written, or a command and what it should print."""

    where: str
    command: str
    expected: str
    file: str = ""


def steps(name: str) -> list[Step]:
    """Everything in the document ``name`` that is marked to be run."""
    text = (ROOT / name).read_text()
    found: list[Step] = []
    for block in _BLOCK.finditer(text):
        where = f"{name}:{text.count(chr(10), 0, block.start()) + 1}"
        if block["do"]:
            found.append(Step(where, block["do"], ""))
        elif block["mark"] == "file":
            found.append(Step(where, "", block["body"], block["path"]))
        elif block["mark"] == "run":
            found += [Step(where, *parts) for parts in commands(block["body"])]
    return found


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Commands of a console block, lines ending in a backslash joined, and what is shown under each."""
    for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


class Shell:
    """One bash for all documents, so that what one command sets, the next one finds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(folder), "COLUMNS": "250", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output of ``command``; the next command finds that exit code in ``$?``."""
        mark = f"end-{secrets.token_hex(8)}"
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n{{ rc=$?; echo; echo {mark} $rc; (exit $rc); }} 2>&1\n")
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line.startswith(mark):
                return int(line.split()[1]), "".join(lines)
            lines.append(line)
        raise AssertionError(f"the shell ended at: {command}")

    def close(self) -> None:
        self.run(f"exclave failover stop --dir {self.folder}/embassy")
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def placed(text: str, folder: Path, places: dict[str, str]) -> str:
    """``text`` with the document's ports replaced by free ones, and its paths by ones below ``folder``."""
    for shown, free in PORTS.items():
        text = text.replace(shown, free)
    for name, below in places.items():
        text = text.replace(name, f"{folder}{below}")
    return text


def same(expected: str, printed: str) -> bool:
    """Whether ``printed`` is what the document shows, apart from white space, table lines and ``…``."""
    parts = [" ".join(part.translate(_DRAWN).split()) for part in expected.split("…")]
    pattern = r"\s*.*?\s*".join(re.escape(part) for part in parts)
    return re.fullmatch(pattern, " ".join(printed.translate(_DRAWN).split()), re.DOTALL) is not None


@pytest.mark.parametrize(
    "story",
    [STORY, KEEPING, APART, DELETING, CHANGING, PROVING, READING, LEAVING, HOSTING, AUDITING],
    ids=["story", "keeping", "apart", "deleting", "changing", "proving", "reading", "leaving", "hosting", "auditing"],
)
def test_documents_run(tmp_path: Path, story: tuple[tuple[str, dict[str, str]], ...]) -> None:
    """Tutorial and runbooks do, from the first command to the last, what they show."""
    shell = Shell(tmp_path)
    try:
        for name, places in story:
            found = steps(name)
            for at, step in enumerate(found):
                if step.file:
                    target = Path(placed(step.file, tmp_path, places))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(placed(step.expected, tmp_path, places))
                    continue
                code, printed = shell.run(placed(step.command, tmp_path, places))
                told = f"{step.where}: $ {step.command}\n{printed}"
                follows = found[at + 1].command if at + 1 < len(found) else ""
                assert code == 0 or follows == "echo $?", f"exit code {code} at {told}"
                expected = placed(step.expected, tmp_path, places)
                assert not expected.strip() or same(expected, printed), f"{told}\nexpected:\n{expected}"
    finally:
        shell.close()


def test_something_is_run() -> None:
    """A document whose marks went lost would pass unnoticed."""
    stories = (STORY, KEEPING, APART, DELETING, CHANGING, PROVING, READING, LEAVING, HOSTING, AUDITING)
    for name, _ in chain.from_iterable(stories):
        assert len(steps(name)) >= 2, name


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_exist(name: str) -> None:
    """Every command line that a document shows, run or not, names a command and options that there are."""
    root = typer.main.get_command(app)
    for block in _BLOCK.finditer((ROOT / name).read_text()):
        if block["kind"] != "console":
            continue
        for command, _ in commands(block["body"]):
            words = shlex.split(command, comments=True)
            if words[:1] != ["exclave"] or words[1:] == ["--help"] or words[1:] == ["--version"]:
                continue
            check_words(root, words[1:], f"{name}: {command}")


def check_words(group: typer.core.TyperGroup, words: list[str], told: str) -> None:
    """Follows ``words`` into sub-commands and looks up each option."""
    command = group
    while hasattr(command, "commands"):
        assert words, told
        assert words[0] in command.commands, told
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{word}: {told}"

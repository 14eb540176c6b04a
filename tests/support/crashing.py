"""The crash matrix: every durable call of a verb × what can happen to it; then everything is opened again.

What must hold after each: the command said nothing of a bug, earlier versions are whole and `verify` passes, the same
command run again completes, and then `verify` finds nothing at all and every version restores as it was captured.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exclave.errors import Bug
from support.deleting import AgeingHome
from support.faults import Call, Faults, Mode, Outcome
from support.rekeying import People
from support.small_home import Register, run, tree_of

SITES = ("home", "lux")
_LACKING = {"rolled-back", "missing-object"}
_WRITES = ("write", "pwrite", "writev")
_SPACE = (*_WRITES, "create", "mkdir", "link", "fsync", "fdatasync", "ftruncate")


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the matrix."""

    mode: Mode
    call: Call


class Verb(ABC):
    """A verb under test, in a small state of its own below ``root``."""

    name: str

    def __init__(self, root: Path) -> None:
        self.root, self.saved = root / "work", root / "saved"
        acts = self.root / "acts"
        acts.mkdir(parents=True)
        (acts / "act-1").write_text("Act 1\n")
        (acts / "act-2").write_bytes(random.Random(1).randbytes(40_000))
        register = Register("gazette", [("acts", "files", {"path": str(acts)})], at=SITES)
        self.home = self.make(register)
        self.home.found()
        self.home.backup()
        self.trees = {1: tree_of(acts)}
        self.prepare()
        shutil.copytree(self.root, self.saved, symlinks=True)

    def make(self, register: Register) -> People:
        """The home, not founded yet."""
        return People(self.root, [register], sites=SITES)

    @property
    def acts(self) -> Path:
        return self.root / "acts"

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where every durable call is a case."""
        return (self.home.folder, self.root / "sites", self.root / "warrants")

    @abstractmethod
    def prepare(self) -> None:
        """What lies there before the verb begins."""

    @abstractmethod
    def command(self) -> list[str]:
        """Arguments of the verb."""

    @abstractmethod
    def finish(self) -> None:
        """After the verb was run again to its end: what else has to hold."""

    def reset(self) -> None:
        """Everything is as it was before."""
        shutil.rmtree(self.root)
        shutil.copytree(self.saved, self.root, symlinks=True)

    def check(self, outcome: Outcome) -> str:
        """What does not hold after ``outcome``; empty if all does."""
        if outcome.code == Bug.exit_code or "Traceback" in outcome.err or (outcome.code < 0 and outcome.code != -9):
            return f"ended with {outcome.code}: {outcome.out[-500:]}{outcome.err[-1500:]}"
        said = run("verify", *self.home.where(), "--json")
        # 1: a version that counts lies at too few sites until the next run.
        if said.code not in (0, 1) and not self.is_halfway(json.loads(said.out)):
            return f"verify after the fault ends with {said.code}: {said.out[-1500:]}"
        said = run(*self.command(), "--json")
        if said.code != 0:
            return f"the next run ends with {said.code}: {said.out[-1500:]}{said.err[-500:]}"
        try:
            self.finish()
            assert self.home.verify()["findings"] == [], "findings in the end"
            self.restored()
        except AssertionError as error:
            return f"afterwards: {str(error)[-1500:]}"
        return ""

    def is_halfway(self, report: Any) -> bool:
        """Whether what `verify` finds right after the fault is the trace of the verb itself, and harms no version."""
        return False

    def restored(self) -> None:
        """Every version restores as it was captured."""
        target = self.root / "restored"
        found = [v["sequence"] for v in self.home.versions()]
        assert found[-1] == max(self.trees), f"versions {found}"
        for number, tree in self.trees.items():
            self.home.ok(
                "restore", *self.home.where(), *self.restore_options(), "--version", str(number), "--target",
                str(target / str(number)),
            )  # fmt: skip
            assert tree_of(target / str(number) / "acts") == tree, f"version {number} is not what was captured"

    def restore_options(self) -> list[str]:
        return self.home.granted("restore", name="after")


class Backup(Verb):
    """A second version, with a changed, a new and a deleted file."""

    name = "backup"

    def prepare(self) -> None:
        self._granted = self.home.granted("restore", name="before")
        (self.acts / "act-1").unlink()
        (self.acts / "act-2").write_bytes(random.Random(2).randbytes(50_000))
        (self.acts / "act-3").write_text("Act 3\n" * 100)
        self.trees[2] = tree_of(self.acts)

    def command(self) -> list[str]:
        return ["backup", *self.home.home]

    def finish(self) -> None:
        # If the fault came after the version was entered, the next run entered an equal one.
        last = self.home.versions()[-1]["sequence"]
        assert last in (2, 3)
        self.trees = {1: self.trees[1], 2: self.trees[2], **({3: self.trees[2]} if last == 3 else {})}

    def restore_options(self) -> list[str]:
        return self._granted

    def reset(self) -> None:
        super().reset()
        self.trees.pop(3, None)


class Rekey(Verb):
    """New keys at home, then the backup under them."""

    name = "rekey"

    def prepare(self) -> None:
        self._options = self.home.to_rekey("kaja", "luc")
        self.trees[2] = self.trees[1]

    def command(self) -> list[str]:
        return ["rekey", *self._options]

    def is_halfway(self, report: Any) -> bool:
        """One site has the new epoch and the other one not yet: nobody can tell that from a site that rolls back."""
        lacking = {finding["site"] for finding in report["findings"]}
        whole = all(site["complete"] == 1 for register in report["registers"] for site in register["sites"])
        return whole and len(lacking) == 1 and {f["fault"] for f in report["findings"]} <= _LACKING

    def finish(self) -> None:
        assert self.home.epochs().newest.number == 2, "one warrant makes one epoch"
        receipt = self.home.backup()[0]
        assert (receipt["epoch"], receipt["sequence"]) == (2, 2)
        assert [f.kind for f in self.home.facts()].count("rekey") == 1, "the fact is entered once"


class _Ageing(AgeingHome, People):
    """Only the newest version is kept, and an order lies open for a second."""

    delay_s = 1


class Delete(Verb):
    """The operator of a site erases four versions that an order names."""

    name = "delete"

    def make(self, register: Register) -> People:
        return _Ageing(self.root, [register], sites=SITES)

    def prepare(self) -> None:
        for number in (2, 3, 4, 5):
            (self.acts / "act-2").write_bytes(random.Random(number).randbytes(60_000))
            self.home.backup()
        assert isinstance(self.home, _Ageing)
        self.home.ordered()
        self.home.backup()
        self.trees = {5: tree_of(self.acts), 6: tree_of(self.acts)}
        self._granted = self.home.granted("restore", name="before")

    def reset(self) -> None:
        super().reset()
        time.sleep(1.2)  # the order's delay counts from when its file came there, and it was just copied

    def command(self) -> list[str]:
        return self._at("lux", "home")

    def _at(self, site: str, other: str) -> list[str]:
        urls = self.home.urls
        where = [f"{site}={urls[site]}", "--site", f"{other}={urls[other]}"]
        return ["delete", "run", *where, "--fingerprint", self.home.fingerprint]

    def finish(self) -> None:
        self.home.ok(*self._at("home", "lux"))
        self.home.ok("delete", "record", "gazette", *self.home.home)
        for number in (1, 2, 3, 4):
            target = str(self.root / "gone")
            self.home.fails(22, "restore", *self.home.where(), *self._granted, "--version", str(number),
                            "--target", target)  # fmt: skip

    def restore_options(self) -> list[str]:
        return self._granted


class Sync(Verb):
    """An empty site gets two versions from the other one, without home."""

    name = "sync"

    def prepare(self) -> None:
        (self.acts / "act-3").write_bytes(random.Random(3).randbytes(30_000))
        self.home.backup()
        self.trees[2] = tree_of(self.acts)
        self._granted = self.home.granted("restore", name="before")
        shutil.rmtree(self.home.site("lux"))
        self.home.site("lux").mkdir()

    def command(self) -> list[str]:
        return ["site", "sync", "lux", *self.home.where()]

    def is_halfway(self, report: Any) -> bool:
        """The site shows less than the other one, and nothing that it shows is wrong."""
        lacking = {
            (finding["site"], finding["fault"] in _LACKING) for finding in report["findings"] if finding["grave"]
        }
        return lacking <= {("lux", True)} and self.home.versions("", "home")[-1]["sequence"] == 2

    def finish(self) -> None:
        names = {name: {key for key in tree_of(self.home.site(name)) if "/pack/" in key} for name in SITES}
        assert names["lux"] == names["home"]

    def restore_options(self) -> list[str]:
        return self._granted


class Evacuate(Verb):
    """A site's copies go to an empty one, which is verified, and the charter that leaves the old one out is drafted."""

    name = "evacuate"

    def make(self, register: Register) -> People:
        register.at = (*SITES, "nord")
        return People(self.root, [register], sites=(*SITES, "nord"))

    def prepare(self) -> None:
        self._granted = self.home.granted("restore", name="before")
        shutil.rmtree(self.home.site("nord"))
        self.home.site("nord").mkdir()

    def command(self) -> list[str]:
        # A draft that was begun is another folder's: people throw a half one away.
        drafts = len(list(self.root.glob("draft-without-*")))
        return ["site", "evacuate", "lux", "--to", "nord", "--draft", str(self.root / f"draft-without-{drafts}"),
                *self.home.home]  # fmt: skip

    def is_halfway(self, report: Any) -> bool:
        """The new site shows less than the others; the old ones are whole."""
        grave = {(finding["site"], finding["fault"] in _LACKING) for finding in report["findings"] if finding["grave"]}
        return grave <= {("nord", True)}

    def finish(self) -> None:
        drafts = sorted(self.root.glob("draft-without-*"))
        text = (drafts[-1] / "charter.txt").read_text()
        assert "site nord " in text
        assert "site lux " not in text
        packs = {name: {key for key in tree_of(self.home.site(name)) if "/pack/" in key} for name in self.home.sites}
        assert packs["lux"] == packs["nord"] == packs["home"]

    def restore_options(self) -> list[str]:
        return self._granted


VERBS: tuple[type[Verb], ...] = (Backup, Delete, Evacuate, Rekey, Sync)


def cases(calls: tuple[Call, ...]) -> list[Case]:
    """All cells for a run that made ``calls``."""
    found: list[Case] = []
    for call in calls:
        for mode in Mode:
            if mode is Mode.COUNT or (mode is Mode.TORN and call.what not in _WRITES):
                continue
            if mode is Mode.FULL and call.what not in _SPACE:
                continue
            found.append(Case(mode, call))
    return found


def sample(all_: list[Case], size: int, seed: int) -> list[Case]:
    """``size`` cells: each kind of call with each mode once as far as they go round, then any others."""
    mixed = random.Random(seed).sample(all_, len(all_))
    first: dict[tuple[str, Mode], Case] = {}
    for case in mixed:
        first.setdefault((case.call.what, case.mode), case)
    rest = [case for case in mixed if case not in first.values()]
    return [*first.values(), *rest][:size]


def play(verb: Verb, faults: Faults, chosen: list[Case]) -> Iterator[tuple[Case, Outcome, str]]:
    """Each case, how the command ended, and what did not hold (empty: all did)."""
    for case in chosen:
        verb.reset()
        outcome = faults.run(verb.command(), case.mode, case.call.number)
        yield case, outcome, verb.check(outcome)

"""A state's life, in any order, against a plain model: backups, rekeys, deletions, charters, crashes, lost sites.

The model knows trees of bytes by version, and names of people. Formats, keys, ledgers and sites are the real ones,
driven by the commands. ``EXCLAVE_MODEL_EXAMPLES`` and ``EXCLAVE_MODEL_STEPS`` make it longer.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from exclave.errors import MissingObject, PlacementUnmet, RolledBack
from exclave.formats.deletion import parse_deletion
from support.deleting import AgeingHome
from support.rekeying import People
from support.small_home import SITES, run, tree_of

EXAMPLES = int(os.environ.get("EXCLAVE_MODEL_EXAMPLES", "6"))
STEPS = int(os.environ.get("EXCLAVE_MODEL_STEPS", "14"))
PEOPLE = ("aino", "kaja", "luc", "mart", "nele")
DURABLE = ("fsync", "link", "replace", "rename", "mkdir", "unlink")
Tree = dict[str, bytes]


class Died(BaseException):
    """The process is gone."""


@contextmanager
def dying(at: int, *, after: bool) -> Iterator[Callable[[], bool]]:
    """The ``at``-th durable call is the last one, made or not; yields whether it was reached."""
    count, real = itertools.count(1), {name: getattr(os, name) for name in DURABLE}
    reached: list[bool] = []

    def broken(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            here = next(count) == at or reached
            if here and (reached or not after):
                reached.append(True)
                raise Died
            result = real[name](*arguments, **more)
            if here:
                reached.append(True)
                raise Died
            return result

        return call

    for name in DURABLE:
        setattr(os, name, broken(name))
    try:
        yield lambda: bool(reached)
    finally:
        for name, function in real.items():
            setattr(os, name, function)


@lru_cache(maxsize=1)
def _template() -> Ageing:
    root = Path(tempfile.mkdtemp(prefix="exclave-model-"))
    home = Ageing(root / "small")
    home.found()
    home.backup()
    return home


class Ageing(AgeingHome, People):
    """Only the newest version is kept, and an order to delete lies open for a second."""

    delay_s = 1


class Life(RuleBasedStateMachine):
    """One state."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="exclave-life-"))
        home = _template().copy(self.root / "small")
        assert isinstance(home, Ageing)
        self.home = home
        self.erased: dict[int, Tree] = {}
        self.acts = self.root / "small" / "acts"
        self.versions: dict[int, Tree] = {1: tree_of(self.acts)}
        self.maybe: list[Tree] = []
        """What was being stored when a process died: the next version may be one of these."""
        self.people, self.threshold = ("aino", "kaja", "luc"), 2
        self.holders, self.needed = self.people, self.threshold
        """Who holds shares of the newest epoch."""
        self.epoch = 1
        self.pending: list[str] = []
        """Options of a rekey that died. Home remembers its own; of a ceremony it knows only what sites show."""
        self.away: set[str] = set()
        self.number = 0

    def teardown(self) -> None:
        """Everything comes back, the last run ends well, nothing is found, and every version is what it was."""
        try:
            for name in list(self.away):
                self.returns(name)
            if self.pending:
                self.rekey_again()
            self.backup()
            self.nothing_grave()
            for number in self.versions:
                self.restores(number)
        finally:
            shutil.rmtree(self.root)

    @initialize()
    def begin(self) -> None:
        assert self.home.epochs().newest.number == 1

    # What the register does

    @rule(name=st.sampled_from(["act-1", "act-2", "act-3", "deep/act-4"]), size=st.sampled_from([0, 40, 5_000, 70_000]))
    def writes(self, name: str, size: int) -> None:
        path = self.acts / name
        path.parent.mkdir(exist_ok=True)
        self.number += 1
        path.write_bytes((b"%d " % self.number) * (size // 4))

    @rule(name=st.sampled_from(["act-1", "act-2", "act-3", "deep/act-4"]))
    def removes(self, name: str) -> None:
        (self.acts / name).unlink(missing_ok=True)

    # Backups

    @rule()
    def backup(self) -> None:
        said = run("backup", *self.home.home, "--json")
        if said.code == RolledBack.exit_code:
            assert self.pending, "home knows of an epoch that a site may hold which is away"
            assert self.away
            return
        if len(SITES) - len(self.away) < 2 or self.away >= {"lux", "nord"}:
            assert said.code == PlacementUnmet.exit_code, said.out
            self.maybe.append(tree_of(self.acts))
            return
        assert said.code == 0, said.out + said.err
        receipt = said.json["receipts"][0]
        assert receipt["epoch"] == self.epoch
        self._settle(receipt["sequence"])
        self.versions[receipt["sequence"]] = tree_of(self.acts)

    @rule(at=st.integers(1, 90), after=st.booleans())
    def backup_dies(self, at: int, after: bool) -> None:
        self.maybe.append(tree_of(self.acts))
        try:
            with dying(at, after=after):
                run("backup", *self.home.home, "--json")
        except Died:
            pass

    def _settle(self, upto: int) -> None:
        """Versions that a run left behind that did not live to tell: each is one that was being stored."""
        for number in range(max(self.versions) + 1, upto):
            self.versions[number] = self._one_of(number, self.maybe)
        self.maybe.clear()

    def _one_of(self, number: int, trees: list[Tree]) -> Tree:
        found = self._restored(number)
        assert found in trees, f"version {number} is nothing that was ever there"
        return found

    # Keys and people

    def _answers(self) -> tuple[str, ...]:
        """The quorum of the charter, and just enough holders."""
        return tuple(dict.fromkeys((*self.people[: self.threshold], *self.holders[: self.needed])))

    @precondition(lambda self: not self.pending and len(self.away) < 3)
    @rule(ceremony=st.sampled_from(["", "ceremony"]))
    def rekey(self, ceremony: str) -> None:
        options = self._options(ceremony)
        self._rekeyed(self.home.ok("rekey", *options)["registers"][0])

    @precondition(lambda self: not self.pending and len(self.away) < 3)
    @rule(ceremony=st.sampled_from(["", "ceremony"]), at=st.integers(1, 110), after=st.booleans())
    def rekey_dies(self, ceremony: str, at: int, after: bool) -> None:
        options = self._options(ceremony)
        try:
            with dying(at, after=after):
                run("rekey", *options, "--json")
        except Died:
            pass
        self.pending = options
        self._now(self.home.epochs().newest.number)

    @precondition(lambda self: bool(self.pending) and not self.away)
    @rule()
    def rekey_again(self) -> None:
        self._rekeyed(self.home.ok("rekey", *self.pending)["registers"][0])

    def _options(self, ceremony: str) -> list[str]:
        self.number += 1
        sites = [name for name in SITES if name not in self.away]
        return self.home.to_rekey(*self._answers(), name=f"rekey-{self.number}", ceremony=ceremony, sites=sites)

    def _rekeyed(self, done: dict[str, Any]) -> None:
        assert tuple(done["custodians"]) == self.people
        assert (done["threshold"], done["overtaken"]) == (self.threshold, 0)
        if not self.pending:
            assert done["epoch"] == self.epoch + 1
        self.pending = []
        self._now(done["epoch"])

    def _now(self, epoch: int) -> None:
        assert epoch in (self.epoch, self.epoch + 1), "one warrant makes one epoch"
        if epoch > self.epoch:
            self.epoch, self.holders, self.needed = epoch, self.people, self.threshold

    @precondition(lambda self: not self.pending and not self.away)
    @rule(people=st.sets(st.sampled_from(PEOPLE), min_size=2, max_size=4), threshold=st.integers(1, 3))
    def charter(self, people: set[str], threshold: int) -> None:
        chosen = tuple(sorted(people))
        threshold = min(threshold, len(chosen))
        signers = dict.fromkeys((*self.people[: self.threshold], *chosen[:threshold]))
        People.change(self.home, list(signers), people=chosen, threshold=threshold)
        self.people, self.threshold = chosen, threshold

    @precondition(lambda self: not self.away and self.needed > 1)
    @rule()
    def too_few_open_nothing(self) -> None:
        few = (*self.people[: self.threshold], *self.holders[: self.needed - 1])
        if sum(name in self.holders for name in set(few)) >= self.needed:
            return
        self.number += 1
        granted = self.home.granted("restore", *dict.fromkeys(few), name=f"few-{self.number}")
        target = self.root / f"few-{self.number}"
        self.home.fails(31, "restore", *self.home.where(), *granted, "--target", str(target))
        assert not target.exists()

    # Sites

    @precondition(lambda self: len(self.away) < 2 and "--fingerprint" not in self.pending)
    @rule(name=st.sampled_from(sorted(SITES)))
    def goes(self, name: str) -> None:
        if name not in self.away:
            self.home.site(name).rename(self.root / f"away-{name}")
            self.away.add(name)

    @precondition(lambda self: bool(self.away))
    @rule(name=st.sampled_from(sorted(SITES)))
    def returns(self, name: str) -> None:
        if name in self.away:
            (self.root / f"away-{name}").rename(self.home.site(name))
            self.away.discard(name)

    @precondition(lambda self: not self.away and not self.pending and not self.maybe)
    @rule(name=st.sampled_from(sorted(SITES)))
    def is_wiped_and_rebuilt(self, name: str) -> None:
        """The loss of any one site: the next backup rebuilds it from the others."""
        self.backup()
        shutil.rmtree(self.home.site(name))
        self.home.site(name).mkdir()
        self.backup()
        self.nothing_grave()

    # Deletion

    @precondition(lambda self: not self.away and not self.pending and len(self.versions) > 1)
    @rule()
    def deletes(self) -> None:
        """All versions but the newest: ordered, signed by the quorum, erased at every site, entered."""
        self.backup()
        self.number += 1
        order = self.home.propose(f"order-{self.number}", "--last-clean-too")
        self.home.publish(order, self.home.signed(order, *self.people[: self.threshold]))
        self.backup()
        gone = {int(v.sequence) for v in parse_deletion(order.read_bytes()).versions}
        assert max(self.versions) not in gone, "the newest version is never ordered away"
        time.sleep(1.3)
        for site in SITES:
            assert all(done.complete for done in self.home.erase_all(site, days=0))
        self.home.ok("delete", "record", "gazette", *self.home.home)
        for number in gone & self.versions.keys():
            self.erased[number] = self.versions.pop(number)

    @precondition(lambda self: not self.away and bool(self.erased))
    @rule(data=st.data())
    def what_was_erased_is_gone_or_right(self, data: st.DataObject) -> None:
        """Packs that living versions need stay, and with them perhaps all of an erased one: never anything else."""
        number = data.draw(st.sampled_from(sorted(self.erased)))
        self.number += 1
        granted = self.home.granted("restore", *self._answers(), name=f"gone-{self.number}")
        target = self.root / f"gone-{self.number}"
        said = run("restore", *self.home.where(), *granted, "--target", str(target), "--version", str(number), "--json")
        assert said.code in (0, MissingObject.exit_code), said.out
        if said.code == 0:
            assert tree_of(target / "acts") == self.erased[number]

    # Looking

    def nothing_grave(self) -> None:
        """``verify`` ends well. What a death left begun in the ledger of an epoch that ended is told."""
        assert [finding for finding in self.home.verify()["findings"] if finding["grave"]] == []

    @precondition(lambda self: not self.away)
    @rule(data=st.data())
    def looks(self, data: st.DataObject) -> None:
        self.restores(data.draw(st.sampled_from(sorted(self.versions))))

    def restores(self, number: int) -> None:
        assert self._restored(number) == self.versions[number], f"version {number} is not what was stored"

    def _restored(self, number: int) -> Tree:
        self.number += 1
        granted = self.home.granted("restore", *self._answers(), name=f"look-{self.number}", sites=self._there())
        target = self.root / f"look-{self.number}"
        self.home.ok(
            "restore", *self.home.where(*self._there()), *granted, "--target", str(target), "--version", str(number)
        )
        found = tree_of(target / "acts")
        shutil.rmtree(target)
        return found

    def _there(self) -> list[str]:
        return [name for name in SITES if name not in self.away]


Life.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="EXCLAVE_MODEL_EXAMPLES" not in os.environ,
    database=None,
)
TestLife = Life.TestCase

"""A small home and its sites to which something happens at any step of what is done with them, and a judge of it.

Each case begins from the same folders. The judge is the outsider's verifier, and restores from the fingerprint to
files; what heals a site is other sites alone: home's folder is away meanwhile.
"""

from __future__ import annotations

import atexit
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from exclave.cli.keys import load_key
from exclave.errors import ExclaveError
from exclave.formats.warrant import Act
from exclave.ids import Instant, Label, now, parse_fingerprint, parse_register_id
from exclave.operations.backup import backup
from exclave.operations.custody import grant, open_register
from exclave.operations.failover import failover
from exclave.operations.home import Home
from exclave.operations.site_evacuate import evacuate
from exclave.operations.site_rebuild import rebuild
from exclave.operations.site_sync import Syncing
from exclave.operations.watch import Watch, WatchRule
from exclave.registers.files import FolderCapture
from exclave.rules.evacuation import Step
from exclave.rules.watch import State
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite
from exclave.verify.embassy import EmbassyReport, verify_embassy
from exclave.verify.state import read_state
from support.hostile_town import Town
from support.small_home import SmallHome, tree_of

HOME, LUX, NORD = Label("home"), Label("lux"), Label("nord")
LABELS = (HOME, LUX, NORD)
_HOUR_US = 3_600_000_000

Sites = Mapping[Label, Site]


@dataclass(frozen=True, slots=True)
class Done:
    """How an operation ended."""

    ok: bool
    """It did all that it is for."""
    named: frozenset[Label] = frozenset()
    """Sites that it named as at fault."""
    promised: frozenset[int] = frozenset()
    """Versions that a receipt promised."""
    why: str = ""
    """What was said if it did not."""


@dataclass
class World:
    """Folders, and what each operation begins with."""

    root: Path
    small: SmallHome
    town: Town
    """The same state as a reader with a warrant restores it; its copies of objects are not used."""
    failover_options: dict[str, list[str]]
    _first: Town
    """``town`` as it is before a failover."""
    _asked: int = 0

    # Beginnings

    def begin(self, operation: str) -> None:
        """The folders as ``operation`` finds them."""
        for name in ("home", "sites", "embassy", "acts", "away"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in ("home", "sites", "acts"):
            shutil.copytree(self.root / "then" / name, self.root / name)
        self.town = self._first
        if operation == "backup":
            (self.root / "acts" / "act-3").write_bytes(random.Random(3).randbytes(70_000))
            (self.root / "acts" / "act-1").write_text("Act 1, as amended.\n" * 50)
        elif operation == "sync":
            empty(self.folder(LUX))
        elif operation == "rebuild":
            spoil_every_other(self.folder(LUX))
        elif operation == "evacuate":
            empty(self.folder(NORD))

    def folder(self, label: Label) -> Path:
        return self.root / "sites" / label

    def plain(self) -> dict[Label, Site]:
        return {label: DirectorySite(str(self.folder(label))) for label in LABELS}

    # Operations

    def run(self, operation: str, sites: Sites) -> Done:
        """Does it with ``sites``; any other error than Exclave's own goes through."""
        try:
            return _OPERATIONS[operation](self, sites)
        except ExclaveError as error:
            told = f"{error.message} {error.facts}"
            return Done(False, frozenset(label for label in sites if label in told), why=told)

    # Judging

    def renew(self, operation: str, sites: Sites) -> None:
        """Readers ask anew for a warrant where the epoch may be another one now; ``sites`` are good."""
        if operation == "failover":
            self._asked += 1
            name = f"reader-{self._asked}"
            options = _named(self.small.granted("restore", machine="reader", name=name, sites=sites))
            self.town = _reader(self.town, options)

    def verified(self, sites: Mapping[Label, Site]) -> EmbassyReport:
        """By the outsider's verifier, an hour later: nobody can still be publishing."""
        return verify_embassy(sites, self.town.state, now=Instant(now() + _HOUR_US))

    def whole(self, label: Label, sites: Sites) -> bool:
        """Whether the site alone shows every version, complete and right."""
        report = self.verified({label: sites[label]})
        (register,) = report.registers
        bad = [f for f in report.findings if f.grave and f.fault != "placement-unmet"]
        return not bad and register.versions >= 2 and register.sites[0].complete == register.versions

    def lost(self, sites: Mapping[Label, Site], promised: frozenset[int]) -> int:
        """How many of the promised versions ``sites`` do not give back as they were captured."""
        wrong = 0
        for number in promised:
            try:
                wrong += self.town.restore(sites, number) != self.town.trees[number]
            except ExclaveError:
                wrong += 1
        return wrong

    def require_rpo(self, sites: Sites, operation: str, promised: frozenset[int]) -> None:
        """What a watch at ``sites`` alone says: no good version is older than the RPO, or that is its alarm; and the
        alarm comes before another RPO is over, if no version comes."""
        look = Watch(sites, self.town.state, WatchRule(), clock=now, choose=lambda n: 0).look()
        at = now()
        (verdict,) = look.judge(at)
        aged = verdict.age_s is None or verdict.age_s > verdict.rpo_s
        assert (verdict.state is State.FRESH) != aged, f"the watch says {verdict.state}: {verdict.why}"
        if operation == "backup":
            assert not aged, "a backup that was promised does not hold the RPO"
            assert verdict.sequence >= max(promised), "the watch does not see what was promised"
        (later,) = look.judge(Instant(at + (verdict.rpo_s + 1) * 1_000_000))
        assert later.state is State.LATE, "no alarm within one RPO"

    def heal(self, label: Label, sites: Sites, *, whole: bool, also_home: bool = False) -> bool:
        """The site, then every site, from the others, without home's machine; ``whole``: the site is read and rebuilt.

        Home's own site goes with home's machine, unless ``also_home``: then it is one of the others.
        """
        home = self.root / "home"
        if home.exists():
            home.rename(self.root / "away")
        sources = {name: site for name, site in sites.items() if name != HOME or also_home or name == label}
        try:
            syncing = Syncing(read_state(sources, self.town.state), sources, now())
            if whole and not rebuild(syncing, label, sites[label], seed=bytes(32), choose=lambda n: 0, clock=now).ok:
                return False
            syncing = replace(syncing, view=read_state(sources, self.town.state))
            if not all(done.level for done in syncing.sync(sources)):
                return False
            # Home's site comes back: it, too, may have missed what the site had, and kept from it.
            return all(done.level for done in Syncing(read_state(sites, self.town.state), sites, now()).sync(sites))
        finally:
            if (self.root / "away").exists():
                (self.root / "away").rename(home)


def empty(folder: Path) -> None:
    """A new disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def spoil_every_other(folder: Path) -> None:
    """A disk that dies: of every second object the end is zeros, of every fourth nothing is left."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and ".tmp" not in path.parts)
    for number, path in enumerate(found):
        if number % 4 == 1:
            path.unlink()
        elif number % 4 == 3:
            data = path.read_bytes()
            path.chmod(0o600)
            path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _backup(world: World, sites: Sites) -> Done:
    receipt = backup(
        Home.open(world.root / "home"), "gazette", sites=sites, witnesses={},
        open_capture=lambda dataset, staging, clock: FolderCapture(Path(dataset.options["path"]), clock), clock=now,
    )  # fmt: skip
    met = receipt.protected and receipt.rpo_met_s <= receipt.rpo_s
    world.town.trees[receipt.sequence] = tree_of(world.root / "acts")  # type: ignore[index]
    return Done(met, frozenset(receipt.failed), frozenset({receipt.sequence}))


def _failover(world: World, sites: Sites) -> Done:
    view = read_state(sites, world.town.state)
    machine = load_key(Path(world.failover_options["--key"][0]))
    warrant = Path(world.failover_options["--warrant"][0])
    answers = [Path(name) for name in world.failover_options["--answer"]]
    granted = grant(view, warrant, answers, act=Act.FAILOVER, place=None, machine=machine, now=now())
    register = world.town.register
    opened = {register: open_register(view, sites, register, granted, machine)}
    said: list[str] = []
    done = failover(
        world.root / "embassy", machine=machine, granted=granted, view=view, sites=sites, opened=opened, clock=now,
        say=said.append,
    )  # fmt: skip
    (progress,) = done.registers
    same = all(one["digest_home"] == one["digest_embassy"] for one in progress.datasets)
    named = " ".join([*said, *progress.faults, *progress.faults.values(), *(f.site for f in view.findings)])
    rto_met = progress.sequence == 2 and same and progress.answered > 0
    return Done(rto_met, frozenset(label for label in sites if label in named))


def _sync(world: World, sites: Sites) -> Done:
    view = read_state(sites, world.town.state)
    (done,) = Syncing(view, sites, now()).sync({LUX: sites[LUX]})
    told = " ".join(
        [str(done.error or ""), *(f.site for f in view.findings)]
        + [f"{what} {why}" for one in done.registers for what, why in {**one.faults, "": one.waits}.items()]
    )
    named = {label for label in sites if label in told.split() or f"{label}:" in told}
    return Done(done.level, frozenset(named | ({LUX} if done.error else set())))


def _rebuild(world: World, sites: Sites) -> Done:
    view = read_state(sites, world.town.state)
    syncing = Syncing(view, sites, now())
    done = rebuild(syncing, LUX, sites[LUX], seed=bytes(32), choose=lambda n: 0, clock=now)
    told = " ".join(what for one in done.synced.registers for what in one.faults)
    named = {label for label in sites if label in told.split()} | {f.site for f in view.findings if f.site != LUX}
    return Done(done.ok, frozenset(Label(n) for n in named | (set() if done.ok else {LUX})))


def _evacuate(world: World, sites: Sites) -> Done:
    view = read_state(sites, world.town.state)
    done = evacuate(view, sites, LUX, NORD, clock=now)
    faults = [what for one in done.synced.registers for what in one.faults] if done.synced else []
    told = " ".join([*faults, *(f.site for f in view.findings)])
    found = {f.site for f in done.report.findings if f.grave} if done.report else set()
    named = {label for label in sites if label in told.split() or label in found}
    ok = done.ok and done.after.step is Step.PROPOSE
    return Done(ok, frozenset(named | (set() if done.ok else {NORD})))


_OPERATIONS: dict[str, Callable[[World, Sites], Done]] = {
    "backup": _backup,
    "failover": _failover,
    "sync": _sync,
    "rebuild": _rebuild,
    "evacuate": _evacuate,
}


@cache
def world() -> World:
    """Made once for each process; its folder goes when the process ends."""
    root = Path(mkdtemp(prefix="exclave-faults-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    small = SmallHome(root).found()
    trees = {}
    for number in (1, 2):
        (root / "acts" / f"act-{number}0").write_bytes(f"act {number} ".encode() * 4000)
        small.backup()
        trees[number] = tree_of(root / "acts")
    town = Town(
        root, parse_fingerprint(small.fingerprint), parse_register_id(small.id_of()), {}, {}, trees,
        Path(), Path(), (),
    )  # fmt: skip
    town = _reader(town, _named(small.granted("restore", machine="reader")))
    made = World(root, small, town, _named(small.granted("failover")), town)
    for name in ("home", "sites", "acts"):
        shutil.copytree(root / name, root / "then" / name)
    return made


def _reader(town: Town, options: Mapping[str, list[str]]) -> Town:
    key, warrant = Path(options["--key"][0]), Path(options["--warrant"][0])
    return replace(town, key=key, warrant=warrant, answers=tuple(map(Path, options["--answer"])))


def _named(options: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in zip(options[::2], options[1::2], strict=True):
        found.setdefault(name, []).append(value)
    return found

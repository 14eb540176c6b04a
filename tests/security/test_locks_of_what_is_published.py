"""Locks of a bucket are made longer for all that the state still goes by, and what is published is a part of that."""

from __future__ import annotations

from pathlib import Path

from exclave.ids import Fingerprint, Instant, Key, Label, now
from exclave.operations.site_locks import hold
from exclave.sites.directory import DirectorySite
from exclave.verify.state import read_state
from support.gazette_state import gazette_home, put
from support.small_home import SmallHome, tree_of

DAY_US = 86_400_000_000
LUX = Label("lux")


class Locking(DirectorySite):
    """A folder whose locks are remembered and hold nothing."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.until: dict[Key, Instant] = {}

    def lock_end(self) -> Instant:
        return Instant(now() + 365 * DAY_US)

    def locked_until(self, key: Key) -> Instant | None:
        return self.until.get(key)

    def extend(self, key: Key, until: Instant) -> None:
        self.until[key] = until


def held(home: SmallHome) -> set[str]:
    """What is locked at ``lux`` after one run."""
    site = Locking(str(home.site("lux")))
    sites = {Label(name): DirectorySite(str(home.site(name))) for name in home.sites} | {LUX: site}
    view = read_state(sites, Fingerprint(home.fingerprint))
    (rule,) = view.chain.newest.charter.registers
    found = hold(view, LUX, sites, rule.id, now=now())
    assert not found.short
    assert found.objects == found.extended == len(site.until)
    return set(site.until)


def test_editions_and_statements_are_held(tmp_path: Path) -> None:
    """All editions that the ledger names, the newest one's bundles, and statements about the whole state are held like
    packs: or whoever has the writer's key could take a gazette away once its first locks ended. What somebody planted
    among what is published is not."""
    home, acts = gazette_home(tmp_path)
    for number in range(2):
        put(acts, {f"new-{number}.txt": b"another act " * 50})
        home.backup()
        home.ok("publish", "gazette", "--yes", *home.home)
    home.ok("statement", "make", str(tmp_path / "said"), "--publish", *home.home)
    names = set(tree_of(home.site("lux")))
    public = {name for name in names if "/public/" in name}
    planted = home.site("lux") / next(iter(public)).rpartition("/")[0][:-2] / "ab" / ("ab" * 32)
    planted.parent.mkdir(exist_ok=True)
    planted.write_bytes(b"junk")
    locked = held(home)
    assert len(public) >= 4
    assert public <= locked
    assert {name for name in names if name.startswith(f"{home.fingerprint}/statement/")} <= locked
    assert str(planted.relative_to(home.site("lux"))) not in locked

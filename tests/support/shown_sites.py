"""A small state copied into memory, for tests that spoil it and ask the verifier what it sees."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from exclave.formats.fact import Fact
from exclave.formats.paths import box_key
from exclave.ids import Instant, Key, Label, sha256
from exclave.sites.contract import Site
from exclave.sites.memory import MemorySite
from exclave.verify.embassy import EmbassyReport, verify_embassy
from exclave.verify.state import Finding
from support.small_state import SmallEpoch, SmallState

SITES = ("home", "luxembourg", "monaco")
FACTS = 300
"""So many entries that the second epoch's log has full and partial tiles on two levels."""


class World:
    """Three sites with two epochs: versions 1 and 2, then 300 facts and version 3."""

    def __init__(self, state: SmallState, objects: Mapping[str, Mapping[Key, bytes]]) -> None:
        self.small = state
        self.state, self.register = state.state, state.register
        self.now = Instant(state.time + 60_000_000)
        self.sites = {name: filled(name, held) for name, held in objects.items()}

    def report(self, *, read_packs: bool = True, sources: Mapping[str, Site] | None = None) -> EmbassyReport:
        return verify_embassy(
            sources if sources is not None else self.sites, self.state, now=self.now, read_packs=read_packs
        )

    def key(self, part: str, site: str = "luxembourg", *, place: int = 0) -> Key:
        """The ``place``-th object of the register whose name has ``part`` in it."""
        return [key for key in self.names(site) if part in key and self.register in key][place]

    def names(self, site: str = "luxembourg") -> list[Key]:
        return [stat.key for stat in self.sites[site].list("")]

    def log_key(self, path: str, epoch: int = 2) -> Key:
        """An object of an epoch's log."""
        return Key(self.small.ledger_prefix(self.small.epochs[epoch - 1]) + path)

    def put(self, site: str, key: Key, data: bytes | None) -> None:
        """What only a host can do: changes an object, or removes it (None)."""
        held = self.sites[site]._objects
        if data is None:
            del held[key]
        else:
            held[key] = data

    def flip(self, site: str, key: Key) -> None:
        data = bytearray(self.sites[site].get(key))
        data[len(data) // 2] ^= 1
        self.put(site, key, bytes(data))

    def epoch(self, number: int) -> SmallEpoch:
        return self.small.epochs[number - 1]


def filled(name: str, objects: Mapping[Key, bytes]) -> MemorySite:
    """A site in memory that holds ``objects``."""
    site = MemorySite(name)
    for key, data in objects.items():
        if key.endswith("/checkpoint"):
            site.replace_if(key, data, None)
        else:
            site.put_new(key, data)
    return site


@cache
def _built() -> tuple[SmallState, dict[str, dict[Key, bytes]]]:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        source = root / "source"
        source.mkdir()
        state = SmallState(root / "state", sites=SITES)
        for number in (1, 2, 3):
            if number == 3:
                state.new_epoch()
                fact = Fact(state.register, state.epoch.note.epoch, state.time, Label("drill"))
                entries = [fact.encode()] * FACTS
                for at in range(0, FACTS, 100):
                    state.append(*entries[at : at + 100])
            (source / f"{number}.bin").write_bytes(sha256(bytes([number])) * 3000)
            state.write_version(source)
        for site in state.sites.values():
            site.put_same(box_key(state.state, state.register, sha256(b"box")), b"box")
        objects = {name: {stat.key: site.get(stat.key) for stat in site.list("")} for name, site in state.sites.items()}
    return state, objects


def world() -> World:
    """A fresh copy; what a test does to it stays with it."""
    return World(*_built())


def grave(report: EmbassyReport) -> list[Finding]:
    return [found for found in report.findings if found.grave]

"""A real gateway and a real S3 engine cut off in the middle; a split view; plaintext looked for on disks and lines."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from exclave.ids import Label, now
from exclave.operations.home import Home
from exclave.sites.contract import Site
from exclave.sites.opening import open_site
from exclave.verify.embassy import verify_embassy
from support.fault_table import FaultTable, Row
from support.fault_world import LUX, NORD, World, world
from support.gateway import NORTH, host_place, running_gateway
from support.line import Line, line_to
from support.seaweed import Seaweed
from support.small_home import SmallHome, tree_of
from support.struck import Struck

KINDS = ("gateway", "s3")
STEPS = (1, 12, 25)
"""Calls at the site at which the line is cut."""


@dataclass(frozen=True, slots=True)
class Host:
    """A real host behind a line."""

    url: str
    line: Line
    disk: Path

    def site(self) -> Site:
        """A client that does not try again and again."""
        site = open_site(self.url)
        return getattr(site, "inner", site)


@contextmanager
def host(kind: str, fingerprint: str, folder: Path, seaweed: Seaweed) -> Iterator[Host]:
    """The gateway with a new disk, or a new place in the engine's bucket."""
    with ExitStack() as stack:
        if kind == "gateway":
            place = host_place(folder)
            config = folder / "host.toml"
            config.write_text(config.read_text().replace(NORTH, fingerprint))
            line = stack.enter_context(line_to(stack.enter_context(running_gateway(place)).port))
            yield Host(place.url(line.port).replace(NORTH, fingerprint), line, folder / "disk-north")
        else:
            port = urlsplit(seaweed.endpoint).port
            assert port is not None
            line = stack.enter_context(line_to(port))
            url = seaweed.url(f"faults/{folder.name}", credentials=seaweed.credentials_file(folder))
            yield Host(url.replace(f":{port}", f":{line.port}"), line, seaweed.folder / "data")


@pytest.mark.parametrize("operation", ["backup", "sync"])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_off(kind: str, operation: str, tmp_path: Path, seaweed: Seaweed, fault_table: FaultTable) -> None:
    """Cut off at a step, a real host is named, loses nothing, and is level again without home once the line holds."""
    made: World = world()
    with host(kind, made.town.state, tmp_path, seaweed) as real:
        for at in STEPS:
            made.begin(operation)
            sites = {**made.plain(), LUX: real.site()}
            line = Struck(real.site(), "slow", at)  # the call takes effect, and nobody hears of it
            done = made.run(operation, {**sites, LUX: line})
            real.line.cut()
            seen = made.verified(sites)
            found = not done.ok or LUX in done.named or any(f.site == LUX for f in seen.findings)
            promised = frozenset({1, 2}) | done.promised
            lost = made.lost(sites, promised)
            real.line.mend()
            sites[LUX] = real.site()
            healed = made.heal(LUX, sites, whole=False) and made.whole(LUX, sites)
            lost += made.lost({LUX: sites[LUX]}, promised)
            row = Row(1, 0, int(found), int(healed), lost)
            fault_table.told(kind, "cut off", row)
            assert row.whole, (at, line.struck, row)
            if operation == "backup":
                break  # the next case would begin with versions that this host has and home forgot


@pytest.mark.parametrize("kind", KINDS)
def test_no_plaintext(kind: str, tmp_path: Path, seaweed: Seaweed, fault_table: FaultTable) -> None:
    """Known texts, names and keys are neither on the host's disk nor in what went over the line."""
    home = SmallHome(tmp_path / "state").found()
    text = b"Everybody may read this law, and no host may. " * 40
    (home.root / "acts" / "an-act-with-a-telling-name").write_bytes(text)
    (tmp_path / "host").mkdir()
    with host(kind, home.fingerprint, tmp_path / "host", seaweed) as real:
        home.urls["lux"] = real.url
        home.write_config()
        home.ok("site", "sync", "lux", *home.where())
        home.backup()
        home.ok("restore", "--target", str(tmp_path / "back"), *home.granted("restore"), *home.where("lux"))
        assert tree_of(tmp_path / "back" / "acts") == tree_of(home.root / "acts")
        disk = b"".join(p.read_bytes() for p in real.disk.rglob("*") if p.is_file())
        secrets = [text[:46], b"an-act-with-a-telling-name", b"gazette", *_keys(home)]
        assert len(secrets) > 5
        assert len(disk) > 40_000
        assert len(real.line.passed) > 50_000
        for secret in secrets:
            assert secret not in disk
            assert secret not in real.line.passed
    fault_table.suite("hosts", "search for plaintext", 2 * len(secrets))


def _keys(home: SmallHome) -> list[bytes]:
    """Bytes of home's key files, as they stand there."""
    opened = Home.open(home.folder)
    found = [opened.register_secrets(opened.register_id("gazette")).id_key]
    for path in (home.folder / "keys").rglob("*"):
        if path.is_file():
            found += [line for line in path.read_bytes().splitlines() if len(line) > 40]
    return [bytes(key) for key in found]


def _history(home: SmallHome, act: Callable[[], None]) -> Path:
    """What a site shows after another history that begins where home stands now; home forgets it again."""
    then = home.root / "then"
    shutil.copytree(home.folder, then / "home")
    shutil.copytree(home.root / "sites", then / "sites")
    act()
    home.backup()
    shown = home.root / f"shown-{len(list(home.root.glob('shown-*')))}"
    shutil.copytree(home.site("lux"), shown)
    for name in ("home", "sites"):
        shutil.rmtree(home.root / name)
        (then / name).rename(home.root / name)
    then.rmdir()
    return shown


def test_split_view(tmp_path: Path, fault_table: FaultTable) -> None:
    """A host with the writer's key shows each reader a chain of his own: each looks right alone, and any two of three
    readers who put together what they were shown find the fork."""
    home = SmallHome(tmp_path).found()
    home.backup()
    readers = [
        _history(home, lambda number=number: (home.root / "acts" / "act-3").write_text(f"for {number}"))  # type: ignore[misc]
        for number in range(3)
    ]
    views = [open_site(f"dir:{folder}") for folder in readers]
    for view in views:
        alone = verify_embassy({"lux": view}, home.fingerprint, now=now())  # type: ignore[arg-type]
        assert [f for f in alone.findings if f.grave and f.fault == "forked"] == []
    pairs = [(0, 1), (0, 2), (1, 2)]
    for one, other in pairs:
        both = {Label("lux"): views[one], NORD: views[other]}
        report = verify_embassy(both, home.fingerprint, now=now())  # type: ignore[arg-type]
        assert "forked" in {f.fault for f in report.findings if f.grave}
        where = ["--site", f"lux=dir:{readers[one]}", "--site", f"nord=dir:{readers[other]}"]
        home.fails(20, "verify", *where, "--fingerprint", home.fingerprint)
    fault_table.suite("readers", "split view", len(pairs))

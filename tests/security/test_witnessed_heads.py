"""What witnesses vouched for goes on counting, whatever sites, thieves and fenced writers do with the heads."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from exclave.app import make_witness, open_capture, open_home, open_named_sites, open_sites, witness_addresses
from exclave.errors import Fenced
from exclave.formats.fact import Fact
from exclave.formats.leaf import VersionLeaf
from exclave.formats.paths import ledger_origin, ledger_prefix
from exclave.formats.tile import checkpoint_key, cosigned_key
from exclave.ids import Fingerprint, Instant, Key, Label, RegisterId, Sequence, now, sha256
from exclave.keys.file import load
from exclave.ledger.log import Log
from exclave.operations.backup import backup
from exclave.operations.failover import stop_all
from exclave.operations.ledger_entry import enter
from exclave.rules.epochs import VerifiedEpoch
from exclave.runners.ports import free_port
from exclave.serve.witness import build_app
from exclave.verify.cosigned import MAX_KEPT_READ
from exclave.verify.state import StateView, read_state
from support.hostile import Hiding
from support.refusal import refused
from support.small_home import Register, SmallHome, run, served

FAR = 10**19


class Witnessed(SmallHome):
    """A small home whose charter needs the one witness ``wit``, which can be stopped and started."""

    def __init__(self, root: Path, registers: list[Register]) -> None:
        super().__init__(root, registers)
        self.port = free_port()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def config(self) -> str:
        text = super().config().replace("threshold = 2", 'threshold = 2\nquorum = "wit"', 1)
        block = f'[[witness]]\nname = "wit"\nurl = "http://127.0.0.1:{self.port}"\ncard = "cards/wit.card"\n\n'
        return text.replace("[[site]]", block + "[[site]]", 1)

    def found(self) -> Witnessed:
        cards = self.folder / "cards"
        original = self.write_config
        self.write_config = lambda: None  # type: ignore[method-assign]
        self.make()
        self.write_config = original  # type: ignore[method-assign]
        self.ok("custodian", "new", "wit", "--kind", "witness", "--out", str(cards))
        self.write_config()
        self.fingerprint = str(self.new_charter("draft-1")["fingerprint"])
        self.up()
        return self

    def up(self) -> None:
        key = load(str(self.folder / "cards" / "wit.key"))
        sources = open_named_sites([f"{name}={self.urls[name]}" for name in self.sites])
        witness = make_witness(self.root / "memory", key, sources, Fingerprint(self.fingerprint))
        config = uvicorn.Config(build_app(witness, now), host="127.0.0.1", port=self.port, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.005)

    def down(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(10)
            self._server = None

    # What a thief of home's folder can do

    def view(self) -> tuple[StateView, VerifiedEpoch]:
        home = open_home(self.folder)
        view = read_state(open_sites(home), home.fingerprint())
        return view, view.epoch_chain(RegisterId(self.id_of())).epochs[0]

    def prefix(self) -> str:
        view, epoch = self.view()
        return ledger_prefix(view.state, epoch.register, epoch.number, epoch.digest)

    def write_on(self, site: str, *texts: str) -> None:
        """Entries behind whatever ``site`` shows, without a witness."""
        view, epoch = self.view()
        home = open_home(self.folder)
        origin = ledger_origin(view.state, epoch.register, epoch.number)
        at = open_sites(home)[Label(site)]
        log = Log.open(at, self.prefix(), origin, epoch.writer, home.writer_key().signing(), now=now())
        log.append([Fact(epoch.register, epoch.number, now(), Label("x"), None, (t,)).encode() for t in texts], now())

    def head(self, site: str) -> bytes:
        return (self.site(site) / self.prefix() / "checkpoint").read_bytes()

    def restored(self, granted: list[str], *more: str) -> Any:
        target = self.root / f"restored-{len(list(self.root.glob('restored-*')))}"
        said = run("restore", *self.where(), *granted, "--target", str(target), *more, "--json")
        return said.json["restored"]["sequence"] if said.code == 0 else (said.code, said.err + said.out)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Witnessed]:
    """One register with one witnessed version."""
    made = Witnessed(tmp_path / "small", [served("gazette", tmp_path / "small" / "systems" / "gazette")]).found()
    made.backup()
    yield made
    made.down()


def _change(home: Witnessed, text: str) -> None:
    (home.root / "systems" / "gazette" / "acts" / "act-2").write_text(text)


def _counted(home: Witnessed, *sites: str) -> list[int]:
    return [v["sequence"] for v in home.versions("", *sites) if v["witnessed"]]


HIDDEN: dict[str, Callable[[Key], bool]] = {
    "tiles and bundles": lambda key: "/tile/" in key,
    "the ledger": lambda key: "/ledger/" in key,
    "the head": lambda key: key.endswith("/checkpoint"),
}


@pytest.mark.parametrize("manner", HIDDEN)
def test_a_first_site_that_hides_what_it_was_given_stops_no_backup(home: Witnessed, manner: str) -> None:
    """Night after night a version is protected, and the witness cosigns it."""
    for night in range(2):
        _change(home, f"night {night}")
        opened = open_home(home.folder)
        sites = open_sites(opened)
        sites[Label("home")] = Hiding(sites[Label("home")], HIDDEN[manner])
        witnesses = witness_addresses(opened.config)
        done = backup(opened, "gazette", sites=sites, witnesses=witnesses, open_capture=open_capture, clock=now)
        assert (done.sequence, done.protected, done.witnesses) == (2 + night, True, ("wit",))
    assert _counted(home, "lux", "nord") == [1, 2, 3]


def test_a_backup_without_witnesses_takes_nothing_away(home: Witnessed) -> None:
    """The other sites go on showing the witnessed head; the first one keeps it; later witnesses make all count."""
    shown = {site: home.head(site) for site in home.sites}
    home.down()
    for text in ("b", "c"):
        _change(home, text)
        done = home.fails(31, "backup", *home.home)
        assert sorted(done["receipts"][0]["sites"]) == sorted(home.sites)
    assert [home.head(site) == shown[site] for site in home.sites] == [False, True, True]
    assert _counted(home) == [1]
    assert _counted(home, "home") == [1]
    assert home.verify()["ok"]
    home.up()
    _change(home, "d")
    home.backup()
    assert _counted(home) == [1, 2, 3, 4]
    assert _counted(home, "nord") == [1, 2, 3, 4]
    assert home.verify()["ok"]


def test_the_first_site_is_lost_with_entries_that_only_it_showed(home: Witnessed) -> None:
    """The writer kept all of them, and enters them again elsewhere in the same order."""
    home.down()
    for text in ("b", "c"):
        _change(home, text)
        home.fails(31, "backup", *home.home)
    home.up()
    shutil.rmtree(home.site("home"))
    home.site("home").mkdir()
    _change(home, "d")
    run("backup", *home.home)
    assert _counted(home, "lux", "nord") == [1, 2, 3, 4]


@pytest.mark.parametrize("shown", ["longer", "junk"])
def test_heads_without_witnesses_at_every_site(home: Witnessed, shown: str) -> None:
    """A thief who may write to every site puts other heads there, and names in front of the kept one."""
    view, epoch = home.view()
    for site in home.sites:
        if shown == "longer":
            home.write_on(site, f"made up at {site}")
        else:
            at = open_sites(open_home(home.folder))[Label(site)]
            key = checkpoint_key(home.prefix())
            found = at.read_head(key)
            assert found is not None
            at.replace_if(key, b"junk", found.tag)
        for number in range(2 * MAX_KEPT_READ if shown == "longer" else 3):
            junk = b"junk %d" % number
            open_sites(open_home(home.folder))[Label(site)].put_same(
                cosigned_key(home.prefix(), FAR + number, junk), junk
            )
    assert view.witness_cards()
    assert epoch.number == 1
    assert _counted(home) == [1]
    assert home.restored(home.granted("restore")) == 1


def test_an_unwitnessed_fork_does_not_block(home: Witnessed) -> None:
    """Another history at one site is a finding; the witnessed one is restored."""
    _change(home, "b")
    home.backup()
    shutil.rmtree(home.site("nord") / home.prefix())
    home.write_on("nord", *"abcde")
    assert {f["fault"] for f in home.verify(code=20)["findings"] if f["grave"]} >= {"forked"}
    assert home.restored(home.granted("restore")) == 2


def test_a_witnessed_version_that_cannot_be_proven(home: Witnessed) -> None:
    """A lost tile is no reason to bring back an older version silently; people may say that they want it."""
    _change(home, "b")
    home.backup()
    for site in home.sites:
        folder = home.site(site) / home.prefix() / "tile"
        for tile in [*folder.glob("[0-9]/000.p/2"), *folder.glob("entries/000.p/2")]:
            tile.unlink()
    # One of them is rolled back, so that the former head is there to be chosen.
    older = next((home.site("nord") / home.prefix() / "cosigned").glob(f"{1:020d}-*"))
    (home.site("nord") / home.prefix() / "checkpoint").write_bytes(older.read_bytes())
    granted = home.granted("restore")
    code, said = home.restored(granted)
    assert code == 23
    assert "rolled-back" in said
    assert "only 1 can be proven" in said
    assert home.restored(granted, "--version", "1") == 1
    failover = ["failover", "run", *home.where(), *home.granted("failover"), "--dir", str(home.root / "embassy")]
    refused(23, *failover, says="only 1 can be proven")
    try:
        assert home.ok(*failover, "--accept-older")["registers"][0]["sequence"] == 1
    finally:
        stop_all(home.root / "embassy")


def test_all_sites_rolled_back_together(home: Witnessed) -> None:
    """Only the witness remembers; it is asked."""
    shutil.copytree(home.root / "sites", home.root / "before", symlinks=True)
    _change(home, "b")
    home.backup()
    shutil.rmtree(home.root / "sites")
    (home.root / "before").rename(home.root / "sites")
    granted = home.granted("restore")
    code, said = home.restored(granted)
    assert code == 23
    assert "witness wit vouches for 2 entries" in said
    home.down()
    assert home.restored(granted) == 1


def test_a_fenced_home_changes_no_other_site(home: Witnessed) -> None:
    """A home that missed its epoch is told by the witness, before any other site shows what it wrote."""
    view, epoch = home.view()
    embassy = home.root / "embassy"
    home.ok("failover", "run", *home.where(), *home.granted("failover"), "--dir", str(embassy))
    stop_all(embassy)
    shown = {site: home.head(site) for site in home.sites}
    opened = open_home(home.folder)
    entry = Fact(epoch.register, epoch.number, now(), Label("x"), None, ("late",)).encode()
    with pytest.raises(Fenced):
        enter(
            view, epoch, opened.writer_key(), [entry], sites=open_sites(opened),
            witnesses={Label("wit"): f"http://127.0.0.1:{home.port}"}, now=now(), outbox=home.root / "outbox",
        )  # fmt: skip
    assert [home.head(site) == shown[site] for site in home.sites] == [False, True, True]
    assert _counted(home) == [1]


def test_a_version_that_does_not_open_does_not_block_a_failover(home: Witnessed) -> None:
    """A thief has a version witnessed that is none: the failover names --version, and goes on with it."""
    view, epoch = home.view()
    opened = open_home(home.folder)
    name = sha256(b"no such pack")
    bogus = VersionLeaf(epoch.register, epoch.number, Sequence(2), Instant(now()), name, name, 1, 4096)
    enter(
        view, epoch, opened.writer_key(), [bogus.encode()], sites=open_sites(opened),
        witnesses={Label("wit"): f"http://127.0.0.1:{home.port}"}, now=now(), outbox=home.root / "outbox",
    )  # fmt: skip
    embassy = home.root / "embassy"
    failover = ["failover", "run", *home.where(), *home.granted("failover"), "--dir", str(embassy)]
    refused(21, *failover, says="version 2 of gazette does not open")
    try:
        assert home.ok(*failover, "--version", "gazette=1")["registers"][0]["sequence"] == 1
        assert home.ok("backup", "--home", str(embassy))["receipts"][0]["sequence"] == 3
    finally:
        stop_all(embassy)


def test_without_witnesses_a_fork_is_for_people_to_decide(tmp_path: Path) -> None:
    """Naming one site is not enough, because the annex knows the others; --only-these-sites is."""
    home = SmallHome(tmp_path / "small", [served("gazette", tmp_path / "small" / "systems" / "gazette")]).found()
    home.backup()
    forked = Witnessed.write_on
    view, epoch = Witnessed.view(home)  # type: ignore[arg-type]
    prefix = ledger_prefix(view.state, epoch.register, epoch.number, epoch.digest)
    shutil.rmtree(home.site("nord") / prefix)
    home.prefix = lambda: prefix  # type: ignore[attr-defined]
    home.view = lambda: (view, epoch)  # type: ignore[attr-defined]
    forked(home, "nord", "another", "history")  # type: ignore[arg-type]
    granted, target = home.granted("restore"), tmp_path / "restored"
    restore = ["restore", *home.where("lux"), *granted, "--target", str(target)]
    refused(24, *restore, says="two histories")
    assert home.ok(*restore, "--only-these-sites")["restored"]["sequence"] == 1
    embassy = tmp_path / "embassy"
    failover = ["failover", "run", *home.where("lux"), *home.granted("failover"), "--dir", str(embassy)]
    refused(24, *failover, says="two histories")
    try:
        assert home.ok(*failover, "--only-these-sites")["registers"][0]["sequence"] == 1
    finally:
        stop_all(embassy)

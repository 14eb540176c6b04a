"""A site is given up: practised, evacuated, left out by a charter, erased by its operator, and told in the ledgers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exclave.app import open_named_sites
from exclave.cli.keys import load_key
from exclave.errors import MalformedError, NotAuthorised, SiteFull, SiteUnavailable, UsageError
from exclave.formats.exit import ExitHead, ExitList, object_line
from exclave.formats.note import ParsedNote
from exclave.ids import Digest, Instant, Key, Label, RegisterId, now, parse_fingerprint, sha256
from exclave.operations import site_left
from exclave.operations.erasure import Here
from exclave.operations.home import Home, key_card
from exclave.operations.site_leave import Left, leave
from exclave.operations.site_sync import Syncing
from exclave.rules.deletion import OrderState
from exclave.rules.signatures import sign_text
from exclave.sites.contract import Site
from exclave.sites.erasing import DirectoryEraser, ErasingSite, Locked
from exclave.sites.opening import open_site
from exclave.verify.state import read_state
from support.deleting import DyingEraser, Killed
from support.hostile import MissingSite, containing
from support.small_home import Register, Said, SmallHome, run, toml

DELAY_S = 3600


class Leaving(SmallHome):
    """Home and ``lux`` hold the gazette, ``nord`` may; an order lies open for an hour. ``without``: left out."""

    without: tuple[str, ...] = ()

    def config(self) -> str:
        every = self.sites
        self.sites = tuple(name for name in every if name not in self.without)
        self.registers[0].at = tuple(name for name in self.registers[0].at if name not in self.without)
        try:
            text = super().config()
        finally:
            self.sites = every
        return text.replace("retention_days", f"deletion = {{ delay_s = {DELAY_S} }}\nretention_days")


@pytest.fixture
def home(tmp_path: Path) -> Leaving:
    """Two versions at home and lux; nord is empty. Two copies in two countries are the rule."""
    made = Leaving(tmp_path)
    made.found()
    for _ in range(2):
        (made.root / "acts" / "more").write_bytes(os.urandom(150_000))
        made.ok("backup", *made.home, "--to", "home", "--to", "lux")
    shutil.rmtree(made.site("nord"))
    made.site("nord").mkdir()
    return made


def sign_and_publish(home: Leaving, draft: Path) -> None:
    for name in ("kaja", "luc"):
        home.ok("charter", "sign", str(draft), "--yes", "--key", str(home.key(name)), *home.where())
    home.ok("charter", "publish", str(draft), *home.home)


def evacuate(home: Leaving, code: int = 0, *more: str) -> Any:
    return home.fails(code, "site", "evacuate", "lux", "--to", "nord", *more, *home.home)


def left_out(home: Leaving) -> None:
    """``lux`` is evacuated to ``nord``, and the charter in force leaves it out."""
    done = evacuate(home)
    sign_and_publish(home, Path(done["draft"]))
    home.without = ("lux",)


def operator(home: Leaving) -> Path:
    home.ok("custodian", "new", "lux-it", "--out", str(home.root / "host"))
    return home.root / "host" / "lux-it.key"


def leave_now(
    home: Leaving, *, later_s: int = DELAY_S + 60, power: ErasingSite | None = None, site: Site | None = None,
    others: dict[Label, Site] | None = None, look: bool = False,
) -> Left:  # fmt: skip
    """As the command does, ``later_s`` from now by the operator's clock."""
    key = home.root / "host" / "lux-it.key"
    if not key.exists():
        operator(home)
    sites = open_named_sites(f"{name}={home.urls[name]}" for name in ("home", "nord"))
    (place,) = open_named_sites([f"lux={home.urls['lux']}"]).values()
    return leave(
        Here(Label("lux"), site or place, power or DirectoryEraser(str(home.site("lux")))), others or sites,
        parse_fingerprint(home.fingerprint), home.root / "exit", load_key(key),
        clock=lambda: Instant(now() + later_s * 1_000_000), look=look,
    )  # fmt: skip


def objects(home: Leaving, name: str = "lux") -> list[Path]:
    return [p for p in sorted(home.site(name).rglob("*")) if p.is_file() and ".tmp" not in p.parts]


def test_drill(home: Leaving) -> None:
    """A drill copies and verifies for real, says what was at risk, and drafts and deletes nothing."""
    before = {p: p.read_bytes() for p in objects(home)}
    done = evacuate(home, 0, "--drill")
    assert done["before"][0]["only_here"] == 0
    assert (done["before"][0]["at_risk"], done["registers"][0]["at_risk"]) == (2, 0)
    assert "1 of 2 copies" in done["before"][0]["lacks"]
    assert done["copied_bytes"] >= done["before"][0]["lacking_bytes"] > 150_000
    assert (done["step"], done["draft"], done["verified"]) == ("propose", None, True)
    assert done["took_s"] > 0
    assert {p: p.read_bytes() for p in objects(home)} == before
    assert home.verify()["findings"] == []
    assert evacuate(home, 0, "--drill")["copied_bytes"] == 0


def test_only_there(home: Leaving) -> None:
    """A version that no other site has whole is named, copied first, and only then can the site go."""
    for path in (p for p in objects(home, "home") if "/pack/" in str(p)):
        path.unlink()
    done = evacuate(home, 16)
    assert done["before"][0]["only_here"] == 2
    assert (done["registers"][0]["only_here"], done["step"], done["draft"]) == (0, "wait", None)
    home.ok("site", "sync", "home", *home.where())
    assert evacuate(home)["step"] == "propose"


def test_no_legal_basis_at_the_new_site(home: Leaving) -> None:
    """Nothing is copied to where the charter does not let it lie; the drill still counts what would have to go."""
    home.registers[0].at = ("home", "lux")
    home.write_config()
    home.new_charter("draft-2")
    done = evacuate(home, 35, "--drill")
    assert (done["step"], done["copied_bytes"]) == ("basis", 0)
    assert done["registers"][0]["lacking_bytes"] > 150_000
    assert not [p for p in objects(home, "nord") if "/pack/" in str(p)]


def test_whole_way(home: Leaving) -> None:
    """From the drill to a fact that anybody can check: the rule holds at every moment, and nothing is lost."""
    left_out(home)
    assert evacuate(home)["step"] == "leave"
    shown = home.verify("home", "nord")
    assert [r["placement_lacks"] for r in shown["registers"]] == [""]
    early = leave_now(home, later_s=0)
    assert (early.verdict.state, early.statement) == (OrderState.WAITING, None)
    count, size = len(objects(home)), sum(p.stat().st_size for p in objects(home))
    done = leave_now(home)
    assert done.done
    assert objects(home) == []
    assert done.statement is not None
    assert (done.statement.objects, done.statement.bytes, done.statement.left) == (count, size, 0)
    with open(home.root / "exit" / "exit.list", "rb") as file:
        listed = ExitList(file)
        assert len(list(listed.objects())) == count
        assert listed.root == done.statement.root == sha256((home.root / "exit" / "exit.list").read_bytes())
    home.write_config()
    told = home.ok("site", "left", str(home.root / "exit"), *home.home)
    assert told["entered"] == [home.id_of()]
    again = home.ok("site", "left", str(home.root / "exit"), *home.home)
    assert (again["entered"], again["known"]) == ([], [home.id_of()])
    shown = home.verify("home", "nord")
    assert shown["findings"] == []
    (exit_,) = shown["registers"][0]["exits"]
    assert (exit_["site"], exit_["statement"]["operator"]) == ("lux", "lux-it")
    said = run("verify", *home.where("home", "nord"))
    assert f"lux left: lux-it states that {count} objects" in said.out
    assert home.backup()[0]["sites"] == ["home", "nord"]
    assert home.verify("home", "nord")["findings"] == []
    assert evacuate_step_is_over(home)


def evacuate_step_is_over(home: Leaving) -> bool:
    """Run once more with the site still known by its address, the evacuation says that it is done."""
    home.without = ()
    home.registers[0].at = ("home", "nord")
    home.write_config()
    return bool(evacuate(home)["step"] == "done")


def test_command_waits(home: Leaving) -> None:
    """The command itself refuses before its time, in words, with a code of its own, and erases nothing."""
    left_out(home)
    key = operator(home)
    where = [part for name in ("home", "nord") for part in ("--site", f"{name}={home.urls[name]}")]

    def command(here: str, *more: str) -> Said:
        return run("site", "leave", f"{here}={home.urls[here]}", *where, "--fingerprint", home.fingerprint,
                   "--key", str(key), "--out", str(home.root / f"exit-{here}"), *more)  # fmt: skip

    before = objects(home)
    said = command("lux")
    assert (said.code, "Nothing was erased" in said.out) == (1, True)
    assert command("nord").code == 30
    assert "names this site" in command("nord", "--json").json["verdict"]["why"]
    assert objects(home) == before
    assert not (home.root / "exit-lux" / "exit.list").exists()


def spoil_packs(home: Leaving) -> None:
    objects_of = [p for p in objects(home, "nord") if "/pack/" in str(p)]
    objects_of[0].unlink()


def empty_other(home: Leaving) -> None:
    shutil.rmtree(home.site("nord"))
    home.site("nord").mkdir()


def hold(home: Leaving) -> None:
    home.ok("delete", "object", home.id_of(), "--key", str(home.key("aino")), "--reason", "We are coerced",
            *home.where())  # fmt: skip


def named_again(home: Leaving) -> None:
    home.without = ()
    home.registers[0].at = ("home", "lux", "nord")
    home.write_config()
    home.new_charter("draft-again")


@pytest.mark.parametrize("wrong", [spoil_packs, empty_other, hold, named_again])
def test_nothing_goes_while_something_is_wrong(home: Leaving, wrong: Callable[[Leaving], None]) -> None:
    """Not while the other sites lack anything, not against a hold, not once a charter names the site again."""
    left_out(home)
    wrong(home)
    before = [p for p in objects(home) if "/pack/" in str(p)]
    done = leave_now(home)
    assert (done.verdict.state, done.statement) == (OrderState.STOPPED, None)
    assert [p for p in objects(home) if "/pack/" in str(p)] == before


def test_a_hostile_other_site(home: Leaving) -> None:
    """A remaining site that shows ledgers without packs does not count as a copy."""
    left_out(home)
    sites: dict[Label, Site] = open_named_sites(f"{name}={home.urls[name]}" for name in ("home", "nord"))
    sites[Label("nord")] = MissingSite(sites[Label("nord")], containing("/pack/"))
    done = leave_now(home, others=sites)
    assert done.verdict.state is OrderState.STOPPED
    assert "1 of 2 copies" in done.verdict.why


@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_erasure(home: Leaving, before: bool) -> None:
    """Each run that dies leaves fewer objects and the list; the last one states all that ever lay there."""
    left_out(home)
    count, size = len(objects(home)), sum(p.stat().st_size for p in objects(home))
    for at in (1, 2, 5, count // 2):
        with pytest.raises(Killed):
            leave_now(home, power=DyingEraser(DirectoryEraser(str(home.site("lux"))), at, before=before))
        assert home.verify("home", "nord")["findings"] == []
    # By now even the charter may be gone here: the list says that it was judged.
    while len(objects(home)) > 3:
        with pytest.raises(Killed):
            leave_now(home, power=DyingEraser(DirectoryEraser(str(home.site("lux"))), 3, before=False))
    done = leave_now(home)
    assert done.statement is not None
    assert (done.statement.objects, done.statement.bytes) == (count, size)
    assert objects(home) == []


class Locking:
    """A store that keeps packs locked."""

    def __init__(self, inner: ErasingSite, until: Instant | None) -> None:
        self.inner, self.until = inner, until

    def shown_since(self, key: Key) -> Instant | None:
        return self.inner.shown_since(key)

    def erase(self, key: Key) -> Locked | None:
        return Locked(self.until, "locked") if "/pack/" in key else self.inner.erase(key)


def test_what_a_store_locks(home: Leaving) -> None:
    """Locked objects stay, are counted in the statement with the end of their lock, and go when the lock has ended."""
    left_out(home)
    until = Instant(now() + 10**12)
    done = leave_now(home, power=Locking(DirectoryEraser(str(home.site("lux"))), until))
    packs = len(objects(home))
    assert packs > 0
    assert done.statement is not None
    assert (done.done, done.left, done.until, done.statement.left) == (False, packs, until, packs)
    done = leave_now(home)
    assert done.done
    assert done.statement is not None
    assert done.statement.objects == done.objects > packs


def test_another_statement(home: Leaving) -> None:
    """A statement that was changed, or is signed by another key than the card beside it, is entered nowhere."""
    left_out(home)
    leave_now(home)
    home.write_config()
    path = home.root / "exit" / "exit.note"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"objects ", b"objects 1", 1))
    assert home.fails(21, "site", "left", str(home.root / "exit"), *home.home)["error"] == "corrupt-object"
    path.write_bytes(good)
    home.ok("custodian", "new", "lux-it", "--out", str(home.root / "other"))
    shutil.copy(home.root / "other" / "lux-it.card", home.root / "exit" / "operator.card")
    home.fails(4, "site", "left", str(home.root / "exit"), *home.home)
    assert home.verify("home", "nord")["registers"][0]["exits"] == []


def test_a_thief_of_home_cannot_say_that_a_site_left(home: Leaving) -> None:
    """A fact about a site that the charter names, with a statement by a key of the thief's own, is a fault."""
    left_out(home)
    done = leave_now(home)
    assert done.statement is not None
    home.write_config()
    mallory = load_key(home.root / "host" / "lux-it.key")
    sites = open_named_sites(f"{name}={home.urls[name]}" for name in ("home", "nord"))
    register = RegisterId(home.id_of())
    lies = (
        replace(done.statement, site=Label("nord")),
        replace(done.statement, charter_digest=sha256(b"another charter")),
        replace(done.statement, site=Label("elba")),
    )
    for said in lies:
        text = said.encode()
        note = ParsedNote(text, sign_text(text, mallory.name, mallory.signing())).encode()
        read = site_left.ReadStatement(said, note, key_card(mallory))
        view = read_state(sites, parse_fingerprint(home.fingerprint))
        assert not site_left._publish(view, register, sites, read)
        site_left._enter(Home.open(home.folder), view, register, sites, read, {}, now())
    shown = home.verify("home", "nord")
    assert [one["statement"] for one in shown["registers"][0]["exits"]] == [None] * len(lies)
    assert [f["fault"] for f in shown["findings"]] == ["corrupt-object"] * len(lies)
    assert "states that" not in run("verify", *home.where("home", "nord")).out


def test_a_lost_statement_is_told(home: Leaving) -> None:
    """If no site shows the statement any more, `verify` says so; the fact stays."""
    left_out(home)
    leave_now(home)
    home.write_config()
    home.ok("site", "left", str(home.root / "exit"), *home.home)
    for name in ("home", "nord"):
        for path in (p for p in objects(home, name) if "/statement/" in str(p)):
            path.unlink()
    shown = home.verify("home", "nord")
    assert [f["fault"] for f in shown["findings"]] == ["missing-object"]
    assert shown["registers"][0]["exits"][0]["statement"] is None


def test_evacuation_meets_faults(home: Leaving) -> None:
    """A new site that is full or gone ends the copying with its own code; the old site counts as before."""
    nord = home.site("nord")
    nord.rmdir()
    evacuate(home, SiteUnavailable.exit_code)
    nord.mkdir()
    sites = open_named_sites(f"{name}={url}" for name, url in home.urls.items())
    view = read_state(sites, parse_fingerprint(home.fingerprint))

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(sites[Label("nord")], name)

        def put_same(self, key: Key, data: bytes) -> None:
            if "/pack/" in key:
                raise SiteFull("no space", site="nord")
            sites[Label("nord")].put_same(key, data)

    (done,) = Syncing(view, sites, now()).sync({Label("nord"): Full()})  # type: ignore[dict-item]
    assert isinstance(done.error, SiteFull)
    assert home.verify("home", "lux")["registers"][0]["placement_lacks"] == ""
    assert evacuate(home)["step"] == "propose"


def test_ends_of_bases(tmp_path: Path) -> None:
    """Ends are said before they come; after one nothing is shipped there, and writers go on within the rule."""
    home = SmallHome(tmp_path)
    text = home.config
    ends = {"lease": "", "basis": ""}

    def config() -> str:
        made = text()
        if ends["lease"]:
            made = made.replace('name = "nord"\n', f'name = "nord"\nlease_until = {toml(ends["lease"])}\n')
        if ends["basis"]:
            made = made.replace(
                "legal_basis =", f"legal_basis_until = {{ lux = {toml(ends['basis'])} }}\nlegal_basis ="
            )
        return made

    home.config = config  # type: ignore[method-assign]
    home.found()
    home.backup()
    assert home.ok("site", "list", *home.home)["alarms"] == []
    ends["lease"] = "2020-01-01"
    home.write_config()
    home.new_charter("draft-2")
    told = home.fails(1, "site", "list", *home.home)
    assert told["alarms"] == ["nord: the lease ended on 2020-01-01"]
    assert home.fails(1, "status", *home.home)["alarms"] == told["alarms"]
    receipt = home.backup()[0]
    assert receipt["sites"] == ["home", "lux", "nord"]
    assert receipt["protection"] == "2 copies in 2 countries, 1 abroad, by 2 administrators"
    ends["basis"] = "2021-01-01"
    home.write_config()
    home.new_charter("draft-3")
    before = sorted(home.site("lux").rglob("*/pack/*/*"))
    (home.root / "acts" / "more").write_bytes(os.urandom(1000))
    receipt = home.backup()[0]
    assert receipt["sites"] == ["home", "nord"]
    assert receipt["failed"] == {"lux": "its legal basis ended on 2021-01-01: nothing is shipped there"}
    assert not receipt["protected"]
    assert sorted(home.site("lux").rglob("*/pack/*/*")) == before
    home.fails(35, "backup", *home.home, "--to", "lux", "--to", "home")
    refused = home.fails(35, "site", "sync", "lux", *home.where())
    assert "legal_basis_until" in refused["hint"]
    (home.root / "disk").mkdir()
    home.fails(35, "ship", "lux", "--to", str(home.root / "disk"), *home.home)
    ends["lease"], ends["basis"] = "2099-01-01", "2099-01-01"
    home.write_config()
    home.new_charter("draft-4")
    assert home.backup()[0]["protected"]
    assert home.ok("status", *home.home)["registers"][0]["placement"].startswith("3 copies in 3 countries")


def test_protected_is_what_is_there(tmp_path: Path) -> None:
    """Ledgers that show a version whose packs are gone do not protect it, unless one only looks quickly."""
    home = SmallHome(tmp_path, [Register("gazette", [("acts", "files", {"path": str(acts(tmp_path))})], copies=3)])
    home.found()
    home.backup()
    assert home.ok("status", *home.home)["registers"][0]["protected"]
    next(home.site("lux").rglob("*/pack/*/*")).unlink()
    found = home.fails(1, "status", *home.home)["registers"][0]
    assert found["problem"] == "2 of 3 copies; lux: does not hold all of it"
    assert [s["whole"] for s in found["sites"]] == [True, False, True]
    assert home.ok("status", "--quick", *home.home)["registers"][0]["protected"]
    (version,) = home.versions()
    assert (version["protected"], version["placement"]) == (False, "2 of 3 copies")
    assert "NO: 2 of 3" in run("snapshots", *home.home).out
    home.ok("site", "sync", "lux", *home.where())
    assert home.ok("status", *home.home)["registers"][0]["protected"]


def acts(root: Path) -> Path:
    made = root / "acts"
    made.mkdir()
    (made / "act-1").write_bytes(os.urandom(40_000))
    return made


def test_list_is_strict(home: Leaving) -> None:
    """An exit's folder belongs to one exit: another site's list, or a damaged one, is refused before anything goes."""
    left_out(home)
    folder = home.root / "exit"
    folder.mkdir()
    (folder / "exit.list").write_text("exclave/exit-list/v1\n")
    state = parse_fingerprint(home.fingerprint)
    for text, kind in (
        ("exclave/exit-list/v1\n", MalformedError),
        (ExitHead(state, Label("nord"), 2, sha256(b""), Instant(0)).encode(), UsageError),
    ):
        (folder / "exit.list").write_text(text)
        with pytest.raises(kind, match=r"exit\.list"):
            leave_now(home)
    assert len(objects(home)) > 10


def planted(home: Leaving, *lines: bytes, charter: bytes = b"") -> None:
    """A list in the operator's folder as a run would have begun it, by somebody else."""
    view = read_state({Label("home"): open_site(home.urls["home"])}, parse_fingerprint(home.fingerprint))
    newest = view.chain.newest
    head = ExitHead(view.state, Label("lux"), newest.charter.number, Digest(charter or newest.digest), now())
    (home.root / "exit").mkdir(exist_ok=True)
    (home.root / "exit" / "exit.list").write_bytes(head.encode().encode() + b"".join(lines))


def test_a_planted_list_takes_nothing_away(home: Leaving) -> None:
    """What stands in the folder where list and statement go decides nothing: no other state's objects, none that no
    charter lets go, no charter that never was, and no delay is cut short by it."""
    left_out(home)
    before = objects(home)
    foreign = Key(f"{'0' * 64}/charter/{'1' * 64}")
    planted(home, object_line(foreign, 1))
    with pytest.raises(MalformedError, match="another state"):
        leave_now(home)
    planted(home, object_line(Key(f"{home.fingerprint}/{'2' * 32}/box/{'3' * 64}"), 1))
    with pytest.raises(NotAuthorised, match="no charter"):
        leave_now(home)
    planted(home, charter=bytes(32))
    with pytest.raises(NotAuthorised, match="none with that digest"):
        leave_now(home)
    planted(home)
    assert leave_now(home, later_s=0).verdict.state is OrderState.WAITING
    assert objects(home) == before
    assert leave_now(home).done
    assert objects(home) == []

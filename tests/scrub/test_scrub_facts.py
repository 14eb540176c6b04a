"""What a scrub leaves: facts that later ones and `status` go by, and signed reports of those who are not the writer."""

from __future__ import annotations

import errno
import os
import re
import secrets
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exclave.errors import SiteUnavailable
from exclave.formats.note import parse_note
from exclave.formats.scrubbed import parse_scrub_report
from exclave.ids import Instant, Key, RegisterId, now, sha256
from exclave.keys.file import load
from exclave.operations.home import key_card
from exclave.rules.scrub import DAY_US, day_of, day_text
from exclave.rules.signatures import verify_signed_by
from exclave.sites.directory import DirectorySite
from exclave.sites.memory import MemorySite
from exclave.sites.opening import open_site
from exclave.vault.index import ChunkIndex
from exclave.verify.inventory import NamedObject
from exclave.verify.part import read_objects
from support.hostile import PassThrough
from support.seaweed import Seaweed
from support.small_home import SmallHome, run


def packs(home: SmallHome, site: str) -> list[Path]:
    """Files of packs at a directory site."""
    return sorted(p for p in home.site(site).rglob("*") if p.is_file() and "/pack/" in str(p))


def flip(path: Path) -> bytes:
    """Flips a bit of a file; what it was."""
    good = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    return good


def many_packs(root: Path, **more: Any) -> SmallHome:
    """A home with some twenty packs at each site: one small version after the other."""
    home = SmallHome(root, **more).found()
    for number in range(9):
        (home.root / "acts" / f"act-{number}").write_bytes(os.urandom(20_000))
        home.backup()
    return home


def facts(home: SmallHome, monkeypatch: pytest.MonkeyPatch) -> int:
    """Number of entries in the ledger that are no versions."""
    site = home.verify()["registers"][0]["sites"][0]
    return int(site["entries"]) - int(site["versions"])


def at_day(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """From now on commands believe that so many days have gone by."""
    for module in ("scrub", "status"):
        monkeypatch.setattr(f"exclave.cli.{module}.now", lambda: Instant(now() + days * DAY_US))


def test_all_within_the_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each day, or with days missed, the parts of five days together read every pack; each day leaves one fact."""
    home = many_packs(tmp_path)
    read = total = 0
    monkeypatch.setattr("exclave.rules.scrub.LEAST_SAMPLE", 0)
    start = -day_of(now()) % 5  # the first day of a period of five
    for day in (0, 1, 3, 4):  # one is missed
        at_day(monkeypatch, start + day)
        register = home.ok("scrub", "lux", "--days", "5", *home.home)["registers"][0]
        assert register["through"] == day_text(day_of(now()) + start + day)
        read += register["packs_read"]
        total = register["packs"]
        again = home.ok("scrub", "lux", "--days", "5", *home.home)["registers"][0]
        assert again["packs_read"] == 0
        assert register["fact_problem"] == again["fact_problem"] == ""
    assert read == total == len(packs(home, "lux"))
    assert facts(home, monkeypatch) == 4
    at_day(monkeypatch, start + 9)
    assert home.ok("scrub", "lux", "--days", "5", *home.home)["registers"][0]["packs_read"] == total


def test_status_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``status`` shows the day of the last scrub; a site that was not read within its days is an alarm, exit code 1."""
    home = SmallHome(tmp_path).found()
    home.backup()
    assert home.ok("status", *home.home)["registers"][0]["sites"][0]["scrubbed"] == ""
    home.ok("scrub", "lux", "--days", "10", *home.home)
    (lux,) = (s for s in home.ok("status", *home.home)["registers"][0]["sites"] if s["site"] == "lux")
    assert (lux["scrubbed"], lux["scrub_problem"]) == (day_text(day_of(now())), "")
    at_day(monkeypatch, 11)
    said = home.fails(1, "status", *home.where())
    (lux,) = (s for s in said["registers"][0]["sites"] if s["site"] == "lux")
    assert "more than 10 days" in lux["scrub_problem"]
    config = home.folder / "exclave.toml"
    config.write_text(config.read_text().replace('name = "nord"\n', 'name = "nord"\nscrub_days = 7\n'))
    said = home.fails(1, "status", *home.home)
    (nord,) = (s for s in said["registers"][0]["sites"] if s["site"] == "nord")
    assert "never scrubbed" in nord["scrub_problem"]
    assert not said["ok"]


def test_status_and_watch_agree(tmp_path: Path) -> None:
    """A site that lacks a pack of the last version is not shown as whole, and the command that is named heals it."""
    home = SmallHome(tmp_path).found()
    home.backup()
    packs(home, "lux")[0].unlink()
    said = run("status", *home.home)
    assert said.code == 1
    assert re.search(r"gazette +│ lux +│ 1, not whole", said.out)
    assert re.search(r"gazette +│ nord +│ 1 +│", said.out)
    (step,) = re.findall("^Next: exclave (.+)$", said.out, re.MULTILINE)
    assert run("watch", "--once", *home.home).code == 20
    assert run(*step.split()).code == 1
    said = run("status", *home.home)
    assert (said.code, "not whole" in said.out, "Next:" in said.out) == (0, False, False)
    assert run("watch", "--once", *home.home).code == 0


def test_never_scrubbed_is_not_in_time(tmp_path: Path) -> None:
    """Of a site that no scrub has read yet, ``status`` says by when the first one is due, or that none is promised."""
    home = SmallHome(tmp_path).found()
    config = home.folder / "exclave.toml"
    config.write_text(config.read_text().replace('name = "nord"\n', 'name = "nord"\nscrub_days = 7\n'))
    home.backup()
    home.ok("scrub", "lux", "--days", "10", *home.home)
    said = run("status", *home.home).out
    (nord,) = (s for s in home.ok("status", *home.home)["registers"][0]["sites"] if s["site"] == "nord")
    due = {day_text(day_of(now()) + days) for days in (6, 7)}  # midnight may pass meanwhile
    assert nord["scrub_due"] in due
    assert f"the first one is due by {nord['scrub_due']}" in said
    assert "none is promised (scrub_days)" in said


def test_not_repairable(tmp_path: Path) -> None:
    """What is spoilt at every site is told as such, exit code 20; ``status`` goes on telling until it is well again."""
    home = SmallHome(tmp_path).found()
    home.backup()
    good = {site: flip(packs(home, site)[0]) for site in home.sites}
    done = home.fails(20, "scrub", "lux", "--days", "1", *home.home)["registers"][0]
    assert (done["wrong"], done["repaired"]) == (1, 0)
    assert "no other site" in done["found"][0]["why_not"]
    (lux,) = (s for s in home.fails(1, "status", *home.home)["registers"][0]["sites"] if s["site"] == "lux")
    assert "left 1 object " in lux["scrub_problem"]
    packs(home, "nord")[0].write_bytes(good["nord"])
    assert home.fails(1, "scrub", "lux", "--days", "1", *home.home)["registers"][0]["repaired"] == 0 + 1
    assert packs(home, "lux")[0].read_bytes() == good["lux"]
    assert home.fails(1, "scrub", "home", "--days", "1", *home.home)["registers"][0]["repaired"] == 1
    home.ok("status", *home.home)


def test_one_day_reads_all_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--days 1`` reads the whole site also when a scrub ran that day; a run that read a part says how much."""
    monkeypatch.setattr("exclave.rules.scrub.LEAST_SAMPLE", 0)
    home = many_packs(tmp_path)
    for days in ("30", "1", "1"):
        home.ok("scrub", "lux", "--days", days, *home.home)
    for victim in packs(home, "lux"):
        flip(victim)
        found = home.fails(1, "scrub", "lux", "--days", "1", *home.home)["registers"][0]
        assert (found["packs_read"], found["repaired"]) == (found["packs"], 1)
    said = run("scrub", "lux", "--days", "1", *home.home)
    assert said.out.splitlines()[-1] == "All that was read at lux is right."
    home.ok("scrub", "lux", "--days", "3650", *home.home)
    said = run("scrub", "lux", "--days", "3650", *home.home)
    total = len(packs(home, "lux"))
    assert said.out.splitlines()[-1] == f"0 of {total} packs read; the rest is not due today."


@pytest.mark.parametrize("told", ["ledger", "home"])
def test_what_was_left_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """What a check found wrong the next run reads again and repairs, also if no fact could tell of it."""
    monkeypatch.setattr("exclave.rules.scrub.LEAST_SAMPLE", 0)
    home = many_packs(tmp_path)
    victim = packs(home, "lux")[3]
    good = flip(victim)
    with monkeypatch.context() as patch:
        if told == "home":
            patch.setattr("exclave.cli.scrub.worth_a_fact", lambda done: False)
        home.fails(20, "scrub", "lux", "--days", "1", "--check-only", *home.home)
    for kept in (home.folder / "state").glob("*.lux.scrub"):
        if told == "ledger":
            kept.unlink()
    done = home.fails(1, "scrub", "lux", "--days", "3650", *home.home)["registers"][0]
    assert (done["left_before"], done["repaired"], done["packs_read"]) == (1, 1, done["packs"])
    assert victim.read_bytes() == good
    home.ok("status", *home.home)
    assert not list((home.folder / "state").glob("*.scrub"))
    assert home.ok("scrub", "lux", "--days", "3650", *home.home)["registers"][0]["packs_read"] == 0


def test_auditor_reads_again_what_he_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that names something wrong makes the next run with it read everything."""
    monkeypatch.setattr("exclave.rules.scrub.LEAST_SAMPLE", 0)
    home = many_packs(tmp_path)
    home.ok("custodian", "new", "auditor", "--out", str(tmp_path / "audit"))
    key, report = str(tmp_path / "audit" / "auditor.key"), str(tmp_path / "lux.report")
    audit = ("scrub", "lux", *home.where(), "--key", key, "--report", report)
    good = flip(packs(home, "lux")[3])
    home.fails(20, *audit, "--days", "1")
    home.fails(20, *audit, "--days", "3650")
    packs(home, "lux")[3].write_bytes(good)
    again = home.ok(*audit, "--days", "3650")["registers"][0]
    assert (again["left_before"], again["packs_read"]) == (1, again["packs"])
    assert home.ok(*audit, "--days", "3650")["registers"][0]["packs_read"] == 0


def test_auditor(tmp_path: Path) -> None:
    """Without any key of the state a part is checked and nothing written; a signed report tells where to go on."""
    home = many_packs(tmp_path)
    home.ok("custodian", "new", "auditor", "--out", str(tmp_path / "audit"))
    key, report = tmp_path / "audit" / "auditor.key", tmp_path / "lux.report"
    audit = ["scrub", "lux", "--days", "4", *home.where("lux"), "--key", str(key), "--report", str(report)]
    before = {p: p.stat().st_mtime_ns for site in home.sites for p in home.site(site).rglob("*")}
    first = home.ok(*audit)["registers"][0]
    assert 0 < first["packs_read"] <= first["packs"]
    note = parse_note(report.read_bytes())
    verify_signed_by(note, key_card(load(str(key))))
    ((number, line),) = parse_scrub_report(note.text).lines
    assert (number, line.packs_read) == (RegisterId(home.id_of()), first["packs_read"])
    again = home.ok(*audit)["registers"][0]
    assert again["packs_read"] == min(16, again["packs"])  # its part of today was read: only the sample
    victim = packs(home, "lux")[3]
    good = flip(victim)
    spoilt = victim.read_bytes()
    found = home.fails(20, "scrub", "lux", "--days", "1", *home.where(), "--key", str(key))["registers"][0]["found"]
    assert [(f["key"].rpartition("/")[2], f["repaired_from"], f["why_not"]) for f in found] == [
        (victim.name, None, "only checked; run again with --repair")
    ]
    assert found[0]["found"] == sha256(spoilt).hex()
    victim.write_bytes(good)
    after = {p: p.stat().st_mtime_ns for site in home.sites for p in home.site(site).rglob("*") if p != victim}
    assert after == {p: t for p, t in before.items() if p != victim}
    report.write_bytes(report.read_bytes().replace(b"wrong 0", b"wrong 1"))
    assert home.fails(21, *audit)["error"] == "corrupt-object"
    home.fails(2, "scrub", "lux", *home.where("lux"), "--report", str(tmp_path / "other"))
    home.fails(2, "scrub", "mars", *home.where("lux"))


def test_repaired_packs_are_used_again(tmp_path: Path) -> None:
    """A pack that a backup found spoilt and a scrub has repaired is believed again: its content is not shipped anew."""
    home = SmallHome(tmp_path).found()
    (home.root / "acts" / "bulk").write_bytes(os.urandom(500_000))
    home.backup()
    victim = max(packs(home, "lux"), key=lambda path: path.stat().st_size)
    good = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(good[:-1])  # of another size: the next listing gives it up
    home.backup()
    home.ok("scrub", "nord", "--days", "1", *home.home)
    done = home.fails(1, "scrub", "lux", "--days", "1", *home.home)["registers"][0]
    assert [f["key"].rpartition("/")[2] for f in done["found"]] == [victim.name]
    index = ChunkIndex(home.folder / "cache" / home.id_of() / "index.sqlite")
    try:
        assert index.spoilt_at("lux") == set()
    finally:
        index.close()
    for path in (home.root / "acts").iterdir():  # all: small files run through one stream, and are cut together
        os.utime(path)
    assert home.backup()[0]["shipped_bytes"] < 400_000
    assert home.verify()["findings"] == []


def test_repair_without_keys(tmp_path: Path) -> None:
    """Whoever may write to a site repairs it with --repair, and brings back one whose head is lost, without home."""
    home = SmallHome(tmp_path).found()
    home.backup()
    good = packs(home, "lux")[0].read_bytes()
    flip(packs(home, "lux")[0])
    home.fails(1, "scrub", "lux", "--days", "1", "--repair", *home.where())
    assert packs(home, "lux")[0].read_bytes() == good
    (head,) = (p for p in home.site("lux").rglob("checkpoint"))
    head.chmod(0o600)
    head.write_bytes(b"junk")
    packs(home, "lux")[1].unlink()
    done = home.fails(1, "scrub", "lux", "--repair", *home.where())["registers"][0]
    assert [f["key"] for f in done["found"]] == [str(head.relative_to(home.site("lux")))]
    assert len(packs(home, "lux")) == len(packs(home, "nord"))
    assert home.verify()["findings"] == []


def test_bad_sector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that the disk cannot read any more is found and repaired."""
    home = SmallHome(tmp_path).found()
    home.backup()
    victim = packs(home, "lux")[0]
    broken = victim.stat().st_ino

    def failing(real: Any, fd: int, *rest: Any) -> Any:
        if os.fstat(fd).st_ino == broken:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, *rest)

    for name in ("read", "readv", "pread", "preadv"):
        monkeypatch.setattr(os, name, partial(failing, getattr(os, name)))
    done = home.fails(1, "scrub", "lux", "--days", "1", *home.home)["registers"][0]
    assert done["found"][0]["repaired_from"] in ("home", "nord")
    assert victim.stat().st_ino != broken
    assert sha256(victim.read_bytes()).hex() == victim.name


def test_silent_site_is_not_spoilt() -> None:
    """A site that gives nothing any more is unavailable; one object among others that it does not give is wrong."""
    site = MemorySite()
    good = [b"object %d" % number for number in range(30)]
    items = [NamedObject(Key(f"a/{sha256(data).hex()}"), sha256(data), None, 100) for data in good]
    for item, data in zip(items, good, strict=True):
        site.put_new(item.key, data)

    class Silent(PassThrough):
        def get(self, key: Key, *, limit: int = 0) -> bytes:
            if self.only(key):
                raise SiteUnavailable(f"{key} is not given")
            return super().get(key, limit=limit)

    one = Silent(site, lambda key: key == items[3].key)
    assert [w.object for w in read_objects(one, items, read=lambda size: None)] == [items[3]]
    with pytest.raises(SiteUnavailable):
        list(read_objects(Silent(site), items, read=lambda size: None))


def test_planted_rubbish(tmp_path: Path) -> None:
    """What anybody planted at a site is no finding of a scrub, and is never carried on."""
    home = SmallHome(tmp_path).found()
    home.backup()
    root = next(home.site("lux").glob("[0-9a-f]*"))
    for folder in ("charter", "card", "warrant", f"{home.id_of()}/epoch", f"{home.id_of()}/list"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / secrets.token_hex(32)).write_bytes(b"rubbish")
    home.ok("scrub", "lux", "--days", "1", *home.home)
    home.ok("scrub", "nord", "--days", "1", *home.home)
    assert not any(b"rubbish" in p.read_bytes() for p in home.site("nord").rglob("*") if p.is_file())


def test_bucket(seaweed: Seaweed, tmp_path: Path) -> None:
    """At an S3 site a spoilt pack, a spoilt list and a lost box are repaired in place."""
    url = seaweed.url(secrets.token_hex(8), credentials=seaweed.credentials_file(tmp_path))
    home = SmallHome(tmp_path / "h", urls={"lux": url}).found()
    home.backup()
    bucket = open_site(url)
    every = {o.key: bucket.get(o.key) for o in bucket.list("")}
    (pack, *_), (node, *_) = ([k for k in every if part in k] for part in ("/pack/", "/list/"))
    for key in (pack, node):
        bucket.replace_spoilt(key, b"spoilt" * 100, sha256(every[key]))
    done = home.fails(1, "scrub", "lux", "--days", "1", *home.home)["registers"][0]
    assert sorted(f["key"] for f in done["found"]) == sorted([pack, node])
    assert {key: bucket.get(Key(key)) for key in every if "checkpoint" not in key} == {
        key: data for key, data in every.items() if "checkpoint" not in key
    }


def test_two_repairs_at_once(tmp_path: Path) -> None:
    """A repair that comes second finds right bytes and replaces nothing."""
    site = DirectorySite(str(tmp_path))
    key, wrong, right = Key("a/b"), b"wrong", b"right"
    site.put_new(key, wrong)
    site.replace_spoilt(key, right, sha256(wrong))
    inode = (tmp_path / "a" / "b").stat().st_ino
    site.replace_spoilt(key, right, sha256(wrong))
    assert (tmp_path / "a" / "b").stat().st_ino == inode

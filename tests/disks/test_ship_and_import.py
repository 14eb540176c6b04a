"""Carried disks: written at home, taken over at the far side by a host without keys, and what enemies do to them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from exclave.errors import UsageError
from exclave.ids import Digest, Key, RegisterId, sha256
from exclave.operations.ship import Load, choose_part
from exclave.rules.parts import in_part, parts_needed
from exclave.sites.directory import DirectorySite
from support.rekeying import People
from support.small_home import SmallHome, run, served, start, tree_of

AT = ("home", "nord", "lux")


def fill(folder: Path, size_bytes: int, seed: int) -> None:
    """Files that cannot be compressed."""
    chance = random.Random(seed)
    for number in range(size_bytes // 200_000):
        (folder / f"act-{seed}-{number}").write_bytes(chance.randbytes(200_000))


def world(root: Path, size_bytes: int = 3_000_000, versions: int = 2) -> SmallHome:
    """A home whose backups went to two sites; the third, ``lux``, is empty."""
    home = SmallHome(root).found()
    for version in range(versions):
        fill(home.root / "acts", size_bytes // versions, version)
        home.ok("backup", *home.home, "--to", "home", "--to", "nord")
    shutil.rmtree(home.site("lux"))
    home.site("lux").mkdir()
    return home


def kept(home: SmallHome, name: str, part: str = "/pack/") -> set[str]:
    """Names of objects at a site."""
    root = home.site(name)
    return {
        str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and part in str(p) and ".tmp" not in p.parts
    }


def new_disk(home: SmallHome, name: str = "disk") -> Path:
    disk = home.root / name
    disk.mkdir()
    return disk


def into(home: SmallHome) -> list[str]:
    """What a host types: its own folder, and the printed fingerprint."""
    return ["--into", f"lux={home.urls['lux']}", "--fingerprint", home.fingerprint]


def test_there_and_taken_over(tmp_path: Path) -> None:
    """A disk brings a site everything; the site then stands alone, and the next backup sends it only what is new."""
    home = world(tmp_path)
    disk = new_disk(home)
    done = home.ok("ship", "lux", "--to", str(disk), *home.home)
    assert (done["part"], done["parts"], done["finished"]) == (1, 1, True)
    taken = home.ok("site", "import", str(disk), *into(home))["registers"][0]
    assert taken["published"]
    assert taken["lacking"] == 0
    assert kept(home, "lux") == kept(home, "nord")
    findings = home.verify("lux")["findings"]
    assert {f["fault"] for f in findings} == {"placement-unmet"}
    before = kept(home, "lux")
    (home.root / "acts" / "one-more").write_bytes(b"x" * 1000)
    receipt = home.backup()[0]
    assert "lux" in receipt["sites"]
    new = kept(home, "lux") - before
    assert 0 < sum((home.site("lux") / name).stat().st_size for name in new) <= receipt["shipped_bytes"]
    assert home.verify()["findings"] == []
    again = home.ok("site", "import", str(disk), *into(home))["registers"][0]
    assert again["objects"] == 0


def test_restores_from_the_far_side_alone(tmp_path: Path) -> None:
    """From the site that only a disk has filled, custodians restore what home had."""
    home = world(tmp_path, 1_000_000)
    disk = new_disk(home)
    home.ok("ship", "lux", "--to", str(disk), *home.home)
    home.ok("site", "import", str(disk), "--into", "lux", *home.home)
    granted = home.granted("restore", sites=["lux"])
    target = tmp_path / "restored"
    home.ok("restore", *home.where("lux"), *granted, "--target", str(target), "--only-these-sites", "--compare")
    assert tree_of(target / "acts") == tree_of(home.root / "acts")


def test_several_disks(tmp_path: Path) -> None:
    """Three disks in any order; nothing is shown before the last one, and each pack travels once."""
    home = world(tmp_path)
    sizes = {name: (home.site("nord") / name).stat().st_size for name in kept(home, "nord")}
    shipped = []
    for part in (2, 3, 1):
        disk = new_disk(home, f"disk-{part}")
        home.ok("ship", "lux", "--to", str(disk), "--part", f"{part}/3", *home.home)
        shipped.append({str(p.relative_to(disk)) for p in disk.rglob("*") if p.is_file() and "/pack/" in str(p)})
    assert sum(len(names) for names in shipped) == len(set().union(*shipped)) == len(sizes)
    arrived: set[str] = set()
    for part, packs in zip((2, 3, 1), shipped, strict=True):
        arrived |= packs  # one of three parts may be empty: names are hashes
        code = 0 if arrived == set(sizes) else 22
        done = home.fails(code, "site", "import", str(home.root / f"disk-{part}"), *into(home))["registers"][0]
        assert done["published"] == (code == 0)
        assert (kept(home, "lux", "/checkpoint") == set()) == (code != 0)
    assert kept(home, "lux") == set(sizes)


def test_size_limit(tmp_path: Path) -> None:
    """A limit divides what is lacking into as many disks as are needed; a part that does not fit is refused first."""
    home = world(tmp_path)
    disk = new_disk(home)
    size = sum((home.site("nord") / name).stat().st_size for name in kept(home, "nord"))
    first = home.ok("ship", "lux", "--to", str(disk), "--limit", "2MB", *home.home)
    assert 2 <= first["parts"] <= 12  # a part is chosen by names, so how many there must be is chance
    assert 0 < first["registers"][0]["bytes"] <= min(size, 2_000_000)
    refused = home.fails(12, "ship", "lux", "--to", str(disk), "--limit", "2MB", "--part", "1/1", *home.home)
    assert "part 1 of 1" in refused["message"]
    # Without --part it goes on as the part that it was begun as, whatever is free now.
    assert home.ok("ship", "lux", "--to", str(disk), *home.home)["parts"] == first["parts"]
    for wrong in ("0/3", "4/3", "1/0", "1", "x", "1/1001", "-1/3"):
        home.fails(2, "ship", "lux", "--to", str(disk), "--part", wrong, *home.home)
    for wrong in ("5", "5 GB", "0GB", "GB", "1e3GB"):
        home.fails(2, "ship", "lux", "--to", str(disk), "--limit", wrong, *home.home)


def test_without_keys_or_home(tmp_path: Path) -> None:
    """Whoever has a site's address and the fingerprint writes a disk too; a copied site is taken over like a disk."""
    home = world(tmp_path, 600_000)
    disk = new_disk(home)
    home.ok("ship", "lux", "--to", str(disk), "--everything", *home.where("nord"))
    home.ok("site", "import", str(disk), *into(home))
    assert kept(home, "lux") == kept(home, "nord")
    shutil.rmtree(home.site("lux"))
    home.site("lux").mkdir()
    done = home.ok("site", "import", str(home.site("nord")), *into(home))
    assert done["ok"]
    assert kept(home, "lux") == kept(home, "nord")


def test_killed_both_ways(tmp_path: Path) -> None:
    """Killed four times while writing and four while taking over, each goes on; each object is written once."""
    home = world(tmp_path, 12_000_000)
    disk = new_disk(home)
    chance = random.Random(7)
    for command, folder in (
        (["ship", "lux", "--to", str(disk), *home.home], disk),
        (["site", "import", str(disk), *into(home)], home.site("lux")),
    ):
        seen: dict[str, int] = {}
        killed = 0
        for _ in range(40):
            process = start(*command, "--json")
            while process.poll() is None and not any("/pack/" in str(p) for p in folder.rglob("*")):
                time.sleep(0.01)
            time.sleep(0.15 * chance.random())
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed += 1
            process.communicate()
            for path in folder.rglob("*"):
                if path.is_file() and "/pack/" in str(path):
                    # The same file as after the last kill: it was not written again.
                    assert seen.setdefault(path.name, path.stat().st_ino) == path.stat().st_ino
                    assert sha256(path.read_bytes()).hex() == path.name
            if killed >= 4:
                break
        home.ok(*command)
        for path in folder.rglob("*"):
            if path.name in seen:
                assert seen[path.name] == path.stat().st_ino
    assert kept(home, "lux") == kept(home, "nord")


def test_taken_out_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an unfinished disk, after a rekey too, the good is taken over and nobody is suspected; then it is finished."""
    home = People(tmp_path / "small", [served("gazette", tmp_path / "g"), served("land", tmp_path / "l")]).found()
    home.backup()
    home.rekey("kaja", "luc")
    home.backup()
    shutil.rmtree(home.site("lux"))
    home.site("lux").mkdir()
    disk = new_disk(home)
    put, packs = DirectorySite.put_same, []

    def pulled(site: DirectorySite, key: Key, data: bytes) -> None:
        if "/pack/" in key and site.address.endswith("/disk"):
            packs.append(key)
            if len(packs) > 1:
                raise KeyboardInterrupt
        put(site, key, data)

    with monkeypatch.context() as patched:
        patched.setattr("exclave.operations.deliver.WORKERS", 1)
        patched.setattr(DirectorySite, "put_same", pulled)
        assert run("ship", "lux", "--to", str(disk), *home.home).code == 130
    done = home.fails(22, "site", "import", str(disk), *into(home))
    assert done["unfinished"]
    assert len(done["registers"]) == 2
    assert [r["faults"] for r in done["registers"]] == [{}, {}]
    assert len(kept(home, "lux")) == 1
    assert kept(home, "lux", "/checkpoint") == set()
    said = run("site", "import", str(disk), "--into", "lux", *home.home)
    assert said.code == 22
    assert "exclave ship lux --to" in said.out
    assert "gazette" in said.out
    home.ok("ship", "lux", "--to", str(disk), *home.home)
    assert home.ok("site", "import", str(disk), *into(home))["ok"]
    assert kept(home, "lux") == kept(home, "nord")


def test_taken_out_before_the_ledgers(tmp_path: Path) -> None:
    """Even without its ledgers, or a register, an unfinished disk is no forgery: exit code 22, and what to do."""
    home = People(tmp_path / "small", [served("gazette", tmp_path / "g"), served("land", tmp_path / "l")]).found()
    home.backup()
    home.rekey("kaja", "luc")
    shutil.rmtree(home.site("lux"))
    home.site("lux").mkdir()
    disk = new_disk(home)
    home.ok("ship", "lux", "--to", str(disk), *home.home)
    text = (disk / "carried.txt").read_text()
    (disk / "carried.txt").chmod(0o600)
    (disk / "carried.txt").write_text(text.replace("finished yes", "finished no"))
    for head in list(disk.rglob("checkpoint")):
        head.unlink()
    shutil.rmtree(disk / home.fingerprint / home.id_of("land"))
    done = home.fails(22, "site", "import", str(disk), *into(home))
    assert [r["faults"] for r in done["registers"]] == [{}]
    assert done["not_on_the_disk"] == [home.id_of("land")]
    assert kept(home, "lux", "/checkpoint") == set()
    for charter in [p for p in disk.rglob("*") if p.is_file() and "/charter/" in str(p)]:
        charter.unlink()
    shutil.rmtree(home.site("lux"))
    home.site("lux").mkdir()
    assert "exclave ship lux" in home.fails(22, "site", "import", str(disk), *into(home))["hint"]


def test_nothing_is_lacking(tmp_path: Path) -> None:
    """A site that has and shows everything gets no disk."""
    home = SmallHome(tmp_path).found()
    home.backup()
    disk = new_disk(home)
    assert "lux lacks nothing" in run("ship", "lux", "--to", str(disk), *home.home).out
    assert list(disk.iterdir()) == []


SPOILS = ("flip", "truncate", "huge", "link", "fifo", "folder")


@pytest.mark.parametrize("how", SPOILS)
def test_hostile_disk(tmp_path: Path, how: str) -> None:
    """A spoilt pack on the disk is refused and named; all else is taken over, and nothing is shown yet."""
    home = world(tmp_path, 600_000)
    disk = new_disk(home)
    home.ok("ship", "lux", "--to", str(disk), *home.home)
    secret = tmp_path / "secret"
    secret.write_bytes(b"what no disk may read")
    packs = sorted(p for p in disk.rglob("*") if p.is_file() and "/pack/" in str(p))
    victim, good = packs[0], packs[0].read_bytes()
    victim.unlink()
    if how == "flip":
        victim.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    elif how == "truncate":
        victim.write_bytes(good[:-1])
    elif how == "huge":
        with victim.open("wb") as file:
            file.truncate(1 << 40)
    elif how == "link":
        victim.symlink_to(secret)
    elif how == "fifo":
        os.mkfifo(victim)
    else:
        victim.mkdir()
    # Names that are no objects', and links that lead away, are not even looked at.
    (disk / "..evil").write_bytes(b"x")
    (disk / "UPPER").write_bytes(b"x")
    (disk / "loop").symlink_to(disk)
    done = home.fails(22 if how in ("link", "fifo", "folder") else 20, "site", "import", str(disk), *into(home))
    register = done["registers"][0]
    assert not register["published"]
    assert register["lacking"] == 1
    if how not in ("link", "fifo", "folder"):  # those are not there at all, to a listing
        assert victim.name in next(iter(register["faults"]))
    assert kept(home, "lux", "/checkpoint") == set()
    assert kept(home, "lux") == {str(p.relative_to(disk)) for p in packs[1:]}
    for path in home.site("lux").rglob("*"):
        assert not path.is_symlink()
        if path.is_file() and "/pack/" in str(path):
            assert sha256(path.read_bytes()).hex() == path.name
    if victim.is_dir():
        victim.rmdir()
    else:
        victim.unlink()
    if how == "flip":
        disk = tmp_path / "emptied"
        disk.mkdir()
        home.ok("ship", "lux", "--to", str(disk), *home.home)
        assert [p.name for p in disk.rglob("*") if p.is_file() and "/pack/" in str(p)] == [victim.name]
    else:
        victim.write_bytes(good)
    assert home.ok("site", "import", str(disk), *into(home))["registers"][0]["published"]


def test_disk_of_others(tmp_path: Path) -> None:
    """Another state's disk, an empty one, a forged or damaged text, a site without legal basis: nothing is written."""
    home = world(tmp_path / "a", 400_000)
    other = world(tmp_path / "b", 400_000)
    foreign, mine, empty = new_disk(other), new_disk(home), new_disk(home, "empty")
    other.ok("ship", "lux", "--to", str(foreign), *other.home)
    home.ok("ship", "lux", "--to", str(mine), *home.home)
    assert home.fails(25, "site", "import", str(foreign), *into(home))["error"] == "wrong-fingerprint"
    (foreign / "carried.txt").unlink()
    home.fails(25, "site", "import", str(foreign), *into(home))
    home.fails(22, "site", "import", str(empty), *into(home))
    home.fails(11, "site", "import", str(home.root / "nowhere"), *into(home))
    there = ["--into", f"ottawa={home.urls['lux']}", "--fingerprint", home.fingerprint]
    assert home.fails(35, "site", "import", str(mine), *there)["error"] == "legal-basis-missing"
    text = (mine / "carried.txt").read_text()
    (mine / "carried.txt").chmod(0o600)
    for wrong in (text.replace("part 1 1", "part 2 1"), text[:-1], "x" * 100_000, text + "more\n", "\u00ff" * 40):
        (mine / "carried.txt").write_text(wrong)
        assert home.fails(21, "site", "import", str(mine), *into(home))["error"] == "corrupt-object"
    (mine / "carried.txt").unlink()
    (mine / "carried.txt").symlink_to("/etc/passwd")
    assert kept(home, "lux", "/") == set()
    (mine / "carried.txt").unlink()
    home.ok("site", "import", str(mine), *into(home))


def test_forged_state_on_the_disk(tmp_path: Path) -> None:
    """A disk whose charter or ledger was changed brings nothing: without the state's own word nothing counts."""
    home = world(tmp_path, 400_000)
    disk = new_disk(home)
    home.ok("ship", "lux", "--to", str(disk), *home.home)
    (charter,) = (p for p in disk.rglob("*") if p.is_file() and "/charter/" in str(p))
    good = charter.read_bytes()
    charter.chmod(0o600)
    charter.write_bytes(good.replace(b"threshold 2", b"threshold 1"))
    assert home.fails(25, "site", "import", str(disk), *into(home))["error"] in ("wrong-fingerprint", "missing-object")
    assert kept(home, "lux", "/") == set()
    charter.write_bytes(good)
    (head,) = (p for p in disk.rglob("checkpoint") if p.is_file())
    head.chmod(0o600)
    head.write_bytes(head.read_bytes().replace(b"\n2\n", b"\n3\n"))
    said = run("site", "import", str(disk), *into(home))
    assert said.code == 20
    assert "Empty the disk and write it again" in said.out.splitlines()[-1]
    done = home.fails(20, "site", "import", str(disk), *into(home))["registers"][0]
    assert not done["published"]
    assert next(iter(done["faults"])).endswith("/checkpoint")
    assert kept(home, "lux", "/checkpoint") == set()


def test_full_disk(tmp_path: Path) -> None:
    """What does not fit is said before anything is written, with how many disks are needed."""
    home = world(tmp_path)
    disk = new_disk(home)
    refused = home.fails(2, "ship", "lux", "--to", str(disk), "--limit", "1MB", *home.home)
    assert "do not fit" in refused["message"]
    assert list(disk.iterdir()) == []
    home.fails(2, "ship", "lux", "--to", str(home.root / "no-disk"), *home.home)
    home.fails(35, "ship", "ottawa", "--to", str(disk), *home.home)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 1000])
def test_parts_are_a_division(parts: int) -> None:
    """Each name is in exactly one part, and parts are about equal."""
    names = [sha256(b"%d" % number) for number in range(3000)]
    places = [[part for part in range(1, parts + 1) if in_part(part, parts)(name)] for name in names[:200]]
    assert all(len(place) == 1 for place in places)
    if parts <= 7:
        counts = [sum(in_part(part, parts)(name) for name in names) for part in range(1, parts + 1)]
        assert max(counts) < 1.2 * len(names) / parts
    assert in_part(parts, parts)(Digest(b"\xff" * 32))
    assert in_part(1, parts)(Digest(bytes(32)))


def test_parts_needed() -> None:
    """As few parts as fit, none larger than the room; what never fits is said."""
    sizes = {sha256(b"%d" % number): 1000 for number in range(1000)}
    for room in (1_000_000, 600_000, 300_000, 20_000):
        parts = parts_needed(sizes, room)
        assert parts >= -(-1_000_000 // room)
        for part in range(1, parts + 1):
            assert sum(size for name, size in sizes.items() if in_part(part, parts)(name)) <= room
    with pytest.raises(UsageError):
        parts_needed(sizes, 999)


def test_small_disks_are_filled() -> None:
    """For 151 MB and disks of 100 MB a few parts are made, and the first and the next are not empty."""
    for seed in range(20):
        sizes = {sha256(b"%d %d" % (seed, number)): 16 << 20 for number in range(9)}
        load = Load({RegisterId("ab" * 16): sizes}, on_disk=0, nothing=False, begun=None)
        part, parts = choose_part(load, None, 100_000_000)
        used = [part]
        while following := load.next_part(used[-1], parts):
            used.append(following)
        assert 2 <= len(used) <= 5
        assert all(0 < load.on_part(number, parts) <= 100_000_000 for number in used)
        assert sum(load.on_part(number, parts) for number in used) == sum(sizes.values())

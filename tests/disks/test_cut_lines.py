"""A line that is cut a hundred times loses nothing and repeats nothing: backups, and copies of a site."""

from __future__ import annotations

import random
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from exclave.app import open_capture
from exclave.errors import ExclaveError
from exclave.ids import Label, now, parse_fingerprint, sha256
from exclave.operations.backup import backup
from exclave.operations.home import Home
from exclave.operations.ship import DISK, take_over
from exclave.sites.directory import DirectorySite
from exclave.sites.opening import open_site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryingSite, RetryPolicy
from exclave.verify.state import read_state
from support.cutting import CutSite, cutting_proxy
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed
from support.small_home import Register, SmallHome, tree_of

CUTS = 100
QUICK = RetryPolicy(attempts=4, first_s=0.001, longest_s=0.01, rest_s=0.0)


def test_backup_over_a_cut_line(tmp_path: Path) -> None:
    """Cut a hundred times, before or after calls took effect: run again it ends, and no object is written twice."""
    acts = tmp_path / "acts"
    acts.mkdir()
    chance = random.Random(20261126)
    for number in range(30):
        (acts / f"act-{number}").write_bytes(chance.randbytes(400_000))
    at = ("lux", "nord")
    register = Register("gazette", [("acts", "files", {"path": str(acts)})], at=at, copies=1, countries=1)
    home = SmallHome(tmp_path, [register], sites=at).found()
    cut = CutSite(DirectorySite(str(home.site("lux"))), cuts=CUTS, chance=chance)
    line = RetryingSite(cut, sleep=lambda s: None, clock=lambda: 0.0, spread=lambda: 0.0, policy=QUICK)
    sites = {Label("lux"): line, Label("nord"): DirectorySite(str(home.site("nord")))}
    complete, runs, failures = False, 0, list[ExclaveError]()
    while cut.left or not complete:
        (acts / "news").write_bytes(chance.randbytes(1000))
        opened = Home.open(home.folder)
        receipt = None
        try:
            receipt = backup(opened, "gazette", sites=sites, witnesses={}, open_capture=open_capture, clock=now)
        except ExclaveError as error:
            failures.append(error)
        complete = receipt is not None and "lux" in receipt.sites
        runs += 1
        assert runs < 100
    assert runs > 1
    assert all(error.retryable or error.code == "outcome-unknown" for error in failures), failures
    stored = [p for p in home.site("lux").rglob("*") if "/pack/" in str(p) and p.is_file()]
    written = {str(key): sizes for key, sizes in cut.accepted.items() if "/pack/" in key}
    assert all(len(sizes) == 1 for sizes in written.values())
    assert sum(sizes[0] for sizes in written.values()) == sum(path.stat().st_size for path in stored)
    assert home.verify()["findings"] == []
    granted = home.granted("restore")
    target = tmp_path / "target"
    home.ok("restore", *home.where("lux"), *granted, "--target", str(target), "--compare", "--only-these-sites")
    assert tree_of(target / "acts") == tree_of(acts)


def test_copy_over_a_cut_wire(seaweed: Seaweed, tmp_path: Path) -> None:
    """A site is filled over TCP connections that break in the middle of objects: what is sent again is what was cut."""
    home = SmallHome(tmp_path, sites=("home", "nord", "lux")).found()
    chance = random.Random(11)
    for number in range(9):
        (home.root / "acts" / f"act-{number}").write_bytes(chance.randbytes(230_000))
        home.ok("backup", *home.home, "--to", "home", "--to", "nord")
    state, disk = parse_fingerprint(home.fingerprint), DirectorySite(str(home.site("nord")))
    port = urlsplit(seaweed.endpoint).port
    assert port is not None
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    wanted = {o.key: o.size_bytes for o in disk.list("") if "/pack/" in o.key}
    failures: list[ExclaveError] = []
    with cutting_proxy(port, cuts=CUTS, most_bytes=400_000, chance=chance) as cutter:
        rounds = 0
        while cutter.left > 0:  # one site after the other, until the line has broken often enough
            rounds += 1
            prefix = secrets.token_hex(8)
            url = seaweed.url(prefix).replace(f":{port}", f":{cutter.port}").replace(f"%3A{port}", f"%3A{cutter.port}")
            line = open_site(url, keys, Patience(QUICK, small_timeout_s=5, large_timeout_s=10))
            while True:
                try:
                    view = read_state({DISK: disk, Label("lux"): line}, state)
                    if all(d.published for d in take_over(view, disk, Label("lux"), line, now=now())):
                        break
                except ExclaveError as error:
                    failures.append(error)
                    assert len(failures) < 20 * CUTS
            real = open_site(seaweed.url(prefix, credentials=seaweed.credentials_file(tmp_path)))
            assert {o.key: o.size_bytes for o in real.list("") if "/pack/" in o.key} == wanted
            for key in wanted:
                assert sha256(real.get(key)).hex() == key.rpartition("/")[2]
    assert all(error.retryable or error.code == "outcome-unknown" for error in failures), failures
    # A cut loses at most the object that was on its way on that connection; the rest is small requests.
    total = rounds * sum(wanted.values())
    assert total <= cutter.sent <= total + CUTS * max(wanted.values()) + rounds * 500_000

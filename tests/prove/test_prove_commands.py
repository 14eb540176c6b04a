"""``exclave prove`` and ``verify --proof``: at home, by warrant, of files, SQLite and PostgreSQL."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from exclave.formats.leaf import parse_version_leaf
from exclave.formats.proof import parse_proof
from exclave.operations.home import Home
from support.json_shape import has, shape
from support.postgres import running_server
from support.small_home import Register, SmallHome, run

TOLD = (
    "charter charter_issued cosigners cut_off epoch name record register signed state state_name time title version"
    " witnesses_needed writer"
)
"""Keys of the JSON about a proof."""


@dataclass
class Recorded(Register):
    """A register of which each record can be proven."""

    def block(self) -> str:
        return super().block().replace("rto_s = 900", "rto_s = 900\nrecords = true", 1)


def write_parcels(path: Path) -> None:
    with closing(sqlite3.connect(path)) as made:
        made.execute("CREATE TABLE parcel (number INTEGER PRIMARY KEY, owner TEXT)")
        made.executemany("INSERT INTO parcel VALUES (?, ?)", [(4700 + n, f"owner {n}") for n in range(40)])
        made.execute("UPDATE parcel SET owner = 'Maria' WHERE number = 4711")
        made.commit()


@pytest.fixture
def town(tmp_path: Path) -> SmallHome:
    """A register of deeds (files) and parcels (SQLite), sealed, one version."""
    deeds = tmp_path / "deeds" / "2026"
    deeds.mkdir(parents=True)
    for n in range(20):
        (deeds / f"deed-{n}.txt").write_text(f"Deed {n}: Maria sells to Luc.\n")
    (deeds / "link").symlink_to("deed-1.txt")
    write_parcels(tmp_path / "parcels.db")
    land = Recorded(
        "land",
        [
            ("deeds", "files", {"path": str(deeds.parent)}),
            ("parcels", "sqlite", {"path": str(tmp_path / "parcels.db")}),
        ],
    )
    made = SmallHome(tmp_path, [land]).found()
    made.backup()
    return made


def prove(town: SmallHome, record: str, *more: str, code: int = 0) -> Path:
    out = town.root / f"{len(list(town.root.glob('*.proof')))}.proof"
    town.fails(code, "prove", "land", record, "--out", str(out), *more)
    return out


def pinned(town: SmallHome) -> list[str]:
    return ["--fingerprint", town.fingerprint]


def test_at_home(town: SmallHome) -> None:
    """A document is proven without any site; another document or fingerprint is refused by its code."""
    proof = town.root / "deed.proof"
    made = town.ok("prove", "land", "2026/deed-7.txt", "--dataset", "deeds", "--out", str(proof), *town.home)
    assert has(f"bytes path {TOLD}", made), shape(made)
    document = town.root / "deeds" / "2026" / "deed-7.txt"
    shutil.rmtree(town.root / "sites")  # nobody is asked
    said = town.ok("verify", "--proof", str(proof), str(document), *pinned(town))
    assert has(f"document_checked ok {TOLD}", said), shape(said)
    assert said["document_checked"]
    assert (said["name"], said["version"], said["title"]) == ("land", 1, None)
    assert said["record"]["document"] == "2026/deed-7.txt"
    other = document.with_name("deed-8.txt")
    assert town.fails(21, "verify", "--proof", str(proof), str(other), *pinned(town))["error"] == "corrupt-object"
    town.fails(25, "verify", "--proof", str(proof), "--fingerprint", "0" * 64)
    town.fails(23, "verify", "--proof", str(proof), "--least-charter", "2", *pinned(town))
    proof.write_bytes(proof.read_bytes().replace(b"deed-7", b"deed-8"))
    assert run("verify", "--proof", str(proof), *pinned(town)).code == 4


def test_said_to_a_citizen(town: SmallHome) -> None:
    """One sentence says what stood where and when, and who vouches for it."""
    proof = prove(town, "parcel:number=4711", "--dataset", "parcels", *town.home)
    said = run("verify", "--proof", str(proof), *pinned(town))
    assert said.code == 0
    assert said.out.startswith(
        "PROVEN: a row of table parcel of parcels stood in the register land of Republic of Small Home at "
    )
    assert "no witness" in said.out
    assert "Maria" in said.out
    record = parse_proof(proof.read_bytes()).opening.record
    assert record.endswith(b"\x92\xcd\x12\x67\xa5Maria")


def test_a_proof_comes_without_the_fingerprint(town: SmallHome) -> None:
    """Whoever takes both from the same hand checks nothing: what is to be copied has a place for it."""
    said = run(
        "prove", "land", "2026/deed-1.txt", "--dataset", "deeds", "--out", str(town.root / "a.proof"), *town.home
    )
    assert said.code == 0
    assert town.fingerprint not in said.out
    assert "--fingerprint FINGERPRINT" in said.out


def test_what_is_refused_at_home(town: SmallHome) -> None:
    """No such document, a link, a row that is several, a file that is there, a dataset left open: said what to do."""
    here = town.home
    prove(town, "2026/deed-99.txt", "--dataset", "deeds", *here, code=22)
    prove(town, "2026/link", "--dataset", "deeds", *here, code=22)
    prove(town, "2026", "--dataset", "deeds", *here, code=22)
    prove(town, "2026/deed-1.txt", *here, code=2)
    prove(town, "parcel:owner=nobody", "--dataset", "parcels", *here, code=22)
    prove(town, "nonsense", "--dataset", "parcels", *here, code=2)
    prove(town, "x", "--dataset", "other", *here, code=2)
    prove(town, "2026/deed-1.txt", "--dataset", "deeds", "--version", "9", *here, code=2)
    good = prove(town, "2026/deed-1.txt", "--dataset", "deeds", *here)
    town.fails(2, "prove", "land", "2026/deed-2.txt", "--dataset", "deeds", "--out", str(good), *here)
    with closing(sqlite3.connect(town.root / "parcels.db")) as made:
        made.execute("UPDATE parcel SET owner = 'Maria'")
        made.commit()
    prove(town, "parcel:number=4711", "--dataset", "parcels", *here, code=22)
    shutil.rmtree(Home.open(town.folder).cache(town.id_of()))  # type: ignore[arg-type]
    prove(town, "2026/deed-1.txt", "--dataset", "deeds", *here, code=2)


def test_what_did_not_change_is_taken_over(town: SmallHome) -> None:
    """After a change of one document, all are proven in the new version; the old one's only by warrant, as it was."""
    changed = town.root / "deeds" / "2026" / "deed-3.txt"
    former = changed.read_bytes()
    changed.write_text("Deed 3: void.\n")
    town.backup()
    for name in ("deed-3.txt", "deed-4.txt"):
        proof = prove(town, f"2026/{name}", "--dataset", "deeds", *town.home)
        assert town.ok("verify", "--proof", str(proof), str(changed.with_name(name)), *pinned(town))["version"] == 2
    prove(town, "2026/deed-3.txt", "--dataset", "deeds", "--version", "1", *town.home, code=22)
    opened = [*town.where(), *town.granted("restore")]
    proof = prove(town, "2026/deed-3.txt", "--dataset", "deeds", "--version", "1", *opened)
    changed.write_bytes(former)
    assert town.ok("verify", "--proof", str(proof), str(changed), *pinned(town))["version"] == 1
    prove(town, "parcel:number=4711", "--dataset", "parcels", *opened, code=2)
    copy = ["--copy", str(town.root / "parcels.db")]
    proof = prove(town, "parcel:number=4711", "--dataset", "parcels", *copy, *opened)
    assert town.ok("verify", "--proof", str(proof), *pinned(town))["record"]["row"][1] == ["owner", "TEXT", "Maria"]


def test_switched_on_later(tmp_path: Path) -> None:
    """A register that had none gets records with the next backup, and no file is read for it; and loses them again."""
    acts = tmp_path / "acts"
    acts.mkdir()
    for n in range(300):
        (acts / f"act-{n}").write_text(f"Act {n}\n")
    register = Register("land", [("acts", "files", {"path": str(acts)})])
    town = SmallHome(tmp_path, [register]).found()
    town.backup()
    prove(town, "act-1", *town.home, code=2)
    town.registers = [Recorded("land", register.datasets)]
    town.write_config()
    (receipt,) = town.backup()
    assert receipt["reused_files"] >= 290  # some were too young to be trusted
    town.ok("verify", "--proof", str(prove(town, "act-299", *town.home)), str(acts / "act-299"), *pinned(town))
    (receipt,) = town.backup()
    town.ok("verify", "--proof", str(prove(town, "act-0", *town.home)), str(acts / "act-0"), *pinned(town))
    town.registers = [register]
    town.write_config()
    town.backup()
    prove(town, "act-1", *town.home, code=2)
    town.verify()


def test_an_embassy_goes_on_proving(town: SmallHome, tmp_path: Path) -> None:
    """After a failover the sealed register's records are still records: nobody has to say so anew, or knows he must."""
    folder = tmp_path / "embassy"
    town.ok("failover", "run", *town.where(), *town.granted("failover"), "--dir", str(folder))
    assert "records = true" in (folder / "exclave.toml").read_text()
    (folder / "registers/land/deeds/deed-new.txt").write_text("Written in exile.\n")
    town.ok("backup", "--home", str(folder))
    proof = prove(town, "deed-new.txt", "--dataset", "deeds", "--home", str(folder))
    assert town.ok("verify", "--proof", str(proof), *pinned(town))["epoch"] == 2


def test_public_registers_have_records(tmp_path: Path) -> None:
    """Unless the configuration says otherwise; their proofs bear the public title."""
    register = Register("gazette", [("acts", "files", {"path": str(tmp_path / "acts")})])
    (tmp_path / "acts").mkdir()
    (tmp_path / "acts" / "act-1").write_text("Act 1\n")
    town = SmallHome(tmp_path, [register])
    plain = town.config()
    town.config = lambda: plain.replace("rto_s = 900", 'rto_s = 900\npublic = true\ntitle = "Law Gazette"')  # type: ignore[method-assign]
    town.found()
    town.backup()
    out = tmp_path / "a.proof"
    made = town.ok("prove", "gazette", "act-1", "--out", str(out), *town.home)
    assert made["title"] == "Law Gazette"
    assert parse_version_leaf(parse_proof(out.read_bytes()).entry).records is not None


def test_postgres(tmp_path: Path) -> None:
    """Rows of a server at rest are proven; where somebody wrote meanwhile they are left out, and it is said."""
    with running_server(15) as server:
        source = server.source()
        server.run(
            "CREATE TABLE deed (id int PRIMARY KEY, owner text)",
            "INSERT INTO deed SELECT n, E'owner\\t' || n FROM generate_series(1, 500) n",
        )
        options = {"host": source.host, "port": source.port, "user": source.user, "dbname": source.dbname}
        town = SmallHome(tmp_path, [Recorded("land", [("db", "postgres", options)])]).found()
        (receipt,) = town.backup()
        assert receipt["datasets"][0]["digest_exact"]
        proof = prove(town, "public.deed:id=17", *town.home)
        shown = town.ok("verify", "--proof", str(proof), *pinned(town))["record"]
        assert shown["row"] == [["id", "integer", "17"], ["owner", "text", "owner\t17"]]
        copy = f"host={source.host},port={source.port},user={source.user},dbname={source.dbname}"
        prove(town, "deed:id=18", "--copy", copy, *town.home)
        with server.connect() as busy, busy.transaction():
            busy.execute("INSERT INTO deed VALUES (501, 'not committed')")
            (receipt,) = town.backup()
        assert "records_left_out" in receipt["datasets"][0]["facts"]
        prove(town, "public.deed:id=17", *town.home, code=2)

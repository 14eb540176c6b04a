"""The verifier's wheel: nothing else of Exclave in it, and it checks an embassy and a proof alone."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import tomllib
import zipfile
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import cryptography
import msgspec
import pytest

from exclave.formats.proof import parse_proof
from exclave.ids import sha256
from exclave.rules.records import commitment
from support.small_home import Register, SmallHome, run

ROOT = Path(__file__).resolve().parents[2]
VERIFIER = ROOT / "packaging" / "verifier"
PARTS = {"__init__.py", "durable.py", "crypto", "errors.py", "formats", "ids.py", "rules", "sites", "verify"}


@dataclass(frozen=True, slots=True)
class Auditor:
    """A machine with nothing but the verifier."""

    program: Path
    wheel: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Of the environment nothing: what the tests' own Python finds, this one must not.
        return subprocess.run(
            [str(self.program), *arguments], env={"LANG": "C.UTF-8"}, capture_output=True, text=True, check=False
        )


@dataclass
class Recorded(Register):
    """A register of which each document can be proven."""

    def block(self) -> str:
        return super().block().replace("rto_s = 900", "rto_s = 900\nrecords = true", 1)


class Hasty(Register):
    """May be a second old."""

    def block(self) -> str:
        return super().block().replace("rpo_s = 3600", "rpo_s = 1", 1)


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Auditor:
    """The wheel, built and installed without network into an environment that has its dependencies and no Exclave."""
    folder = tmp_path_factory.mktemp("auditor")
    build = [sys.executable, str(ROOT / "tools" / "build_verifier.py"), str(folder)]
    wheel = Path(subprocess.run(build, check=True, capture_output=True, text=True).stdout.strip())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)],
        check=True,
    )
    others = folder / "others"
    others.mkdir()
    for entry in Path(cryptography.__file__).parents[1].iterdir():
        if "exclave" not in entry.name:
            (others / entry.name).symlink_to(entry)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{others}\n")
    return Auditor(folder / "env" / "bin" / "exclave-verify", wheel)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> SmallHome:
    """One register at three folders, one version, and a proof of one of its documents."""
    folder = tmp_path_factory.mktemp("town")
    deeds = folder / "deeds"
    deeds.mkdir()
    (deeds / "deed-1.txt").write_text("Deed 1: Maria sells to Luc.\n")
    made = SmallHome(folder, [Recorded("land", [("deeds", "files", {"path": str(deeds)})])]).found()
    made.backup()
    made.ok("prove", "land", "deed-1.txt", "--dataset", "deeds", "--home", str(made.folder), "--out", proof(made))
    return made


def proof(town: SmallHome) -> str:
    return str(town.root / "deed.tlog-proof")


def sites(town: SmallHome) -> list[str]:
    return [f"{name}={url}" for name, url in town.urls.items()]


def everything(town: SmallHome) -> dict[str, tuple[int, int]]:
    """Each file at the sites: length and time of its last change."""
    files = [p for p in (town.root / "sites").rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def test_the_wheel_holds_nothing_else(auditor: Auditor) -> None:
    """Only the parts that a check needs, and of those no more than it imports."""
    names = [n for n in zipfile.ZipFile(auditor.wheel).namelist() if not n.startswith("exclave_verify-")]
    assert {name.split("/")[1] for name in names} == PARTS
    assert {name.split("/")[0] for name in names} == {"exclave"}
    assert "exclave/verify/embassy.py" in names
    for unneeded in ("formats/manifest.py", "crypto/passphrase.py", "sites/erasing.py", "sites/recording.py"):
        assert f"exclave/{unneeded}" not in names


def test_its_dependencies_are_declared() -> None:
    """What its modules import from elsewhere is what its page of metadata asks for."""
    closure = load_closure()
    declared = tomllib.loads((VERIFIER / "pyproject.toml").read_text())["project"]
    asked = {re.split(r"[<>=\[]", line)[0] for line in declared["dependencies"]}
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(declared["dependencies"]) <= set(whole)
    used: set[str] = set()
    known = packages_distributions()
    for path in closure.find_modules().values():
        tops = {name.split(".")[0] for name in closure._imported(path)} - sys.stdlib_module_names - {"exclave"}
        used |= {known[top][0] for top in tops}
    assert used - {"pyeclib"} == asked


def load_closure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verifier_closure", VERIFIER / "closure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_another_part_of_exclave_breaks_the_build() -> None:
    """Whoever makes the verifier import code that writes versions is told at once."""
    with pytest.raises(ValueError, match=r"exclave\.operations"):
        load_closure().find_modules("exclave.operations.backup")


def test_it_has_no_exclave(auditor: Auditor) -> None:
    """The commands that write, and the keys, cannot even be imported there."""
    for part in ("cli", "operations", "ledger", "vault", "keys"):
        done = subprocess.run(
            [auditor.program.parent / "python", "-c", f"import exclave.{part}"],
            env={},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1, part
        assert b"ModuleNotFoundError" in done.stderr


def test_an_embassy(auditor: Auditor, town: SmallHome) -> None:
    """The fingerprint and the sites' addresses are enough; nothing at the sites is changed."""
    before = everything(town)
    done = auditor.run("--fingerprint", town.fingerprint, *sites(town))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every signature, history and byte that was read is right." in done.stdout
    assert everything(town) == before
    told = auditor.run("--fingerprint", town.fingerprint, "--json", *sites(town))
    assert json.loads(told.stdout)["ok"] is True


def test_a_part_of_an_embassy(auditor: Auditor, town: SmallHome) -> None:
    """A site that cannot be read is no fault, and not nothing: exit code 1."""
    done = auditor.run("--fingerprint", town.fingerprint, *sites(town)[:2], f"nord=dir:{town.root}/nowhere")
    assert done.returncode == 1, done.stdout
    assert "NOT looked at, or not wholly: nord." in done.stdout


def test_a_flipped_byte(auditor: Auditor, town: SmallHome) -> None:
    """One byte of one pack at one site: that pack at that site, exit code 20."""
    pack = next(p for p in town.site("lux").rglob("pack/**/*") if p.is_file())
    good = pack.read_bytes()
    mode = pack.stat().st_mode
    pack.chmod(0o644)
    pack.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        done = auditor.run("--fingerprint", town.fingerprint, *sites(town))
    finally:
        pack.write_bytes(good)
        pack.chmod(mode)
    assert done.returncode == 20
    (fault,) = [line for line in done.stdout.splitlines() if line.startswith("FAULT")]
    assert fault.startswith("FAULT lux: corrupt-object: ")
    assert pack.name in fault


def test_another_state(auditor: Auditor, town: SmallHome) -> None:
    """Sites of a state that was not asked for: nothing is said about them but that."""
    done = auditor.run("--fingerprint", "0" * 64, *sites(town))
    assert done.returncode not in (0, 1)
    assert "There are faults" in done.stdout


def test_a_proof(auditor: Auditor, town: SmallHome) -> None:
    """One document, with nothing but the fingerprint; another document or state and a changed proof are refused."""
    document = town.root / "deeds" / "deed-1.txt"
    done = auditor.run("--fingerprint", town.fingerprint, "--proof", proof(town), str(document))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PROVEN: the document 'deed-1.txt' of deeds")
    assert "is that very document" in done.stdout
    other = town.root / "other.txt"
    other.write_text("Deed 1: Marla sells to Luc.\n")
    assert auditor.run("--fingerprint", town.fingerprint, "--proof", proof(town), str(other)).returncode == 21
    assert auditor.run("--fingerprint", "0" * 64, "--proof", proof(town)).returncode == 25
    late = auditor.run("--fingerprint", town.fingerprint, "--proof", proof(town), "--least-charter", "2")
    assert late.returncode == 23
    data = bytearray(Path(proof(town)).read_bytes())
    data[len(data) * 2 // 3] ^= 1
    changed = town.root / "changed"
    changed.write_bytes(data)
    refused = auditor.run("--fingerprint", town.fingerprint, "--proof", str(changed))
    assert refused.returncode not in (0, 1)
    assert "Traceback" not in refused.stderr


def test_a_call_that_is_wrong(auditor: Auditor, town: SmallHome) -> None:
    """No site, no such scheme, two of a name, no fingerprint, no such file: exit code 2 or 3, and what to do."""
    pinned = ("--fingerprint", town.fingerprint)
    (_, url), *_ = town.urls.items()
    for wrong in (pinned, (*pinned, "ftp://x"), (*pinned, f"a={url}", f"a={url}"), ("--fingerprint", "3f9a"), (url,),
                  (*pinned, "--proof", "/nowhere")):  # fmt: skip
        done = auditor.run(*wrong)
        assert done.returncode in (2, 3), wrong
        assert "Traceback" not in done.stderr


def test_what_readers_saw(auditor: Auditor, town: SmallHome, tmp_path: Path) -> None:
    """It keeps what it saw, finds a rollback by that, and by another reader's file that both saw one history."""
    first, second = tmp_path / "first.seen", tmp_path / "second.seen"
    pinned = ("--fingerprint", town.fingerprint, "--quick")
    old = tmp_path / "old"
    shutil.copytree(town.site("lux"), old)
    (town.root / "deeds" / "deed-2.txt").write_text("Deed 2: Luc sells to Maria.\n")
    town.backup()
    seen = auditor.run(*pinned, "--remember", str(first), *sites(town))
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert f"What was seen stands in {first}." in seen.stdout
    both = auditor.run(*pinned, "--remember", str(second), "--compare", str(first), *sites(town))
    assert both.returncode == 0
    assert "Both were shown one history." in both.stdout
    back = auditor.run(*pinned, "--json", "--remember", str(first), f"lux=dir:{old}")
    assert back.returncode == 23
    assert "rolled-back" in {one["verdict"] for one in json.loads(back.stdout)["compared"]}
    assert first.read_bytes() != b""
    assert run("verify", "--quick", "--compare", str(first), *town.where()).code == 0, "one form for both programs"
    other = auditor.run("--fingerprint", "0" * 64, "--compare", str(first), *sites(town))
    assert other.returncode == 2
    assert "another state" in other.stderr
    assert auditor.run(*pinned, "--compare", str(town.root / "deeds"), *sites(town)).returncode == 2


def test_an_old_copy(auditor: Auditor, tmp_path: Path) -> None:
    """A copy that is older than its charter allows ends with exit code 1, unless less was asked for."""
    acts = tmp_path / "acts"
    acts.mkdir()
    (acts / "act").write_text("Act")
    made = SmallHome(tmp_path, [Hasty("gazette", [("acts", "files", {"path": str(acts)})])]).found()
    made.backup()
    pinned = ("--fingerprint", made.fingerprint, "--json")
    while not json.loads((told := auditor.run(*pinned, *sites(made))).stdout)["old"]:
        time.sleep(0.2)
    assert (told.returncode, json.loads(told.stdout)["ok"]) == (1, False)
    for asked, code in {"any": 0, "2020-01-01": 0, "2020-01-01T12:00:00Z": 0, "2999-01-01": 1, "soon": 2}.items():
        assert auditor.run(*pinned, "--at-least", asked, *sites(made)).returncode == code, asked
        assert run("verify", "--at-least", asked, *made.where()).code == code, asked
    assert "is OLD" in run("verify", *made.where()).out
    assert "is OLD" not in run("verify", "--at-least", "any", *made.where()).out


class Registers(Register):
    """``public``: the charter calls it public. Each record can be proven."""

    public = False

    def block(self) -> str:
        more = 'records = true\npublic = true\ntitle = "Official Gazette"' if self.public else "records = true"
        return super().block().replace("rto_s = 900", f"rto_s = 900\n{more}", 1)


def test_a_public_act_and_a_row_of_a_sealed_register(auditor: Auditor, tmp_path: Path) -> None:
    """With the verifier and the fingerprint alone, on a machine where nothing else of the state is; of the sealed
    register the file shows that row, and neither another one nor a hash of one."""
    acts, database = tmp_path / "acts", tmp_path / "people.db"
    acts.mkdir()
    for number in range(3):
        (acts / f"act-{number}.txt").write_text(f"Act {number}: everybody may read this.\n")
    people = [(number, f"Person {number}", "owes" if number % 2 else "owes nothing") for number in range(20)]
    with closing(sqlite3.connect(database)) as made:
        made.execute("CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT, debt TEXT)")
        made.executemany("INSERT INTO person VALUES (?, ?, ?)", people)
        made.commit()
    gazette = Registers("gazette", [("acts", "files", {"path": str(acts)})])
    gazette.public = True
    sealed = Registers("people", [("people", "sqlite", {"path": str(database)})])
    home = SmallHome(tmp_path, [gazette, sealed]).found()
    home.backup()
    machine = tmp_path / "machine"
    machine.mkdir()
    act, row = machine / "act.tlog-proof", machine / "row.tlog-proof"
    home.ok("prove", "gazette", "act-1.txt", "--dataset", "acts", "--home", str(home.folder), "--out", str(act))
    home.ok("prove", "people", "person:id=7", "--dataset", "people", "--home", str(home.folder), "--out", str(row))
    shutil.copy(acts / "act-1.txt", machine)
    for folder in ("home", "sites", "acts"):
        (tmp_path / folder).rename(tmp_path / f"{folder}-gone")
    pinned = ("--fingerprint", home.fingerprint, "--proof")
    said = auditor.run(*pinned, str(act), str(machine / "act-1.txt"))
    assert said.returncode == 0, said.stderr
    assert "Official Gazette of Republic of Small Home" in said.stdout
    said = auditor.run(*pinned, str(row))
    assert said.returncode == 0, said.stderr
    assert "'name' (TEXT): 'Person 7'" in said.stdout
    data = row.read_bytes()
    opening = parse_proof(data).opening
    mine = msgspec.msgpack.encode(people[7])
    assert opening.record.endswith(mine)
    guesses = [opening.record.removesuffix(mine) + msgspec.msgpack.encode(other) for other in people if other[0] != 7]
    assert not {commitment(opening.salt, guess) for guess in guesses} & set(opening.path)
    assert not {sha256(guess) for guess in guesses} & set(opening.path)
    assert not [name for number, name, _ in people if number != 7 and name.encode() in data + opening.record]
    assert len(data) < 32_000

"""The last-resort reader as a person would run it: a process of its own, with nothing of the package in reach."""

from __future__ import annotations

import ast
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.formats.entry import Captured, Entry, Kind
from exclave.formats.fact import Fact
from exclave.formats.paths import charter_key, epoch_key
from exclave.formats.warrant import Act
from exclave.keys.file import KeyKind, create
from support.custody import actor, machine, signed
from support.small_state import SmallState

TOOL = Path(__file__).parents[2] / "tools" / "last_resort.py"
THREE = ("anna", "boris", "clara")
STANDARD = frozenset(sys.stdlib_module_names)


def run(*arguments: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """The tool in an empty environment, so that it cannot import the package."""
    command = [sys.executable, "-I", str(TOOL), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"LC_ALL": "C.UTF-8"}, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == (0 if ok else 1), done.stderr
    return done


def restore(
    state: SmallState, target: Path, *more: str | Path, people: tuple[str, ...] = THREE, ok: bool = True
) -> str:
    """Runs a restore with the key files of ``people``; what it said."""
    keys = [part for name in people for part in ("--key", key_file(state, name))]
    site = state.site_folder(next(iter(state.sites)))
    done = run("--site", site, "--state", state.state, "--target", target, *keys, *more, ok=ok)
    return done.stdout + done.stderr


def key_file(state: SmallState, name: str) -> Path:
    path = state.folder / f"{name}.key"
    return path if path.exists() else state.key_file(name)


def sample(folder: Path) -> Path:
    """A folder with every kind of thing that a restore must bring back."""
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "plain.txt").write_text("Grundbuch\n")
    (folder / "nothing").touch()
    (folder / "large").write_bytes(os.urandom(3_000_000))
    (folder / "repeated").write_bytes(bytes(range(256)) * 8192)
    with open(folder / "sparse", "wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
        file.truncate(9_000_000)
    for number in range(300):
        (folder / "deep" / f"{number:03d}").write_bytes(b"small %d" % number)
    os.symlink("../plain.txt", folder / "deep" / "link")
    os.symlink("/nowhere/at/all", folder / "dangling")
    os.link(folder / "large", folder / "deep" / "same-as-large")
    os.mkfifo(folder / "pipe", 0o620)
    Path(os.fsdecode(os.fsencode(folder) + b"/not-\xff-utf8")).write_bytes(b"name in bytes")
    os.setxattr(folder / "plain.txt", "user.comment", b"parcel 7")
    os.chmod(folder / "nothing", 0o4751)
    os.chmod(folder / "deep" / "deeper", 0o500)
    os.chmod(folder / "empty", 0o1777)
    for number, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number), follow_symlinks=False)
    os.utime(folder, ns=(0, 1_500_000_000_000_000_001))
    return folder


def facts(root: Path) -> Iterator[tuple[object, ...]]:
    """Everything that must come back, one tuple for each path."""
    inodes: dict[int, str] = {}
    for path in sorted([root, *root.rglob("*")]):
        info, name = path.lstat(), str(path.relative_to(root))
        first = inodes.setdefault(info.st_ino, name)
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        names = os.listxattr(path, follow_symlinks=False)
        xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in names}
        yield name, info.st_mode, info.st_mtime_ns, info.st_uid, info.st_gid, first, content, xattrs


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample(tmp_path_factory.mktemp("source") / "register")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, source: Path) -> SmallState:
    """A state that no test changes: version 1 in epoch 1, version 2 in epoch 2, with a fact between them."""
    state = SmallState(tmp_path_factory.mktemp("kept"), sites=("home", "luxembourg"), register_name="Land register")
    state.write_version(source)
    state.append(Fact(state.register, state.epoch.note.epoch, state.time, "note", None, ("nothing special",)).encode())
    state.new_epoch()
    other = tmp_path_factory.mktemp("second")
    (other / "later").write_text("written in epoch 2")
    (other / "large").write_bytes((source / "large").read_bytes())
    state.write_version(other)
    return state


@pytest.fixture
def small(tmp_path: Path) -> SmallState:
    """A state with one version of one file, for tests that break something."""
    state = SmallState(tmp_path / "state")
    folder = tmp_path / "register"
    folder.mkdir()
    (folder / "entry").write_bytes(os.urandom(20_000))
    state.write_version(folder)
    return state


def test_everything_comes_back_bit_for_bit(kept: SmallState, source: Path, tmp_path: Path) -> None:
    """Content, names, modes, times, links, holes and attributes of a version of a former epoch are as they were."""
    said = restore(kept, tmp_path / "out", "--version", "1")
    assert list(facts(tmp_path / "out" / "docs")) == list(facts(source))
    assert (tmp_path / "out" / "docs" / "sparse").stat().st_blocks * 512 < 1_000_000
    assert "restored docs (files) of land register" in said
    entries = len(list(source.rglob("*"))) + 1
    verdict = f"DONE: {entries} of {entries} entries restored whole; every pack read has the SHA-256 signed for\n"
    assert verdict in said
    assert "from: a test" not in said
    told = restore(kept, tmp_path / "again", "--version", "1", "--facts")
    assert "  from: a test\n" in told


def test_tall_trees_and_long_ledgers(tmp_path: Path) -> None:
    """Branches, extent nodes of a file of thousands of pieces, and a ledger of more than one bundle are followed."""
    state, source = SmallState(tmp_path / "state"), tmp_path / "register"
    source.mkdir()
    for number in range(2500):
        (source / f"{number:05d}").write_bytes(b"%d" % number)
    with open(source / "pieces", "wb") as file:
        for number in range(2200):
            file.seek(number * 8192)
            file.write(os.urandom(4))
    for _ in range(5):
        fact = Fact(state.register, state.epoch.note.epoch, state.time, "note", None, ("again",)).encode()
        state.append(*[fact] * 120)
    state.write_version(source)
    state.append(fact)
    restore(state, tmp_path / "out")
    assert list(facts(tmp_path / "out" / "docs")) == list(facts(source))


def test_newest_version_of_newest_epoch(kept: SmallState, tmp_path: Path) -> None:
    """Without --version the newest one comes, although its chunks lie in packs of both epochs; any three will do."""
    restore(kept, tmp_path / "out", people=("emil", "boris", "dora"))
    assert (tmp_path / "out" / "docs" / "later").read_text() == "written in epoch 2"
    assert (tmp_path / "out" / "docs" / "large").stat().st_size == 3_000_000


def test_list(kept: SmallState) -> None:
    """--list needs no keys and names register, epochs with their custodians, and versions."""
    for site in kept.sites:
        lines = run("--site", kept.site_folder(site), "--state", kept.state, "--list").stdout.splitlines()
        assert lines == [
            f"register {kept.register} public Land register",
            "  epoch 1: any 3 of anna, boris, clara, dora, emil",
            "  epoch 2: any 3 of anna, boris, clara, dora, emil",
            "  version 1 of 2026-09-21T15:13:20.000000Z, epoch 1",
            "  version 2 of 2026-09-21T16:13:20.000000Z, epoch 2",
        ]


def test_too_few_custodians(kept: SmallState, tmp_path: Path) -> None:
    """Two of three custodians open nothing, and nothing is written."""
    said = restore(kept, tmp_path / "out", people=("anna", "boris"), ok=False)
    assert "FAILED: 2 of the 3 shares that open epoch 2" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_key_is_named_and_others_suffice(kept: SmallState, tmp_path: Path) -> None:
    """A key that is not clara's is named; with three good ones beside it, the restore goes on without it."""
    false = tmp_path / "clara.key"
    create(str(false), KeyKind.CUSTODIAN, actor("clara").name, seed=bytes(32))
    said = restore(kept, tmp_path / "a", "--key", false, people=("anna", "boris"), ok=False)
    assert "BAD SHARE of clara in epoch 2: his key does not open it" in said
    restore(kept, tmp_path / "b", "--key", false, people=("anna", "boris", "dora"))
    assert (tmp_path / "b" / "docs" / "later").exists()


def test_shares_in_hex(kept: SmallState, tmp_path: Path) -> None:
    """Shares can be given as digits; a wrong one is named by its custodian."""
    epoch = kept.epoch
    digits = []
    for line in epoch.note.shares[:3]:
        info = f"exclave/share/v1\n{kept.register}\n2\n{line.index}\n{line.custodian}\n".encode()
        digits.append(f"{line.custodian}={actor(line.custodian).opening.open(epoch.boxes[line.custodian], info).hex()}")
    given = [part for item in digits for part in ("--share", item)]
    restore(kept, tmp_path / "a", *given, people=())
    given[-1] = "clara=" + "00" * 32
    said = restore(kept, tmp_path / "b", *given, people=(), ok=False)
    assert "BAD SHARE of clara in epoch 2: it is not the one that was committed to" in said
    given[-1] = "clara=12zz"
    assert "FAILED" in restore(kept, tmp_path / "c", *given, people=(), ok=False)


def test_passphrase(kept: SmallState, tmp_path: Path) -> None:
    """A key file under a passphrase opens with it, typed at the terminal, and with no other."""
    sealed = kept.key_file("anna", passphrase="correct horse", folder=tmp_path)
    keys = ["--key", str(sealed), *(p for n in ("boris", "clara") for p in ("--key", str(key_file(kept, n))))]
    for typed, status, text in ((b"correct horse\n", 0, b"restored docs"), (b"wrong\n", 1, b"a wrong passphrase")):
        command = [sys.executable, "-I", str(TOOL), "--site", str(kept.site_folder("home")), "--state", kept.state]
        code, said = at_terminal([*command, *keys, "--target", str(tmp_path / f"out{status}")], typed)
        assert code == status
        assert text in said


def at_terminal(command: list[str], typed: bytes) -> tuple[int, bytes]:
    """Runs ``command`` at a terminal of its own and types when asked for a passphrase."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    said, answered = b"", False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other side was closed
            break
        if not data:
            break
        said += data
        if b"Passphrase of" in said and not answered:
            os.write(terminal, typed)
            answered = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.mark.parametrize("part", ["pack/", "ledger/", "epoch/", "box/"])
def test_flipped_byte_is_found(small: SmallState, tmp_path: Path, part: str) -> None:
    """One flipped byte in any object that a restore needs is found and told."""
    for number, path in enumerate(small.paths(part)):
        if "stage" in path.parts or "tile/0" in str(path):
            continue  # only writers and provers read these
        whole = path.read_bytes()
        path.write_bytes(whole[:70] + bytes([whole[70] ^ 1]) + whole[71:])
        said = restore(small, tmp_path / f"out{number}", people=("anna", "boris", "clara", "dora"), ok=part == "box/")
        words = {"pack/": "DAMAGED", "ledger/": "ledger of epoch 1", "epoch/": "not at this site", "box/": ""}
        assert words[part] in said
        path.write_bytes(whole)
    assert number >= 0


def test_damaged_box_is_named(small: SmallState, tmp_path: Path) -> None:
    """A share box that was changed is of no use, and its custodian is named."""
    for path in small.paths("box/"):
        path.write_bytes(bytes(1168))
    assert "BAD SHARE of anna" in restore(small, tmp_path / "out", ok=False)


def hostile(*entries: Entry) -> Iterator[Captured]:
    """A capture as a malicious writer might make it up."""
    yield Captured(Entry(b"", Kind.FOLDER, 0o755, 0, 0, 0))
    for entry in entries:
        yield Captured(entry)


def fifo(path: bytes) -> Entry:
    return Entry(path, Kind.FIFO, 0o600, 0, 0, 0)


@pytest.mark.parametrize(
    "entries",
    [
        [fifo(b"../evil")],
        [fifo(b"/evil")],
        [fifo(b"a/../../evil")],
        [fifo(b"missing/evil")],
        [Entry(b"a", Kind.SYMLINK, 0o777, 0, 0, 0, 0, b".."), fifo(b"a/evil")],
        [Entry(b"a", Kind.SYMLINK, 0o777, 0, 0, 0, 0, b".."), Entry(b"b", Kind.HARDLINK, 0, 0, 0, 0, 0, b"a/bait")],
        [Entry(b"b", Kind.HARDLINK, 0, 0, 0, 0, 0, b"../bait")],
    ],
)
def test_hostile_paths_are_refused(tmp_path: Path, entries: list[Entry]) -> None:
    """No path or link of a manifest leads out of the target."""
    state = SmallState(tmp_path / "state")
    state.write_version(hostile(*entries))
    (tmp_path / "bait").write_text("bait")
    assert "REFUSED" in restore(state, tmp_path / "out", ok=False)
    assert {p.name for p in tmp_path.iterdir()} == {"state", "out", "bait"}
    assert not any(p.name in ("evil", "b") for p in (tmp_path / "out").rglob("*"))


def test_what_could_not_be_made_is_counted(tmp_path: Path) -> None:
    """A link to nothing is told, and the last line says that not all entries are there."""
    state = SmallState(tmp_path / "state")
    state.write_version(hostile(fifo(b"a"), Entry(b"b", Kind.HARDLINK, 0, 0, 0, 0, 0, b"gone")))
    said = restore(state, tmp_path / "out")
    assert "not restored: b: " in said
    assert "DONE: 2 of 3 entries restored whole; " in said


def test_target_must_be_empty(kept: SmallState, tmp_path: Path) -> None:
    """Nothing is written beside what is there already."""
    (tmp_path / "mine").touch()
    assert "is not empty" in restore(kept, tmp_path, ok=False)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_clear_words(kept: SmallState, tmp_path: Path) -> None:
    """A wrong folder, fingerprint, register, version or key file is told in one sentence."""
    home = kept.site_folder("home")
    assert kept.state in run("--site", home, "--state", "0" * 64, "--list", ok=False).stderr
    assert "FAILED" in run("--site", tmp_path / "nothing", "--state", kept.state, "--list", ok=False).stderr
    assert kept.register in restore(kept, tmp_path / "out", "--register", "f" * 32, ok=False)
    assert "versions: 1, 2" in restore(kept, tmp_path / "out", "--version", "9", ok=False)
    (tmp_path / "no.key").write_text("hello")
    assert "is no key file" in restore(kept, tmp_path / "out2", "--key", tmp_path / "no.key", ok=False)


def test_planted_epoch_does_not_count(small: SmallState, tmp_path: Path) -> None:
    """An epoch that a host makes up, with shares that the custodians can open, is passed over."""
    entry = (tmp_path / "register" / "entry").read_bytes()
    planted = small.new_epoch(by=machine("thief"), signers=small.custodians[:2])
    (tmp_path / "register" / "entry").write_text("planted")
    small.write_version(tmp_path / "register")
    said = restore(small, tmp_path / "out")
    assert f"passed over: epoch note {planted.note.digest.hex()}" in said
    assert (tmp_path / "out" / "docs" / "entry").read_bytes() == entry


def test_rubbish_in_the_folders_stops_nothing(small: SmallState, tmp_path: Path) -> None:
    """Files that anybody could plant among charters, epoch notes and warrants are passed over."""
    root = small.site_folder("home")
    stranger = actor("stranger")
    texts = [
        "exclave/charter/v1\nnumber 2\nprevious " + small.charter.digest.hex() + "\n",
        f"exclave/epoch/v1\nregister {small.register}\nepoch 2\n",
        f"exclave/epoch/v1\nregister {small.register}\nepoch 2\nprevious {small.epoch.note.digest.hex()} 1 x\n",
        f"exclave/epoch/v1\nregister {small.register}\nepoch 1\n",
        "hello\n",
    ]
    for text in texts:
        data = signed(text, stranger).encode()
        for key in (charter_key(small.state, data), epoch_key(small.state, small.register, data)):
            small.primary.put_same(key, data)
    for folder in (root / small.state / "charter", root / small.state / small.register / "epoch"):
        (folder / ("0" * 64)).write_bytes(b"\xff\n\nnot a note")
        os.mkfifo(folder / ("1" * 64))
        os.symlink("/etc/passwd", folder / ("2" * 64))
    restore(small, tmp_path / "out")
    assert (tmp_path / "out" / "docs" / "entry").exists()


def test_charters_of_later_custodians(small: SmallState, tmp_path: Path) -> None:
    """After a new charter, an epoch counts by that charter's name, and later ones by warrants under it only."""
    small.new_epoch(Act.REKEY)
    small.next_charter()
    small.write_version(tmp_path / "register")
    small.new_epoch()
    small.write_version(tmp_path / "register")
    said = run("--site", small.site_folder("home"), "--state", small.state, "--list").stdout
    assert "version 3 of" in said
    assert "epoch 3: any" in said
    restore(small, tmp_path / "out")
    assert (tmp_path / "out" / "docs" / "entry").exists()


def test_cut_fences_what_came_later(small: SmallState, tmp_path: Path) -> None:
    """What a fenced writer appends behind the cut is no version."""
    first = small.epoch
    small.new_epoch()
    small.write_version(tmp_path / "register")
    late = small.epochs
    small.epochs = [first]
    small.sequence = 8
    small.write_version(tmp_path / "register")
    small.epochs = late
    said = run("--site", small.site_folder("home"), "--state", small.state, "--list").stdout
    assert [line.split()[1] for line in said.splitlines() if "version" in line] == ["1", "2"]


def test_forked_charters_stop_it(small: SmallState, tmp_path: Path) -> None:
    """Two charters with one number, both signed by the quorum, are for people to settle."""

    first = small.charter
    small.next_charter()
    small.charter = first
    small.next_charter(lambda charter: replace(charter, state_name="Other Land"))
    assert "ask the custodians" in restore(small, tmp_path / "out", ok=False)


def test_it_stays_one_short_file() -> None:
    """At most 500 lines, and nothing but the standard library, cryptography and zstandard is imported."""
    text = TOOL.read_text()
    assert len(text.splitlines()) <= 500
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").split(".")[0])
    assert names - STANDARD == {"cryptography", "zstandard"}

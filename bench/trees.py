"""Make the three trees that the benchmark saves, each in two states, into bench/work/trees.

    python bench/trees.py [source] [database] [large]

source    at least 50,000 small text files and at least 1 GB: the text files of this machine's /usr and Python, then
          variations of them (other numbers, other names, on about every third line) until both floors are met.
          Changed state: one file in a hundred is edited.
database  a PostgreSQL data directory of about 1 GB, made by initdb and pgbench -i, with the server stopped.
          Changed state: the same directory after pgbench transactions, stopped again.
large     six files of 256 MiB from AES-256-CTR over zeros: nothing in them compresses or repeats.
          Changed state: 8 MiB inserted inside one file, 8 MiB appended to another.

All choices come from SEED, so one machine makes the same `source` and `large` again (`source` follows what is
installed; `database` has the times and the identifier that initdb chose). A tree is made once and kept.

Layout of one tree: `NAME/tree` is what is saved; `NAME/original` and `NAME/changed` hold the two states of the paths
that differ; `NAME/tree.json` says what is there. `switch` rewrites those paths *in place*: inode and time of every
other file stay as they are, because all compared tools skip a file by looking at exactly these.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

WORK = Path(__file__).resolve().parent / "work"
TREES = WORK / "trees"
NAMES = ("source", "database", "large")
SEED = 20261123
RECIPE = 1  # raised when a tree is made in another way, so that cached trees of the old way are made again

MIB = 1 << 20
SOURCE_FILES = 52_000
SOURCE_BYTES = 1_060_000_000
SOURCE_ROOTS = ("/usr/lib/python3", "/usr/include", "/usr/share", "/usr/lib", "/usr/local/lib", sys.base_prefix)
# fmt: off
SOURCE_SUFFIXES = frozenset((
    "ac", "am", "awk", "bash", "c", "cc", "cfg", "cmake", "conf", "cpp", "css", "cxx", "el", "erl", "go", "h", "hh",
    "hpp", "htm", "html", "in", "inc", "ini", "ipynb", "java", "js", "json", "lua", "m4", "map", "md", "mjs", "mk",
    "ml", "patch", "php", "pl", "pm", "po", "pod", "proto", "py", "pyi", "pyx", "r", "rb", "rs", "rst", "scss", "sh",
    "sql", "tcl", "tex", "tmpl", "toml", "ts", "txt", "vim", "xml", "xsl", "yaml", "yml",
))
# fmt: on
SOURCE_SIZES = (64, 400_000)  # bytes; smaller files are empty stubs, larger ones are data
SOURCE_SMALL = (6_144, 0.2)  # of files below so many bytes this share is taken: the mean comes to about 18 kB
SOURCE_FOLDER_FILES = 4  # folders with fewer files are left out: they would make a tree of folders
DATABASE_SCALE = 62  # pgbench -s; one unit is about 15 MB with its index
DATABASE_TRANSACTIONS = 600  # each writes about two pages of 8 KiB: together about 1 % of the pages
LARGE_FILES = 6
LARGE_FILE_BYTES = 256 * MIB
LARGE_CHANGE_BYTES = 8 * MIB

WORD = re.compile(r"[A-Za-z_]{6,}|[0-9]{2,}")


class TreeImpossible(Exception):
    """This machine cannot make the tree; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree that is ready, in its original state unless `switch` was called."""

    name: str
    folder: Path  # holds tree/, original/, changed/ and tree.json

    @property
    def path(self) -> Path:
        """The folder that the tools save."""
        return self.folder / "tree"

    def facts(self) -> dict[str, int | str]:
        """Files, bytes, and the paths and bytes that differ in the changed state."""
        found: dict[str, int | str] = json.loads((self.folder / "tree.json").read_text())
        return found


def prepare(name: str) -> Tree:
    """The tree of that name in its original state, made now if it is not there. Raises TreeImpossible."""
    tree = Tree(name, TREES / name)
    try:
        whole = tree.facts().get("recipe") == RECIPE
    except FileNotFoundError:
        whole = False
    if not whole:
        shutil.rmtree(tree.folder, ignore_errors=True)
        tree.folder.mkdir(parents=True)
        MAKERS[name](tree)
        _write_facts(tree)  # last: a tree whose making was cut off is made again
    switch(tree, "original")
    return tree


def switch(tree: Tree, state: str) -> None:
    """Bring the tree to the state "original" or "changed", touching only the paths that differ.

    Safe to repeat: an interrupted switch is finished by the next one.
    """
    wanted, other = tree.folder / state, tree.folder / ("changed" if state == "original" else "original")
    for relative in sorted(_relative_files(other) - _relative_files(wanted)):
        (tree.path / relative).unlink(missing_ok=True)
    for relative in sorted(_relative_files(wanted)):
        source, target = wanted / relative, tree.path / relative
        if _same_file(source, target):
            continue
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, MIB)
        status = source.stat()
        target.chmod(stat.S_IMODE(status.st_mode))
        os.chown(target, status.st_uid, status.st_gid)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def read_once(tree: Tree) -> None:
    """Read every byte of the tree, so that it stands in the page cache."""
    for path in sorted(_files(tree.path)):
        with path.open("rb") as reader:
            while reader.read(MIB):
                pass


# source


def _make_source(tree: Tree) -> None:
    """Copy real text, add variations of it up to the floors, edit one file in a hundred."""
    choose = random.Random(SEED)
    folders = _source_folders(choose)
    originals = [path for names in folders for path in names]
    if len(originals) < 2_000:
        raise TreeImpossible(f"only {len(originals)} text files under {', '.join(SOURCE_ROOTS)}; 2,000 are needed")
    written: list[Path] = []
    total = 0
    for original in originals:
        if total >= SOURCE_BYTES and len(written) >= SOURCE_FILES:
            break
        path = tree.path / "original" / original.relative_to("/")
        total += _write_source(path, original.read_bytes(), choose)
        written.append(path)
    batch = 0
    while total < SOURCE_BYTES or len(written) < SOURCE_FILES:
        batch += 1
        # Whole folders are varied, so that a variation is as nested and as full as its original.
        for original in (path for names in choose.sample(folders, max(1, len(folders) // 4)) for path in names):
            if total >= SOURCE_BYTES and len(written) >= SOURCE_FILES:
                break
            path = tree.path / f"variation-{batch:02}" / original.relative_to("/")
            total += _write_source(path, _variation(original.read_bytes(), choose), choose)
            written.append(path)
    _set_folder_times(tree.path, choose)
    for path in choose.sample(sorted(written), len(written) // 100):
        relative = path.relative_to(tree.path)
        _copy(path, tree.folder / "original" / relative)
        changed = tree.folder / "changed" / relative
        _copy(path, changed)
        changed.write_bytes(_edited(path.read_bytes(), choose))


def _source_folders(choose: random.Random) -> list[list[Path]]:
    """The originals that are taken, folder by folder."""
    limit, share = SOURCE_SMALL
    folders: dict[Path, list[Path]] = {}
    for path in _source_originals():
        if path.stat().st_size >= limit or choose.random() < share:
            folders.setdefault(path.parent, []).append(path)
    return [names for names in folders.values() if len(names) >= SOURCE_FOLDER_FILES]


def _source_originals() -> list[Path]:
    """Text files with a source-like suffix, one for each content, in an order that is fixed for one machine."""
    found: dict[bytes, Path] = {}
    for root in SOURCE_ROOTS:
        for path in sorted(_files(Path(root))):
            if path.suffix[1:] not in SOURCE_SUFFIXES:
                continue
            if not SOURCE_SIZES[0] <= path.stat().st_size <= SOURCE_SIZES[1]:
                continue
            data = path.read_bytes()
            if b"\0" not in data:
                found.setdefault(hashlib.sha256(data).digest(), path)
    return list(found.values())


def _write_source(path: Path, data: bytes, choose: random.Random) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o755 if choose.random() < 0.03 else 0o644)
    _set_time(path, choose)
    return len(data)


def _variation(data: bytes, choose: random.Random) -> bytes:
    """The same text with one word or number replaced on about every third line.

    So it compresses like the original, but no stretch that a chunker would cut is the same.
    """
    lines = data.decode("latin-1").split("\n")
    names = [f"{choose.choice(_SYLLABLES)}{choose.choice(_SYLLABLES)}_{choose.choice(_SYLLABLES)}" for _ in range(12)]
    for index, line in enumerate(lines):
        if choose.random() < 0.35 and (word := WORD.search(line)) is not None:
            old = word[0]
            new = str(choose.randrange(10 ** len(old))) if old[0].isdigit() else choose.choice(names)
            lines[index] = line[: word.start()] + new + line[word.end() :]
    return "\n".join(lines).encode("latin-1")


# fmt: off
_SYLLABLES = (
    "acc", "ban", "cer", "dom", "enc", "fil", "gra", "hol", "ind", "jur", "kin", "led", "mar", "nor", "opt", "par",
    "qua", "reg", "sta", "tra", "uni", "val", "war", "xen", "yie", "zon",
)
# fmt: on


def _edited(data: bytes, choose: random.Random) -> bytes:
    """What an editor leaves: some lines put in at one place, one line taken out at another."""
    lines = data.split(b"\n")
    del lines[choose.randrange(len(lines))]
    place = choose.randrange(len(lines) + 1)
    lines[place:place] = [b"edited: %016x" % choose.getrandbits(64) for _ in range(choose.randint(1, 8))]
    return b"\n".join(lines)


# database


def _make_database(tree: Tree) -> None:
    """initdb, pgbench -i, stop, copy; then transactions, stop, and keep the files that differ."""
    programs = _postgres_programs()
    # PostgreSQL refuses root, and its own user may not reach the repository: the cluster is made outside.
    owner = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="bench-postgres-", dir="/var/tmp") as folder:
        if owner is not None:
            shutil.chown(folder, owner, owner)
        data = Path(folder) / "data"

        def run(program: str, *arguments: str) -> None:
            _run_as(owner, [str(programs / program), *arguments], folder)

        run("initdb", "-D", str(data), "-U", "bench", "-A", "trust", "--no-locale", "-E", "UTF8")
        with (data / "postgresql.conf").open("a") as configuration:
            # Little write-ahead log is kept, so that the size is that of the tables; nothing runs by itself.
            configuration.write(f"listen_addresses = ''\nunix_socket_directories = '{folder}'\n")
            configuration.write("autovacuum = off\nmax_wal_size = 128MB\n")
        start = ("pg_ctl", "-D", str(data), "-l", f"{folder}/log", "-w", "start")
        stop = ("pg_ctl", "-D", str(data), "-m", "fast", "-w", "stop")
        connection = ("-h", folder, "-U", "bench", "postgres")
        run(*start)
        try:
            run("pgbench", "-i", "-q", "-s", str(DATABASE_SCALE), *connection)
        finally:
            run(*stop)
        _copy_folder(data, tree.path)
        run(*start)
        try:
            amount = ("-t", str(DATABASE_TRANSACTIONS), "-c", "1", f"--random-seed={SEED}")
            run("pgbench", "-n", *amount, *connection)
        finally:
            run(*stop)
        _keep_differences(tree, data)


def _postgres_programs() -> Path:
    """The folder with the newest initdb, pg_ctl and pgbench of this machine."""
    found = Path("/usr/lib/postgresql").glob("*/bin")
    folders = sorted(found, key=lambda path: path.parent.name.zfill(3), reverse=True)
    if (installed := shutil.which("initdb")) is not None:
        folders.append(Path(installed).resolve().parent)
    for folder in folders:
        if all((folder / program).exists() for program in ("initdb", "pg_ctl", "pgbench")):
            return folder
    raise TreeImpossible("no PostgreSQL with initdb, pg_ctl and pgbench (Debian package postgresql)")


def _run_as(owner: str | None, argv: list[str], folder: str) -> None:
    # Output goes to a file: a server that pg_ctl starts would keep a pipe open for ever.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            argv, user=owner, group=owner, extra_groups=None if owner is None else [], cwd=folder,
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            said.seek(0)
            end = said.read().decode(errors="replace").strip().splitlines()[-3:]
            raise TreeImpossible(f"{Path(argv[0]).name} failed ({done.returncode}): {' / '.join(end)}")


def _keep_differences(tree: Tree, changed: Path) -> None:
    """Fill original/ and changed/ with the files that differ between the saved tree and the folder `changed`."""
    before, after = _relative_files(tree.path), _relative_files(changed)
    for relative in sorted(before | after):
        old, new = tree.path / relative, changed / relative
        if relative in before and relative in after and filecmp.cmp(old, new, shallow=False):
            continue
        if relative in before:
            _copy(old, tree.folder / "original" / relative)
        if relative in after:
            _copy(new, tree.folder / "changed" / relative)


# large


def _make_large(tree: Tree) -> None:
    """Random bytes from openssl, then one insertion and one append."""
    tree.path.mkdir()
    times = random.Random(SEED)
    for number in range(LARGE_FILES):
        path = tree.path / f"volume-{number}.bin"
        _random_file(path, f"volume {number}", LARGE_FILE_BYTES)
        _set_time(path, times)
    inserted, appended = tree.folder / "inserted", tree.folder / "appended"
    _random_file(inserted, "inserted", LARGE_CHANGE_BYTES)
    _random_file(appended, "appended", LARGE_CHANGE_BYTES)
    for name, extra, place in (("volume-1.bin", inserted, 100_000_001), ("volume-4.bin", appended, LARGE_FILE_BYTES)):
        _copy(tree.path / name, tree.folder / "original" / name)
        changed = tree.folder / "changed" / name
        changed.parent.mkdir(exist_ok=True)
        data = (tree.path / name).read_bytes()
        changed.write_bytes(data[:place] + extra.read_bytes() + data[place:])
        extra.unlink()


def _random_file(path: Path, label: str, count: int) -> None:
    """Write count bytes of AES-256-CTR keystream whose key comes from SEED and the label."""
    key = hashlib.sha256(f"exclave bench {SEED} {label}".encode()).hexdigest()
    with path.open("wb") as writer:
        try:
            cipher = subprocess.Popen(
                ["openssl", "enc", "-aes-256-ctr", "-K", key, "-iv", "0" * 32],
                stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise TreeImpossible(f"openssl cannot be run: {error.strerror}") from error
        assert cipher.stdin is not None  # PIPE was asked for
        zeros = bytes(MIB)
        with cipher.stdin:
            for _ in range(count // MIB):
                cipher.stdin.write(zeros)
        if cipher.wait() != 0 or path.stat().st_size != count:
            raise TreeImpossible("openssl enc failed")


# files


def _files(folder: Path) -> Iterator[Path]:
    """Every regular file under the folder; links are not followed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _relative_files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in _files(folder)}


def _copy(source: Path, target: Path) -> None:
    """Copy content, mode, times and owner."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)


def _copy_folder(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
    for parent, _, names in os.walk(source):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            status = path.lstat()
            os.chown(target / path.relative_to(source), status.st_uid, status.st_gid, follow_symlinks=False)


def _same_file(one: Path, other: Path) -> bool:
    """Whether size and modification time agree: enough, because only `switch` writes here."""
    try:
        first, second = one.stat(), other.stat()
    except FileNotFoundError:
        return False
    return (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)


def _set_time(path: Path, choose: random.Random) -> None:
    """A modification time in the years 2021 to 2025, with nanoseconds."""
    nanoseconds = choose.randrange(1_609_459_200, 1_767_225_600) * 10**9 + choose.randrange(10**9)
    os.utime(path, ns=(nanoseconds, nanoseconds))


def _set_folder_times(folder: Path, choose: random.Random) -> None:
    for parent, names, _ in os.walk(folder, topdown=False):
        names.sort()
        _set_time(Path(parent), choose)


def _write_facts(tree: Tree) -> None:
    sizes = [path.stat().st_size for path in _files(tree.path)]
    changed = [path.stat().st_size for path in _files(tree.folder / "changed")]
    facts = {
        "recipe": RECIPE, "seed": SEED, "files": len(sizes), "bytes": sum(sizes),
        "median_bytes": sorted(sizes)[len(sizes) // 2],
        "changed_files": len(changed), "changed_files_bytes": sum(changed),
    }  # fmt: skip
    (tree.folder / "tree.json").write_text(json.dumps(facts, indent=1) + "\n")


MAKERS: dict[str, Callable[[Tree], None]] = {"source": _make_source, "database": _make_database, "large": _make_large}


def main(names: list[str]) -> int:
    """Make the named trees (all when none is named)."""
    for name in names or NAMES:
        started = time.monotonic()
        try:
            tree = prepare(name)
        except TreeImpossible as error:
            print(f"{name}: {error}")
            return 1
        print(f"{name}: {tree.facts()} in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Tree (c), 2 GB that nothing compresses, and tree (d), one million files of 0 to 8 KiB.

random    eight files of 256 MiB from AES-256-CTR over zeros.
          Changed state: 1 % new: 10 MiB inserted inside one file, 10 MiB appended to another.
million   10,000 folders with 100 files each, of 0 to 8,192 bytes, all lengths equally likely. Each is a stretch of
          lines as a registry's export has them, behind a line of its own: none is equal to another, each compresses to
          about a third. Changed state: one file in a hundred has one other line.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

from treefiles import MIB, SEED, Tree, TreeImpossible, copy, keep_both, set_folder_times, set_time, some_time_ns

RANDOM_FILES = 8
RANDOM_FILE_BYTES = 256 * MIB
RANDOM_CHANGE_BYTES = 10 * MIB
MILLION_FOLDERS = 10_000
MILLION_FILES = 100  # in each folder
SMALL_BYTES = 8192
POOL_BYTES = 48 * MIB


def make_random(tree: Tree) -> None:
    """Random bytes from openssl, then one insertion and one append."""
    tree.path.mkdir()
    times = random.Random(SEED)
    size = int(RANDOM_FILE_BYTES * tree.scale) // MIB * MIB
    extra = max(MIB, int(RANDOM_CHANGE_BYTES * tree.scale) // MIB * MIB)
    for number in range(RANDOM_FILES):
        path = tree.path / f"volume-{number}.bin"
        random_file(path, f"volume {number}", size)
        set_time(path, times)
    for name, place in (("volume-1.bin", size // 3 + 1), ("volume-4.bin", size)):
        more = tree.folder / "more"
        random_file(more, f"more {name}", extra)
        copy(tree.path / name, tree.folder / "original" / name)
        changed = tree.folder / "changed" / name
        changed.parent.mkdir(exist_ok=True)
        data = (tree.path / name).read_bytes()
        changed.write_bytes(data[:place] + more.read_bytes() + data[place:])
        more.unlink()


def random_file(path: Path, label: str, count: int) -> None:
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


def make_million(tree: Tree) -> None:
    """Folders full of small files, then the edits."""
    choose = random.Random(SEED)
    small_files(tree, choose, max(1, int(MILLION_FOLDERS * tree.scale)), MILLION_FILES, 100)


def small_files(tree: Tree, choose: random.Random, folders: int, count: int, one_in: int) -> None:
    """``folders`` times ``count`` files; about one in ``one_in`` is edited in the changed state."""
    pool = _pool(choose)
    for number in range(folders):
        folder = tree.path / f"{number // 100:03}" / f"{number % 100:02}"
        folder.mkdir(parents=True)
        for name in range(count):
            path = os.path.join(folder, f"entry-{name:03}.txt")
            _write_small(path, _content(pool, choose), some_time_ns(choose))
            if choose.randrange(one_in) == 0:
                data = Path(path).read_bytes()
                edited = b"edited: %016x\n" % choose.getrandbits(64) + data.partition(b"\n")[2]
                keep_both(tree, Path(path), edited[:SMALL_BYTES])
    set_folder_times(tree.path, choose)


def _content(pool: bytes, choose: random.Random) -> bytes:
    size = choose.randrange(SMALL_BYTES + 1)
    start = choose.randrange(len(pool) - SMALL_BYTES)
    return (b"entry %016x\n" % choose.getrandbits(64) + pool[start : start + size])[:size]


def _write_small(path: str, data: bytes, time_ns: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, data)
    os.utime(fd, ns=(time_ns, time_ns))
    os.close(fd)


def _pool(choose: random.Random) -> bytes:
    """Lines with a name, a place, a date, numbers: so long that a stretch is rarely taken twice nearby."""
    syllables = ["".join(choose.choices("aeiou", k=1) + choose.choices("bcdfghklmnprstvz", k=2)) for _ in range(400)]
    lines: list[bytes] = []
    size = 0
    while size < POOL_BYTES:
        name = "".join(choose.choices(syllables, k=3))
        place = "".join(choose.choices(syllables[:60], k=2))
        day = f"{choose.randrange(1900, 2026)}-{choose.randrange(1, 13):02}-{choose.randrange(1, 29):02}"
        line = f"<entry><holder>{name}</holder><place>{place}</place><since>{day}</since>"
        line += f"<number>{choose.randrange(10**9)}</number></entry>\n"
        lines.append(line.encode())
        size += len(line)
    return b"".join(lines)

"""Tree (a): an installed system's `/usr`, at least 60,000 files and 4 GB of it.

Whole folders of this machine's own `/usr` are copied, in an order that SEED chooses, until both floors are met: links,
modes, owners and times as they are. Where `/usr` is smaller, folders of its text files are added again in variations
(another name or number on about every third line), which share no chunk with their originals; `tree.json` counts them.
Changed state: one file in a hundred is edited. Texts get and lose some lines, in others 4 KiB are overwritten.
"""

from __future__ import annotations

import os
import random
import re
import stat
from pathlib import Path

from treefiles import SEED, Tree, TreeImpossible, copy, files, keep_both, set_folder_times, set_time

ROOT = "/usr"
FILES = 62_000
BYTES = 4_000_000_000
BLOCK = 4096
WORD = re.compile(r"[A-Za-z_]{6,}|[0-9]{2,}")
TEXT_BYTES = (64, 400_000)


def make(tree: Tree) -> None:
    """Copy, vary what is lacking, note the edits."""
    choose = random.Random(SEED)
    wanted_files, wanted_bytes = FILES * tree.scale, BYTES * tree.scale
    folders = _folders()
    choose.shuffle(folders)
    count = size = 0
    for folder, names in folders:
        if count >= wanted_files and size >= wanted_bytes:
            break
        for name in names:
            source = Path(folder, name)
            copy(source, tree.path / source.relative_to("/"))
            if not source.is_symlink():
                count += 1
                size += source.lstat().st_size
    _vary(tree, folders, choose, wanted_files - count, wanted_bytes - size)
    set_folder_times(tree.path, choose)
    written = sorted(path for path in files(tree.path) if path.stat().st_size)
    for path in choose.sample(written, len(written) // 100):
        keep_both(tree, path, _edited(path.read_bytes(), choose))


def _folders() -> list[tuple[str, list[str]]]:
    """Folders of this file system with their readable files and links, sorted."""
    device = os.stat(ROOT).st_dev
    found = []
    for folder, below, names in os.walk(ROOT):
        below[:] = sorted(name for name in below if os.lstat(os.path.join(folder, name)).st_dev == device)
        plain = [name for name in sorted(names) if _is_kept(os.path.join(folder, name))]
        if plain:
            found.append((folder, plain))
    if not found:
        raise TreeImpossible(f"there is nothing in {ROOT}")
    return found


def _is_kept(path: str) -> bool:
    mode = os.lstat(path).st_mode
    return stat.S_ISLNK(mode) or (stat.S_ISREG(mode) and os.access(path, os.R_OK))


def _vary(
    tree: Tree, folders: list[tuple[str, list[str]]], choose: random.Random, lack_files: float, lack_bytes: float
) -> None:
    """Variations of text folders until nothing lacks."""
    batch = 0
    while lack_files > 0 or lack_bytes > 0:
        batch += 1
        grown = False
        for folder, names in choose.sample(folders, max(1, len(folders) // 4)):
            for name in names if lack_files > 0 or lack_bytes > 0 else ():
                source = Path(folder, name)
                data = b"\0" if source.is_symlink() else source.read_bytes()
                if not TEXT_BYTES[0] <= len(data) <= TEXT_BYTES[1] or b"\0" in data:
                    continue
                path = tree.path / f"variation-{batch:02}" / source.relative_to("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                varied = _variation(data, choose)
                path.write_bytes(varied)
                set_time(path, choose)
                grown = True
                lack_files -= 1
                lack_bytes -= len(varied)
        if not grown and batch > 20:
            raise TreeImpossible(f"{ROOT} has too few texts to be extended by variations")


def _variation(data: bytes, choose: random.Random) -> bytes:
    """The same text with one word or number replaced on about every third line: it compresses like the original."""
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
    """What an editor leaves of a text: a line taken out, some put in. Of anything else: 4 KiB overwritten."""
    if b"\0" in data[:8192]:
        place = choose.randrange(len(data))
        patch = choose.randbytes(min(BLOCK, len(data) - place))
        return data[:place] + patch + data[place + len(patch) :]
    lines = data.split(b"\n")
    del lines[choose.randrange(len(lines))]
    place = choose.randrange(len(lines) + 1)
    lines[place:place] = [b"edited: %016x" % choose.getrandbits(64) for _ in range(choose.randint(1, 8))]
    return b"\n".join(lines)

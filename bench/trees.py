"""The four trees that the benchmark saves, each in two states, in bench/work/trees.

    python bench/trees.py [--scale 0.1] [usr] [database] [random] [million]

Layout of one tree: `NAME/tree` is what is saved; `NAME/original` and `NAME/changed` hold the two states of the files
that differ; `NAME/tree.json` says what is there. `switch` rewrites those files *in place*: inode and time of every
other file stay as they are, because all compared tools skip a file by looking at exactly these. What each tree is
stands in its own file: tree_usr.py, tree_database.py, tree_synthetic.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import tree_database
import tree_synthetic
import tree_usr
from treefiles import MIB, SEED, TREES, Tree, TreeImpossible, entries, files, relative_files

RECIPE = 3  # raised when a tree is made in another way, so that kept trees of the old way are made again
MAKERS: dict[str, Callable[[Tree], None]] = {
    "usr": tree_usr.make,
    "database": tree_database.make,
    "random": tree_synthetic.make_random,
    "million": tree_synthetic.make_million,
}
NAMES = tuple(MAKERS)


def prepare(name: str, scale: float = 1.0) -> Tree:
    """The tree of that name in its original state, made now if it is not there. Raises TreeImpossible."""
    tree = Tree(name, TREES / name, scale)
    try:
        facts = tree.facts()
        whole = (facts.get("recipe"), facts.get("scale")) == (RECIPE, str(scale))
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
    """Bring the tree to the state "original" or "changed", touching only the files that differ.

    Safe to repeat: an interrupted switch is finished by the next one.
    """
    wanted, other = tree.folder / state, tree.folder / ("changed" if state == "original" else "original")
    for relative in sorted(relative_files(other) - relative_files(wanted)):
        (tree.path / relative).unlink(missing_ok=True)
    for relative in sorted(relative_files(wanted)):
        source, target = wanted / relative, tree.path / relative
        if _same_file(source, target):
            continue
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, MIB)
        status = source.stat()
        os.chown(target, status.st_uid, status.st_gid)
        target.chmod(stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _same_file(one: Path, other: Path) -> bool:
    """Whether size and modification time agree: enough, because only `switch` writes here."""
    try:
        first, second = one.stat(), other.stat()
    except FileNotFoundError:
        return False
    return (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)


def _write_facts(tree: Tree) -> None:
    changed = [path.stat().st_size for path in files(tree.folder / "changed")]
    count = links = size = 0
    for entry in entries(str(tree.path)):
        links += entry.is_symlink()
        if entry.is_file(follow_symlinks=False):
            count += 1
            size += entry.stat(follow_symlinks=False).st_size
    varied = sum(1 for folder in tree.path.glob("variation-*") for _ in files(folder))
    facts = {
        "recipe": RECIPE, "seed": SEED, "scale": str(tree.scale), "files": count, "links": links, "bytes": size,
        "varied_files": varied, "changed_files": len(changed), "changed_files_bytes": sum(changed),
    }  # fmt: skip
    (tree.folder / "tree.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> int:
    """Make the named trees (all when none is named)."""
    parser = argparse.ArgumentParser(description="Make the trees of the benchmark.")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="which ones (all)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size")
    options = parser.parse_args()
    for name in options.names or NAMES:
        started = time.monotonic()
        try:
            tree = prepare(name, options.scale)
        except TreeImpossible as error:
            print(f"{name}: {error}")
            return 1
        print(f"{name}: {tree.facts()} in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

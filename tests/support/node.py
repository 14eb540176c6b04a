"""Programs in node with the packages of ``tests/support/npm…``, installed once by ``npm ci`` below ``sys.prefix``."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_FILES = ("package.json", "package-lock.json")


def node_folder(kind: str = "npm") -> Path:
    """A folder whose ``node_modules`` are those of the lock file in ``tests/support/KIND``."""
    lock = b"".join((_HERE / kind / name).read_bytes() for name in _FILES)
    folder = Path(sys.prefix) / "node-of-the-tests" / hashlib.sha256(lock).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            for name in _FILES:
                shutil.copy(_HERE / kind / name, folder / name)
            subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"],
                cwd=folder, check=True, timeout=300,
            )  # fmt: skip
            (folder / "done").touch()
    return folder


def node_script(name: str) -> Path:
    """The script ``name``, copied to where it finds its packages."""
    target = node_folder() / name
    target.write_bytes((_HERE / "npm" / name).read_bytes())
    return target


def run_node(name: str, *arguments: str, timeout_s: float = 60) -> str:
    """What the script prints; its failure is the test's."""
    done = subprocess.run(
        ["node", str(node_script(name)), *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

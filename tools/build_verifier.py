"""Builds the verifier's wheel from this tree, without network; prints its path.

python tools/build_verifier.py [FOLDER]     default: dist
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").absolute()
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT / "packaging" / "verifier", stdout=sys.stderr, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        print(max(folder.glob("exclave_verify-*.whl"), key=lambda wheel: wheel.stat().st_mtime_ns))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

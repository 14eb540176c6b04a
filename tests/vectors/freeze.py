"""Writes ``FROZEN``: the SHA-256 of every vector, as ``sha256sum`` prints it (``sha256sum -c FROZEN`` checks it too).

Run from anywhere: ``python tests/vectors/freeze.py``. Run it only when a format changed on purpose, with its page, its
reader, its vectors and ``tools/last_resort.py`` in the same commit; and never once a release has written the old form:
then the new form gets a new first line, a new page and new vectors beside the old ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

HERE = Path(__file__).parent
FROZEN = HERE / "FROZEN"


def digests() -> dict[str, str]:
    """Path below this folder → SHA-256 of every vector; generators are not among them."""
    found = sorted(p for p in HERE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc") and p != FROZEN)
    return {str(path.relative_to(HERE)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def main() -> None:
    FROZEN.write_text("".join(f"{digest}  {path}\n" for path, digest in digests().items()))


if __name__ == "__main__":
    main()

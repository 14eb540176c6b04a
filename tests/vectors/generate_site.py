"""Writes ``site/``: two small states as a host holds them, their custodians' keys, and what each version gives back.

Run from the repository's root: ``PYTHONPATH=src:tests python tests/vectors/generate_site.py``

``sealed.tar`` and ``public.tar`` (name of the register sealed, or public) have a folder ``site`` with one site's copy
and a folder ``keys`` with three custodians' key files without passphrase. ``….json`` has the fingerprint and, for each
version, path → kind, mode, time, length and BLAKE3 of everything that ``tools/last_resort.py`` brings back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from support.thirty_years import LOST, made, told

HERE = Path(__file__).parent
TOOL = HERE.parents[1] / "tools" / "last_resort.py"
NOISE_BYTES = 100_000


def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the maker's name and time."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def main() -> None:
    (HERE / "site").mkdir(exist_ok=True)
    for name, register_name in (("sealed", None), ("public", "Land register")):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            state = made(place / "state", large=NOISE_BYTES, register_name=register_name)
            site = state.site_folder("home")
            with tarfile.open(HERE / "site" / f"{name}.tar", "w") as archive:
                for path in sorted(p for p in site.rglob("*") if p.is_file() and ".tmp" not in p.parts):
                    archive.add(path, f"site/{path.relative_to(site)}", filter=plain)
                for path in sorted((place / "state").glob("*.key")):
                    archive.add(path, f"keys/{path.name}", filter=plain)
            keys = [part for path in sorted((place / "state").glob("*.key")) for part in ("--key", str(path))]
            versions = {}
            for version in sorted({*range(1, state.sequence + 1)} - {LOST}):
                command = [sys.executable, "-I", str(TOOL), "--site", str(site), "--state", state.state, *keys]
                target = place / f"version-{version}"
                subprocess.run([*command, "--version", str(version), "--target", str(target)], check=True)
                versions[str(version)] = told(target)
            told_json = json.dumps({"state": state.state, "versions": versions}, indent=1, sort_keys=True)
            (HERE / "site" / f"{name}.json").write_text(told_json + "\n")


if __name__ == "__main__":
    main()

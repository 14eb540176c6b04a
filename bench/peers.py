"""Fetch the backup programs that the benchmark compares with, into bench/work/peers.

    python bench/peers.py            prepare every peer and print what is there

restic comes as a Debian package of a newer suite, unpacked and not installed: the archive's address is read from this
machine's own apt sources, and apt checks the archive's signature with private lists, so the system stays as it is.
borg is built from its PyPI source in a virtual environment of its own (it refuses other msgpack versions).

Each peer is prepared once; a second run only looks. A peer that cannot be had is reported as `PeerMissing` with the
reason, and the benchmark prints that reason where the figures would be.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

WORK = Path(__file__).resolve().parent / "work"
PEERS = WORK / "peers"

# sid has the newest restic; trixie's stays the same and is taken when sid's package does not run here.
RESTIC_SUITES = ("sid", "trixie")
BORG_REQUIREMENT = "borgbackup>=1.4.5,<1.5"
BORG_BUILD_PACKAGES = ("gcc", "liblz4-dev", "libxxhash-dev", "libacl1-dev", "libssl-dev", "libzstd-dev", "pkg-config")
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class PeerMissing(Exception):
    """A peer cannot be had on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One program that is ready to run."""

    name: str
    program: Path
    version: str  # as the program itself prints it


def find_restic() -> Peer:
    """The restic of the newest suite that runs here, else the one on PATH. Raises PeerMissing."""
    reasons = []
    for suite in RESTIC_SUITES:
        try:
            return _restic_of_suite(suite)
        except PeerMissing as error:
            reasons.append(f"{suite}: {error}")
    installed = shutil.which("restic")
    if installed is not None:
        return Peer("restic", Path(installed), _version([installed, "version"]))
    raise PeerMissing("restic: " + "; ".join(reasons))


def _restic_of_suite(suite: str) -> Peer:
    program = PEERS / f"restic-{suite}" / "usr" / "bin" / "restic"
    if not program.exists():
        _unpack_debian_package(suite, "restic", program.parents[2])
    return Peer("restic", program, _version([str(program), "version"]))


def _unpack_debian_package(suite: str, package: str, target: Path) -> None:
    """Download one package of another suite through the machine's own mirror and unpack it at target."""
    mirror = _debian_mirror()
    PEERS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PEERS) as folder:
        work = Path(folder)
        for name in ("lists/partial", "cache/archives/partial", "parts", "download"):
            (work / name).mkdir(parents=True)
        (work / "sources.list").write_text(f"deb [signed-by={DEBIAN_KEYRING}] {mirror} {suite} main\n")
        options = ["-o", f"Dir::Etc::sourcelist={work}/sources.list", "-o", f"Dir::Etc::sourceparts={work}/parts"]
        options += ["-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
        # apt's sandbox user may not enter this folder; what it downloads is checked by signature and digest anyway.
        options += ["-o", "APT::Sandbox::User=root"]
        _run(["apt-get", *options, "update"])
        _run(["apt-get", *options, "download", package], cwd=work / "download")
        archives = sorted((work / "download").glob(f"{package}_*.deb"))
        if len(archives) != 1:
            raise PeerMissing(f"apt downloaded {len(archives)} archives of {package}")
        _run(["dpkg", "-x", str(archives[0]), str(work / "tree")])
        # The rename is the last step: a target that exists is whole.
        (work / "tree").rename(target)


def _debian_mirror() -> str:
    """The address of the Debian archive that this machine uses, from its apt sources."""
    if not DEBIAN_KEYRING.exists():
        raise PeerMissing(f"not a Debian machine ({DEBIAN_KEYRING} is missing)")
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        text = path.read_text()
        if "debian-archive-keyring" in text and (found := re.search(r"^URIs:\s*(\S+)", text, re.MULTILINE)):
            return found[1]
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))]
    for path in lists:
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            found = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S*/debian/?)\s", line)
            if found:
                return found[1]
    raise PeerMissing("no Debian archive in the apt sources")


def find_borg() -> Peer:
    """The borg 1.4 built in its own virtual environment. Raises PeerMissing."""
    folder = PEERS / "borg"
    program = folder / "bin" / "borg"
    # The mark is written after a borg that ran, so a build that was cut off is done again.
    built = folder / "built"
    if not built.exists():
        _install_missing_debian_packages(BORG_BUILD_PACKAGES)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "setuptools", "wheel", BORG_REQUIREMENT])
        _version([str(program), "--version"])
        built.write_text(BORG_REQUIREMENT + "\n")
    return Peer("borg", program, _version([str(program), "--version"]))


def _install_missing_debian_packages(packages: Sequence[str]) -> None:
    """Install those of the packages that are not there; installed ones are left at their version."""
    missing = [name for name in packages if not _is_installed(name)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise PeerMissing(f"building borg needs the Debian packages {' '.join(missing)} (not root, so not installed)")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update"], env=environment)
    _run(["apt-get", "install", "-y", "--no-install-recommends", *missing], env=environment)


def _is_installed(package: str) -> bool:
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise PeerMissing("not a Debian machine (dpkg-query is missing)") from error
    return done.stdout.strip().endswith("ok installed")


def _version(argv: Sequence[str]) -> str:
    return _run(argv).strip().splitlines()[0]


def _run(argv: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run one preparing command and return its output; raises PeerMissing with the end of what it said."""
    try:
        done = subprocess.run(list(argv), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PeerMissing(f"{argv[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise PeerMissing(f"{Path(argv[0]).name} failed ({done.returncode}): {' / '.join(said)}")
    return done.stdout


FINDERS: dict[str, Callable[[], Peer]] = {"restic": find_restic, "borg": find_borg}


def main() -> int:
    """Prepare every peer; 1 if one is missing."""
    failed = 0
    for name, find in FINDERS.items():
        try:
            peer = find()
        except PeerMissing as error:
            print(f"{name}: missing: {error}")
            failed = 1
        else:
            print(f"{name}: {peer.version} ({peer.program})")
    return failed


if __name__ == "__main__":
    sys.exit(main())

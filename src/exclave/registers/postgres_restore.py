"""Makes a restored PostgreSQL data folder ready for its first start, on loopback and cut off from its former home.

The folder's own ``postgresql.conf`` and ``pg_hba.conf`` are never changed, so that PostgreSQL's own check of the
backup holds. What must differ here is appended to ``postgresql.auto.conf``, which is read last and which that check
leaves out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from exclave.durable import sync_folder
from exclave.errors import CorruptObject, MissingObject, SourceUnavailable, UsageError
from exclave.registers.postgres_binaries import PostgresBinaries, find_postgres

_MARK = ".verified"
"""Beside the data folder, after its name: what lies in the folder came with the version and vouches for nothing."""
_BLOCK = "# Written by Exclave for this restored copy."
_HBA = "exclave_hba.conf"
_CONFIGURATION = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")
_STAGED = ".exclave-new"
_CUT_OFF = {
    # Nothing may reach home: no archive of home is written, no primary followed, no standby waited for.
    "archive_mode": "off",
    "archive_command": "",
    "restore_command": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "recovery_target": "",
    "recovery_target_lsn": "",
    "recovery_target_name": "",
    "recovery_target_time": "",
    "recovery_target_xid": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "synchronous_standby_names": "",
    # What lay outside the data folder is not here.
    "external_pid_file": "",
    "logging_collector": "off",
    "log_destination": "stderr",
    "ssl": "off",
    "huge_pages": "try",
    "listen_addresses": "127.0.0.1",
}
_NEWER = {15: {"archive_library": ""}, 17: {"synchronized_standby_slots": "", "sync_replication_slots": "off"}}
_CONTROL = {
    # Name in pg_controldata's report, and the setting that may not be lower than at home.
    "max_connections setting": "max_connections",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
}
_MINIMAL_HBA = "local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data folder that may be started, and the programs of its own major version."""

    binaries: PostgresBinaries
    verified: bool
    """True if every file was compared with the backup's manifest: now, or by an earlier call for this same backup."""


def prepare_restored(
    pgdata: Path,
    *,
    port: int,
    socket_dir: Path,
    owner: tuple[int, int] | None = None,
    trust_socket: bool = False,
    settings: Mapping[str, str] | None = None,
    binaries: PostgresBinaries | None = None,
    verify: bool = True,
) -> Prepared:
    """Checks a restored data folder and settles where it will run. May be repeated, also after a crash or a start.

    ``owner`` (uid, gid) gets the whole folder; None leaves it to the caller's user. ``trust_socket`` lets any role log
    in over the socket without a password: for comparing a copy in quarantine; ``socket_dir`` must then be closed to
    all others (0700). ``settings`` are added last. A manifest that does not fit: ``CorruptObject``; no backup at all:
    ``MissingObject``; no programs of that major version: ``SourceUnavailable``.

    (1) the backup is whole: ``pg_verifybackup`` compares every file and, if ``pg_waldump`` is here, reads the log;
    (2) traces of the running server at home are removed;
    (3) missing configuration is written (Debian keeps it in /etc);
    (4) the overrides are written;
    (5) the file ``NAME.verified`` beside the folder is written with the manifest's SHA-256, if (1) was done: it is not
        done again for this backup, as a server that has run has changed its files.
    """
    major = _major(pgdata)
    binaries = binaries or find_postgres(major)
    if binaries.major != major:
        raise SourceUnavailable(
            f"the copy is of PostgreSQL {major}, and here is only {binaries.version}",
            hint=f"Install PostgreSQL {major}, or name its bin folder in EXCLAVE_POSTGRES_BIN.",
        )
    mark = _manifest_digest(pgdata) + "\n"
    verified = _has_mark(_mark_of(pgdata), mark)
    if not verified:
        if not (pgdata / "backup_label").is_file():
            raise MissingObject(f"{pgdata} has no backup_label: without it the copy would start damaged")
        if verify:
            _verify(binaries, pgdata)  # (1)
            verified = True
    for name in ("postmaster.pid", "postmaster.opts", "standby.signal", "recovery.signal"):
        _remove(pgdata / name)  # (2)
    _write_missing(binaries, pgdata)  # (3)
    chosen = _CUT_OFF | {key: value for since, part in _NEWER.items() if major >= since for key, value in part.items()}
    chosen |= {"port": str(port), "unix_socket_directories": str(socket_dir.absolute())}
    chosen |= {"hba_file": str(_access(pgdata, socket_dir, owner, trust=trust_socket))}
    chosen |= {"ident_file": str((pgdata / "pg_ident.conf").absolute()), **(settings or {})}
    _write_overrides(pgdata, chosen)  # (4)
    _own(pgdata, owner)
    if verified:
        _write(_mark_of(pgdata), mark)  # (5)
    return Prepared(binaries, verified)


def _major(pgdata: Path) -> int:
    try:
        text = (_read(pgdata / "PG_VERSION") or b"").decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise CorruptObject(f"PG_VERSION of {pgdata} is not a major version") from error
    if not text:
        raise MissingObject(f"{pgdata} is not a PostgreSQL data folder: it has no PG_VERSION")
    if not text.isdecimal():
        raise CorruptObject(f"PG_VERSION of {pgdata} is not a major version: {text[:20]!r}")
    return int(text)


def _manifest_digest(pgdata: Path) -> str:
    stream = _open(pgdata / "backup_manifest")
    if stream is None:
        raise MissingObject(f"{pgdata} has no backup_manifest: it cannot be checked")
    with stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _mark_of(pgdata: Path) -> Path:
    folder = pgdata.absolute()
    return folder.with_name(folder.name + _MARK)


def _has_mark(file: Path, mark: str) -> bool:
    stream = _open(file)
    if stream is None:
        return False
    with stream:
        info = os.fstat(stream.fileno())
        if info.st_uid != os.geteuid() or info.st_mode & 0o077:
            return False  # not written here, or open to others since
        return stream.read(len(mark) + 1) == mark.encode()


def _verify(binaries: PostgresBinaries, pgdata: Path) -> None:
    command = [str(binaries.program("pg_verifybackup")), "--exit-on-error", "--quiet"]
    # A call that died after (3) left these. A configuration file counts as ours only if the backup had none.
    for name in (_HBA, *_unknown_to_manifest(pgdata, _CONFIGURATION)):
        command.append(f"--ignore={name}")
    for name in (_HBA, "postgresql.auto.conf", *_CONFIGURATION):
        _remove(pgdata / (name + _STAGED))
    if not binaries.has("pg_waldump"):
        command.append("--no-parse-wal")
    done = subprocess.run(
        [*command, str(pgdata)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise CorruptObject(
            f"the restored PostgreSQL copy in {pgdata} is not what was backed up: {' '.join(said[-3:])}"
        )


def _unknown_to_manifest(pgdata: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    stream = _open(pgdata / "backup_manifest")
    if stream is None:
        return names
    with stream:
        known = {name for line in stream for name in names if f'"Path": "{name}"'.encode("ascii") in line}
    return tuple(name for name in names if name not in known)


def _write_missing(binaries: PostgresBinaries, pgdata: Path) -> None:
    if _read(pgdata / "postgresql.conf") is None:
        lines = [f"{name} = {value}\n" for name, value in sorted(_control_settings(binaries, pgdata).items())]
        _write(pgdata / "postgresql.conf", "# Written by Exclave: the backup had none.\n" + "".join(lines))
    if _read(pgdata / "pg_hba.conf") is None:
        _write(pgdata / "pg_hba.conf", "# Written by Exclave: the backup had none.\n" + _MINIMAL_HBA)
    if _read(pgdata / "pg_ident.conf") is None:
        _write(pgdata / "pg_ident.conf", "# Written by Exclave: the backup had none.\n")


def _control_settings(binaries: PostgresBinaries, pgdata: Path) -> dict[str, str]:
    """Limits that the cluster ran with; with lower ones a prepared transaction could stop its start."""
    done = subprocess.run(
        [str(binaries.program("pg_controldata")), str(pgdata)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode != 0:
        raise CorruptObject(f"the control file of {pgdata} cannot be read: {done.stderr.strip()}")
    parts = (line.partition(":") for line in done.stdout.splitlines())
    return {_CONTROL[name]: value.strip() for name, _, value in parts if name in _CONTROL and value.strip().isdecimal()}


def _access(pgdata: Path, socket_dir: Path, owner: tuple[int, int] | None, *, trust: bool) -> Path:
    """The access file to use: the copy's own, or, with trust for the socket before it, another one beside it."""
    own = (pgdata / "pg_hba.conf").absolute()
    if not trust:
        return own
    if not socket_dir.exists():
        socket_dir.mkdir(mode=0o700, parents=True)
        if owner is not None:
            os.chown(socket_dir, *owner, follow_symlinks=False)
    if socket_dir.stat().st_mode & 0o077:
        raise UsageError(
            f"trust on the socket needs a folder that only its owner can enter, and {socket_dir} is open to others",
            hint=f"Run chmod 700 {socket_dir}, or name a new folder.",
        )
    file = own.with_name(_HBA)
    text = (_read(own) or b"").decode("utf-8", "surrogateescape")
    _write(
        file, "# Written by Exclave: a copy in quarantine.\nlocal all all trust\nlocal replication all trust\n" + text
    )
    return file


def _own(pgdata: Path, owner: tuple[int, int] | None) -> None:
    os.chmod(pgdata, 0o700)
    if owner is None:
        return
    for parent, folders, files in os.walk(pgdata):
        for name in (*folders, *files):
            os.chown(os.path.join(parent, name), *owner, follow_symlinks=False)
    os.chown(pgdata, *owner, follow_symlinks=False)


def _write_overrides(pgdata: Path, chosen: Mapping[str, str]) -> None:
    """Keeps what ``ALTER SYSTEM`` had set at home, as later lines win; a former block of ours is replaced."""
    file = pgdata / "postgresql.auto.conf"
    before = (_read(file) or b"").decode("utf-8", "surrogateescape")
    kept = before.partition(_BLOCK)[0].rstrip("\n")
    lines = "".join(f"{name} = '{_quoted(value)}'\n" for name, value in sorted(chosen.items()))
    _write(file, (kept + "\n" if kept else "") + _BLOCK + "\n" + lines)


def _quoted(value: str) -> str:
    if any(ord(c) < 32 for c in value):
        raise UsageError(f"a setting of PostgreSQL may not hold control characters: {value!r}")
    return value.replace("\\", "\\\\").replace("'", "''")


def _open(file: Path) -> BufferedReader | None:
    """A file of the restored folder, or None if there is none.

    ``CorruptObject`` for anything that is not a regular file: the folder's content may be an enemy's, and we are root.
    """
    try:
        # NONBLOCK: a pipe must not keep us waiting.
        stream = open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CorruptObject(f"{file} is not a plain file that can be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise CorruptObject(f"{file} is not a plain file")
    return stream


def _read(file: Path) -> bytes | None:
    stream = _open(file)
    if stream is None:
        return None
    with stream:
        return stream.read()


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise CorruptObject(f"{file} is not a plain file: {error.strerror}") from error


def _write(file: Path, text: str) -> None:
    """A restart finds the former file or this one, never half of one."""
    staged = file.with_name(file.name + _STAGED)
    # What lies there is left over from a call that died, or came with the version; a link is not followed.
    _remove(staged)
    with open(staged, "w", encoding="utf-8", errors="surrogateescape", opener=_private) as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(staged, file)
    sync_folder(file.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

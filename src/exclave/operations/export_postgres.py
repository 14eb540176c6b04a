"""A restored PostgreSQL data folder, started where nobody else reaches it, to be read once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from exclave.errors import CorruptObject, UnavailableError
from exclave.ids import Label
from exclave.registers.neutral_postgres import PostgresNeutral
from exclave.registers.postgres_binaries import find_postgres
from exclave.registers.postgres_digest import postgres_digest
from exclave.registers.postgres_restore import prepare_restored
from exclave.registers.postgres_source import PostgresSource
from exclave.runners.ports import free_port
from exclave.runners.postgres import start_postgres, stop_postgres
from exclave.runners.unprivileged import Account, reachable_binaries, unprivileged_user

_NAME: Final = Label("export")
_FIRST_ROLE: Final = "SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10"
"""The role that made the cluster: it may read everything, whatever it is called."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The running server; ``source`` logs in as the role that made the cluster."""

    source: PostgresSource
    bindir: Path
    account: Account | None

    def digest(self) -> str:
        """What the database says, as the capture computed it."""
        return postgres_digest(self.source).value

    def dump(self, target: Path) -> None:
        """``pg_dump`` of the database as SQL, without owners and rights, which are the old server's."""
        argv = [str(self.bindir / "pg_dump"), *dump_options(self.source)]
        with open(target, "xb") as out:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                check=False,
                user=self.account.uid if self.account else None,
                group=self.account.gid if self.account else None,
                extra_groups=[] if self.account else None,
            )
        if done.returncode != 0:
            said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
            raise CorruptObject(f"pg_dump could not read the restored database: {said}")

    @contextlib.contextmanager
    def neutral(self) -> Iterator[PostgresNeutral]:
        """The database to be read row by row, in one snapshot."""
        try:
            connection = psycopg.connect(
                host=self.source.host, port=self.source.port, user=self.source.user, dbname=self.source.dbname
            )
        except psycopg.Error as error:
            raise UnavailableError(f"the restored database cannot be asked: {error}") from error
        with connection:
            yield PostgresNeutral(connection)


def dump_options(source: PostgresSource) -> list[str]:
    """Of ``pg_dump``. What a version says that its database is called is a name here, whatever it looks like: never an
    option, and no other server's address.
    """
    address = make_conninfo(host=source.host, port=source.port, user=source.user, dbname=source.dbname)
    return ["--no-owner", "--no-privileges", "--no-password", "--encoding=UTF8", f"--dbname={address}"]


@contextlib.contextmanager
def running_copy(pgdata: Path, dbname: str, user: str) -> Iterator[Copy]:
    """Starts ``pgdata`` with a socket alone, in a folder that only its own user enters, and stops it at the end.

    ``CorruptObject`` if the folder is not what was backed up, ``SourceUnavailable`` without PostgreSQL's programs,
    ``UsageError`` if the server's user cannot reach the folder.
    """
    account = unprivileged_user()
    owner = (account.uid, account.gid) if account is not None else None
    work = pgdata.parent
    if owner is not None:
        os.chown(work, *owner)
    major = _major(pgdata)
    binaries = find_postgres(major, need=("postgres", "pg_verifybackup", "pg_dump"))
    # A socket's name is short, so it cannot lie beside the target.
    with tempfile.TemporaryDirectory(prefix="exclave-") as place:
        sockets, run_dir, port = Path(place) / "s", work / "run", free_port()
        if owner is not None:
            os.chown(place, *owner)
        prepared = prepare_restored(
            pgdata, port=port, socket_dir=sockets, owner=owner, trust_socket=True, binaries=binaries
        )
        bindir = reachable_binaries(prepared.binaries.bindir, account, work / "programs")
        start_postgres(
            bindir, pgdata, run_dir, name=_NAME, port=port, socket_dir=sockets, account=account,
            settings={"listen_addresses": ""},
        )  # fmt: skip
        try:
            yield Copy(_source(sockets, port, user, dbname), bindir, account)
        finally:
            stop_postgres(run_dir, _NAME)


def _source(sockets: Path, port: int, user: str, dbname: str) -> PostgresSource:
    try:
        with psycopg.connect(host=str(sockets), port=port, user=user, dbname=dbname) as connection:
            row = connection.execute(_FIRST_ROLE).fetchone()
    except psycopg.Error as error:
        raise UnavailableError(f"the restored database cannot be asked: {error}") from error
    return PostgresSource(str(sockets), port, str(row[0]) if row else user, dbname)


def _major(pgdata: Path) -> int:
    try:
        return int((pgdata / "PG_VERSION").read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise CorruptObject("the restored dataset is not a PostgreSQL data folder") from error

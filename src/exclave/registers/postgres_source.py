"""Where a PostgreSQL server is and how to log in there, and why it did not work."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from exclave.errors import ConfigError, KeyFileExposed, SourceUnavailable

_OPTIONS = frozenset({"host", "port", "user", "dbname", "password_file"})
_GRANT = "CREATE ROLE … LOGIN REPLICATION; GRANT pg_read_all_data TO … makes a role that may be captured with."
_DAMAGED = (
    "The server's files are damaged. Earlier versions are untouched: `exclave snapshots` names the last clean one."
)
_HINTS = (
    # What the server or the library says (English; other languages get the general hint), and what to do.
    ("could not translate host name", "The host's name is not known here; check `host`."),
    ("Connection refused", "No server listens there; start it or correct `host` and `port`."),
    ("No such file or directory", "No server listens on that socket; start it or correct `host` and `port`."),
    ("timeout expired", "The server did not answer in time; check the network and firewall between here and there."),
    ("the database system is starting up", "The server is starting; try again shortly."),
    ("the database system is shutting down", "The server is shutting down; start it again."),
    ("password authentication failed", "Correct `user`, or the password in `password_file`."),
    ("no password supplied", "Name a file with the password in `password_file` (mode 0600)."),
    ("Peer authentication failed", "Run as the system user of that name, or use a password over TCP."),
    ("no pg_hba.conf entry for replication", "Add a line for `replication` and this user to the server's pg_hba.conf."),
    ("no pg_hba.conf entry", "Add a line for this database, user and address to the server's pg_hba.conf."),
    ("must be superuser or replication role", _GRANT),
    ("permission denied to start WAL sender", _GRANT),
    ("permission denied to use replication slots", _GRANT),
    ("permission denied for", _GRANT),
    ("query would be affected by row-level security", "Give the role BYPASSRLS: hidden rows could not be compared."),
    ("number of requested standby connections", "Raise `max_wal_senders` on the server."),
    ("all replication slots are in use", "Raise `max_replication_slots` on the server, or drop a stale slot."),
    ("must be defined with", "Set `wal_level = replica` on the server and restart it."),
    ("wal_level", "Set `wal_level = replica` on the server and restart it."),
    ("can only write single tablespace to stdout", "Move what lies in other tablespaces to pg_default first."),
    ("incompatible server version", "Install the programs of the server's own major version on this machine."),
    ("has already been removed", "Raise `wal_keep_size` and `max_slot_wal_keep_size` on the server."),
    ("invalid page in block", _DAMAGED),
    ("checksum verification failure", _DAMAGED),
    ("No space left on device", "The server's disk is full."),
    ("does not exist", "Correct `user` and `dbname`."),
)


@dataclass(frozen=True, slots=True)
class PostgresSource:
    """One database of one server; a capture takes the whole server, digests are of this database.

    ``host`` is a name, an address or the folder of its socket. ``password_file`` holds the password alone in one
    line, readable by its owner only. All else is settled as for any libpq program: TLS by ``PGSSLMODE`` and
    ``PGSSLROOTCERT``, a password without ``password_file`` by ``PGPASSFILE`` or ``~/.pgpass``.
    """

    host: str
    port: int
    user: str
    dbname: str
    password_file: Path | None = None

    def password(self) -> str | None:
        """The password, or None without a file. ``KeyFileExposed``, or ``ConfigError`` if it cannot be read."""
        return None if self.password_file is None else _read_password(self.password_file)

    def __str__(self) -> str:
        return f"PostgreSQL {self.dbname} at {self.host}:{self.port}"


def postgres_source(options: Mapping[str, str | int]) -> PostgresSource:
    """From a dataset's options. ``ConfigError`` for unknown, missing or impossible ones."""
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ConfigError(f"unknown PostgreSQL option {unknown[0]!r}; known: {', '.join(sorted(_OPTIONS))}")
    port = options.get("port", 5432)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ConfigError("`port` must be a number from 1 to 65535")
    texts = {key: value for key, value in options.items() if key != "port"}
    for key, value in texts.items():
        if not isinstance(value, str) or not value or "\0" in value:
            raise ConfigError(f"`{key}` must be a text")
    for key in ("user", "dbname"):
        if key not in texts:
            raise ConfigError(f"a PostgreSQL dataset needs `{key}`")
    file = texts.get("password_file")
    return PostgresSource(
        host=str(texts.get("host", "/var/run/postgresql")),
        port=port,
        user=str(texts["user"]),
        dbname=str(texts["dbname"]),
        password_file=Path(str(file)) if file is not None else None,
    )


def connect(source: PostgresSource, *, timeout_s: int = 10) -> psycopg.Connection[tuple[object, ...]]:
    """A connection in autocommit mode. ``SourceUnavailable`` if there is none to be had."""
    try:
        return psycopg.connect(
            host=source.host,
            port=source.port,
            user=source.user,
            dbname=source.dbname,
            password=source.password(),
            connect_timeout=timeout_s,
            application_name="exclave",
            options="",
            autocommit=True,
        )
    except psycopg.Error as error:
        raise unavailable(source, str(error)) from error


def client_environment(source: PostgresSource) -> dict[str, str]:
    """Environment for PostgreSQL's own client programs; the password is nowhere else (arguments are public)."""
    env = {key: value for key, value in os.environ.items() if key in ("HOME", "TZ") or key.startswith(("PG", "KRB5"))}
    env |= {"PATH": os.defpath, "LC_ALL": "C", "PGAPPNAME": "exclave", "PGOPTIONS": ""}
    password = source.password()
    if password is not None:
        env["PGPASSWORD"] = password
    return env


def unavailable(source: PostgresSource, said: str, *, doing: str = "cannot be reached") -> SourceUnavailable:
    """The error for what a server or a client program ``said``."""
    said = " ".join(said.split())
    hint = next((hint for mark, hint in _HINTS if mark in said), "")
    return SourceUnavailable(f"{source} {doing}: {said}", hint=hint, host=source.host, port=source.port)


def _read_password(file: Path) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if not stat.S_ISREG(mode) or mode & 0o077:
                raise KeyFileExposed(f"the password file {file} can be read by others", file=str(file))
            text = stream.read(4097)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the password file {file} cannot be read: {error}") from error
    password = text.removesuffix("\n")
    if not password or len(text) > 4096 or "\n" in password or "\0" in password:
        raise ConfigError(f"the password file {file} must hold the password alone, in one line")
    return password

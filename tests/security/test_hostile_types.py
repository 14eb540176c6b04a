"""A PostgreSQL database whose own types, tables and database are named to mislead an export."""

from __future__ import annotations

import subprocess
from pathlib import Path

from exclave.operations.export_postgres import dump_options
from exclave.registers.neutral import Form
from exclave.registers.neutral_postgres import PostgresNeutral
from support.postgres import MAJORS, running_server

_TYPES = ("bytea", "float8", "bool", "numeric", "timestamp", "date")


def test_types_of_an_enemy_are_text(tmp_path: Path) -> None:
    """An enumeration called `bytea` is text, not a crash; a database called `--file=…` is no option."""
    made = [f"CREATE TYPE public.\"{name}\" AS ENUM ('x; y', 'b')" for name in _TYPES]
    columns = ", ".join(f'"c{n}" public."{name}"' for n, name in enumerate(_TYPES))
    values = ", ".join("'x; y'" for _ in _TYPES)
    owned = tmp_path / "owned"
    with running_server(MAJORS[-1]) as server:
        server.run(*made, f"CREATE TABLE t ({columns})", f"INSERT INTO t VALUES ({values})")
        with server.connect() as connection:
            source = PostgresNeutral(connection)
            (table,) = source.shape().tables
            assert {column.form for column in table.columns} == {Form.TEXT}
            assert list(source.rows(table)) == [["x; y"] * len(_TYPES)]
        with server.connect() as connection:
            connection.autocommit = True
            connection.execute(f'CREATE DATABASE "--file={owned}"')
        argv = [str(server.bindir / "pg_dump"), *dump_options(server.source(dbname=f"--file={owned}"))]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "PostgreSQL database dump" in done.stdout
        assert not owned.exists()

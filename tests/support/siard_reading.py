"""A second reader of SIARD archives, written for the tests from the standard: ZIP and XML in, another product out."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

META = "{http://www.bar.admin.ch/xmlns/siard/2/metadata.xsd}"
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
SQLITE = {
    "text": "TEXT",
    "binary": "BLOB",
    "float": "REAL",
    "integer": "INTEGER",
    "boolean": "BOOLEAN",
    "other": "TEXT",
}
POSTGRES = {
    "text": "text", "binary": "bytea", "float": "double precision", "integer": "bigint", "boolean": "boolean",
    "other": "text",
}  # fmt: skip

ORDER = {
    "siardArchive": "dbname description archiver archiverContact dataOwner dataOriginTimespan lobFolder"
    " producerApplication archivalDate messageDigest clientMachine databaseProduct"
    " connection databaseUser schemas users roles privileges",
    "messageDigest": "digestType digest",
    "schemas": "schema",
    "schema": "name folder description types tables views routines",
    "tables": "table",
    "table": "name folder description columns primaryKey foreignKeys candidateKeys checkConstraints triggers rows",
    "columns": "column",
    "column": "name lobFolder type mimeType typeOriginal fields nullable defaultValue cardinality description",
    "primaryKey": "name description column",
    "candidateKeys": "candidateKey",
    "candidateKey": "name description column",
    "foreignKeys": "foreignKey",
    "foreignKey": "name referencedSchema referencedTable reference matchType deleteAction updateAction description",
    "reference": "column referenced",
    "checkConstraints": "checkConstraint",
    "checkConstraint": "name condition description",
    "views": "view",
    "view": "name query queryOriginal description columns rows",
    "users": "user",
}
"""Which elements may stand in which, in this order (the standard's metadata.xsd, 2.2)."""
REQUIRED = {
    "siardArchive": "dbname dataOwner dataOriginTimespan archivalDate schemas users",
    "schema": "name folder",
    "table": "name folder columns rows",
    "column": "name type",
    "primaryKey": "name column",
    "candidateKey": "name column",
    "foreignKey": "name referencedSchema referencedTable reference",
    "view": "name columns",
    "checkConstraint": "name condition",
}
SQL_TYPE = re.compile(
    r"INTEGER|SMALLINT|BIGINT|DECIMAL(\(\d+(,\d+)?\))?|REAL|DOUBLE PRECISION|CHARACTER(\([1-9]\d*\))?|XML|BOOLEAN|DATE"
    r"|CHARACTER VARYING(\([1-9]\d*\))?|(CHARACTER|BINARY) LARGE OBJECT|TIME(\(\d\))?"
    r"|TIMESTAMP( WITH TIME ZONE)?(\(\d\))?"
)
ACTIONS = {"CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"}


def check_metadata(root: ET.Element) -> None:
    """The rules of the standard's schema that concern what we write."""
    assert root.tag == f"{META}siardArchive"
    assert root.get("version") == "2.2"
    for element in root.iter():
        name = element.tag.removeprefix(META)
        inner = [child.tag.removeprefix(META) for child in element]
        allowed = ORDER.get(name, "").split()
        assert set(inner) <= set(allowed), (name, inner)
        places = [allowed.index(child) for child in inner]
        assert places == sorted(places), (name, inner)
        named_only = name == "column" and not inner  # in a key
        assert named_only or set(REQUIRED.get(name, "").split()) <= set(inner), (name, inner)
        if name == "type":
            assert SQL_TYPE.fullmatch(element.text or ""), element.text
        if name in ("deleteAction", "updateAction"):
            assert element.text in ACTIONS


@dataclass(frozen=True, slots=True)
class ReadTable:
    """One table of an archive."""

    schema: str
    name: str
    columns: tuple[tuple[str, str], ...]
    """(name, family)"""
    primary: tuple[str, ...]
    foreign: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...]
    rows: int
    digest: str
    place: str


class Archive:
    """An archive whose content was compared with its message digest."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path)
        assert self.zip.testzip() is None
        names = self.zip.namelist()
        assert names[0] == "content/"
        assert "header/siardversion/2.2/" in names
        self.metadata = self.zip.read("header/metadata.xml")
        self.root = ET.fromstring(self.metadata)
        check_metadata(self.root)
        start = self.zip.getinfo("header/").header_offset
        told = self.root.findtext(f"{META}messageDigest/{META}digest")
        assert hashlib.sha256(path.read_bytes()[:start]).hexdigest().upper() == told

    def tables(self) -> list[ReadTable]:
        found = []
        for schema in self.root.iter(f"{META}schema"):
            for table in schema.iter(f"{META}table"):
                folder = f"content/{schema.findtext(META + 'folder')}/{table.findtext(META + 'folder')}"
                columns = tuple(
                    (str(c.findtext(META + "name")), family(str(c.findtext(META + "type"))))
                    for c in table.iterfind(f"{META}columns/{META}column")
                )
                primary = tuple(str(c.text) for c in table.iterfind(f"{META}primaryKey/{META}column"))
                foreign = tuple(
                    (
                        tuple(str(r.findtext(META + "column")) for r in key.iterfind(META + "reference")),
                        str(key.findtext(META + "referencedTable")),
                        tuple(str(r.findtext(META + "referenced")) for r in key.iterfind(META + "reference")),
                    )
                    for key in table.iterfind(f"{META}foreignKeys/{META}foreignKey")
                )
                told = str(table.findtext(META + "description")).removeprefix("neutral-sha256 ")
                found.append(
                    ReadTable(
                        str(schema.findtext(META + "name")), str(table.findtext(META + "name")), columns, primary,
                        foreign, int(str(table.findtext(META + "rows"))), told, folder,
                    )
                )  # fmt: skip
        return found

    def rows(self, table: ReadTable) -> Iterator[list[str | bytes | None]]:
        name = table.place.rpartition("/")[2]
        with self.zip.open(f"{table.place}/{name}.xml") as stream:
            for _, element in ET.iterparse(stream):
                if element.tag.rpartition("}")[2] == "row":
                    cells: list[str | bytes | None] = [None] * len(table.columns)
                    for cell in element:
                        number = int(cell.tag.rpartition("}")[2][1:])
                        cells[number - 1] = self._cell(table, number, cell)
                    yield cells
                    element.clear()

    def _cell(self, table: ReadTable, number: int, cell: ET.Element) -> str | bytes:
        binary = table.columns[number - 1][1] == "binary"
        if cell.get("file"):
            data = self.zip.read(f"{table.place}/lob{number}/{cell.get('file')}")
            assert hashlib.sha256(data).hexdigest().upper() == cell.get("digest")
            assert len(data if binary else data.decode()) == int(str(cell.get("length")))
            return data if binary else data.decode()
        text = cell.text or ""
        return bytes.fromhex(text) if binary else _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def family(kind: str) -> str:
    """Which of the few kinds of values a SQL type holds."""
    for words, found in (
        (("BINARY", "BLOB"), "binary"),
        (("CHARACTER", "XML"), "text"),
        (("INTEGER", "BIGINT", "SMALLINT"), "integer"),
        (("DOUBLE", "REAL"), "float"),
        (("BOOLEAN",), "boolean"),
    ):
        if kind.startswith(words):
            return found
    return "other"


def value(cell: str | bytes | None, kind: str) -> Any:
    """As both products take it."""
    if cell is None or isinstance(cell, bytes) or kind in ("text", "other"):
        return cell
    if kind == "integer":
        return int(cell)
    if kind == "boolean":
        return cell == "true"
    return float(cell)


def into_sqlite(archive: Archive, target: Path) -> None:
    """Every table with its keys and rows into a new SQLite file."""
    with sqlite3.connect(target) as db:
        for table in archive.tables():
            parts = [f'"{name}" {SQLITE[kind]}' for name, kind in table.columns]
            parts += [f"PRIMARY KEY({', '.join(map(_quoted, table.primary))})"] if table.primary else []
            parts += [
                f"FOREIGN KEY({', '.join(map(_quoted, own))})"
                f" REFERENCES {_quoted(other)}({', '.join(map(_quoted, far))})"
                for own, other, far in table.foreign
            ]
            db.execute(f"CREATE TABLE {_quoted(table.name)}({', '.join(parts)})")
            places = ", ".join("?" * len(table.columns))
            kinds = [kind for _, kind in table.columns]
            db.executemany(
                f"INSERT INTO {_quoted(table.name)} VALUES({places})",
                ([value(c, k) for c, k in zip(row, kinds, strict=True)] for row in archive.rows(table)),
            )
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    db.close()


def into_postgres(archive: Archive, connection: psycopg.Connection[Any]) -> None:
    """Every table with its primary key and rows into a PostgreSQL database."""
    for table in archive.tables():
        parts = [sql.SQL("{} " + POSTGRES[kind]).format(sql.Identifier(name)) for name, kind in table.columns]
        if table.primary:
            parts.append(sql.SQL("PRIMARY KEY({})").format(sql.SQL(", ").join(map(sql.Identifier, table.primary))))
        name = sql.Identifier(table.name)
        connection.execute(sql.SQL("CREATE TABLE {}({})").format(name, sql.SQL(", ").join(parts)))
        insert = sql.SQL("INSERT INTO {} VALUES({})").format(
            name, sql.SQL(", ").join([sql.Placeholder()] * len(table.columns))
        )
        kinds = [kind for _, kind in table.columns]
        with connection.cursor() as cursor:
            rows = [[value(c, k) for c, k in zip(row, kinds, strict=True)] for row in archive.rows(table)]
            cursor.executemany(insert, rows)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

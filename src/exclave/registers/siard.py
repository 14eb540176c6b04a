"""A database as a SIARD 2.2 archive (eCH-0165): one ZIP file of XML that needs no product to be read.

``content/`` comes first and ``header/`` last, so that the message digest in the header can cover all content. What is
like SIARD and not quite it stands in ``docs/spec/export.md``. Memory: a batch of rows; the largest single value.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final
from xml.sax.saxutils import escape

from exclave.registers.neutral import Cell, Form, NeutralSource, RowDigest, Shape, Table, TableSum
from exclave.registers.siard_header import Provenance, TableFolder, metadata_xml, table_namespace, table_xsd

LOB_LEAST: Final = 4000
"""A text or byte string with more characters or bytes than this is a file of its own."""
_HEAD: Final = '<?xml version="1.0" encoding="utf-8"?>\n'
_TOLD_ROWS: Final = 10_000
_UNWRITABLE: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\\\\ud800-\udfff\ufffe\uffff]|(?<= ) |^ | $")
"""Controls, the escape sign itself, spaces that a reader may drop: written as ``\\u0020``."""


def write_siard(
    source: NeutralSource,
    target: Path,
    provenance: Provenance,
    *,
    progress: Callable[[str, int, int], None] = lambda table, rows, size: None,
) -> tuple[TableSum, ...]:
    """Writes the archive to ``target``, a new file; what each table says, as ``table_sums`` would find.

    The caller gives it its final name: a restart finds a file under a name that nobody takes for an export.
    """
    shape = source.shape()
    folders = _folders(shape)
    with (
        open(target, "x+b") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True, compresslevel=6) as archive,
    ):
        _folder(archive, "content/")
        sums = tuple(_write_table(source, archive, folder, progress) for folder in folders)
        content = _digest(file, file.tell())
        for name in ("header/", "header/siardversion/", "header/siardversion/2.2/"):
            _folder(archive, name)
        archive.writestr(_entry("header/metadata.xml"), metadata_xml(shape, folders, sums, provenance, content))
    return sums


def _folders(shape: Shape) -> tuple[TableFolder, ...]:
    """Every table with its folder: ``schema0/table3``, counted in the shape's order."""
    counts = dict.fromkeys(shape.schemas, 0)
    found = []
    for table in shape.tables:
        schema, number = shape.schemas.index(table.schema), counts[table.schema]
        counts[table.schema] += 1
        found.append(TableFolder(table, f"schema{schema}", f"table{number}"))
    return tuple(found)


def _entry(name: str) -> zipfile.ZipInfo:
    """Without this machine's time: the same database gives the same archive."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_STORED if name.endswith("/") else zipfile.ZIP_DEFLATED
    info.external_attr = (0o40755 << 16 | 0x10) if name.endswith("/") else 0o644 << 16
    return info


def _folder(archive: zipfile.ZipFile, name: str) -> None:
    archive.writestr(_entry(name), b"")


def _digest(file: BinaryIO, length: int) -> str:
    """SHA-256 of the archive's first ``length`` bytes, which are all of ``content/``; the place in it stays."""
    file.seek(0)
    state, left = hashlib.sha256(), length
    while left and (block := file.read(min(left, 1 << 20))):
        state.update(block)
        left -= len(block)
    file.seek(length)
    return state.hexdigest().upper()


def _write_table(
    source: NeutralSource, archive: zipfile.ZipFile, folder: TableFolder, progress: Callable[[str, int, int], None]
) -> TableSum:
    """Large values go into the archive as they come; the rows are collected beside it, as only one file of a ZIP can be
    written at a time.
    """
    table, place = folder.table, f"content/{folder.schema}/{folder.name}"
    digest = RowDigest()
    writer = _Rows(archive, table, place)
    with tempfile.TemporaryFile() as rows:
        namespace = table_namespace(folder)
        rows.write(
            f'{_HEAD}<table xmlns="{namespace}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
            f' xsi:schemaLocation="{namespace} {folder.name}.xsd">\n'.encode()
        )
        for row in source.rows(table):
            digest.add(row)
            rows.write(writer.row(row))
            if digest.rows % _TOLD_ROWS == 0:
                progress(f"{table.schema}.{table.name}", digest.rows, rows.tell())
        rows.write(b"</table>\n")
        rows.seek(0)
        with archive.open(_entry(f"{place}/{folder.name}.xml"), "w", force_zip64=True) as entry:
            while block := rows.read(1 << 20):
                entry.write(block)
    archive.writestr(_entry(f"{place}/{folder.name}.xsd"), table_xsd(folder))
    progress(f"{table.schema}.{table.name}", digest.rows, 0)
    return TableSum(table.schema, table.name, digest.rows, digest.value())


class _Rows:
    """Rows of one table as XML."""

    def __init__(self, archive: zipfile.ZipFile, table: Table, place: str) -> None:
        self._archive, self._columns, self._place = archive, table.columns, place
        self._number = 0

    def row(self, cells: Sequence[Cell]) -> bytes:
        parts = ["<row>"]
        for number, (cell, column) in enumerate(zip(cells, self._columns, strict=True), 1):
            if cell is None:
                continue
            if len(cell) > LOB_LEAST and column.form in (Form.TEXT, Form.BINARY):
                parts.append(self._lob(number, cell))
            else:
                parts.append(
                    f"<c{number}>{cell.hex().upper() if isinstance(cell, bytes) else xml_text(cell)}</c{number}>"
                )
        parts.append("</row>\n")
        self._number += 1
        return "".join(parts).encode("utf-8")

    def _lob(self, column: int, cell: str | bytes) -> str:
        """A file in the column's folder; its text stands there unescaped."""
        data = cell if isinstance(cell, bytes) else cell.encode("utf-8")
        name = f"record{self._number}.{'bin' if isinstance(cell, bytes) else 'txt'}"
        self._archive.writestr(_entry(f"{self._place}/lob{column}/{name}"), data)
        digest = hashlib.sha256(data).hexdigest().upper()
        return f'<c{column} file="{name}" length="{len(cell)}" digestType="SHA-256" digest="{digest}"/>'


def xml_text(text: str) -> str:
    """As SIARD writes it: what XML cannot hold, and the backslash, as ``\\uXXXX``."""
    return escape(_UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))

"""SIARD 2.2's ``metadata.xml``, and the XML schema of one table (eCH-0165)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from xml.sax.saxutils import escape

from exclave.ids import Instant, instant_text
from exclave.registers.neutral import Column, ForeignKey, Form, Key, Shape, Table, TableSum, View

NAMESPACE: Final = "http://www.bar.admin.ch/xmlns/siard/2/metadata.xsd"
_XML_TYPES: Final = {
    Form.INTEGER: "xs:integer",
    Form.DECIMAL: "xs:decimal",
    Form.FLOAT: "xs:double",
    Form.BOOLEAN: "xs:boolean",
    Form.TEXT: "clobType",
    Form.BINARY: "blobType",
    Form.DATE: "xs:date",
    Form.TIME: "xs:time",
    Form.TIMESTAMP: "xs:dateTime",
}
Item = TypeVar("Item")
_NO_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LOB: Final = """
  <xs:complexType name="{0}Type"><xs:simpleContent><xs:extension base="{1}">
    <xs:attribute name="file" type="xs:anyURI"/>
    <xs:attribute name="length" type="xs:integer"/>
    <xs:attribute name="digestType" type="xs:string"/>
    <xs:attribute name="digest" type="xs:string"/>
  </xs:extension></xs:simpleContent></xs:complexType>"""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which version an export comes from."""

    state: str
    register: str
    dataset: str
    database: str
    owner: str
    epoch: int
    sequence: int
    time: Instant
    captured: Instant
    manifest: str
    """SHA-256 of the pack that the ledger names, 64 hex digits."""
    checkpoint: str
    """The ledger's freshest checkpoint that vouches for the version, as a signed note."""
    exported: Instant
    program: str

    def lines(self) -> tuple[tuple[str, str], ...]:
        """What identifies the version, as (name, value), without the checkpoint."""
        return (
            ("State", self.state),
            ("Register", self.register),
            ("Dataset", self.dataset),
            ("Epoch", str(self.epoch)),
            ("Version", str(self.sequence)),
            ("Version-Time", instant_text(self.time)),
            ("Captured", instant_text(self.captured)),
            ("Manifest-SHA256", self.manifest),
        )


@dataclass(frozen=True, slots=True)
class TableFolder:
    """A table and the names of its folders in ``content/``."""

    table: Table
    schema: str
    name: str


def table_namespace(folder: TableFolder) -> str:
    """Each table's XML has its own."""
    return f"http://www.bar.admin.ch/xmlns/siard/2/{folder.schema}/{folder.name}.xsd"


def table_xsd(folder: TableFolder) -> bytes:
    """The XML schema of a table's rows."""
    namespace = table_namespace(folder)
    columns = "\n".join(
        f'      <xs:element name="c{number}" type="{_XML_TYPES[column.form]}"'
        + (' minOccurs="0"/>' if column.nullable else "/>")
        for number, column in enumerate(folder.table.columns, 1)
    )
    lobs = _LOB.format("clob", "xs:string") + _LOB.format("blob", "xs:hexBinary")
    return f"""<?xml version="1.0" encoding="utf-8"?>
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns="{namespace}" targetNamespace="{namespace}"
  elementFormDefault="qualified" attributeFormDefault="unqualified">
  <xs:element name="table"><xs:complexType><xs:sequence>
    <xs:element name="row" type="rowType" minOccurs="0" maxOccurs="unbounded"/>
  </xs:sequence></xs:complexType></xs:element>
  <xs:complexType name="rowType">
    <xs:sequence>
{columns}
    </xs:sequence>
  </xs:complexType>{lobs}
</xs:schema>
""".encode()


def metadata_xml(
    shape: Shape, folders: Sequence[TableFolder], sums: Sequence[TableSum], provenance: Provenance, content: str
) -> bytes:
    """The header. ``content``: SHA-256 of all that comes before it in the archive, in capital hex digits."""
    described = "; ".join(f"{name} {value}" for name, value in provenance.lines())
    if shape.left_out:
        described += ". Not in this archive: " + "; ".join(shape.left_out)
    captured = instant_text(provenance.captured)
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>\n',
        f'<siardArchive xmlns="{NAMESPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        f' xsi:schemaLocation="{NAMESPACE} metadata.xsd" version="2.2">\n',
        _tag("dbname", provenance.database),
        _tag("description", described),
        _tag("dataOwner", provenance.owner or provenance.register),
        _tag("dataOriginTimespan", f"until {captured}"),
        _tag("producerApplication", provenance.program),
        _tag("archivalDate", instant_text(provenance.exported)[:10]),
        _group("messageDigest", [_tag("digestType", "SHA-256"), _tag("digest", content)]),
        _tag("databaseProduct", shape.product),
        _group("schemas", (_schema(number, shape, folders, sums) for number in range(len(shape.schemas)))),
        "<users/>\n",
        "</siardArchive>\n",
    ]
    return "".join(parts).encode("utf-8")


def _schema(number: int, shape: Shape, folders: Sequence[TableFolder], sums: Sequence[TableSum]) -> str:
    name = shape.schemas[number]
    tables = [_table(f, s) for f, s in zip(folders, sums, strict=True) if f.table.schema == name]
    views = [_view(view) for view in shape.views if view.schema == name]
    inner = [_tag("name", name), _tag("folder", f"schema{number}")]
    inner += [_group("tables", tables)] if tables else []
    inner += [_group("views", views)] if views else []
    return _group("schema", inner)


def _table(folder: TableFolder, found: TableSum) -> str:
    table = folder.table
    place = f"content/{folder.schema}/{folder.name}"
    inner = [
        _tag("name", table.name),
        _tag("folder", folder.name),
        _tag("description", f"neutral-sha256 {found.sha256}"),
        _group("columns", (_column(c, f"{place}/lob{n}") for n, c in enumerate(table.columns, 1))),
    ]
    if table.primary is not None:
        inner.append(_key("primaryKey", table.primary))
    inner += _list("foreignKeys", table.foreign, _foreign)
    inner += _list("candidateKeys", table.candidates, lambda key: _key("candidateKey", key))
    inner += _list(
        "checkConstraints",
        table.checks,
        lambda check: _group("checkConstraint", [_tag("name", check[0]), _tag("condition", check[1])]),
    )
    inner.append(_tag("rows", str(found.rows)))
    return _group("table", inner)


def _column(column: Column, folder: str) -> str:
    inner = [_tag("name", column.name)]
    inner += [_tag("lobFolder", folder)] if folder and column.form in (Form.TEXT, Form.BINARY) else []
    inner += [_tag("type", column.sql)]
    inner += [_tag("typeOriginal", column.original)] if column.original else []
    inner.append(_tag("nullable", "true" if column.nullable else "false"))
    inner += [_tag("defaultValue", column.default)] if column.default else []
    return _group("column", inner)


def _key(element: str, key: Key) -> str:
    return _group(element, [_tag("name", key.name), *(_tag("column", column) for column in key.columns)])


def _foreign(key: ForeignKey) -> str:
    pairs = zip(key.columns, key.referenced, strict=True)
    return _group(
        "foreignKey",
        [
            _tag("name", key.name),
            _tag("referencedSchema", key.schema),
            _tag("referencedTable", key.table),
            *(_group("reference", [_tag("column", own), _tag("referenced", other)]) for own, other in pairs),
            _tag("deleteAction", key.on_delete),
            _tag("updateAction", key.on_update),
        ],
    )


def _view(view: View) -> str:
    columns = _group("columns", (_column(column, "") for column in view.columns))
    return _group("view", [_tag("name", view.name), _tag("queryOriginal", view.query), columns])


def _list(element: str, items: Sequence[Item], make: Callable[[Item], str]) -> list[str]:
    """A list element, left out where there is nothing to list."""
    return [_group(element, map(make, items))] if items else []


def _group(element: str, inner: Iterable[str]) -> str:
    return f"<{element}>\n{''.join(inner)}</{element}>\n"


def _tag(element: str, text: str) -> str:
    return f"<{element}>{escape(_NO_XML.sub('?', text))}</{element}>\n"

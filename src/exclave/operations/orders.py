"""Order files: what they ask for, in words for custodians, and how operators make those about certificates."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from exclave.crypto.crl import MAX_CERTIFICATE_BYTES
from exclave.crypto.delegate import certificates_in
from exclave.errors import MalformedError, UsageError, WarrantForeign
from exclave.formats import deletion, extension, reissueorder, statusorder
from exclave.formats.deletion import DeletionOrder, parse_deletion
from exclave.formats.extension import ExtensionEnd, ExtensionList, parse_extension, parse_extension_end, parse_serial
from exclave.formats.reissueorder import ReissueOrder, read_reissue_order, write_reissue_order
from exclave.formats.statusorder import StatusLine, StatusOrder, read_status_order, write_status_order
from exclave.formats.warrant import Act, ParsedWarrant
from exclave.ids import Digest, Instant, instant_text, parse_digest, parse_moment, sha256
from exclave.operations.home import read_limited, write_private
from exclave.rules.warrants import allows_object

Order = StatusOrder | ExtensionList | ExtensionEnd | ReissueOrder | DeletionOrder
Made = TypeVar("Made")
_LONGEST_HEADER = 64
_SHOWN = 5
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,48})\Z")
_SERIAL_COLUMNS = ("serial_hex", "serial_decimal")


@dataclass(frozen=True, slots=True)
class OrderFile:
    """An order file that was read to its end and is well formed."""

    digest: Digest
    """SHA-256 of the file: what a warrant names."""
    act: Act
    order: Order
    words: tuple[str, ...]
    """What it asks for, line by line, with its first certificates."""


def read_order(path: Path) -> OrderFile:
    """The order in ``path``, whatever its kind. ``UsageError`` if unreadable, ``MalformedError`` if it is no order."""
    head = _with_file(path, lambda file: file.readline(_LONGEST_HEADER))
    if head == f"{statusorder.HEADER}\n".encode():
        return _status(path)
    if head == f"{reissueorder.HEADER}\n".encode():
        return _reissue(path)
    if head == f"{extension.HEADER}\n".encode():
        text = _text(path, extension.MAX_LIST_CHARS)
        found = parse_extension(text)
        return OrderFile(sha256(text.encode()), Act.EXTEND, found, tuple(_words_of_list(found)))
    if head == f"{extension.END_HEADER}\n".encode():
        text = _text(path, extension.MAX_LIST_CHARS)
        end = parse_extension_end(text)
        words = (f"Ends the extension list {end.list.hex()} at once.", f"Reason: {end.reason}")
        return OrderFile(sha256(text.encode()), Act.EXTEND, end, words)
    if head == f"{deletion.HEADER}\n".encode():
        order = parse_deletion(read_limited(path, 4 * deletion.MAX_ORDER_CHARS))
        return OrderFile(order.digest, Act.DELETE, order, tuple(_words_of_deletion(order)))
    raise MalformedError(f"{path} is no order")


def require_named(order: OrderFile, warrant: ParsedWarrant) -> None:
    """Returns if ``warrant`` is for this order file; ``WarrantForeign`` if it is for another one, or another act."""
    if order.act != warrant.act:
        raise WarrantForeign(f"the warrant is to {warrant.act}, and the order file is to {order.act}")
    if not allows_object(warrant, order.digest):
        raise WarrantForeign("the warrant is for another order file than this one", object=order.digest.hex())


def convert_csv(
    path: Path,
    out: Path,
    act: Act,
    *,
    issuer: Digest | None = None,
    reason: str = "",
    since: Instant | None = None,
) -> OrderFile:
    """Writes the status order ``out`` from a CSV file with a heading; ``issuer``, ``reason`` and ``since`` where it has
    no such column.

    One of the columns is ``serial_hex`` or ``serial_decimal``: the same digits mean another certificate in each, so
    nothing is guessed. ``MalformedError`` names the line; nothing is written then.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = _csv_lines(csv.DictReader(file, strict=True), act, issuer, reason, since)
            data = b"".join(write_status_order(act, lines))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise MalformedError(f"{path} is not a CSV file in UTF-8: {error}") from error
    write_private(out, data)
    return read_order(out)


def make_extension(found: ExtensionList, out: Path) -> OrderFile:
    """Writes an extension list, to be signed for. ``MalformedError`` if it is impossible."""
    write_private(out, parse_extension(found.encode()).encode().encode())
    return read_order(out)


def make_reissue(groups: Sequence[Path], out: Path, *, ca: Digest, until: Instant) -> OrderFile:
    """Writes a re-issue order for the certificates in these folders, one group for each, in their order."""
    found = [set(certificate_files(folder)) for folder in groups]
    write_private(out, write_reissue_order(ca, until, found))
    return read_order(out)


def certificate_files(folder: Path) -> dict[Digest, Path]:
    """Files of ``folder`` by the SHA-256 of the one certificate (DER or PEM) in each; what is none is left out."""
    found: dict[Digest, Path] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from error
    for path in paths:
        with suppress(MalformedError):
            found[sha256(read_certificate(path))] = path
    return found


def read_certificate(path: Path) -> bytes:
    """DER of the certificate in a file. ``MalformedError`` if there is not just one."""
    found = certificates_in(read_limited(path, MAX_CERTIFICATE_BYTES))
    if len(found) != 1:
        raise MalformedError(f"{path} holds {len(found)} certificates; give each a file of its own")
    return found[0]


def _csv_lines(
    rows: csv.DictReader[str], act: Act, issuer: Digest | None, reason: str, since: Instant | None
) -> Iterator[StatusLine]:
    columns = set(rows.fieldnames or ())
    serial = [name for name in _SERIAL_COLUMNS if name in columns]
    if len(serial) != 1 or columns - {*serial, "issuer", "reason", "since"}:
        raise MalformedError(
            "the CSV file needs a heading with serial_hex or serial_decimal, and may have issuer, reason and since"
        )
    for row in rows:
        try:
            yield _csv_line(row, serial[0], act, issuer, reason, since)
        except MalformedError as error:
            raise MalformedError(f"line {rows.line_num} of the CSV file: {error.message}") from error


def _csv_line(
    row: dict[str, str], column: str, act: Act, issuer: Digest | None, reason: str, since: Instant | None
) -> StatusLine:
    if None in row or None in row.values():
        raise MalformedError("it has more or fewer fields than the heading")
    text = row[column].strip()
    serial = _hex(text) if column == "serial_hex" else _decimal(text)
    of = parse_digest(row["issuer"].strip()) if "issuer" in row else issuer
    if of is None:
        raise MalformedError("it names no issuer, and none was given")
    if act is not Act.REVOKE:
        return StatusLine(of, serial)
    at = parse_moment(row["since"].strip()) if row.get("since") else since
    if at is None:
        raise MalformedError("it does not say since when, and nothing was given")
    return StatusLine(of, serial, row.get("reason", "").strip() or reason, at)


def _hex(text: str) -> int:
    """As tools print it: in capitals or not, with leading zeros or without."""
    return parse_serial(text.lower().lstrip("0") or text[:1])


def _decimal(text: str) -> int:
    if not _DECIMAL.match(text):
        raise MalformedError(f"a serial has 1 to 49 decimal digits without leading zeros, not {text[:60]!r}")
    return parse_serial(f"{int(text):x}")


def _status(path: Path) -> OrderFile:
    first: list[StatusLine] = []

    def keep(line: StatusLine) -> None:
        if len(first) < _SHOWN:
            first.append(line)

    order = _with_file(path, lambda file: read_status_order(file, keep))
    verb = {Act.REVOKE: "Revokes for good", Act.HOLD: "Holds", Act.RELEASE: "Releases from hold"}[order.act]
    words = [f"{verb} {order.total} certificates:"]
    words += [f"  {count} of issuer {issuer.hex()}" for issuer, count in order.counts.items()]
    for line in first:
        told = f", {line.reason} since {instant_text(line.since)}" if line.reason else ""
        words.append(f"  serial {line.serial:x}{told}")
    if order.total > len(first):
        words.append(f"  … and {order.total - len(first)} more in the file")
    return OrderFile(order.digest, order.act, order, tuple(words))


def _reissue(path: Path) -> OrderFile:
    order = _with_file(path, read_reissue_order)
    words = [
        f"Gives new certificates to the keys of {order.total} former ones, valid until {instant_text(order.until)}:"
    ]
    words += [f"  group {number}: {count}" for number, count in enumerate(order.counts, 1)]
    words.append(f"  signed by the CA {order.ca.hex()}")
    return OrderFile(order.digest, Act.REISSUE, order, tuple(words))


def _words_of_deletion(order: DeletionOrder) -> Iterator[str]:
    versions = "1 version" if len(order.versions) == 1 else f"{len(order.versions)} versions"
    yield f"Deletes {versions} of register {order.register} for good, at every site:"
    for version in order.versions[:_SHOWN]:
        yield f"  version {version.sequence}, which no rule keeps since {instant_text(version.until)}"
    if len(order.versions) > _SHOWN:
        yield f"  … and {len(order.versions) - _SHOWN} more, the last is version {order.versions[-1].sequence}"
    if order.keys is not None:
        yield f"Destroys the shares of epoch {order.keys}: nothing that was sealed in it opens for anybody any more."
    days = f" ({order.delay_s // 86400} days)" if order.delay_s >= 86400 else ""
    who = "1 custodian who objects stops" if order.objections == 1 else f"{order.objections} custodians who object stop"
    yield f"It lies open for {order.delay_s} s{days}; {who} it."
    yield f"Reason: {order.reason}"


def _words_of_list(found: ExtensionList) -> Iterator[str]:
    yield f"Accepts expired certificates of issuer {found.issuer.hex()}"
    yield f"until {instant_text(found.until)} at the latest."
    yield f"The list counts from {instant_text(found.not_before)} to {instant_text(found.not_after)}."
    if found.rule is not None:
        span = f"{instant_text(found.rule.first)} to {instant_text(found.rule.last)}"
        yield f"All that ended from {span}, but {len(found.exceptions)} exceptions."
    if found.keys:
        yield f"{len(found.keys)} keys by name:"
        yield from (f"  {key.hex()}" for key in islice(sorted(found.keys), _SHOWN))
    yield f"Reason: {found.reason}"
    yield f"Legal basis: {found.basis}"


def _text(path: Path, limit: int) -> str:
    try:
        return read_limited(path, 4 * limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path} is not UTF-8 text") from error


def _with_file(path: Path, read: Callable[[BinaryIO], Made]) -> Made:
    try:
        with open(path, "rb") as file:
            return read(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error

"""One input for all readers of what feeds the journal: the first byte says which; what each must hold to."""

from __future__ import annotations

import io

from exclave.crypto.jws import verify_message
from exclave.errors import CorruptObject, MalformedError
from exclave.formats.journal import Head, encode_entry, encode_record, parse_entry, read_records
from exclave.formats.push import encode_push, parse_push
from exclave.identity.feeding.table import read_table
from exclave.ids import Digest, Instant

ISSUER = Digest(bytes(32))


def _entry(data: bytes) -> None:
    assert encode_entry(parse_entry(data)) == data


def _records(data: bytes) -> None:
    end = 0
    for record in read_records(data, Head()):
        assert encode_record(record.data, record.head) == data[end : record.end]
        end = record.end


def _push(data: bytes) -> None:
    push = parse_push(data)
    assert parse_push(encode_push(push)) == push


def _table(data: bytes) -> None:
    log = read_table(io.BytesIO(data), issuer=ISSUER, as_of=Instant(0)).log
    assert log.issued is not None
    assert len(log.issued) == data.count(b"\n") - 1


def _message(data: bytes) -> None:
    verify_message(data, {})
    raise AssertionError("nobody signed this")


READERS = {b"e": _entry, b"r": _records, b"p": _push, b"t": _table, b"m": _message}


def understood(data: bytes) -> bool:
    """Whether it was accepted; refusing it in the one way is as good. Anything else is a fault."""
    reader = READERS.get(data[:1])
    if reader is None:
        return False
    try:
        reader(data[1:])
    except (MalformedError, CorruptObject):
        return False
    return True

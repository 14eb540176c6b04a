"""The status store: answers from rows that a database keeps, whichever it is.

``store_sqlite.py`` and ``store_postgres.py`` are the databases. The rows are a cache of the journal and are rebuilt
from it (``sync.py``) when they are lost, damaged or of an older form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from exclave.errors import CorruptObject, MalformedError
from exclave.formats.journal import Entry, Head, Pushed, serial_bytes
from exclave.formats.relying import RelyingService, parse_service
from exclave.identity.contract import IssuerInfo, StoredPasskey
from exclave.identity.fold import Changes, Name, Thing, batches, responder_owner, settle, stored_passkey
from exclave.identity.status_log import CertificateStatus, Good, Held, Reason, Revoked, Serial, Stop, Unknown
from exclave.ids import Digest, Instant, Label

SCHEMA = 1
"""Of the rows. A store with another one is emptied and rebuilt."""
_REASONS = (
    Reason.UNSPECIFIED,
    Reason.KEY_COMPROMISE,
    Reason.CA_COMPROMISE,
    Reason.AFFILIATION_CHANGED,
    Reason.SUPERSEDED,
    Reason.CESSATION_OF_OPERATION,
    Reason.PRIVILEGE_WITHDRAWN,
    Reason.AA_COMPROMISE,
)
_NUMBERS = {reason: number for number, reason in enumerate(_REASONS)}
_HOLD = -1
_GOOD, _UNKNOWN = Good(), Unknown()

StopRow = tuple[int | None, int | None]
"""(since, number of its reason or -1: held); (None, None): issued and not stopped."""


@dataclass(frozen=True, slots=True)
class Known:
    """The few things that every answer needs, as of one applied batch."""

    generation: int
    head: Head
    issuers: Mapping[Digest, IssuerInfo]
    numbers: Mapping[Digest, int]
    """Of issuers, in the rows."""


class Writing(Protocol):
    """One transaction of the only writer."""

    def known(self) -> Known: ...

    def clear(self) -> None:
        """Removes everything, the head too."""

    def states(self, names: Sequence[Name]) -> dict[Name, Stop]:
        """Those of them that are stopped."""

    def write(
        self,
        head: Head,
        issuers: Mapping[Digest, IssuerInfo],
        issued: Mapping[Digest, Sequence[bytes]],
        settled: Mapping[Name, Stop | None],
        things: Mapping[tuple[str, bytes], Thing | None],
    ) -> None: ...


class Rows(Protocol):
    """A database. ``UnavailableError`` if it does not answer, ``CorruptObject`` if it is damaged."""

    def known(self) -> Known:
        """Recent: what another process applied shows within 200 ms."""

    def certificate(self, issuer: int, serial: bytes) -> StopRow | None: ...

    def stopped(self, issuer: int) -> Iterator[tuple[bytes, StopRow]]:
        """In numeric order, of one moment."""

    def thing(self, kind: str, key: bytes) -> bytes | None: ...

    def things(self, kind: str, owner: str | None = None) -> list[tuple[bytes, bytes]]:
        """(key, value), by key."""

    def writing(self) -> AbstractContextManager[Writing]: ...

    def close(self) -> None: ...


class Store:
    """``contract.StatusStore`` over ``rows``."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._services: tuple[int, dict[str, RelyingService | None]] = (-1, {})

    def generation(self) -> int:
        return self._rows.known().generation

    def head(self) -> Head:
        return self._rows.known().head

    def apply(self, entries: Iterable[tuple[Entry, Head]]) -> None:
        """As in the contract; entries that are applied already are passed over, so two processes may catch up."""
        self._apply(entries, clear=False)

    def replace(self, entries: Iterable[tuple[Entry, Head]]) -> None:
        """Forgets everything and applies ``entries`` from the first; readers see the old rows until it is done."""
        self._apply(entries, clear=True)

    def _apply(self, entries: Iterable[tuple[Entry, Head]], *, clear: bool) -> None:
        with self._rows.writing() as rows:
            if clear:
                rows.clear()
            known = rows.known()
            for changes in batches(entries, known.head, known.issuers):
                _write(rows, changes)

    def issuers(self) -> tuple[IssuerInfo, ...]:
        return tuple(info for info in self._rows.known().issuers.values() if info.certificates)

    def status(self, issuer: Digest, serial: Serial) -> CertificateStatus:
        number = self._rows.known().numbers.get(issuer)
        if number is None or serial < 0 or serial.bit_length() > 160:
            return _UNKNOWN
        row = self._rows.certificate(number, serial_key(serial_bytes(serial)))
        if row is None:
            return _UNKNOWN
        return _GOOD if row[0] is None else stop_of_row(row)

    def stopped(self, issuer: Digest) -> Iterator[tuple[Serial, Stop]]:
        number = self._rows.known().numbers.get(issuer)
        if number is None:
            return
        for key, row in self._rows.stopped(number):
            yield Serial(int.from_bytes(key[1:], "big")), stop_of_row(row)

    def responders(self, issuer: Digest, place: Label) -> tuple[bytes, ...]:
        return tuple(value for _, value in self._rows.things("responder", responder_owner(issuer, place)))

    def service(self, client_id: str) -> RelyingService | None:
        generation, services = self._services
        if generation != (current := self.generation()):
            services = {}
            self._services = current, services
        if client_id not in services:
            data = self._rows.thing("service", client_id.encode("utf-8", "replace"))
            if data is None:
                return None  # not remembered: anybody may ask for any name
            services[client_id] = _service(data)
        return services[client_id]

    def services(self) -> tuple[RelyingService, ...]:
        return tuple(_service(data) for _, data in self._rows.things("service"))

    def settings(self) -> bytes | None:
        return self._rows.thing("settings", b"")

    def place_keys(self) -> Mapping[Label, bytes]:
        return {Label(key.decode()): value for key, value in self._rows.things("place-keys")}

    def passkey(self, credential: bytes) -> StoredPasskey | None:
        data = self._rows.thing("passkey", credential)
        return None if data is None else stored_passkey(data)

    def passkeys_of(self, subject: str) -> tuple[StoredPasskey, ...]:
        return tuple(stored_passkey(data) for _, data in self._rows.things("passkey", subject))

    def extensions(self) -> tuple[bytes, ...]:
        ended = {key for key, _ in self._rows.things("extension-ended")}
        return tuple(note for key, note in self._rows.things("extension") if key not in ended)

    def pushed(self, sender: Label) -> Pushed | None:
        """The last message of ``sender`` that was taken, see ``feeding/pushing.py``."""
        data = self._rows.thing("pushed", sender.encode())
        try:
            return None if data is None else msgspec.msgpack.decode(data, type=Pushed)
        except msgspec.MsgspecError as error:
            raise CorruptObject("a sender's place in the status store is damaged") from error

    def close(self) -> None:
        self._rows.close()


def _write(rows: Writing, changes: Changes) -> None:
    names = list({name for name, _ in changes.events})
    settled = settle(changes.events, rows.states(names)) if names else {}
    rows.write(changes.head, changes.issuers, changes.issued, settled, changes.things)


def _service(data: bytes) -> RelyingService:
    try:
        return parse_service(data)
    except MalformedError as error:
        raise CorruptObject("a relying service in the status store is damaged") from error


# What rows are made of


def serial_key(serial: bytes) -> bytes:
    """A serial as the rows name it: its length before it, so that keys sort as numbers do."""
    return bytes((len(serial),)) + serial


def stop_row(stop: Stop | None) -> StopRow:
    if stop is None:
        return None, None
    return stop.time, _HOLD if isinstance(stop, Held) else _NUMBERS[stop.reason]


def stop_of_row(row: StopRow) -> Stop:
    """Inverse of ``stop_row`` for one that is stopped. ``CorruptObject`` if the store's row is damaged."""
    since, reason = row
    if since is None or reason is None or not _HOLD <= reason < len(_REASONS):
        raise CorruptObject("a revocation in the status store is damaged")
    return Held(Instant(since)) if reason == _HOLD else Revoked(Instant(since), _REASONS[reason])


def encode_issuer(info: IssuerInfo) -> bytes:
    return msgspec.msgpack.encode(info)


def decode_issuer(data: bytes) -> IssuerInfo:
    """Inverse of ``encode_issuer``. ``CorruptObject`` if the store's bytes are damaged."""
    try:
        return msgspec.msgpack.decode(data, type=IssuerInfo)
    except msgspec.MsgspecError as error:
        raise CorruptObject("an issuer in the status store is damaged") from error

"""What lies at a site against what the writer's cache believes: after a crash, or when the cache is gone.

Packs that the cache does not know are adopted by their chunk tables, which only the writer of the present epoch can
seal, or as far as this machine has opened them itself (``seed.py``). Whoever keeps a site can show one pack's header
and table under another one's name, so that later versions would refer to chunks that are not there: with ``whole``
each unknown pack is read in full and must have its own hash.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from exclave.crypto.aead import ObjectCipher
from exclave.errors import CorruptObject, IntegrityError, MalformedError
from exclave.formats.pack import (
    BULK_BYTES,
    HEADER_BYTES,
    SIZE_CLASSES,
    TableRow,
    parse_header,
    parse_locator,
    parse_table,
)
from exclave.formats.paths import pack_key, pack_prefix
from exclave.ids import Digest, Epoch, Fingerprint, Key, Label, RegisterId, parse_digest, sha256
from exclave.sites.contract import Readable
from exclave.vault.index import ChunkIndex
from exclave.vault.sealer import table_key
from exclave.vault.seed import Seeds

_PAGE: Final = 500
_READERS: Final = 8
_TABLE: Final = b"exclave/table/v1"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was found at one site, in numbers of packs."""

    adopted: int
    """Unknown ones, whose chunks the cache knows now."""
    confirmed: int
    """Known ones that were not known to be there: a run died after it had put them."""
    lost: int
    """Known ones that were believed to be there, and are not or have another size."""
    unreadable: int
    """Unknown ones that are no packs of this writer: left as they are, never referred to, and not read again."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where unknown packs are read, and the keys that may open their tables."""

    site: Readable
    state: Fingerprint
    register: RegisterId
    index_keys: Mapping[Epoch, bytes]
    whole: bool
    seeds: Seeds | None


def reconcile(
    index: ChunkIndex,
    label: Label,
    site: Readable,
    state: Fingerprint,
    register: RegisterId,
    index_keys: Mapping[Epoch, bytes],
    *,
    whole: bool = False,
    seeds: Seeds | None = None,
    epoch: Epoch | None = None,
) -> Reconciled:
    """Makes ``index`` agree with what lies at ``site``. ``UnavailableError`` if that cannot be read to the end.

    ``index_keys``: only of epochs whose writer alone knows them. What ``seeds`` knows of former ones is adopted too,
    always from whole packs, and noted as of ``epoch``, the present one.

    (1) The site's packs are listed, a page at a time. (2) Known ones are confirmed. (3) Unknown ones are adopted, each
    in one transaction. (4) What the listing lacks is lost. A process that dies before (4) has only added what is true.
    Memory: one page of names and a few chunk tables.
    """
    source = _Source(site, state, register, index_keys, whole, seeds)
    adopted = confirmed = unreadable = 0
    index.start_listing(label)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="reindex") as pool:
        for page in _pages(site, state, register):  # (1)
            count, unknown = index.found_in_listing(page, label)  # (2)
            confirmed += count
            for name, size, found in _read_all(pool, source, unknown):
                if found is None:
                    # Read again at the next start if the process dies before this.
                    index.refuse(name, size, label)
                    unreadable += 1
                    continue
                sealed_in, rows = found
                index.adopt(name, size, epoch or sealed_in, rows, label)  # (3)
                adopted += 1
    return Reconciled(adopted, confirmed, index.end_listing(label), unreadable)  # (4)


def finish_intents(index: ChunkIndex) -> int:
    """Forgets packs that arrived nowhere, so that their chunks are shipped again; returns their number.

    Only once every site has been reconciled: a pack may have arrived at one that does not answer now.
    """
    return index.forget_intents()


def _pages(site: Readable, state: Fingerprint, register: RegisterId) -> Iterator[dict[Digest, int]]:
    """Names and sizes of what is listed under packs' names. Anything else that lies there is not ours."""
    prefix = pack_prefix(state, register)
    listing = site.list(prefix)
    while items := list(itertools.islice(listing, _PAGE)):
        page: dict[Digest, int] = {}
        for item in items:
            name = _name_of(item.key)
            if name is not None and pack_key(state, register, name) == item.key:
                page[name] = item.size_bytes
        if page:
            yield page


def _name_of(key: Key) -> Digest | None:
    try:
        return parse_digest(key.rpartition("/")[2])
    except MalformedError:
        return None


_Found = tuple[Epoch, list[TableRow]] | None


def _read_all(
    pool: ThreadPoolExecutor, source: _Source, unknown: Mapping[Digest, int]
) -> Iterator[tuple[Digest, int, _Found]]:
    """Reads several tables at once; at most two per thread are in memory."""
    flights: deque[tuple[Digest, int, Future[_Found]]] = deque()
    try:
        for name, size in unknown.items():
            flights.append((name, size, pool.submit(_read_table, source, name, size)))
            if len(flights) >= 2 * _READERS:
                first, length, flight = flights.popleft()
                yield first, length, flight.result()
        while flights:
            first, length, flight = flights.popleft()
            yield first, length, flight.result()
    finally:
        for _, _, flight in flights:
            flight.cancel()


def _read_table(source: _Source, name: Digest, size: int) -> _Found:
    """Epoch and chunk table of a pack, or None if no key at hand opens it or it is not what its name says."""
    key = pack_key(source.state, source.register, name)
    if size not in SIZE_CLASSES:
        return None
    try:
        seeded = source.seeds is not None and source.seeds.knows(name)
        # A kilobyte tells whether the rest is worth reading: whoever fills a site with rubbish gets no more read.
        place = None if seeded else _locate(source, source.site.get_range(key, 0, HEADER_BYTES))
        if place is None and not seeded:
            return None
        if place is not None and not source.whole:
            return _open_table(place, source.site.get_range(key, place.offset, place.length))
        data = source.site.get(key, limit=BULK_BYTES)
        if len(data) != size or sha256(data) != name:
            return None
        if seeded and source.seeds is not None:
            rows = source.seeds.rows(name, data)
            return (Epoch(0), rows) if rows else None
        place = _locate(source, data[:HEADER_BYTES])
        return _open_table(place, data[place.offset : place.offset + place.length]) if place is not None else None
    except IntegrityError:
        return None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a pack's sealed chunk table lies, and what opens it."""

    epoch: Epoch
    tables: ObjectCipher
    offset: int
    length: int


def _locate(source: _Source, head: bytes) -> _Place | None:
    header = parse_header(head)
    for epoch, index_key in source.index_keys.items():
        tables = ObjectCipher(table_key(index_key, header.salt))
        try:
            return _Place(epoch, tables, *parse_locator(tables.open(0, header.sealed_locator, _TABLE)))
        except CorruptObject:
            continue
    return None


def _open_table(place: _Place, sealed: bytes) -> _Found:
    return place.epoch, parse_table(place.tables.open(1, sealed, _TABLE))

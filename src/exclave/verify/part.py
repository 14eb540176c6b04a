"""Reads some of a source's objects whole and compares them with their names: a part of what a verification reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MissingObject, UnavailableError
from exclave.formats.paths import pack_prefix
from exclave.ids import Digest
from exclave.sites.contract import Readable, digest_of
from exclave.verify.inventory import Inventory, NamedObject

MAX_SILENT = 8
"""After so many objects in a row that cannot be read the source is called unavailable, not spoilt."""
_EXTRA_LISTED = 100_000


@dataclass(frozen=True, slots=True)
class Wrong:
    """An object that is not what its name says."""

    object: NamedObject
    error: ExclaveError
    found: Digest | None = None
    """SHA-256 of the bytes that are there; None if there are none, or none that can be read as an object."""

    @property
    def missing(self) -> bool:
        return isinstance(self.error, MissingObject)


def listed_sizes(source: Readable, inventory: Inventory) -> dict[Digest, int]:
    """Sizes of the inventory's packs as the source's listing shows them; what it lacks is left out.

    A listing that goes on and on is not read to its end: then some packs seem to be missing and are looked at one by
    one. ``UnavailableError`` if it breaks off.
    """
    sizes: dict[Digest, int] = {}
    most = 2 * len(inventory.packs) + _EXTRA_LISTED
    for place, stat in enumerate(source.list(pack_prefix(inventory.state, inventory.register))):
        if place >= most:
            break
        try:
            name = Digest(bytes.fromhex(stat.key.rpartition("/")[2]))
        except ValueError:
            continue
        if name in inventory.packs and inventory.pack(name).key == stat.key:
            sizes[name] = stat.size_bytes
    return sizes


def read_objects(
    source: Readable, objects: Iterable[NamedObject], *, workers: int = 2, read: Callable[[int], None]
) -> Iterator[Wrong]:
    """Those of ``objects`` that are wrong at ``source``; ``read(bytes)`` after each.

    ``UnavailableError`` once ``MAX_SILENT`` in a row cannot be read. Memory: ``2 * workers`` objects.
    """
    silent = 0
    for wrong, size in _ahead(source, objects, workers):
        read(size)
        silent = silent + 1 if wrong is not None and isinstance(wrong.error, UnavailableError) else 0
        if wrong is not None:
            if silent >= MAX_SILENT:
                raise wrong.error
            yield wrong


def _ahead(source: Readable, objects: Iterable[NamedObject], workers: int) -> Iterator[tuple[Wrong | None, int]]:
    with ThreadPoolExecutor(workers, thread_name_prefix="scrub") as pool:
        flights: deque[Future[tuple[Wrong | None, int]]] = deque()
        try:
            for item in objects:
                flights.append(pool.submit(_read, source, item))
                if len(flights) >= 2 * workers:
                    yield flights.popleft().result()
            while flights:
                yield flights.popleft().result()
        finally:
            for flight in flights:
                flight.cancel()


def _read(source: Readable, item: NamedObject) -> tuple[Wrong | None, int]:
    try:
        found = digest_of(source, item.key, limit=item.limit)
    except (IntegrityError, UnavailableError) as error:
        return Wrong(item, error), 0
    if found.digest == item.name:
        return None, found.size_bytes
    other = CorruptObject(f"its {found.size_bytes} bytes do not have the hash that it is named by", key=item.key)
    return Wrong(item, other, found.digest), found.size_bytes

"""Asks a far source for what will be asked of it next, while its last answers are still being judged.

Over a network each question costs a round trip, and a verification has some hundred small ones. What was foreseen is
handed out once, to whoever asks for just that; everything is judged in the same order and by the same code as if it
had been asked for then. What was foreseen and is never asked for costs a request.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from exclave.errors import CorruptObject, ExclaveError
from exclave.ids import Key
from exclave.sites.contract import MAX_OBJECT_BYTES, Digested, ObjectStat, Readable, Sources, digest_of, is_far

MOST_OBJECTS = 128
"""Most objects that are foreseen at one source and not asked for yet; with the next line, 12 MiB in memory."""
SMALL_BYTES = 96 << 10
"""Longer objects are not foreseen. A full bundle of a ledger is shorter."""
_LISTED = 64
"""Most objects of one listing that are foreseen."""
_THREADS = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Listing:
    """The beginning of a listing, what it failed with, and how it goes on."""

    first: tuple[ObjectStat, ...]
    error: ExclaveError | None
    rest: Iterator[ObjectStat]


class AheadSource:
    """``inner``, a far source. ``foresee…`` returns at once; all else as the inner one does it."""

    def __init__(self, inner: Readable) -> None:
        self.inner = inner
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ahead")
        self._lock = threading.Lock()
        self._listings: dict[str, Future[_Listing]] = {}
        self._objects: dict[Key, Future[bytes]] = {}
        self._ended = False

    def foresee(self, key: Key) -> None:
        """``key`` will be asked for."""
        with self._lock:
            if not self._ended and key not in self._objects and len(self._objects) < MOST_OBJECTS:
                self._objects[key] = self._pool.submit(self.inner.get, key, limit=SMALL_BYTES)

    def foresee_below(self, prefix: str, *, objects: bool) -> None:
        """``prefix`` will be listed; with ``objects``, the first ones there will be asked for."""
        with self._lock:
            if not self._ended and prefix not in self._listings:
                self._listings[prefix] = self._pool.submit(self._begin, prefix, objects)

    def forget(self) -> None:
        """Nothing of what was foreseen will be asked for."""
        with self._lock:
            for listing in self._listings.values():
                listing.cancel()
            for coming in self._objects.values():
                coming.cancel()
            self._objects.clear()
            self._listings.clear()

    def end(self) -> None:
        """What is still on its way is given up, and nothing more is foreseen."""
        with self._lock:
            self._ended = True
        self.forget()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, prefix: str, objects: bool) -> _Listing:
        first: list[ObjectStat] = []
        rest: Iterator[ObjectStat] = iter(())
        try:
            rest = iter(self.inner.list(prefix))
            for stat in itertools.islice(rest, _LISTED):
                first.append(stat)
                if objects and stat.size_bytes <= SMALL_BYTES and stat.key.startswith(prefix):
                    self.foresee(stat.key)
        except ExclaveError as error:
            return _Listing(tuple(first), error, rest)
        return _Listing(tuple(first), None, rest)

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        with self._lock:
            coming = self._objects.pop(key, None)
        if coming is not None:
            try:
                data = coming.result()
                if len(data) <= limit:
                    return data
            except CorruptObject:
                pass  # longer than was foreseen: asked for as it is wanted
        return self.inner.get(key, limit=limit)

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        return digest_of(self.inner, key, limit=limit)

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self.inner.get_range(key, offset, length)

    def stat(self, key: Key) -> ObjectStat | None:
        return self.inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        with self._lock:
            coming = self._listings.pop(prefix, None)
        if coming is None:
            yield from self.inner.list(prefix)
            return
        begun = coming.result()
        yield from begun.first
        if begun.error is not None:
            raise begun.error
        yield from begun.rest


class Ahead:
    """Sources, the far ones among them as ``AheadSource``. Use it in ``with``: the end gives up what nobody wanted."""

    def __init__(self, sources: Sources) -> None:
        self._own: list[AheadSource] = []
        self.sources: dict[Any, Readable] = {name: self._wrapped(source) for name, source in sources.items()}

    def _wrapped(self, source: Readable) -> Readable:
        if isinstance(source, AheadSource) or not is_far(source):
            return source
        self._own.append(AheadSource(source))
        return self._own[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self._own:
            source.end()


def foresee(sources: Iterable[Readable], keys: Iterable[Key]) -> None:
    """All of ``keys`` will be asked of each of ``sources``. They are not even made where none is far."""
    far = [source for source in sources if isinstance(source, AheadSource)]
    for key in keys if far else ():
        for source in far:
            source.foresee(key)


def foresee_below(sources: Iterable[Readable], prefixes: Iterable[str], *, objects: bool = True) -> None:
    """``prefixes`` will be listed at each of ``sources``; with ``objects``, the first ones there will be asked for."""
    far = [source for source in sources if isinstance(source, AheadSource)]
    for prefix in prefixes if far else ():
        for source in far:
            source.foresee_below(prefix, objects=objects)


def forget(sources: Iterable[Readable]) -> None:
    """What was foreseen at ``sources`` and not asked for will not be."""
    for source in sources:
        if isinstance(source, AheadSource):
            source.forget()


def each_ahead(items: Sequence[T], soon: Callable[[T], None]) -> Iterator[T]:
    """``items`` in order; ``soon`` hears of each some steps before its turn."""
    for item in items[:_THREADS]:
        soon(item)
    for place, item in enumerate(items):
        if place + _THREADS < len(items):
            soon(items[place + _THREADS])
        yield item

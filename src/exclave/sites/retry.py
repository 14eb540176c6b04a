"""Repeats what failed for the moment, and finds out what became of writes whose answer was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from exclave.errors import AlreadyExists, CorruptObject, ExclaveError, HeadMoved, OutcomeUnknown, SiteUnavailable
from exclave.ids import Digest, Key
from exclave.sites.contract import MAX_OBJECT_BYTES, Digested, ObjectStat, Site, Tagged, digest_of
from exclave.sites.listed import listed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits ``first_s``, then ``factor`` times as long each time up to ``longest_s``; gives up after ``attempts``
    calls, or when the next wait would end more than ``total_s`` after the start."""

    attempts: int = 6
    first_s: float = 0.2
    factor: float = 2.0
    longest_s: float = 10.0
    total_s: float = 60.0
    unmet_total_s: float = 10.0
    """Instead of ``total_s`` for a site that has not answered since this process began. When home is lost its site
    may be lost too, and recovery cannot wait a minute for it at every step."""
    rest_s: float = 5.0
    """A site that was given up because it says nothing is not asked for so long, then once; twice as long each time."""
    longest_rest_s: float = 60.0

    def wait_s(self, failures: int, spread: float) -> float:
        """Seconds to wait after so many failures; ``spread`` from 0 to 1 takes up to half of it away, so that many
        writers do not come back together."""
        full = min(self.longest_s, self.first_s * self.factor ** (failures - 1))
        return full * (1 - spread / 2)


@dataclass(slots=True)
class _Hearing:
    """Whether the site says anything at all, over all calls. Threads may race for it: it only saves time."""

    met: bool = False
    """It has answered since this process began."""
    rest_s: float = 0.0
    """It was given up, and is to be left alone for so long; 0: it was not."""
    until_s: float = 0.0
    """When it may be asked again, by the site's clock."""
    last: SiteUnavailable | OutcomeUnknown | None = None
    """The failure at which it was given up."""

    def note(self, error: ExclaveError | None) -> None:
        """Any answer is one, also an error."""
        if error is None or not error.facts.get("silent"):
            self.met, self.rest_s = True, 0.0

    def give_up(self, policy: RetryPolicy, now_s: float, last: SiteUnavailable | OutcomeUnknown) -> None:
        self.last = last
        self.rest_s = min(policy.longest_rest_s, 2 * self.rest_s or policy.rest_s)
        self.until_s = now_s + self.rest_s


class RetryingSite:
    """``inner``, with bounded patience.

    Retried are ``SiteUnavailable`` that are retryable and not ``permanent``. An ``OutcomeUnknown`` is settled by
    reading: after it, finding one's own bytes counts as success. Racers for a name must therefore offer different
    bytes, which signed objects of different writers always are. A site that says nothing (``silent``) is given up and
    left alone for a while: whoever works with several goes on with the others.
    """

    far = True
    """It stands around every site over a network, and around no other."""

    def __init__(
        self,
        inner: Site,
        *,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
        spread: Callable[[], float],
        policy: RetryPolicy | None = None,
    ) -> None:
        """``sleep`` and ``clock`` count in seconds; ``spread`` gives random numbers from 0 to 1."""
        self.inner = inner
        self._sleep = sleep
        self._clock = clock
        self._spread = spread
        self._policy = policy or RetryPolicy()
        self._hearing = _Hearing()

    @property
    def address(self) -> str:
        return self.inner.address

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self._patiently(lambda: self.inner.get(key, limit=limit))

    def digest(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Digested:
        return self._patiently(lambda: digest_of(self.inner, key, limit=limit))

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self._patiently(lambda: self.inner.get_range(key, offset, length))

    def stat(self, key: Key) -> ObjectStat | None:
        return self._patiently(lambda: self.inner.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        """A listing that breaks off is begun again; what was given out already is passed over."""
        return listed(self._from_the_start(prefix), prefix, self.address)

    def _from_the_start(self, prefix: str) -> Iterator[ObjectStat]:
        patience = _Patience(self)
        last = ""
        while True:
            try:
                for item in self.inner.list(prefix):
                    self._hearing.note(None)
                    if item.key > last:
                        last = item.key
                        patience = _Patience(self)
                        yield item
            except SiteUnavailable as error:
                patience.after(error)
            else:
                self._hearing.note(None)
                return

    def read_head(self, key: Key) -> Tagged | None:
        return self._patiently(lambda: self.inner.read_head(key))

    def put_new(self, key: Key, data: bytes) -> None:
        patience = _Patience(self)
        unknown: OutcomeUnknown | None = None
        while True:
            try:
                return self._heard(lambda: self.inner.put_new(key, data))
            except AlreadyExists as taken:
                # The name may have been taken by an earlier try of ours, whose answer was lost.
                if unknown is not None and self._holds(key, data, unknown):
                    return None
                raise taken from unknown
            except OutcomeUnknown as error:
                unknown = error
                patience.after(error)
            except SiteUnavailable as error:
                if unknown is not None and not patience.allows(error):
                    raise unknown from error
                patience.after(error)

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self._patiently(lambda: self.inner.put_same(key, data))

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        patience = _Patience(self)
        unknown: OutcomeUnknown | None = None
        while True:
            try:
                return self._heard(lambda: self.inner.replace_if(key, data, expected))
            except HeadMoved as moved:
                if unknown is None:
                    raise
                head = self._head_after(key, unknown)
                if head is not None and head.data == data:
                    return head.tag
                # Somebody else's bytes are there: instead of ours, or after ours. Only the caller can tell.
                raise unknown from moved
            except OutcomeUnknown as error:
                unknown = error
                patience.after(error)
            except SiteUnavailable as error:
                if unknown is not None and not patience.allows(error):
                    raise unknown from error
                patience.after(error)

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        self._patiently(lambda: self.inner.replace_spoilt(key, data, spoilt))

    def _holds(self, key: Key, data: bytes, unknown: OutcomeUnknown) -> bool:
        """Whether the object has the bytes ``data``; the unknown outcome itself if that cannot be read."""
        try:
            return self.get(key, limit=max(len(data), 1)) == data
        except CorruptObject:
            return False
        except SiteUnavailable as error:
            raise unknown from error

    def _head_after(self, key: Key, unknown: OutcomeUnknown) -> Tagged | None:
        try:
            return self.read_head(key)
        except SiteUnavailable as error:
            raise unknown from error

    def _patiently(self, call: Callable[[], T]) -> T:
        patience = _Patience(self)
        while True:
            try:
                return self._heard(call)
            except SiteUnavailable as error:
                patience.after(error)

    def _heard(self, call: Callable[[], T]) -> T:
        try:
            result = call()
        except ExclaveError as error:
            self._hearing.note(error)
            raise
        self._hearing.note(None)
        return result


class _Patience:
    """What is left of the policy within one call. ``SiteUnavailable`` if the site is left alone now."""

    def __init__(self, site: RetryingSite) -> None:
        self._site = site
        self._started_s = site._clock()
        self._failures = 0
        wait_s = site._hearing.until_s - self._started_s
        if site._hearing.rest_s and wait_s > 0:
            last = site._hearing.last
            if last is None:
                raise SiteUnavailable(f"{site.address} does not answer", silent=True)
            raise SiteUnavailable(last.message, silent=True, hint=last.hint) from last

    def allows(self, error: SiteUnavailable | OutcomeUnknown) -> bool:
        """Whether a further try is due after this failure, which ``after`` has not counted yet."""
        policy, hearing = self._site._policy, self._site._hearing
        if isinstance(error, SiteUnavailable) and (not error.retryable or error.facts.get("permanent")):
            return False
        if hearing.rest_s:
            return False  # it was given up before: this try was to see whether it is back
        waited_s = self._site._clock() - self._started_s
        total_s = policy.total_s if hearing.met else policy.unmet_total_s
        # Compared with the unspread wait, so that the number of tries does not depend on chance.
        return self._failures + 1 < policy.attempts and waited_s + policy.wait_s(self._failures + 1, 0) <= total_s

    def after(self, error: SiteUnavailable | OutcomeUnknown) -> None:
        """Waits before the next try, or raises the failure."""
        if not self.allows(error):
            if error.facts.get("silent"):
                self._site._hearing.give_up(self._site._policy, self._site._clock(), error)
            raise error
        self._failures += 1
        self._site._sleep(self._site._policy.wait_s(self._failures, self._site._spread()))

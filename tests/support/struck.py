"""A site to which something happens at a chosen call: its host dies, is cut off, is full, is late, or turns hostile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from exclave.errors import OutcomeUnknown, SiteFull, SiteUnavailable
from exclave.ids import Digest, Key
from exclave.sites.contract import MAX_OBJECT_BYTES, ObjectStat, Site, Tagged
from support.hostile import FlippingSite, LyingSite, MissingSite, StaleSite, TruncatingSite

T = TypeVar("T")
WRITES = frozenset({"put_new", "put_same", "replace_if", "replace_spoilt"})
UNSURE = frozenset({"put_new", "replace_if"})
"""Calls whose lost answer leaves open whether they took effect."""
MANNERS = ("lies", "flips", "hides", "cuts short", "shows the past")
"""How a host is hostile. One that lies does no write and says that all are done."""


def hostile(inner: Site, manner: str) -> Site:
    """``inner`` as a host shows it from now on."""
    if manner == "shows the past":
        stale = StaleSite(inner)
        stale.freeze()
        return stale
    return {"lies": LyingSite, "flips": FlippingSite, "hides": MissingSite, "cuts short": TruncatingSite}[manner](inner)


class Struck:
    """``inner`` until its ``at``-th call (from 1), and what ``fault`` makes of it from that call on.

    ``killed``: nothing answers any more, and ``destroy`` is called: the disk is gone with the host. ``cut off``:
    nothing answers. ``filled``: no write is taken. ``slow``: every call takes effect, and its answer is not waited
    for. ``hostile``: as ``manner`` says; the past is the moment at which this object was made. ``real``: ``destroy``
    does something to the real host behind ``inner``, and calls go on to it.
    """

    def __init__(
        self, inner: Site, fault: str, at: int, *, manner: str = "", destroy: Callable[[], None] = lambda: None
    ) -> None:
        self.inner, self.fault, self.at = inner, fault, at
        self.calls = 0
        self.struck = ""
        """The call at which it happened; empty: it has not."""
        self._bad = hostile(inner, manner) if fault == "hostile" else inner
        self._destroy = destroy
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return self.inner.address

    def _call(self, operation: str, name: str, call: Callable[[Site], T]) -> T:
        with self._lock:
            self.calls += 1
            if not self.struck and self.calls >= self.at:
                self.struck = f"{operation} {name}"
                if self.fault in ("killed", "real"):
                    self._destroy()
            struck = bool(self.struck)
        if not struck or self.fault == "real":
            return call(self.inner)
        lost = OutcomeUnknown if operation in UNSURE else SiteUnavailable
        if self.fault in ("killed", "cut off"):
            raise lost(f"{name}: the host does not answer")
        if self.fault == "filled":
            if operation in WRITES:
                raise SiteFull(f"{name}: no space left on the host")
            return call(self.inner)
        if self.fault == "slow":
            call(self.inner)
            raise lost(f"{name}: no answer within the time limit")
        return call(self._bad)

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self._call("get", key, lambda site: site.get(key, limit=limit))

    def get_range(self, key: Key, offset: int, length: int) -> bytes:
        return self._call("get_range", key, lambda site: site.get_range(key, offset, length))

    def stat(self, key: Key) -> ObjectStat | None:
        return self._call("stat", key, lambda site: site.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        yield from self._call("list", prefix, lambda site: list(site.list(prefix)))

    def put_new(self, key: Key, data: bytes) -> None:
        self._call("put_new", key, lambda site: site.put_new(key, data))

    def put_same(self, key: Key, data: bytes | memoryview) -> None:
        self._call("put_same", key, lambda site: site.put_same(key, data))

    def read_head(self, key: Key) -> Tagged | None:
        return self._call("read_head", key, lambda site: site.read_head(key))

    def replace_if(self, key: Key, data: bytes, expected: str | None) -> str:
        return self._call("replace_if", key, lambda site: site.replace_if(key, data, expected))

    def replace_spoilt(self, key: Key, data: bytes, spoilt: Digest | None) -> None:
        self._call("replace_spoilt", key, lambda site: site.replace_spoilt(key, data, spoilt))

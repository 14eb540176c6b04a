"""Packs to the sites that the placement rule names, several at once, each noted before and after.

A site that fails is left out for the rest of the run; the run goes on as long as the others can still meet the rule.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from exclave.errors import ExclaveError, IntegrityError, UnavailableError
from exclave.formats.paths import pack_key
from exclave.ids import Epoch, Fingerprint, Label, RegisterId
from exclave.sites.contract import Site
from exclave.vault.index import ChunkIndex
from exclave.vault.ingest import ChunkStore
from exclave.vault.sealer import SealedPack

PACKS_IN_FLIGHT = 5
"""Each of 16 MiB. On a line of 40 ms and 1 Gbit/s 5 MB are under way at any time, and a connection waits for one answer
after each pack: five together leave no gap, and no site keeps the others of its pack waiting for long.
"""


class Shipper:
    """Takes finished packs from a ``PackSealer`` (its ``ship``)."""

    def __init__(
        self,
        *,
        state: Fingerprint,
        register: RegisterId,
        epoch: Epoch,
        sites: Mapping[Label, Site],
        index: ChunkIndex,
        check_placement: Callable[[frozenset[Label]], None],
    ) -> None:
        """``check_placement`` raises ``PlacementUnmet`` if the given sites alone can no longer meet the rule."""
        self._state, self._register, self._epoch = state, register, epoch
        self._sites = dict(sites)
        self._index = index
        self._check_placement = check_placement
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(PACKS_IN_FLIGHT, thread_name_prefix="ship")
        self._puts = ThreadPoolExecutor(max(1, PACKS_IN_FLIGHT * len(sites)), thread_name_prefix="put")
        self._flights: deque[Future[None]] = deque()
        self._room = threading.Semaphore(PACKS_IN_FLIGHT + 1)
        self.store: ChunkStore | None = None
        self.failed: dict[Label, ExclaveError] = {}
        self.packs = 0
        self.shipped_bytes = 0
        """Size of the packs made in this run; each is sent to every site."""

    @property
    def good_sites(self) -> dict[Label, Site]:
        """Sites that have not failed in this run."""
        return {label: site for label, site in self._sites.items() if label not in self.failed}

    def ship(self, finish: Callable[[], SealedPack]) -> None:
        """Runs ``finish`` and the puts elsewhere; waits while too many packs are on their way.

        Raises what went wrong with an earlier pack, so that nobody reads on for hours after the rule cannot be met.
        """
        self._room.acquire()
        with self._lock:
            landed = []
            while self._flights and self._flights[0].done():
                landed.append(self._flights.popleft())
            self._flights.append(self._pool.submit(self._run, finish))
        for flight in landed:
            flight.result()

    def _run(self, finish: Callable[[], SealedPack]) -> None:
        try:
            self._put(finish())
        finally:
            self._room.release()

    def _put(self, pack: SealedPack) -> None:
        size = len(pack.data)
        # Noted before it is put: whoever restarts after a crash here asks the sites whether it arrived.
        self._index.intend(pack.name, size, self._epoch, pack.rows)
        key = pack_key(self._state, self._register, pack.name)
        tries = {label: self._puts.submit(site.put_same, key, pack.data) for label, site in self.good_sites.items()}
        for label, attempt in tries.items():
            try:
                attempt.result()
            except (UnavailableError, IntegrityError) as error:
                # A site that holds other bytes under the pack's name is as good as none; it must not stop the others.
                self.leave_out(label, error)
            else:
                self._index.confirm(pack.name, label)
        self.check()
        with self._lock:
            self.packs += 1
            self.shipped_bytes += size
        pack.settle()
        if self.store is not None:
            self.store.settled(pack.slots)

    def leave_out(self, label: Label, error: ExclaveError) -> None:
        """``label`` failed: the run goes on without it if the rule allows."""
        with self._lock:
            self.failed.setdefault(label, error)

    def check(self) -> None:
        """Raises ``PlacementUnmet`` if the sites that still work can no longer meet the rule."""
        self._check_placement(frozenset(self.good_sites))

    def wait(self) -> None:
        """Until every pack given so far is durable; raises what went wrong."""
        while True:
            with self._lock:
                if not self._flights:
                    return
                flight = self._flights.popleft()
            flight.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._puts.shutdown(cancel_futures=True)

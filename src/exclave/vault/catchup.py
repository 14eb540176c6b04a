"""Copies to a site what it lacks of a version, from other sites that have it. Needs no key.

Everything here is named by its own SHA-256, so a source cannot pass off anything else, and a process that dies
leaves only whole objects under their right names: the next run finds them and goes on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, MissingObject, UnavailableError
from exclave.formats.objectlist import MAX_NODE_BYTES, ListNode, parse_list_node
from exclave.formats.pack import BULK_BYTES
from exclave.formats.paths import list_key, pack_key
from exclave.ids import Digest, Fingerprint, Key, Label, RegisterId, sha256
from exclave.sites.contract import Readable, Site
from exclave.vault.index import ChunkIndex

WORKERS: Final = 4
"""Objects on their way at once: each at most 16 MiB."""


@dataclass(slots=True)
class CaughtUp:
    """What came of it."""

    copied: dict[Label, set[Digest]]
    """Objects that each site has received: packs and list nodes. Those that were there already are not in it."""
    lacking: dict[Label, set[Digest]]
    """Objects that each site still lacks."""
    refused: dict[Label, ExclaveError] = field(default_factory=dict)
    """Sites that failed a write; nothing more was sent to them."""
    spoilt: dict[tuple[Label, Digest], ExclaveError] = field(default_factory=dict)
    """Packs under whose names a site holds other bytes: whoever keeps it must remove them. It got all the others."""
    faults: dict[tuple[Label, str], ExclaveError] = field(default_factory=dict)
    """What was wrong at a source: (site, object's name in hex) → error."""
    copied_bytes: int = 0
    """Sum over all receiving sites."""

    @property
    def complete(self) -> frozenset[Label]:
        """Sites that lack nothing now."""
        return frozenset(label for label, names in self.lacking.items() if not names)

    @property
    def failed(self) -> dict[Label, str]:
        """Sites that still lack something, each with the reason in words."""
        return {label: self._reason(label, names) for label, names in self.lacking.items() if names}

    def add(self, more: CaughtUp) -> None:
        """What a second pass did, for some of the same sites."""
        for label, names in more.copied.items():
            self.copied[label] |= names
            self.lacking[label] = more.lacking[label]
        self.refused.update(more.refused)
        self.spoilt.update(more.spoilt)
        self.faults.update(more.faults)
        self.copied_bytes += more.copied_bytes

    def _reason(self, label: Label, names: set[Digest]) -> str:
        if label in self.refused:
            return self.refused[label].message
        for name in sorted(names):
            if (label, name) in self.spoilt:
                return f"{self.spoilt[label, name].message}: `exclave scrub {label} --days 1` repairs it"
        sources = [error.message for (_, name), error in self.faults.items() if bytes.fromhex(name) in names]
        return f"lacks {len(names)} objects of this version, and no other site gave them" + (
            f": {sources[0]}" if sources else ""
        )


@dataclass(frozen=True, slots=True)
class ListedObjects:
    """All that one version's object list names, and the nodes of the list itself."""

    packs: dict[Digest, int]
    """Name → size in bytes."""
    nodes: frozenset[Digest]


def read_list(state: Fingerprint, register: RegisterId, root: Digest, sites: Mapping[Label, Readable]) -> ListedObjects:
    """The whole list under ``root``, each node from the first site with a good copy; ``MissingObject`` if none has.

    ``CorruptObject`` if the numbers in it do not add up: the list's author was wrong, not a site.
    """
    packs: dict[Digest, int] = {}
    nodes: set[Digest] = set()

    def visit(name: Digest) -> ListNode:
        node = _list_node(state, register, name, sites)
        nodes.add(name)
        for line in node.lines:
            if node.level == 0:
                packs[line.name] = line.size_bytes
                continue
            if line.name in nodes:
                raise CorruptObject(f"an object list names node {line.name.hex()[:16]}… twice")
            below = visit(line.name)
            if (below.level, below.count, below.size_bytes) != (node.level - 1, line.count, line.size_bytes):
                raise CorruptObject(f"an object list is wrong about its node {line.name.hex()[:16]}…")
        return node

    if visit(root).count != len(packs):
        raise CorruptObject("an object list names a pack twice")
    return ListedObjects(packs, frozenset(nodes))


def _list_node(state: Fingerprint, register: RegisterId, name: Digest, sites: Mapping[Label, Readable]) -> ListNode:
    last: ExclaveError | None = None
    for site in sites.values():
        try:
            data = site.get(list_key(state, register, name), limit=MAX_NODE_BYTES)
        except (UnavailableError, IntegrityError) as error:
            last = error
            continue
        if sha256(data) == name:
            try:
                return parse_list_node(data)
            except MalformedError as error:
                raise CorruptObject(f"node {name.hex()[:16]}… of an object list is malformed") from error
    raise MissingObject(f"no site has a good copy of list node {name.hex()[:16]}…", node=name.hex()) from last


def catch_up(
    *,
    state: Fingerprint,
    register: RegisterId,
    needs: Mapping[Digest, int],
    lists: Iterable[tuple[Digest, bytes]],
    sites: Mapping[Label, Site],
    index: ChunkIndex,
    others: Mapping[Digest, int] | None = None,
    workers: int = WORKERS,
) -> CaughtUp:
    """For the writer of a version: each of ``sites`` gets the packs (``needs``, name → bytes) that ``index`` does not
    know there, and the nodes of the version's list (``lists``, name and text, the root last) that it lacks.

    ``others``: packs of earlier versions, which are brought too if that can be done; nothing in the result tells of
    them. The index learns what arrived, what is spoilt, and which sources turned out not to have what it believed.
    Raises nothing for a site that fails: ``failed`` of the result names it.
    """
    have: dict[Label, Set[Digest]] = {label: index.placed_at(label) for label in sites}
    done = copy_objects(state, register, needs, have, sites, targets=sites, workers=workers)
    liars = {label for (label, _), error in done.faults.items() if isinstance(error, IntegrityError)}
    if liars:
        # Sources that lack what the index believed them to have: they may be brought it in turn.
        for (label, text), error in done.faults.items():
            if isinstance(error, IntegrityError):
                index.lost(Digest(bytes.fromhex(text)), label)
        now = {label: index.placed_at(label) | done.copied[label] for label in sites}
        working = [label for label in liars if label not in done.refused]
        done.add(copy_objects(state, register, needs, now, sites, targets=working, workers=workers))
    _learn(index, done, needs)
    nodes = list(lists)
    for label, site in sites.items():
        if label not in done.refused:
            _put_nodes(state, register, nodes, label, site, done)
    if others:
        working = [label for label in sites if label not in done.refused]
        # What is spoilt at a site is not fetched for it again and again.
        held: dict[Label, Set[Digest]] = {label: index.placed_at(label) for label in sites}
        idle = {label: index.spoilt_at(label) for label in sites}
        _learn(index, copy_objects(state, register, others, held, sites, targets=working, idle=idle, workers=workers),
               others)  # fmt: skip
    return done


def _learn(index: ChunkIndex, done: CaughtUp, sizes: Mapping[Digest, int]) -> None:
    for label, names in done.copied.items():
        for name in names:
            # Killed before this: the next start finds the copies by listing the site.
            index.confirm(name, label)
    for label, name in done.spoilt:
        # Its chunks are shipped in other packs from now on; killed before this, the next run comes here again.
        index.refuse(name, sizes[name], label)


def _put_nodes(
    state: Fingerprint,
    register: RegisterId,
    nodes: Iterable[tuple[Digest, bytes]],
    label: Label,
    site: Site,
    done: CaughtUp,
) -> None:
    for name, data in nodes:
        key = list_key(state, register, name)
        try:
            if site.stat(key) is None:
                # Below before above: whoever finds the root after a crash finds all of the list.
                site.put_same(key, data)
                done.copied[label].add(name)
                done.copied_bytes += len(data)
        except (UnavailableError, IntegrityError) as error:
            done.refused[label] = error
            done.lacking[label].add(name)
            return


def copy_objects(
    state: Fingerprint,
    register: RegisterId,
    needs: Mapping[Digest, int],
    have: Mapping[Label, Set[Digest]],
    sites: Mapping[Label, Site],
    *,
    targets: Collection[Label],
    list_nodes: Iterable[Digest] = (),
    idle: Mapping[Label, Set[Digest]] | None = None,
    workers: int = WORKERS,
) -> CaughtUp:
    """Brings each of ``targets`` all of ``needs`` (pack → bytes) and ``list_nodes`` that it lacks by ``have``.

    ``have`` says what each of ``sites`` holds (packs and list nodes alike); a site that is not in it holds nothing.
    ``idle``: what it is no use to bring to a site. Memory: ``workers`` packs. Raises nothing for a site that fails: it
    is left out; ``spoilt`` of the result names the packs under whose names it holds other bytes.
    """
    work = _Work(state, register, have, sites)
    for label in targets:
        work.result.copied[label] = set()
        work.result.lacking[label] = set()
    jobs: list[tuple[Digest, Key, int | None]] = [(n, pack_key(state, register, n), size) for n, size in needs.items()]
    jobs += [(name, list_key(state, register, name), None) for name in list_nodes]
    with ThreadPoolExecutor(workers, thread_name_prefix="copy") as pool:
        flights: deque[Future[None]] = deque()
        for name, key, size in jobs:
            lacking = [label for label in targets if name not in have.get(label, frozenset())]
            lacking = [label for label in lacking if idle is None or name not in idle[label]]
            if not lacking:
                continue
            for label in lacking:
                work.result.lacking[label].add(name)
            flights.append(pool.submit(work.copy, name, key, size, lacking))
            if len(flights) > 2 * workers:
                flights.popleft().result()
        while flights:
            flights.popleft().result()
    return work.result


class _Work:
    """Several threads copy; each object is fetched once and put at every target that lacks it."""

    def __init__(
        self,
        state: Fingerprint,
        register: RegisterId,
        have: Mapping[Label, Set[Digest]],
        sites: Mapping[Label, Site],
    ) -> None:
        self._have = have
        self._sites = sites
        self._lock = threading.Lock()
        self._silent: set[Label] = set()
        self.result = CaughtUp({}, {})

    def copy(self, name: Digest, key: Key, size: int | None, lacking: list[Label]) -> None:
        wanting = [label for label in lacking if label not in self.result.refused]
        data = self._fetch(name, key, size, set(wanting)) if wanting else None
        if data is None:
            return
        for label in wanting:
            try:
                # Killed before this: the site still lacks it. After it: the next listing of the site shows it.
                self._sites[label].put_same(key, data)
            except (UnavailableError, IntegrityError) as error:
                with self._lock:
                    if size is not None and isinstance(error, IntegrityError):
                        self.result.spoilt[label, name] = error
                    else:
                        self.result.refused.setdefault(label, error)
                continue
            with self._lock:
                self.result.copied[label].add(name)
                self.result.lacking[label].discard(name)
                self.result.copied_bytes += len(data)

    def _fetch(self, name: Digest, key: Key, size: int | None, not_from: Set[Label]) -> bytes | None:
        """The object's bytes from a source whose copy is right, or None if there is no such source."""
        for label, site in sorted(self._sites.items(), key=lambda item: item[0] in self._silent):
            if label in not_from or name not in self._have.get(label, frozenset()):
                continue
            try:
                data = site.get(key, limit=BULK_BYTES if size is not None else MAX_NODE_BYTES)
                if sha256(data) != name or (size is not None and len(data) != size):
                    raise CorruptObject(f"{key} at {label} does not have its own hash", key=key)
            except (UnavailableError, IntegrityError) as error:
                with self._lock:
                    self.result.faults.setdefault((label, name.hex()), error)
                    if isinstance(error, UnavailableError):
                        self._silent.add(label)
                continue
            return data
        return None

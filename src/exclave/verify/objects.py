"""Whether sources hold what versions need: object lists, packs, sealed boxes.

Nothing here needs a key: every object is named by the SHA-256 of its bytes, and the ledger names the lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import msgspec

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, MissingObject, UnavailableError
from exclave.formats.objectlist import MAX_NODE_BYTES, ListNode, parse_list_node
from exclave.formats.pack import BULK_BYTES, MAGIC, SIZE_CLASSES
from exclave.formats.paths import list_key, pack_key, pack_prefix
from exclave.ids import Digest, Fingerprint, RegisterId, sha256
from exclave.sites.contract import Readable, Sources, digest_of
from exclave.verify.ahead import foresee
from exclave.verify.history import CountedVersion
from exclave.verify.state import Finding, finding
from exclave.verify.workers import Job, Told

MAX_NODES = 1 << 21
"""Most list nodes of one register that are looked at."""
_EXTRA_LISTED = 100_000
_VERSIONS_AHEAD = 32
"""So many versions' lists are asked of far sources at once."""
_CLASSES = {size: size for size in SIZE_CLASSES}
"""Each size once in memory, whatever number of packs has it."""


class _Pack(msgspec.Struct, frozen=True, gc=False):
    """A pack that lists name: its name once in memory, whatever number of lists has it."""

    name: Digest
    size_bytes: int


class _Node(msgspec.Struct, frozen=True, gc=False):
    """One list node, checked with everything below it."""

    level: int
    count: int
    size_bytes: int
    first: Digest | None
    last: Digest | None
    below: tuple[Digest, ...]
    """Packs at level 0, nodes above."""


@dataclass(slots=True)
class Holding:
    """What one source holds of one register."""

    name: str
    source: Readable
    nodes: set[Digest] = field(default_factory=set)
    """List nodes that it has to hold, for the versions that its ledger covers."""
    fine: set[Digest] = field(default_factory=set)
    """Nodes that were read there and are right, and that are not among ``nodes`` yet."""
    packs: set[Digest] = field(default_factory=set)
    """Packs that it has to hold, likewise."""
    bad: set[Digest] = field(default_factory=set)
    """Nodes and packs that are missing, wrong or unreadable there."""
    unsized: set[Digest] = field(default_factory=set)
    """Packs that a listing shows in another size; their bytes decide what that means."""


class RegisterObjects:
    """All objects of the versions of one register, at every source that covers any of them.

    Memory: about 1 KiB for each version, each list node and each pack, and as much again for each further source.
    """

    def __init__(
        self,
        state: Fingerprint,
        register: RegisterId,
        sources: Sources,
        versions: Iterable[CountedVersion],
        *,
        packs_from: Sources | None = None,
    ) -> None:
        """``packs_from``: the same sources as ``jobs`` shall read packs from them; None: ``sources``."""
        self.findings: list[Finding] = []
        self.holdings = {name: Holding(name, source) for name, source in sources.items()}
        self._state, self._register = state, register
        self._packs_from = sources if packs_from is None else packs_from
        self._nodes: dict[Digest, _Node | None] = {}
        self._packs: dict[Digest, _Pack] = {}
        self._good: dict[str, dict[Digest, bool]] = {name: {} for name in sources}
        self._broken: set[int] = set()
        self._walk(versions)

    # Lists

    def _walk(self, versions: Iterable[CountedVersion]) -> None:
        coming = iter(versions)
        while every := list(itertools.islice(coming, _VERSIONS_AHEAD)):
            for version in every:
                self._foresee(version.held_by, (version.leaf.objects,))
            self._read_lists(every)

    def _foresee(self, held_by: Iterable[str], nodes: Iterable[Digest]) -> None:
        sources = [self.holdings[name].source for name in held_by if name in self.holdings]
        fresh = (digest for digest in nodes if digest not in self._nodes)
        foresee(sources, (list_key(self._state, self._register, digest) for digest in fresh))

    def _read_lists(self, versions: Iterable[CountedVersion]) -> None:
        for version in versions:
            leaf = version.leaf
            root = self._node(leaf.objects, version.held_by)
            if root is not None:
                told, true = (leaf.object_count, leaf.object_bytes), (root.count, root.size_bytes)
                if told != true or not self._names_pack(root, leaf.manifest):
                    error = CorruptObject(f"its list has {true[0]} objects of {true[1]} bytes, or not its manifest")
                    self._note("?", f"version {leaf.sequence}", error)
                    self._broken.add(leaf.sequence)
            for name in version.held_by:
                if name in self.holdings:
                    self._visit(self.holdings[name], leaf.objects)

    def _visit(self, holding: Holding, root: Digest) -> None:
        """Notes everything below ``root`` as needed at this source, and reads the nodes there."""
        stack = [root]
        while stack:
            digest = stack.pop()
            if digest in holding.nodes:
                continue
            holding.nodes.add(digest)
            node = self._nodes.get(digest)
            if digest not in holding.fine:
                try:
                    self._fetch(holding, digest)
                except (IntegrityError, UnavailableError) as error:
                    holding.bad.add(digest)
                    self._note(holding.name, list_key(self._state, self._register, digest), error)
            holding.fine.discard(digest)
            if node is None:
                continue
            if node.level == 0:
                holding.packs.update(node.below)
            else:
                stack.extend(node.below)

    def _fetch(self, holding: Holding, digest: Digest) -> bytes:
        key = list_key(self._state, self._register, digest)
        data = holding.source.get(key, limit=MAX_NODE_BYTES)
        if sha256(data) != digest:
            raise CorruptObject("this list does not have the hash that it is named by", key=key)
        holding.fine.add(digest)
        return data

    def _node(self, digest: Digest, held_by: Iterable[str], level: int | None = None) -> _Node | None:
        """The node with everything below it checked; None if no source has it, or if its writer made it wrong."""
        if digest in self._nodes:
            return self._nodes[digest]
        if len(self._nodes) >= MAX_NODES:
            long = CorruptObject(f"there are more than {MAX_NODES} list nodes; the rest was not read")
            self._note("?", "object lists", long)
            return None
        self._nodes[digest] = None
        # Those that should have it first; a source that is behind may have it all the same.
        order = dict.fromkeys((*held_by, *self.holdings))
        for name in order:
            holding = self.holdings.get(name)
            if holding is None:
                continue
            try:
                data = self._fetch(holding, digest)
            except (IntegrityError, UnavailableError):
                continue
            try:
                self._nodes[digest] = self._check(parse_list_node(data), order, level)
            except (MalformedError, CorruptObject) as error:
                self._note("?", list_key(self._state, self._register, digest), CorruptObject(error.message))
            break
        return self._nodes[digest]

    def _check(self, node: ListNode, held_by: Iterable[str], level: int | None) -> _Node:
        """What the format cannot see: that each line tells the truth about what is below it."""
        if level is not None and node.level != level:
            raise CorruptObject("a list node does not stand on the level that its parent says")
        if node.level == 0:
            return self._check_packs(node)
        first = last = None
        self._foresee(held_by, (line.name for line in node.lines))
        for line in node.lines:
            child = self._node(line.name, held_by, node.level - 1)
            if child is None:
                continue  # Its absence is a finding already, at every source that should have it.
            if (child.level, child.count, child.size_bytes) != (node.level - 1, line.count, line.size_bytes):
                raise CorruptObject("a list node says something else of the node below than that node itself")
            if child.first is None or (last is not None and child.first <= last):
                raise CorruptObject("the nodes of a list overlap, or one is empty")
            first, last = first or child.first, child.last
        return _Node(node.level, node.count, node.size_bytes, first, last, tuple(line.name for line in node.lines))

    def _check_packs(self, node: ListNode) -> _Node:
        names: list[Digest] = []
        for line in node.lines:
            pack = self._packs.get(line.name)
            if pack is None:
                size_bytes = _CLASSES.get(line.size_bytes)
                if size_bytes is None:
                    raise CorruptObject(f"a list names a pack of {line.size_bytes} bytes, which is no size class")
                pack = self._packs[line.name] = _Pack(line.name, size_bytes)
            elif pack.size_bytes != line.size_bytes:
                raise CorruptObject(f"lists disagree about the size of pack {pack.name.hex()}")
            names.append(pack.name)
        first, last = (names[0], names[-1]) if names else (None, None)
        return _Node(0, node.count, node.size_bytes, first, last, tuple(names))

    def _names_pack(self, root: _Node, pack: Digest) -> bool:
        """Whether the list under ``root`` names ``pack``; True if a node on the way is unknown."""
        node: _Node | None = root
        while node is not None and node.level:
            below = [self._nodes.get(digest) for digest in node.below]
            if None in below:
                return True
            node = next((n for n in below if n and n.first and n.last and n.first <= pack <= n.last), None)
        return node is not None and pack in node.below

    # Packs

    @property
    def pack_checks(self) -> int:
        """Number of (source, pack) pairs."""
        return sum(len(holding.packs) for holding in self.holdings.values())

    def check_listings(self, *, read_packs: bool) -> None:
        """Sizes as the sources' listings show them. Without reading packs, also whether they are there at all."""
        for holding in self.holdings.values():
            if not holding.packs:
                continue
            right, wrong = self._listed(holding, keep_right=not read_packs)
            unseen = set() if read_packs else holding.packs - right
            for pack in sorted(wrong.keys() | unseen):
                shown = wrong[pack] if pack in wrong else self._stat(holding, pack)
                if shown is not None and shown != self._packs[pack].size_bytes:
                    holding.unsized.add(pack)
                    if not read_packs:
                        self._size_lie(holding, pack, shown)

    def _listed(self, holding: Holding, *, keep_right: bool) -> tuple[set[Digest], dict[Digest, int]]:
        """Packs that ``holding`` has to hold and that are listed in their size (if they are to be kept), and the others
        with what is listed."""
        prefix = pack_prefix(self._state, self._register)
        right, wrong = set[Digest](), dict[Digest, int]()
        most = 2 * len(holding.packs) + _EXTRA_LISTED
        try:
            for place, stat in enumerate(holding.source.list(prefix)):
                if place >= most:
                    long = CorruptObject(f"more than {most} packs are listed, {len(holding.packs)} are needed")
                    self._note(holding.name, prefix, long, grave=False)
                    break
                try:
                    pack = self._packs.get(Digest(bytes.fromhex(stat.key.rpartition("/")[2])))
                except ValueError:
                    continue
                if pack is None or stat.key != pack_key(self._state, self._register, pack.name):
                    continue
                if stat.size_bytes != pack.size_bytes and pack.name in holding.packs:
                    wrong[pack.name] = stat.size_bytes
                elif keep_right:
                    right.add(pack.name)
        except (IntegrityError, UnavailableError) as error:
            self._note(holding.name, prefix, error)
        return right, wrong

    def _stat(self, holding: Holding, pack: Digest) -> int | None:
        key = pack_key(self._state, self._register, pack)
        try:
            stat = holding.source.stat(key)
        except (IntegrityError, UnavailableError) as error:
            self._spoilt(holding, pack, error)
            return None
        if stat is None:
            self._spoilt(holding, pack, MissingObject("this pack is missing"))
            return None
        return stat.size_bytes

    def _size_lie(self, holding: Holding, pack: Digest, shown: int) -> None:
        size_bytes = self._packs[pack].size_bytes
        self._spoilt(holding, pack, CorruptObject(f"listed with {shown} bytes instead of {size_bytes}"))

    def jobs(self) -> Iterator[Job]:
        """One for every pack at every source. To be run in any thread; what it returns, in the thread of the caller."""
        for holding in self.holdings.values():
            for pack in sorted(holding.packs):
                yield partial(self._read_pack, holding, pack)

    def _read_pack(self, holding: Holding, pack: Digest) -> Told | None:
        key = pack_key(self._state, self._register, pack)
        try:
            found = digest_of(self._packs_from[holding.name], key, limit=BULK_BYTES)
        except (IntegrityError, UnavailableError) as error:
            return partial(self._spoilt, holding, pack, error)
        if found.digest != pack:
            wrong = CorruptObject(f"its {found.size_bytes} bytes do not have the hash that it is named by")
            return partial(self._spoilt, holding, pack, wrong)
        if found.size_bytes != self._packs[pack].size_bytes or not found.start.startswith(MAGIC):
            made = CorruptObject("its list gives it another size, or it does not start like a pack")
            return partial(self._spoilt, holding, pack, made, "?")
        return None

    def settle_sizes(self) -> None:
        """After ``check_listings`` and all ``jobs``: a pack whose bytes are right is listed in its right size too."""
        for holding in self.holdings.values():
            for pack in sorted(holding.unsized - holding.bad):
                lie = CorruptObject("the bytes are right, but a listing shows it in another size")
                self._note(holding.name, pack_key(self._state, self._register, pack), lie)

    def _spoilt(self, holding: Holding, pack: Digest, error: ExclaveError, site: str = "") -> None:
        holding.bad.add(pack)
        self._note(site or holding.name, pack_key(self._state, self._register, pack), error)

    # Results

    def complete(self, name: str, version: CountedVersion) -> bool:
        """Whether everything that ``version`` needs is at ``name`` and right."""
        if name not in version.held_by or name not in self.holdings or version.leaf.sequence in self._broken:
            return False
        return self._whole(self.holdings[name], self._good[name], version.leaf.objects)

    def _whole(self, holding: Holding, known: dict[Digest, bool], digest: Digest) -> bool:
        if digest not in known:
            node = self._nodes.get(digest)
            known[digest] = (
                node is not None
                and digest not in holding.bad
                and digest in holding.nodes
                and (
                    holding.bad.isdisjoint(node.below)
                    if node.level == 0
                    else all(self._whole(holding, known, child) for child in node.below)
                )
            )
        return known[digest]

    def _note(self, site: str, what: str, error: ExclaveError, *, grave: bool | None = None) -> None:
        found = finding(site, what, error, self._register, grave=grave)
        if found not in self.findings[-64:]:
            self.findings.append(found)

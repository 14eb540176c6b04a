"""What differs between two trees of one register, without reading what they share.

Trees end their nodes by content, so equal runs of entries are equal nodes: those are told by their ids and skipped at
whatever level they meet. What differs is merged in walk order, a leaf of each side at a time. Memory: a node of each
level, and the ids of nodes met (a byte for about every three entries).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exclave.errors import CorruptObject
from exclave.formats.entry import Entry, Kind, walk_order
from exclave.formats.manifest import MAX_LEVEL, Dataset, Record, Ref, check_ref, parse_branch, parse_leaf
from exclave.vault.opener import PackReader
from exclave.vault.sealer import HERE

Order = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One path: ``before`` is None if it is new, ``after`` if it is gone."""

    before: Record | None
    after: Record | None

    @property
    def path(self) -> bytes:
        record = self.after or self.before
        return record.entry.path if record is not None else b""

    @property
    def aspects(self) -> tuple[str, ...]:
        """What is not the same, of a path that both have."""
        if self.before is None or self.after is None:
            return ()
        return changed_aspects(self.before, self.after)


def changed_aspects(before: Record, after: Record) -> tuple[str, ...]:
    """Names of what differs: ``type``, ``content``, ``target``, ``mode``, ``owner``, ``time``, ``attributes``."""
    one, two = before.entry, after.entry
    if one.kind != two.kind:
        return ("type",)
    pairs = (
        ("content", (one.size, before.hash), (two.size, after.hash)),
        ("target", (one.target, one.device), (two.target, two.device)),
        ("mode", one.mode, two.mode),
        ("owner", _owner(one), _owner(two)),
        ("time", one.mtime_ns, two.mtime_ns),
        ("attributes", one.xattrs, two.xattrs),
    )
    return tuple(name for name, then, now in pairs if then != now)


def _owner(entry: Entry) -> tuple[int, int, str, str]:
    return entry.uid, entry.gid, entry.user, entry.group


def differences(
    before: tuple[PackReader, Dataset] | None,
    after: tuple[PackReader, Dataset] | None,
    opened: Callable[[int], None] = lambda level: None,
) -> Iterator[Difference]:
    """In walk order. None stands for a dataset that is not there. Folders of which only the time changed are left out.

    ``opened`` is told the level of each node that had to be read.
    Raises ``CorruptObject`` for trees that no writer makes, ``MissingObject`` if no site has a node.
    """
    one, two = _Side(before, opened), _Side(after, opened)
    while not (one.ended and two.ended):
        if two.ended or (not one.ended and one.rows and _before(one, two)):
            yield from one.turn(lambda record: Difference(record, None))
        elif one.ended or (two.rows and _before(two, one)):
            yield from two.turn(lambda record: Difference(None, record))
        elif one.rows and two.rows:
            found = Difference(one.rows.popleft()[1], two.rows.popleft()[1])
            if (aspects := found.aspects) and (aspects != ("time",) or not _is_folder(found)):
                yield found
        elif one.node == two.node:
            one.skip()
            two.skip()
        else:
            _open(one, two)


def _before(one: _Side, two: _Side) -> bool:
    """Whether the next of ``one``, which is a row, comes before everything of ``two``."""
    return one.next < two.next


def _is_folder(found: Difference) -> bool:
    return found.after is not None and found.after.entry.kind == Kind.FOLDER


def _open(one: _Side, two: _Side) -> None:
    """Neither side can go on: the node that comes first is opened, of two that begin alike the higher one."""
    if one.rows or two.rows:
        (two if one.rows else one).open()
    elif one.next != two.next:
        (one if one.next < two.next else two).open()
    elif one.level != two.level:
        (one if one.level > two.level else two).open()
    else:
        one.open()
        two.open()


class _Side:
    """One tree, walked from its beginning: rows of the leaf at hand, then nodes that are not opened yet."""

    def __init__(self, source: tuple[PackReader, Dataset] | None, opened: Callable[[int], None]) -> None:
        self._opened = opened
        self.rows: deque[tuple[Order, Record]] = deque()
        self._nodes: list[tuple[int, Ref, Order]] = []
        """The next one last."""
        self._seen: set[bytes] = set()
        self._last: Order | None = None
        self._leaf: tuple[int, bytes] | None = None
        self._leaf_rows = 0
        if source is not None:
            self._reader, dataset = source
            if not 0 <= dataset.level <= MAX_LEVEL:
                raise CorruptObject("a manifest's tree is impossibly deep")
            self._nodes.append((dataset.level, dataset.tree, ()))

    @property
    def ended(self) -> bool:
        return not self.rows and not self._nodes

    @property
    def next(self) -> Order:
        """Of the next row, or of the first row below the next node."""
        return self.rows[0][0] if self.rows else self._nodes[-1][2]

    @property
    def level(self) -> int:
        return self._nodes[-1][0]

    @property
    def node(self) -> tuple[int, bytes] | None:
        """Level and id of the next node, or of the leaf at hand while no row of it was used; None in its midst."""
        if self.rows:
            return self._leaf if len(self.rows) == self._leaf_rows else None
        level, ref, _ = self._nodes[-1]
        return level, ref.id

    def skip(self) -> None:
        """Passes over ``node``: the other side has the same."""
        if self.rows:
            self.rows.clear()
        else:
            self._meet(self._nodes.pop()[1])

    def turn(self, make: Callable[[Record], Difference]) -> Iterator[Difference]:
        """The next row, which the other side does not have; or the next node is opened to get at its rows."""
        if self.rows:
            yield make(self.rows.popleft()[1])
        else:
            self.open()

    def open(self) -> None:
        """Reads the next node."""
        level, ref, first = self._nodes.pop()
        self._meet(ref)
        self._opened(level)
        data = self._reader.chunk(ref)
        if level:
            self._open_branch(level, ref, first, data)
            return
        leaf = parse_leaf(data)
        for record in leaf.records:
            order = walk_order(record.entry.path)
            if self._last is not None and order <= self._last:
                raise CorruptObject("a manifest's entries are out of order")
            self._last = order
            self.rows.append((order, record))
        if self.rows and self.rows[0][0] != first:
            raise CorruptObject("a manifest's leaf does not begin where its branch says")
        self._leaf, self._leaf_rows = (0, ref.id), len(self.rows)

    def _open_branch(self, level: int, ref: Ref, first: Order, data: bytes) -> None:
        branch = parse_branch(data)
        if branch.level != level:
            raise CorruptObject("a manifest's branch is of another level than its parent says")
        firsts = [walk_order(path) for path in branch.firsts]
        if firsts[0] != first:
            raise CorruptObject("a manifest's branch does not begin where its parent says")
        for child, begins in zip(reversed(branch.children), reversed(firsts), strict=True):
            target = Ref(ref.pack, child.offset, child.length, child.raw, child.id) if child.pack == HERE else child
            check_ref(target)
            self._nodes.append((level - 1, target, begins))

    def _meet(self, ref: Ref) -> None:
        """No node stands twice in a tree: else a few of them could keep a reader busy for ever."""
        if ref.id in self._seen:
            raise CorruptObject("a manifest's tree has a node twice")
        self._seen.add(ref.id)

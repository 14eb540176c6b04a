"""Whether one source holds one version: the closed set of objects that its leaf names. No key is needed.

How deep it looks: (1) every node of the version's object list is read and hashed, and tells the truth about those
below; (2) every pack that the list names is there in the size that the list says, by the source's own listing; (3) the
pack with the manifest's top, and some packs chosen by chance, are read whole and hashed; (4) the boxes that an opening
needs (the annex, shares, older keys) are read and hashed. So a host that lies about a pack's bytes under its right name
and size is found by chance here, and for certain by `exclave scrub` and `exclave verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from exclave.errors import CorruptObject, MalformedError, MissingObject
from exclave.formats.leaf import VersionLeaf
from exclave.formats.objectlist import MAX_NODE_BYTES, ListLine, ListNode, parse_list_node
from exclave.formats.pack import BULK_BYTES, MAGIC, SIZE_CLASSES
from exclave.formats.paths import box_key, list_key, pack_key
from exclave.ids import Digest, Fingerprint, RegisterId, sha256
from exclave.sites.contract import Readable, digest_of
from exclave.verify.inventory import MAX_BOX_BYTES, MAX_NODES, Inventory, add_boxes
from exclave.verify.part import listed_sizes
from exclave.verify.state import StateView

MAX_STATS = 24
"""Up to so many new packs are asked for one by one; for more, the source's listing is read."""
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Held:
    """What was looked at of a version that is there. Only ``HeldObjects.hold`` builds it."""

    packs: int
    """Packs that the version needs; each is there in its size."""
    packs_read: int
    """Of them, read whole and hashed just now."""
    bytes_read: int


@dataclass(slots=True)
class HeldObjects:
    """What one source was found to hold of one register, so that the next version costs only what it adds.

    It does not forget by itself: an object that is taken away later is noticed after ``forget``. One thread at a time.
    """

    state: Fingerprint
    register: RegisterId
    nodes: set[Digest] = field(default_factory=set)
    packs: dict[Digest, int] = field(default_factory=dict)
    """Name → size in bytes."""
    boxes: set[Digest] = field(default_factory=set)

    def forget(self) -> None:
        """Everything is looked at again."""
        self.nodes.clear()
        self.packs.clear()
        self.boxes.clear()

    def hold(self, source: Readable, leaf: VersionLeaf, *, sample: int, choose: Callable[[int], int]) -> Held:
        """Returns if ``source`` has all that ``leaf`` needs; what was found before is not looked at again.

        ``sample`` of the packs that are new here, and the manifest's, are read whole; ``choose(n)`` gives a number from
        0 to n - 1 that nobody foresees. ``MissingObject`` or ``CorruptObject`` says what is wrong,
        ``UnavailableError`` that it could not be told. Nothing is remembered of a version that is not whole.
        """
        nodes, packs = self._lists(source, leaf)  # (1)
        fresh = {name: size for name, size in packs.items() if name not in self.packs}
        if leaf.manifest not in packs and leaf.manifest not in self.packs:
            raise CorruptObject(f"the list of version {leaf.sequence} does not name its manifest")
        self._sizes(source, fresh, leaf)  # (2)
        chosen = {name for name in (leaf.manifest,) if name in fresh}
        if fresh:
            names = sorted(fresh)
            chosen |= {names[choose(len(names))] for _ in range(sample)}
        read = sum(self._content(source, name, fresh[name]) for name in sorted(chosen))  # (3)
        self.nodes |= nodes
        self.packs |= fresh
        return Held(leaf.object_count, len(chosen), read)

    def hold_boxes(self, source: Readable, view: StateView) -> None:
        """(4) Returns if ``source`` has every box of the register; raises as ``hold`` does."""
        wanted = Inventory(self.state, self.register)
        add_boxes(wanted, view)
        for name in sorted(wanted.boxes - self.boxes):
            key = box_key(self.state, self.register, name)
            if sha256(source.get(key, limit=MAX_BOX_BYTES)) != name:
                raise CorruptObject(f"{key} does not have the hash that it is named by", key=key)
            self.boxes.add(name)

    def _lists(self, source: Readable, leaf: VersionLeaf) -> tuple[set[Digest], dict[Digest, int]]:
        """Nodes that were not known, each read and right, and the packs that they name."""
        nodes: set[Digest] = set()
        packs: dict[Digest, int] = {}
        waiting: list[tuple[ListLine, int | None]] = [
            (ListLine(leaf.objects, leaf.object_count, leaf.object_bytes), None)
        ]
        while waiting:
            line, level = waiting.pop()
            if line.name in self.nodes or line.name in nodes:
                continue
            if len(nodes) + len(self.nodes) >= MAX_NODES:
                raise CorruptObject(f"there are more than {MAX_NODES} list nodes")
            node = self._node(source, line.name)
            if (node.count, node.size_bytes) != (line.count, line.size_bytes) or level not in (None, node.level):
                raise CorruptObject(f"the list node {line.name.hex()} is not what the one above it says")
            nodes.add(line.name)
            if node.level > 0:
                waiting += [(below, node.level - 1) for below in node.lines]
                continue
            for pack in node.lines:
                if pack.size_bytes not in SIZE_CLASSES:
                    raise CorruptObject(f"a list names a pack of {pack.size_bytes} bytes, which is no size class")
                packs[pack.name] = pack.size_bytes
        return nodes, packs

    def _node(self, source: Readable, name: Digest) -> ListNode:
        key = list_key(self.state, self.register, name)
        data = source.get(key, limit=MAX_NODE_BYTES)
        if sha256(data) != name:
            raise CorruptObject(f"{key} does not have the hash that it is named by", key=key)
        try:
            return parse_list_node(data)
        except MalformedError as error:
            raise CorruptObject(f"{key} is no node of an object list: {error.message}", key=key) from error

    def _sizes(self, source: Readable, fresh: dict[Digest, int], leaf: VersionLeaf) -> None:
        """(2) ``MissingObject`` or ``CorruptObject``, with how many of the new packs are not there as they must be."""
        if len(fresh) <= MAX_STATS:
            shown = self._stats(source, fresh)
        else:
            shown = listed_sizes(source, Inventory(self.state, self.register, packs=fresh))
            # A flooded listing is not read to its end; what it lacks may be there.
            lacking = [name for name in sorted(fresh) if name not in shown]
            shown |= self._stats(source, lacking[:MAX_STATS])
        missing = [name for name in sorted(fresh) if name not in shown]
        wrong = [name for name in sorted(fresh) if name in shown and shown[name] != fresh[name]]
        if missing:
            raise MissingObject(_told(leaf, missing, "are missing" if len(missing) > 1 else "is missing"))
        if wrong:
            raise CorruptObject(_told(leaf, wrong, "have another size" if len(wrong) > 1 else "has another size"))

    def _stats(self, source: Readable, names: Iterable[Digest]) -> dict[Digest, int]:
        found = ((name, source.stat(pack_key(self.state, self.register, name))) for name in names)
        return {name: stat.size_bytes for name, stat in found if stat is not None}

    def _content(self, source: Readable, name: Digest, size_bytes: int) -> int:
        """(3) Bytes read. ``CorruptObject`` if they are not the pack."""
        key = pack_key(self.state, self.register, name)
        found = digest_of(source, key, limit=BULK_BYTES)
        if found.digest != name or found.size_bytes != size_bytes or not found.start.startswith(MAGIC):
            raise CorruptObject(f"the bytes of {key} are not those that it is named by", key=key)
        return found.size_bytes


def _told(leaf: VersionLeaf, names: list[Digest], what: str) -> str:
    some = ", ".join(name.hex()[:16] + "…" for name in names[:_MAX_NAMED])
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"of the {leaf.object_count} packs of version {leaf.sequence}, {len(names)} {what}: {some}{more}"

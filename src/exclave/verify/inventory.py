"""What a source has to hold of a register, by name, as far as the name is the SHA-256 of the object: no key needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, MissingObject, UnavailableError
from exclave.formats.feed import MAX_BATCH_BYTES, parse_batch
from exclave.formats.objectlist import MAX_NODE_BYTES, ListNode, parse_list_node
from exclave.formats.pack import BULK_BYTES
from exclave.formats.paths import box_key, list_key, pack_key, public_key
from exclave.ids import Digest, Fingerprint, Key, RegisterId, sha256
from exclave.sites.contract import MAX_OBJECT_BYTES, Sources
from exclave.verify.feeds import MAX_BATCHES, batch_key, fetch_bytes, shown_heads
from exclave.verify.state import StateView

MAX_NODES = 1 << 21
MAX_BOX_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class NamedObject:
    """One object. ``size_bytes`` is None where no list tells it; ``limit``: the longest that can be right."""

    key: Key
    name: Digest
    size_bytes: int | None
    limit: int


@dataclass(slots=True)
class Inventory:
    """Names of one register's objects."""

    state: Fingerprint
    register: RegisterId
    packs: dict[Digest, int] = field(default_factory=dict)
    """Name → size in bytes."""
    nodes: set[Digest] = field(default_factory=set)
    boxes: set[Digest] = field(default_factory=set)
    batches: dict[Key, Digest] = field(default_factory=dict)
    """Of the identity feed."""
    published: dict[Digest, int] = field(default_factory=dict)
    """Editions and bundles of what is public, as far as a source lists them: name → size in bytes."""
    lost: dict[Key, ExclaveError] = field(default_factory=dict)
    """List nodes that no source has unharmed: what they name is not known."""

    def pack(self, name: Digest) -> NamedObject:
        return NamedObject(pack_key(self.state, self.register, name), name, self.packs[name], BULK_BYTES)

    def public(self, name: Digest) -> NamedObject:
        key = public_key(self.state, self.register, name)
        return NamedObject(key, name, self.published[name], MAX_OBJECT_BYTES)

    def small(self) -> Iterator[NamedObject]:
        """All but packs and what is published."""
        for name in sorted(self.nodes):
            yield NamedObject(list_key(self.state, self.register, name), name, None, MAX_NODE_BYTES)
        for name in sorted(self.boxes):
            yield NamedObject(box_key(self.state, self.register, name), name, None, MAX_BOX_BYTES)
        for key, name in self.batches.items():
            yield NamedObject(key, name, None, MAX_BATCH_BYTES)


def read_lists(state: Fingerprint, register: RegisterId, roots: Iterable[Digest], sources: Sources) -> Inventory:
    """All packs and list nodes below ``roots``, each node read once, from the first source that has it unharmed.

    Nothing is raised for a node that no source has: ``lost`` names it. A node that its author made wrong is there too.
    """
    found = Inventory(state, register)
    waiting = list(dict.fromkeys(roots))
    while waiting:
        name = waiting.pop()
        if name in found.nodes:
            continue
        found.nodes.add(name)
        key = list_key(state, register, name)
        try:
            if len(found.nodes) > MAX_NODES:
                raise CorruptObject(f"there are more than {MAX_NODES} list nodes; the rest was not read")
            node = _node(key, name, sources)
        except IntegrityError as error:
            found.lost[key] = error
            if len(found.nodes) > MAX_NODES:
                return found
            continue
        if node.level == 0:
            found.packs.update((line.name, line.size_bytes) for line in node.lines)
        else:
            waiting += [line.name for line in node.lines if line.name not in found.nodes]
    return found


def _node(key: Key, name: Digest, sources: Sources) -> ListNode:
    last: ExclaveError | None = None
    for source in sources.values():
        try:
            data = source.get(key, limit=MAX_NODE_BYTES)
        except (UnavailableError, IntegrityError) as error:
            last = error
            continue
        if sha256(data) == name:
            try:
                return parse_list_node(data)
            except MalformedError as error:
                raise CorruptObject(f"{key} is no node of an object list: {error.message}") from error
    raise MissingObject(f"no site has a good copy of {key}", key=key) from last


def add_boxes(found: Inventory, view: StateView) -> None:
    """The annex, the custodians' shares and the older keys of every epoch."""
    rule = view.chain.newest.charter.register(found.register)
    if rule is not None:
        found.boxes.add(rule.annex_box)
    chain = view.epochs.get(found.register)
    for epoch in chain.epochs if chain else ():
        found.boxes |= {share.box for share in epoch.note.shares}
        if epoch.note.ancestor is not None:
            found.boxes.add(epoch.note.ancestor)
    found.boxes -= chain.dispensable if chain else set()


def add_batches(found: Inventory, view: StateView, heads_of: Sources, sources: Sources) -> None:
    """The batches that the feed heads of ``heads_of`` lead to; the way is read from ``sources``, as far as it goes."""
    chain = view.epochs.get(found.register)
    for epoch in chain.epochs if chain else ():
        for head in shown_heads(view.state, epoch, heads_of)[0].values():
            last = head.last
            while last is not None and len(found.batches) < MAX_BATCHES:
                key = batch_key(view.state, epoch, last)
                if key in found.batches:
                    break
                found.batches[key] = last
                try:
                    last = parse_batch(fetch_bytes(view.state, epoch, sources, last)).previous
                except (IntegrityError, MalformedError):
                    break  # reading the batch itself will tell

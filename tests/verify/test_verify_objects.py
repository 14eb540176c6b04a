"""Object lists and packs that a dishonest or broken writer could have made."""

from __future__ import annotations

from collections.abc import Sequence as Many

import pytest

from exclave.errors import CorruptObject, SiteUnavailable
from exclave.formats.leaf import VersionLeaf
from exclave.formats.objectlist import ListLine, ListNode, build_list
from exclave.formats.pack import MAGIC
from exclave.formats.paths import list_key, pack_key
from exclave.ids import Digest, Epoch, Instant, Key, Sequence, sha256
from exclave.sites.memory import MemorySite
from exclave.verify.guard import MAX_FAILURES, GuardedSource
from exclave.verify.history import CountedVersion
from exclave.verify.objects import RegisterObjects
from exclave.verify.workers import Workers
from support.custody import REGISTER
from support.hostile import PassThrough
from support.ledger import STATE

PACKS = {sha256(data): data for data in (MAGIC + bytes([n]) * (4096 - 8) for n in range(40))}
NAMES = sorted(PACKS)


class Made:
    """One site with 40 packs, and versions whose lists are made by hand."""

    def __init__(self) -> None:
        self.site = MemorySite()
        for name, data in PACKS.items():
            self.site.put_new(pack_key(STATE, REGISTER, name), data)

    def put(self, level: int, lines: Many[ListLine]) -> ListLine:
        """A list node at the site, and the line that names it."""
        node = ListNode(level, tuple(lines))
        data = node.encode()
        self.site.put_same(list_key(STATE, REGISTER, sha256(data)), data)
        return ListLine(sha256(data), node.count, node.size_bytes)

    def leafs(self, first: int, end: int) -> ListLine:
        return self.put(0, [ListLine(name, 1, 4096) for name in NAMES[first:end]])

    def check(self, root: ListLine, *, manifest: Digest | None = None) -> tuple[RegisterObjects, CountedVersion]:
        leaf = VersionLeaf(
            REGISTER, Epoch(1), Sequence(1), Instant(0), manifest or NAMES[0], root.name, root.count, root.size_bytes
        )
        version = CountedVersion(Epoch(1), 0, leaf, ("site",))
        objects = RegisterObjects(STATE, REGISTER, {"site": self.site}, [version])
        objects.check_listings(read_packs=True)
        with Workers(2) as threads:
            threads.finish(threads.begin(objects.jobs(), objects.pack_checks))
        objects.settle_sizes()
        return objects, version


def blames_writer(made: Made, root: ListLine, *, manifest: Digest | None = None) -> bool:
    """Whether the version is told to be wrong without a word against the site."""
    objects, version = made.check(root, manifest=manifest)
    return {(f.site, f.fault) for f in objects.findings} == {("?", "corrupt-object")} and not objects.complete(
        "site", version
    )


def test_a_list_of_two_levels_is_read_whole() -> None:
    """Every pack is looked at once, and the manifest is found through the levels."""
    made = Made()
    root = made.put(1, [made.leafs(0, 20), made.leafs(20, 40)])
    objects, version = made.check(root, manifest=NAMES[33])
    assert objects.findings == []
    assert objects.complete("site", version)
    assert objects.pack_checks == 40


def test_lists_as_writers_make_them_pass() -> None:
    """The writer's own list builder and this reader agree."""
    made = Made()
    built = build_list((name, 4096) for name in NAMES)
    for name, data in built.nodes:
        made.site.put_same(list_key(STATE, REGISTER, name), data)
    objects, version = made.check(ListLine(built.root, built.count, built.size_bytes))
    assert (objects.findings, objects.complete("site", version)) == ([], True)


def test_a_list_without_the_manifest_is_wrong() -> None:
    """A version's list has to name the pack that the version starts from."""
    made = Made()
    assert blames_writer(made, made.put(1, [made.leafs(0, 20), made.leafs(21, 40)]), manifest=NAMES[20])


@pytest.mark.parametrize("change", [(1, 0), (0, 4096), (-1, 0)])
def test_a_leaf_that_counts_otherwise_is_wrong(change: tuple[int, int]) -> None:
    """Number and size in the ledger are those of the list."""
    made = Made()
    true = made.leafs(0, 20)
    assert blames_writer(made, ListLine(true.name, true.count + change[0], true.size_bytes + change[1]))


def test_a_branch_that_counts_otherwise_is_wrong() -> None:
    """Each line of a list is compared with what is below it."""
    made = Made()
    true = made.leafs(20, 40)
    assert blames_writer(made, made.put(1, [made.leafs(0, 20), ListLine(true.name, 21, true.size_bytes)]))


def test_overlapping_branches_are_wrong() -> None:
    """The same node again and again would name more packs than there are atoms."""
    made = Made()
    node = made.leafs(0, 20)
    for level in range(1, 8):
        node = made.put(level, [node] * 50)
    assert blames_writer(made, node)


def test_a_level_that_is_skipped_is_wrong() -> None:
    """A branch stands one level above what it names."""
    made = Made()
    assert blames_writer(made, made.put(2, [made.leafs(0, 20)]))


def test_an_empty_branch_is_wrong() -> None:
    """Only a list of nothing at all is an empty node."""
    made = Made()
    assert blames_writer(made, made.put(1, [made.leafs(0, 20), made.leafs(0, 0)]))


@pytest.mark.parametrize("size", [4095, 8192, 1 << 40])
def test_sizes_that_cannot_be_are_the_writers(size: int) -> None:
    """No size class, another size than the pack has: its bytes are right, so its list is not."""
    made = Made()
    assert blames_writer(made, made.put(0, [ListLine(NAMES[0], 1, size)]))


def test_something_else_under_a_right_name_is_the_writers() -> None:
    """An object that does not start like a pack, though its hash is right."""
    made = Made()
    data = bytes(4096)
    made.site.put_new(pack_key(STATE, REGISTER, sha256(data)), data)
    assert blames_writer(made, made.put(0, [ListLine(sha256(data), 1, 4096)]), manifest=sha256(data))


def test_garbage_under_a_right_name_is_the_writers() -> None:
    """A list that is none, though its hash is right."""
    made = Made()
    made.site.put_new(list_key(STATE, REGISTER, sha256(b"junk")), b"junk")
    assert blames_writer(made, ListLine(sha256(b"junk"), 1, 4096))


class _Failing(PassThrough):
    """Fails as no site should, and counts how often it is asked."""

    asked = 0

    def get(self, key: Key, *, limit: int = 0) -> bytes:
        self.asked += 1
        if limit == 1:
            return b"far too long"
        raise TimeoutError("no answer")


def test_a_source_that_keeps_failing_is_left_alone() -> None:
    """After a few failures of whatever kind nothing is asked of it any more, and each is a plain site failure."""
    inner = _Failing(MemorySite())
    source = GuardedSource("site", inner)
    for _ in range(3 * MAX_FAILURES):
        with pytest.raises(SiteUnavailable):
            source.get(Key("a"))
    assert inner.asked == MAX_FAILURES
    assert source.given_up


def test_a_source_that_ignores_limits_is_corrupt() -> None:
    """More bytes than were asked for never reach a parser."""
    with pytest.raises(CorruptObject):
        GuardedSource("site", _Failing(MemorySite())).get(Key("a"), limit=1)


def test_a_pack_of_no_size_class_is_the_writers() -> None:
    """A length that is no class tells a host too much, even if list and object agree."""
    made = Made()
    data = MAGIC + bytes(5000)
    made.site.put_new(pack_key(STATE, REGISTER, sha256(data)), data)
    assert blames_writer(made, made.put(0, [ListLine(sha256(data), 1, len(data))]), manifest=sha256(data))

"""Reading a log from a host that is not trusted."""

from __future__ import annotations

from functools import cache

import pytest

from exclave.errors import CorruptObject, Forked, IntegrityError, MalformedError, MissingObject, RolledBack
from exclave.formats.tile import bundle_key, checkpoint_key, encode_tile, tile_key
from exclave.ids import Key
from exclave.rules.tree import leaf_hash, new_tiles, root_of, verify_consistency, verify_inclusion
from exclave.sites.memory import MemorySite
from exclave.sites.recording import RecordingSite
from exclave.verify.logs import LogTree
from support.hostile import FlippingSite, MissingSite, SwappingSite, TruncatingSite, containing
from support.ledger import PREFIX, WITNESS_CARDS, entries, entry, fill, open_log, reader_of, root_over, verified

SIZE = 700


@cache
def site_of(size: int, tag: str = "entry") -> MemorySite:
    """A log of ``size`` entries; shared, so nobody may write to it."""
    site = MemorySite()
    fill(open_log(site), size, tag)
    return site


def tree_of(size: int = SIZE) -> LogTree:
    reader = reader_of(site_of(size))
    return reader.tree(reader.head(WITNESS_CARDS))


def test_all_entries_come_back() -> None:
    """Every entry, any range and single ones, with their numbers."""
    tree = tree_of()
    assert list(tree.entries()) == list(enumerate(entries(SIZE)))
    assert list(tree.entries(250, 520)) == [(n, entry(n)) for n in range(250, 520)]
    assert list(tree.entries(SIZE, SIZE)) == []
    assert [tree.entry(n) for n in (0, 255, 256, SIZE - 1)] == [entry(n) for n in (0, 255, 256, SIZE - 1)]
    tree.check_bundles()


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, SIZE + 1)])
def test_impossible_ranges_are_refused(start: int, stop: int) -> None:
    """A range that is not in the log is the caller's mistake."""
    with pytest.raises(MalformedError):
        list(tree_of().entries(start, stop))


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, SIZE])
def test_proofs_from_tiles_verify(size: int) -> None:
    """Inclusion and consistency proofs made from tiles alone satisfy the pure verifier."""
    tree = tree_of(size)
    for index in {0, size // 3, size // 2, size - 1}:
        verify_inclusion(leaf_hash(entry(index)), index, size, tree.inclusion(index), root_over(size))
    for old in {0, 1, size // 3, size // 2, size - 1, size}:
        assert tree.root_at(old) == root_over(old)
        verify_consistency(old, root_over(old), size, root_over(size), tree.consistency(old))


def test_a_former_state_is_recognised_and_a_fork_too() -> None:
    """The log extends its own past, and nobody else's."""
    tree = tree_of()
    for size in (1, 255, 256, 300, SIZE):
        tree.check_extends(verified(size))
        with pytest.raises(Forked):
            tree.check_extends(verified(size, "other"))
    with pytest.raises(RolledBack):
        tree.check_extends(verified(SIZE + 1))


def test_a_proof_needs_few_objects_and_a_scan_reads_each_once() -> None:
    """A single entry of a log costs a handful of reads; reading all of it does not read tiles again and again."""
    site = RecordingSite(site_of(SIZE))
    reader = reader_of(site)
    reader.tree(reader.head()).inclusion(3)
    assert site.totals.operations["get"] <= 5
    site.forget()
    tree = reader.tree(reader.head())
    list(tree.entries())
    assert site.totals.operations["get"] == 1 + 3 + 2 + 2  # head, bundles, full tiles, edge


def test_a_log_of_many_tiles_stays_in_bounds() -> None:
    """With 66,000 entries the tree has three levels; single entries are still proven with few reads."""
    leaves = [leaf_hash(entry(i)) for i in range(66_000)]
    site = MemorySite()
    for tile in new_tiles(0, len(leaves)):
        span = 256**tile.level
        first = tile.index * 256 * span
        hashes = [root_of(leaves[first + i * span : first + (i + 1) * span]) for i in range(tile.width)]
        site.put_same(tile_key(PREFIX, tile), encode_tile(hashes))
    recording = RecordingSite(site)
    checkpoint = verified(66_000)
    tree = reader_of(recording).tree(checkpoint)
    for index in (0, 65_535, 65_536, 65_999):
        verify_inclusion(leaves[index], index, 66_000, tree.inclusion(index), checkpoint.root)
    assert recording.totals.operations["get"] <= 3 + 8
    assert tree.root_at(65_537) == root_of(leaves[:65_537])


PARTS = ["tile/0/000", "tile/0/002.p", "tile/1/", "tile/entries/000", "tile/entries/002.p"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("bad", [FlippingSite, TruncatingSite, MissingSite])
def test_no_damaged_object_is_believed(bad: type[FlippingSite], part: str) -> None:
    """A flipped bit, a cut or a loss in any tile or bundle is named as such before an entry is handed out wrongly."""
    site = bad(site_of(SIZE), containing(part))
    reader = reader_of(site)
    tree = reader.tree(reader.head())
    seen: list[tuple[int, bytes]] = []
    with pytest.raises((CorruptObject, MissingObject)):
        seen.extend(tree.entries())
    assert seen == list(enumerate(entries(len(seen))))


def test_every_bit_of_an_edge_counts() -> None:
    """Whatever bit of a small log's objects is flipped, reading it all fails."""
    inner = site_of(3)
    keys = [item.key for item in inner.list(PREFIX + "tile/")]
    assert len(keys) == 2
    for key in keys:
        for position in range(len(inner.get(key))):
            site = FlippingSite(inner, containing(key), position=position, bit=position % 8)
            reader = reader_of(site)
            with pytest.raises(IntegrityError):
                list(reader.tree(reader.head()).entries())


def test_swapped_bundles_and_tiles_are_found() -> None:
    """Objects of the same log under each other's names are refused."""
    for names in (("tile/0/000", "tile/0/001"), ("tile/entries/000", "tile/entries/001")):
        one, two = (Key(PREFIX + name) for name in names)
        reader = reader_of(SwappingSite(site_of(SIZE), {one: two, two: one}))
        with pytest.raises(CorruptObject):
            list(reader.tree(reader.head()).entries())


def test_another_log_s_head_with_this_log_s_tiles_is_found() -> None:
    """A checkpoint over other entries does not fit these tiles."""
    tree = reader_of(site_of(SIZE)).tree(verified(SIZE, "other"))
    with pytest.raises(CorruptObject):
        tree.entry(0)


def test_an_unsigned_or_missing_head_is_named() -> None:
    """No head is a missing object; a head that is not the writer's is a corrupt one."""
    with pytest.raises(MissingObject):
        reader_of(MemorySite()).head()
    site = MemorySite()
    site.replace_if(checkpoint_key(PREFIX), b"not a note\n", None)
    with pytest.raises(CorruptObject):
        reader_of(site).head()


def test_full_objects_stand_in_for_partial_ones() -> None:
    """A site may keep only full tiles and bundles once it has them; older checkpoints stay provable."""
    site = MissingSite(site_of(SIZE), containing(".p/"))
    tree = reader_of(site).tree(verified(200))
    assert list(tree.entries()) == list(enumerate(entries(200)))
    assert tree.root_at(100) == root_over(100)
    with pytest.raises(MissingObject):
        reader_of(site).tree(verified(600)).entry(599)


def test_bundles_alone_prove_the_log() -> None:
    """Without tiles the root can still be recomputed from all entries; a wrong one is found."""
    reader_of(MissingSite(site_of(SIZE), containing("tile/0/"))).tree(verified(SIZE)).check_bundles()
    flipped = FlippingSite(site_of(SIZE), containing(bundle_key(PREFIX, 1, 256)))
    with pytest.raises(CorruptObject):
        reader_of(flipped).tree(verified(SIZE)).check_bundles()

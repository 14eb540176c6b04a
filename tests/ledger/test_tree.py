"""RFC 6962 trees: published vectors, every small tree, and proofs that must not pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import CorruptObject, ExclaveError, Forked, MalformedError, RolledBack
from exclave.formats.tile import Tile
from exclave.ids import Digest
from exclave.rules.tree import (
    EMPTY_ROOT,
    Edge,
    Frontier,
    consistency_proof,
    edge_tiles,
    inclusion_proof,
    leaf_hash,
    new_tiles,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The leaves and roots of the Certificate Transparency reference tree, as used by all its implementations.
CT_LEAVES = [
    leaf_hash(bytes.fromhex(text))
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
CT_CONSISTENCY = {
    (1, 8): CT_INCLUSION[0, 8],
    (2, 8): CT_INCLUSION[0, 8][1:],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
LEAVES = [leaf_hash(b"%d" % i) for i in range(1200)]


def hexes(proof: tuple[Digest, ...]) -> list[str]:
    return [step.hex() for step in proof]


def recursive_root(leaves: list[Digest]) -> Digest:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(recursive_root(leaves[:k]), recursive_root(leaves[k:]))


@pytest.mark.parametrize("size", range(9))
def test_roots_of_the_reference_tree(size: int) -> None:
    """The roots are the published ones."""
    assert root_of(CT_LEAVES[:size]).hex() == CT_ROOTS[size]


@pytest.mark.parametrize(("index", "size"), CT_INCLUSION)
def test_inclusion_proofs_of_the_reference_tree(index: int, size: int) -> None:
    """Inclusion proofs are the published ones."""
    assert hexes(inclusion_proof(CT_LEAVES[:size], index)) == CT_INCLUSION[index, size]


@pytest.mark.parametrize(("old", "new"), CT_CONSISTENCY)
def test_consistency_proofs_of_the_reference_tree(old: int, new: int) -> None:
    """Consistency proofs are the published ones."""
    assert hexes(consistency_proof(CT_LEAVES[:new], old)) == CT_CONSISTENCY[old, new]


@pytest.mark.parametrize("size", range(1, 34))
def test_every_small_tree(size: int) -> None:
    """In every tree of up to 33 leaves each proof verifies, for its own leaf and size alone."""
    leaves = LEAVES[:size]
    root = recursive_root(leaves)
    assert root_of(leaves) == root
    for index in range(size):
        proof = inclusion_proof(leaves, index)
        verify_inclusion(leaves[index], index, size, proof, root)
        for wrong in {index - 1, index + 1, size}:
            with pytest.raises(CorruptObject):
                verify_inclusion(leaves[index], wrong, size, proof, root)
    for old in range(size + 1):
        verify_consistency(old, recursive_root(leaves[:old]), size, root, consistency_proof(leaves, old))


@given(st.data())
def test_no_changed_inclusion_proof_passes(data: st.DataObject) -> None:
    """A proof with a hash changed, dropped, added or swapped is refused, and so is another root."""
    size = data.draw(st.integers(2, 70))
    index = data.draw(st.integers(0, size - 1))
    root, proof = root_of(LEAVES[:size]), list(inclusion_proof(LEAVES[:size], index))
    changed = data.draw(st.sampled_from(mutations(proof)))
    with pytest.raises(CorruptObject):
        verify_inclusion(LEAVES[index], index, size, changed, root)
    with pytest.raises(CorruptObject):
        verify_inclusion(LEAVES[index], index, size, proof, flipped(root))


@given(st.data())
def test_no_changed_consistency_proof_passes(data: st.DataObject) -> None:
    """A proof with a hash changed, dropped, added or swapped is refused, and so are other roots and sizes."""
    new = data.draw(st.integers(2, 70))
    old = data.draw(st.integers(1, new - 1))
    roots = root_of(LEAVES[:old]), root_of(LEAVES[:new])
    proof = list(consistency_proof(LEAVES[:new], old))
    for changed in mutations(proof):
        with pytest.raises(CorruptObject):
            verify_consistency(old, roots[0], new, roots[1], changed)
    with pytest.raises(CorruptObject):
        verify_consistency(old, flipped(roots[0]), new, roots[1], proof)
    with pytest.raises(CorruptObject):
        verify_consistency(old, roots[0], new, flipped(roots[1]), proof)
    with pytest.raises(ExclaveError):
        verify_consistency(old + 1, roots[0], new, roots[1], proof)


def flipped(digest: Digest) -> Digest:
    return Digest(bytes([digest[0] ^ 1]) + digest[1:])


def mutations(proof: list[Digest]) -> list[list[Digest]]:
    found = [[*proof, EMPTY_ROOT], [EMPTY_ROOT, *proof], proof[:-1], proof[1:]]
    found += [[*proof[:i], flipped(proof[i]), *proof[i + 1 :]] for i in range(len(proof))]
    found += [[*proof[:i], Digest(proof[i][:31]), *proof[i + 1 :]] for i in range(len(proof))]
    found += [proof[::-1]] if len(proof) > 1 else []
    return [f for f in found if f != proof]


def test_growth_from_nothing_and_to_the_same_size() -> None:
    """Size 0 and equal sizes need no proof, and accept none."""
    verify_consistency(0, EMPTY_ROOT, 5, root_of(LEAVES[:5]), ())
    verify_consistency(5, root_of(LEAVES[:5]), 5, root_of(LEAVES[:5]), ())
    with pytest.raises(CorruptObject):
        verify_consistency(0, EMPTY_ROOT, 5, root_of(LEAVES[:5]), (EMPTY_ROOT,))
    with pytest.raises(CorruptObject):
        verify_consistency(5, root_of(LEAVES[:5]), 5, root_of(LEAVES[:5]), (EMPTY_ROOT,))
    with pytest.raises(CorruptObject):
        verify_consistency(0, LEAVES[0], 5, root_of(LEAVES[:5]), ())


def test_shrinking_and_forking_have_their_own_names() -> None:
    """A smaller tree is a rollback; another tree of the same size is a fork."""
    with pytest.raises(RolledBack):
        verify_consistency(5, root_of(LEAVES[:5]), 4, root_of(LEAVES[:4]), ())
    with pytest.raises(Forked):
        verify_consistency(5, root_of(LEAVES[:5]), 5, root_of(LEAVES[1:6]), ())


@given(st.lists(st.integers(0, 300), max_size=8))
def test_growing_by_edge_and_by_frontier(steps: list[int]) -> None:
    """Both ways of growing give the same root as the whole tree, whatever the steps; tiles are the planned ones."""
    edge, frontier, size = Edge(), Frontier(), 0
    for step in steps:
        added = [LEAVES[(size + i) % len(LEAVES)] for i in range(step)]
        edge, tiles = edge.grow(added)
        planned = sorted(new_tiles(size, size + step), key=lambda t: (t.level, t.index))
        assert [t for t, _ in tiles] == planned
        assert all(len(hashes) == tile.width for tile, hashes in tiles)
        for leaf in added:
            frontier = frontier.push(leaf)
        size += step
        everything = [LEAVES[i % len(LEAVES)] for i in range(size)]
        assert edge.size == frontier.size == size
        assert edge.root == frontier.root == root_of(everything)


def test_tiles_of_the_specification_s_example() -> None:
    """A tree of 70,000 leaves has the tiles that C2SP tlog-tiles says."""
    tiles = list(new_tiles(0, 70_000))
    assert sum(t.level == 0 and t.width == 256 for t in tiles) == 273
    assert [t for t in tiles if t.width < 256] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [t for t in tiles if t.level == 1 and t.width == 256] == [Tile(1, 0, 256)]
    assert len(tiles) == 273 + 1 + 1 + 1 + 1
    assert list(new_tiles(0, 256)) == [Tile(0, 0, 256), Tile(1, 0, 1)]
    assert edge_tiles(256) == [Tile(1, 0, 1)]


def test_an_edge_of_another_size_is_refused() -> None:
    """Tiles that do not fit a size cannot be made an edge of it."""
    with pytest.raises(MalformedError):
        Edge(3, ((LEAVES[0],),))

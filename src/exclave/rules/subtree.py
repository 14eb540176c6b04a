"""Proofs that a subtree is part of a tree (Merkle Tree Certificates draft, subtree consistency proofs). Pure.

A subtree covers leaves ``start`` to ``end`` (exclusive), where ``start`` is a multiple of the least power of two that
is at least ``end - start``. The proof leads from the subtree's hash to the root of the tree of ``size`` leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exclave.errors import CorruptObject, MalformedError
from exclave.ids import Digest
from exclave.rules.tree import MAX_PROOF_HASHES, node_hash, root_of


def check_subtree(start: int, end: int, size: int) -> None:
    """``MalformedError`` unless leaves ``start`` to ``end`` are a subtree of a tree of ``size`` leaves."""
    if not 0 <= start < end <= size or start % (1 << (end - start - 1).bit_length()):
        raise MalformedError(f"leaves {start} to {end} are no subtree of a tree of {size} leaves")


def subtree_proof(leaves: Sequence[Digest], start: int, end: int) -> tuple[Digest, ...]:
    """The proof for leaves ``start`` to ``end`` of the tree over these leaf hashes."""
    check_subtree(start, end, len(leaves))
    return tuple(_prove(leaves, start, end, known=True))


def verify_subtree(subtree: Digest, start: int, end: int, size: int, root: Digest, proof: Sequence[Digest]) -> None:
    """Returns if ``subtree`` is the hash of leaves ``start`` to ``end`` of the tree; else ``CorruptObject``."""
    check_subtree(start, end, size)
    if len(proof) > MAX_PROOF_HASHES or any(len(step) != len(root) for step in proof):
        raise CorruptObject("a proof has too many hashes, or some of a wrong length")
    steps = iter(proof)
    try:
        found = _lead(subtree, start, end, size, steps, known=True)
    except StopIteration as error:
        raise CorruptObject("a proof of a subtree is too short") from error
    if found != (subtree, root) or next(steps, None) is not None:
        raise CorruptObject("a proof of a subtree does not lead to the root")


def _split(size: int) -> int:
    """The largest power of two below ``size``, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _prove(leaves: Sequence[Digest], start: int, end: int, *, known: bool) -> Iterator[Digest]:
    """``known``: the verifier has the hash of these very leaves, if they are the whole subtree."""
    size = len(leaves)
    if (start, end) == (0, size):
        if not known:
            yield root_of(leaves)
        return
    middle = _split(size)
    if end <= middle:
        yield from _prove(leaves[:middle], start, end, known=known)
        yield root_of(leaves[middle:])
    elif start >= middle:
        yield from _prove(leaves[middle:], start - middle, end - middle, known=known)
        yield root_of(leaves[:middle])
    else:
        yield from _prove(leaves[middle:], 0, end - middle, known=False)
        yield root_of(leaves[:middle])


def _lead(
    subtree: Digest, start: int, end: int, size: int, steps: Iterator[Digest], *, known: bool
) -> tuple[Digest, Digest]:
    """The hash of leaves ``start`` to ``end`` and that of all, as the proof has them. The same walk as ``_prove``."""
    if (start, end) == (0, size):
        found = subtree if known else next(steps)
        return found, found
    middle = _split(size)
    if end <= middle:
        part, whole = _lead(subtree, start, end, middle, steps, known=known)
        return part, node_hash(whole, next(steps))
    if start >= middle:
        part, whole = _lead(subtree, start - middle, end - middle, size - middle, steps, known=known)
        return part, node_hash(next(steps), whole)
    part, whole = _lead(subtree, 0, end - middle, size - middle, steps, known=False)
    left = next(steps)
    return node_hash(left, part), node_hash(left, whole)

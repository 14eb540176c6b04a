"""Which chunk tables a writer may believe, across epochs that changed keys and left the pen where it was.

A table counts if nobody but the present writer can have sealed it. Its key belongs to one epoch *note*, not to a
number: two notes of one number (a fork, which a charter decides) have different opening keys, and a chunk that was
sealed under the one that lost opens for nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from exclave.crypto.keyed import derived_key
from exclave.ids import Digest, Epoch
from exclave.rules.epochs import EpochChain

_CONTEXT = b"exclave/index-key/v1\n"


def index_keys_of_pen(keys: Mapping[int, bytes], chain: EpochChain) -> dict[Epoch, bytes]:
    """Index keys of the epochs from the one that gave the writer the pen to the newest; empty if ``keys`` lacks its
    own.

    That epoch's key is random; a rekey's is derived from it and the rekey's note. So the machine that rekeys hands the
    writer nothing, and nothing has to be stored before the first pack of the new epoch.
    """
    since = chain.pen_since
    first = keys.get(since)
    if first is None:
        return {}
    later = chain.epochs[since:]
    return {since: first, **{e.number: derived_key(first, _CONTEXT + e.digest) for e in later}}


def notes_of_pen(chain: EpochChain) -> frozenset[Digest]:
    """Digests of the notes of those epochs: what was sealed under another one is not built on."""
    return frozenset(epoch.digest for epoch in chain.epochs[chain.pen_since - 1 :])

"""Sealing and opening batches of the identity feed. Page: ``docs/spec/feed.md``.

A batch is sealed to the epoch's opening key, so that a quorum can read it on a bare machine, and to the machines of the
embassies that stand by. Whoever holds it for them reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exclave.crypto.aead import ObjectCipher
from exclave.crypto.hpke import OpeningKey, SealingKey
from exclave.errors import NotAuthorised
from exclave.formats.feed import KEY_BYTES, Batch, ParsedBatch, batch_info, bound_header, pad_content, parse_content
from exclave.ids import Digest, Epoch, RegisterId, sha256


def recipient_of(key: SealingKey) -> Digest:
    """How a batch names the one that it is sealed to: SHA-256 of the public key."""
    return sha256(key.raw)


def seal_batch(
    batch: Batch,
    previous: Digest | None,
    recipients: Mapping[Digest, SealingKey],
    register: RegisterId,
    epoch: Epoch,
    *,
    random: Callable[[int], bytes],
) -> bytes:
    """``batch`` as it is stored."""
    key, info = random(KEY_BYTES), batch_info(register, epoch)
    bound = bound_header(previous, {name: to.seal(key, info) for name, to in recipients.items()})
    # The key is random for this batch, so record 0 is used once under it.
    return bound + ObjectCipher(key).seal(0, pad_content(batch), bound)


def open_batch(batch: ParsedBatch, key: OpeningKey, register: RegisterId, epoch: Epoch) -> Batch:
    """The entries. ``NotAuthorised`` if it was not sealed to ``key``, ``CorruptObject`` if it does not open."""
    sealed = batch.keys.get(recipient_of(key.public))
    if sealed is None:
        raise NotAuthorised("this batch of the feed is not sealed to this key")
    opened = key.open(sealed, batch_info(register, epoch))
    return parse_content(ObjectCipher(opened).open(0, batch.sealed, batch.bound))

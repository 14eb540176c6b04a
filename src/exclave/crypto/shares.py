"""Shamir's secret sharing of 32-byte secrets over GF(2^8), polynomial 0x11b. Page: ``docs/spec/shares.md``.

Byte k of the secret is the constant term of its own random polynomial of degree threshold - 1; share ``index``
holds the 32 values at x = index. Fewer shares than the threshold say nothing about the secret.

What Python cannot promise: integers are not wiped from memory, and no operation is documented to take constant
time. What is done: no secret value selects a branch or an index of a table (all 32 bytes are worked on at once as
one number), and the indices and their inverses are public. Run this only on machines whose other users you trust.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exclave.errors import MalformedError
from exclave.ids import Digest, Epoch, RegisterId, sha256

SECRET_BYTES = 32
MAX_SHARES = 255

_ONES = int.from_bytes(b"\x01" * SECRET_BYTES, "big")
_LOW_BITS = _ONES * 0x7F


@dataclass(frozen=True, slots=True)
class Share:
    """One share: ``index`` 1 to 255 (public) and 32 secret bytes."""

    index: int
    data: bytes = field(repr=False)


def split(secret: bytes, threshold: int, count: int, random: Callable[[int], bytes]) -> tuple[Share, ...]:
    """``count`` shares with indices 1 to ``count``; any ``threshold`` of them give ``secret`` back.

    ``random(n)`` must return n fresh bytes from the operating system's generator.
    """
    if len(secret) != SECRET_BYTES:
        raise MalformedError(f"a shared secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= count <= MAX_SHARES:
        raise MalformedError(f"cannot make {count} shares with a threshold of {threshold}")
    terms = [int.from_bytes(secret, "big")]
    for _ in range(threshold - 1):
        term = random(SECRET_BYTES)
        if len(term) != SECRET_BYTES:
            raise MalformedError("the random source returned too few bytes")
        # Zero bytes are kept, also in the highest term: leaving them out would say something about the secret.
        terms.append(int.from_bytes(term, "big"))
    shares = []
    for index in range(1, count + 1):
        value = 0
        for term_value in reversed(terms):
            value = _scale(value, index) ^ term_value
        shares.append(Share(index, value.to_bytes(SECRET_BYTES, "big")))
    return tuple(shares)


def combine(shares: Sequence[Share]) -> bytes:
    """The 32 bytes at x = 0 of the polynomial through all ``shares``.

    With fewer shares than the threshold, or a wrong one, this is some other value: compare what comes out with
    something public. Raises ``MalformedError`` for no shares, indices out of range or used twice.
    """
    indices = [share.index for share in shares]
    if not shares or len(set(indices)) != len(indices) or not all(1 <= i <= MAX_SHARES for i in indices):
        raise MalformedError("shares must have different indices from 1 to 255")
    if any(len(share.data) != SECRET_BYTES for share in shares):
        raise MalformedError(f"a share has {SECRET_BYTES} bytes")
    total = 0
    for share in shares:
        weight = 1
        for other in indices:
            if other != share.index:
                # Lagrange at zero: other / (other - index); subtraction is XOR in this field.
                weight = _times(weight, _times(other, _inverse(other ^ share.index)))
        total ^= _scale(int.from_bytes(share.data, "big"), weight)
    return total.to_bytes(SECRET_BYTES, "big")


def commitment(register: RegisterId, epoch: Epoch, index: int, share: bytes) -> Digest:
    """The public value that lets anyone who is shown ``share`` (32 bytes) tell whether it is the right one.

    A share is uniformly random, so its hash does not help to guess it.
    """
    return sha256(b"exclave/share-commitment/v1\n" + f"{register}\n{epoch}\n{index}\n".encode() + share)


def _scale(vector: int, factor: int) -> int:
    """Each of the 32 bytes in ``vector`` times the public byte ``factor``, by shift and add over its eight bits."""
    total = 0
    for bit in range(8):
        total ^= vector * (factor >> bit & 1)
        # Doubling in each byte: shift left, and where the top bit fell out, add the polynomial's rest 0x1b.
        vector = ((vector & _LOW_BITS) << 1) ^ ((vector >> 7 & _ONES) * 0x1B)
    return total


def _times(a: int, b: int) -> int:
    return _scale(a, b)


def _inverse(value: int) -> int:
    """1 / ``value`` for a public byte that is not zero: value^254."""
    power, square = 1, value
    for _ in range(7):
        square = _times(square, square)
        power = _times(power, square)
    return power

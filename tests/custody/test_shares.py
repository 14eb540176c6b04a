"""Shamir's scheme: any M open, M - 1 say nothing."""

from __future__ import annotations

import hashlib
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto.shares import Share, combine, commitment, split
from exclave.errors import MalformedError
from exclave.ids import Epoch
from support.custody import REGISTER, stream

SECRET = hashlib.sha256(b"secret").digest()
TABLE = [(m, n) for n in range(1, 6) for m in range(1, n + 1)]


def slow_times(a: int, b: int) -> int:
    """Multiplication in GF(2^8) straight from its definition: polynomial product, then long division by 0x11b."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(15, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << (bit - 8)
    return product


@pytest.mark.parametrize(("threshold", "count"), TABLE)
def test_any_threshold_opens_and_one_less_never(threshold: int, count: int) -> None:
    """Every subset of M shares gives the secret, in any order, and no subset of M - 1 does."""
    shares = split(SECRET, threshold, count, stream("a"))
    for subset in combinations(shares, threshold):
        assert combine(subset) == combine(subset[::-1]) == SECRET
    for subset in combinations(shares, threshold - 1):
        assert not subset or combine(subset) != SECRET


@pytest.mark.parametrize("index", [1, 2, 3, 9, 255])
def test_shares_are_values_of_the_stated_polynomial(index: int) -> None:
    """Each byte of each share is secret + a x + b x^2 in GF(2^8) with polynomial 0x11b."""
    random = stream("b")
    a, b = random(32), random(32)
    share = split(SECRET, 3, 255, stream("b"))[index - 1]
    square = slow_times(index, index)
    wanted = bytes(s ^ slow_times(p, index) ^ slow_times(q, square) for s, p, q in zip(SECRET, a, b, strict=True))
    assert share == Share(index, wanted)


def test_one_less_than_the_threshold_fits_every_secret() -> None:
    """For M - 1 shares and any secret there is a last share that makes it: they say nothing."""
    shares = split(SECRET, 3, 5, stream("c"))[:2]
    for wish in (b"\0" * 32, hashlib.sha256(b"other").digest()):
        # Through (0, wish) and the two shares goes one polynomial of degree 2; its value at 3, by the same algebra.
        moved = [Share(0 ^ 3, wish), *(Share(s.index ^ 3, s.data) for s in shares)]
        third = Share(3, combine(moved))
        assert combine([*shares, third]) == wish


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 12), st.randoms(use_true_random=False))
def test_random_subsets_open(secret: bytes, threshold: int, more: int, order: object) -> None:
    """Any threshold-sized choice of shares of any secret gives it back."""
    shares = list(split(secret, threshold, threshold + more, stream(secret.hex())))
    order.shuffle(shares)  # type: ignore[attr-defined]
    assert combine(shares[:threshold]) == secret
    assert combine(shares) == secret


@pytest.mark.parametrize("where", range(3))
def test_a_changed_share_gives_another_secret(where: int) -> None:
    """One flipped bit in one share changes what comes out."""
    shares = list(split(SECRET, 3, 3, stream("d")))
    data = bytearray(shares[where].data)
    data[5] ^= 1
    shares[where] = Share(shares[where].index, bytes(data))
    assert combine(shares) != SECRET


@pytest.mark.parametrize(
    ("secret", "threshold", "count"),
    [(SECRET[:31], 1, 1), (SECRET, 0, 1), (SECRET, 2, 1), (SECRET, 1, 256), (SECRET + b"x", 1, 2)],
)
def test_impossible_splits_are_refused(secret: bytes, threshold: int, count: int) -> None:
    """Secrets of another length and impossible thresholds are refused."""
    with pytest.raises(MalformedError):
        split(secret, threshold, count, stream("e"))


def test_a_random_source_that_runs_dry_is_refused() -> None:
    """Fewer random bytes than asked for never become a share."""
    with pytest.raises(MalformedError):
        split(SECRET, 2, 2, lambda count: b"\1" * (count - 1))


@pytest.mark.parametrize(
    "shares",
    [
        [],
        [Share(1, SECRET), Share(1, SECRET)],
        [Share(0, SECRET)],
        [Share(256, SECRET)],
        [Share(1, SECRET[:31])],
    ],
)
def test_impossible_shares_are_refused(shares: list[Share]) -> None:
    """No share, an index used twice or out of range, and a wrong length are refused."""
    with pytest.raises(MalformedError):
        combine(shares)


def test_commitments_bind_every_field() -> None:
    """A commitment changes with register, epoch, index and share, and has the form that the page gives."""
    base = commitment(REGISTER, Epoch(1), 2, SECRET)
    text = f"exclave/share-commitment/v1\n{REGISTER}\n1\n2\n".encode()
    assert base == hashlib.sha256(text + SECRET).digest()
    assert commitment(REGISTER, Epoch(12), 2, SECRET) != commitment(REGISTER, Epoch(1), 22, SECRET) != base


def test_a_share_does_not_print_its_secret() -> None:
    """The secret bytes stay out of messages and logs."""
    assert repr(Share(1, b"\xaa" * 32)) == "Share(index=1)"

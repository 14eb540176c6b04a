"""Of a source that remembers, the head that counts is the largest good one, whatever it shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exclave.errors import CorruptObject, MissingObject, SiteUnavailable
from exclave.ids import Key
from exclave.sites.contract import MAX_OBJECT_BYTES
from exclave.sites.memory import MemorySite
from exclave.verify.remembered import newest_head
from support.hostile import PassThrough

HEAD = Key("fp/checkpoint")


class Remembers(MemorySite):
    """Also tells ``kept``, the newest first."""

    def __init__(self, kept: list[bytes]) -> None:
        super().__init__()
        self.kept = kept

    def states(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> Iterator[bytes]:
        yield from self.kept


def verify(data: bytes) -> int:
    if not data.isdigit():
        raise CorruptObject("not signed")
    return int(data)


@pytest.mark.parametrize(
    ("shown", "kept", "counts"),
    [
        (b"5", [], 5),
        (b"5", [b"5", b"4"], 5),
        (b"3", [b"5", b"4"], 5),
        (b"6", [b"5"], 6),
        (b"junk", [b"junk", b"5"], 5),
        (None, [b"5"], 5),
        (None, [], MissingObject),
        (b"junk", [b"junk"], CorruptObject),
        (b"4", [b"junk", b"junk"], 4),
    ],
)
def test_which_counts(shown: bytes | None, kept: list[bytes], counts: object) -> None:
    """Rolled back, spoilt or gone: the newest good one is found, below a wrapper too; without any, it fails."""
    source = Remembers(kept)
    if shown is not None:
        source.put_new(HEAD, shown)
    wrapped = PassThrough(source)
    if isinstance(counts, int):
        assert newest_head(wrapped, HEAD, 100, verify, lambda head: head) == counts
    else:
        with pytest.raises(counts):  # type: ignore[call-overload]
            newest_head(wrapped, HEAD, 100, verify, lambda head: head)


def test_a_site_that_is_away() -> None:
    """That is not a head that is missing."""

    class Away(Remembers):
        def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
            raise SiteUnavailable("away")

    with pytest.raises(SiteUnavailable):
        newest_head(Away([b"5"]), HEAD, 100, verify, lambda head: head)

"""What a listing is taken for, whoever gives it: in order, of what was asked for, and with an end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from exclave.errors import SiteUnavailable
from exclave.ids import MAX_KEY_LENGTH
from exclave.sites.contract import ObjectStat

MAX_LISTED = 50_000_000
"""Most names of one listing: five times what a gateway keeps for a state unless its operator says otherwise."""


def listed(items: Iterable[ObjectStat], prefix: str, address: str, *, most: int = MAX_LISTED) -> Iterator[ObjectStat]:
    """``items``, each of them later in the order of names than the one before, below ``prefix``, and at most ``most``.

    So no name comes twice, and whoever makes names up comes to an end. ``SiteUnavailable``, ``permanent``, at the
    first item that is otherwise; what came before it is given out.
    """
    last = ""
    for place, item in enumerate(items):
        if place >= most:
            raise SiteUnavailable(
                f"{address} lists more than {most} names" + (f" below {prefix}" if prefix else ""), permanent=True,
                hint="Use another site, and ask the operator of this one what it keeps.",
            )  # fmt: skip
        if item.key <= last or not item.key.startswith(prefix):
            raise SiteUnavailable(f"{address} lists names twice, out of order, or not asked for", permanent=True)
        last = item.key
        yield item


def by_folders(
    inside: Callable[[str], Iterator[ObjectStat]], prefix: str, address: str, *, deepest: int = MAX_KEY_LENGTH,
    most_barren: int = MAX_LISTED,
) -> Iterator[ObjectStat]:  # fmt: skip
    """Objects below ``prefix``, folder by folder: the names of the folders on the way are in memory.

    ``inside`` gives what lies in a folder, in order of whole names; what ends in ``/`` is a folder in it, which is
    asked for in its turn if it has at most ``deepest`` slashes. ``SiteUnavailable``, ``permanent``, after
    ``most_barren`` folders in a row without an object: a host may make folders up. In a bucket a thief can make some,
    too, by names that are no keys, and must not end a listing so.
    """
    barren = 0
    stack = [inside(prefix)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif not item.key.endswith("/"):
            barren = 0
            yield item
        else:
            barren += 1
            if barren > most_barren:
                text = f"{address} lists {most_barren} folders in a row with no object in them"
                raise SiteUnavailable(text, permanent=True)
            if item.key.count("/") <= deepest:
                stack.append(inside(item.key))

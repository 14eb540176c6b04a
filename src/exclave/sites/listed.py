"""What a listing is taken for, whoever gives it: in order, of what was asked for, and with an end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exclave.errors import SiteUnavailable
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

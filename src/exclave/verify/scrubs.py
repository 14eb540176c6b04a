"""When a register was last scrubbed at each site, as its own ledger tells."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from exclave.errors import MalformedError
from exclave.formats.scrubbed import KIND, ScrubLine, parse_scrub_line
from exclave.ids import Label
from exclave.verify.history import RegisterHistory


def left_wrong(history: RegisterHistory, sites: Collection[Label]) -> dict[Label, ScrubLine]:
    """Of each of ``sites`` the newest run that left something wrong, unless a later one read everything and found it
    right, or two periods went by. The run of the next day reads other objects: that it found nothing proves nothing.

    "Everything" of fewer packs does not count: a site that shows an older head for a day holds less, by its own word.
    """
    found: dict[Label, ScrubLine] = {}
    for line in _lines(history, sites):
        left = found.get(line.site)
        if line.wrong > line.repaired:
            found[line.site] = line
        elif left is not None:
            whole = line.packs_read == line.packs >= left.packs
            if whole or line.through - left.through > 2 * line.days:
                del found[line.site]
    return found


def last_scrubs(history: RegisterHistory, sites: Collection[Label]) -> dict[Label, ScrubLine]:
    """Of each of ``sites`` the newest run that a fact that counts tells of. One that does not parse is passed over."""
    return {line.site: line for line in _lines(history, sites)}


def _lines(history: RegisterHistory, sites: Collection[Label]) -> Iterator[ScrubLine]:
    """The oldest first."""
    for counted in history.facts:
        if counted.fact.kind == KIND and counted.fact.say:
            try:
                line = parse_scrub_line(counted.fact.say[0])
            except MalformedError:
                continue
            if line.site in sites:
                yield line

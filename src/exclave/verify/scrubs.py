"""When a register was last scrubbed at each site, as its own ledger tells."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from exclave.errors import IntegrityError, MalformedError, UnavailableError
from exclave.formats.fact import Fact
from exclave.formats.leaf import parse_ledger_entry
from exclave.formats.scrubbed import KIND, ScrubLine, parse_scrub_line
from exclave.formats.tile import TILE_WIDTH
from exclave.ids import Instant, Label
from exclave.verify.copies import LogCopies

_OLDEST_US = 400 * 86_400_000_000
"""Facts from before that are not looked for: whatever they say, it is time to scrub."""


def last_scrubs(logs: Iterable[LogCopies], sites: Collection[Label], now: Instant) -> dict[Label, ScrubLine]:
    """Of each of ``sites`` the newest run that an entry that counts tells of; from the end of the newest log back.

    Entries that cannot be read are passed over: ``read_history`` says so.
    """
    found: dict[Label, ScrubLine] = {}
    for copies in reversed(list(logs)):
        for index in reversed(range(-(-copies.size // TILE_WIDTH))):
            if len(found) == len(sites):
                return found
            try:
                entries = copies.bundle(index)
            except (IntegrityError, UnavailableError):
                continue
            oldest = _take(found, entries, sites)
            if oldest is not None and oldest < now - _OLDEST_US:
                return found
    return found


def _take(found: dict[Label, ScrubLine], entries: tuple[bytes, ...], sites: Collection[Label]) -> Instant | None:
    """Adds what is new in one bundle; the time of its first entry."""
    oldest: Instant | None = None
    for entry in reversed(entries):
        try:
            said = parse_ledger_entry(entry)
            oldest = said.time
            if isinstance(said, Fact) and said.kind == KIND and said.say:
                line = parse_scrub_line(said.say[0])
                if line.site in sites:
                    found.setdefault(line.site, line)
        except MalformedError:
            continue
    return oldest

"""When a register was last scrubbed at each site, as its own ledger tells."""

from __future__ import annotations

from collections.abc import Collection

from exclave.errors import MalformedError
from exclave.formats.scrubbed import KIND, ScrubLine, parse_scrub_line
from exclave.ids import Label
from exclave.verify.history import RegisterHistory


def last_scrubs(history: RegisterHistory, sites: Collection[Label]) -> dict[Label, ScrubLine]:
    """Of each of ``sites`` the newest run that a fact that counts tells of. One that does not parse is passed over."""
    found: dict[Label, ScrubLine] = {}
    for counted in reversed(history.facts):
        if counted.fact.kind == KIND and counted.fact.say:
            try:
                line = parse_scrub_line(counted.fact.say[0])
            except MalformedError:
                continue
            if line.site in sites:
                found.setdefault(line.site, line)
    return found

"""One fault at one step of one operation at one site, played to its end and judged."""

from __future__ import annotations

import os
from collections.abc import Callable

from exclave.ids import Label
from exclave.sites.recording import Call, RecordingSite
from support.fault_table import Row
from support.fault_world import Sites, World
from support.struck import Struck

MUST_GO_ON = ("backup", "failover")
"""What one bad site of three does not stop."""
EVERYTHING = os.environ.get("EXCLAVE_FAULTS") == "all"
"""Whether more than a sample is to be tried."""


def steps(made: World, operation: str) -> dict[Label, tuple[Call, ...]]:
    """What the operation asks of each site when nothing happens to any."""
    made.begin(operation)
    recording = {label: RecordingSite(site, keep_calls=True) for label, site in made.plain().items()}
    done = made.run(operation, recording)
    assert done.ok
    assert [f for f in made.verified(made.plain()).findings if f.grave] == []
    return {label: site.calls for label, site in recording.items()}


def play(
    made: World,
    operation: str,
    label: Label,
    bad: Struck,
    plain: Sites,
    *,
    back: Callable[[], None] = lambda: None,
    whole: bool,
) -> Row:
    """Runs ``operation`` with ``bad`` at ``label`` and ``plain`` elsewhere. Raises AssertionError if it is stopped, or
    if the watch at the other sites does not hold the RPO.

    ``plain`` holds ``label`` too, as it is once ``back`` has brought its host up again. ``whole``: the site must be
    rebuilt; otherwise it needs only what it lacks.
    """
    sites = {**plain, label: bad}
    done = made.run(operation, sites)
    failed = not done.ok
    if failed and operation in MUST_GO_ON:
        # Whoever ran it runs it again, and what is wrong with the site is as wrong as before.
        done = made.run(operation, sites)
        assert done.ok, f"one bad site of three stops it: {done.why}"
    if not bad.struck:
        return Row(1, 1, 0, 1, 0)  # calls came in another order, and there were fewer
    seen = made.verified(sites)
    found = failed or label in done.named or any(f.site == label for f in seen.findings)
    harmless = not found and made.whole(label, sites)
    others = {name: site for name, site in plain.items() if name != label}
    promised = frozenset({1, 2}) | done.promised
    made.require_rpo(others, operation, done.promised)
    made.renew(operation, others)
    lost = made.lost(sites, promised) + made.lost(others, promised)
    back()
    healed = made.heal(label, plain, whole=whole, also_home=operation == "evacuate")
    if not done.ok:
        done = made.run(operation, plain)
    healed = healed and done.ok and made.whole(label, plain)
    healed = healed and not [f for f in made.verified(plain).findings if f.grave]
    lost += made.lost({label: plain[label]}, promised)
    return Row(1, int(harmless), int(found), int(healed), lost)


def endure(made: World, operation: str, label: Label, bad: Struck, plain: Sites) -> Row:
    """Runs ``operation`` with ``bad`` at ``label``, whose host is as slow as a line lets it be, and no slower: it must
    do all that it is for, at once."""
    done = made.run(operation, {**plain, label: bad})
    assert done.ok, f"a slow line stops it: {done.why}"
    assert bad.struck
    others = {name: site for name, site in plain.items() if name != label}
    promised = frozenset({1, 2}) | done.promised
    made.require_rpo(plain, operation, done.promised)
    made.renew(operation, others)
    whole = made.whole(label, plain) and not [f for f in made.verified(plain).findings if f.grave]
    return Row(1, 1, 0, int(whole), made.lost({label: plain[label]}, promised) + made.lost(others, promised))

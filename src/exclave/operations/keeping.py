"""What a writer does because of rules and orders to delete: it names its charter and refers to nothing that is to go.

Besides, which keys a new epoch leaves out, and orders and objections on their way to sites that were away.
"""

from __future__ import annotations

from collections.abc import Mapping

from exclave.errors import IntegrityError, MissingObject, UnavailableError, UsageError
from exclave.formats.deletion import CHARTER
from exclave.formats.fact import Fact
from exclave.formats.paths import deletion_key, objection_key, warrant_key
from exclave.ids import Epoch, Instant, Label, RegisterId
from exclave.sites.contract import Site
from exclave.vault.index import ChunkIndex
from exclave.verify import erasable
from exclave.verify.deletions import Deletions, named_charter, read_deletions
from exclave.verify.history import RegisterHistory, read_history
from exclave.verify.inventory import read_lists
from exclave.verify.state import StateView


def charter_facts(view: StateView, history: RegisterHistory, epoch: Epoch, now: Instant) -> list[bytes]:
    """The fact under which charter the versions after it are made, if the ledger does not say so yet.

    Versions before it stay under the rules of the charters before. Of a first charter nothing needs to be said.
    """
    newest = view.chain.newest
    if newest.charter.number == 1 or named_charter(view, history) >= newest.charter.number:
        return []
    return [Fact(history.register, epoch, now, CHARTER, None, (newest.digest.hex(),)).encode()]


def leave_doomed(
    view: StateView,
    sites: Mapping[Label, Site],
    history: RegisterHistory,
    deletions: Deletions,
    index: ChunkIndex,
) -> int:
    """Makes ``index`` refuse every pack that only versions name which an order takes away; how many there are.

    What lies in them is shipped again in other packs, so that the version to come outlives the erasure. A restart does
    the same again, as long as a site lists such a pack.
    """
    doomed = erasable.doomed_packs(view, sites, history, deletions)
    since = max(((o.fact.epoch, o.fact.index) for o in deletions.orders if o.order.keys is not None), default=None)
    if since is not None:
        # A key is to go, and no pack says to which one it is sealed: what was entered since is known not to need it.
        after = [v.leaf.objects for v in history.versions if (v.epoch, v.index) > since]
        good = read_lists(view.state, history.register, after, sites).packs
        doomed |= {name: size for name, size in index.sizes().items() if name not in good}
    for label in sites if doomed else ():
        for name in doomed.keys() & index.placed_at(label):
            index.refuse(name, doomed[name], label)
    return len(doomed)


def keys_due(view: StateView, sites: Mapping[Label, Site], register: RegisterId, now: Instant) -> frozenset[Epoch]:
    """Former epochs whose keys a new epoch leaves out: an order takes them away that nobody stopped in time, and no
    living version may need them.

    ``UsageError`` if the annex of the charter in force could not be opened without one of them; ``MissingObject`` if
    nobody can tell what living versions need.
    """
    history = read_history(view, sites, register, allow_unwitnessed=True)
    due, lost = erasable.keys_due(view, sites, history, read_deletions(view, sites, history, now=now), now)
    if lost:
        raise MissingObject(
            f"whether a living version needs a key that is to go cannot be told: {lost}",
            hint="Repair the sites' object lists first.",
        )
    rule = view.chain.newest.charter.register(register)
    if rule is not None and rule.epoch in due:
        raise UsageError(
            f"the charter in force has its annex sealed to epoch {rule.epoch}, whose key is to go",
            hint="Make a new charter first: it names the newest epoch and seals the annex to that.",
        )
    return due


def carry_orders(view: StateView, deletions: Deletions, sites: Mapping[Label, Site]) -> dict[Label, str]:
    """Gives each of ``sites`` the objections, order files and their warrants that it lacks, by ``put_same``: objections
    first, so that no site shows an order alone. Those that failed, with the reason."""
    failed: dict[Label, str] = {}
    objects = [(objection_key(view.state, deletions.register, note), note) for note in deletions.notes]
    for ordered in deletions.orders:
        warrant = view.warrants[ordered.warrant.digest].encode()
        objects.append((deletion_key(view.state, deletions.register, ordered.digest), ordered.order.encode().encode()))
        objects.append((warrant_key(view.state, warrant), warrant))
    for label, site in sites.items():
        try:
            for key, data in objects:
                if site.stat(key) is None:
                    site.put_same(key, data)
        except (UnavailableError, IntegrityError) as error:
            failed[label] = error.message
    return failed

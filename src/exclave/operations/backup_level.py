"""Step (2) of a backup: what the sites hold, and what those that were away have to get first."""

from __future__ import annotations

from exclave.errors import UnavailableError
from exclave.ids import Instant, Label
from exclave.operations.backup_begin import Run, leave_out, why_left_out
from exclave.operations.carry import carry_lists, carry_state
from exclave.operations.carry_public import carry_public, carry_public_statements
from exclave.operations.keeping import carry_orders, leave_doomed
from exclave.operations.new_epoch import forget_others
from exclave.rules.pen import index_keys_of_pen
from exclave.vault.index import ChunkIndex
from exclave.vault.reindex import finish_intents, reconcile
from exclave.vault.seed import Seeds
from exclave.verify.deletions import read_deletions
from exclave.verify.history import RegisterHistory


def reconcile_index(run: Run, index: ChunkIndex) -> None:
    """(2) Only what this writer alone can have sealed is believed, and what it has opened itself in a restore.

    The index keys of former writers are known to whoever stole the machine that had the pen then.
    """
    epoch, cache, chain = run.epoch.number, run.home.cache(run.register), run.view.epoch_chain(run.register)
    mine = index_keys_of_pen(run.home.register_secrets(run.register).index_keys, chain)
    if forget_others(run.home, index, chain):
        for catalogue in cache.glob("*.catalogue"):
            # Its references are as old. A restart finds fewer of them, and an index without what they name.
            catalogue.unlink()
    seeds = Seeds(cache)
    try:
        for label, site in list(run.sites.items()):
            try:
                reconcile(index, label, site, run.view.state, run.register, mine, whole=True, seeds=seeds, epoch=epoch)
            except UnavailableError as error:
                leave_out(run, label, error.message)
    finally:
        seeds.close()
    run.placement.check(run.sites, why_left_out(run))
    finish_intents(index)


def bring_level(run: Run, history: RegisterHistory, index: ChunkIndex, now: Instant) -> None:
    """Sites that were away get what they missed but packs, before a ledger that speaks of it is published there.

    What an order takes away is left alone from here on: this version refers to none of it.
    """
    for label, why in carry_state(run.view, run.register, run.sites).items():
        leave_out(run, label, why)
    for label, why in carry_lists(run.view, run.register, history.versions, run.sites).items():
        leave_out(run, label, why)
    behind = _behind(run, history)
    # Not from each other: a host that hides what it was given would be asked for all that it shows, time and again.
    sources = {label: site for label, site in run.sites.items() if label not in behind}
    for label in behind:
        try:
            # What such a site refuses of these, `verify` and `site sync` tell: no version rests on them.
            carry_public(run.view, history, label, run.sites[label], sources)
            carry_public_statements(run.view, label, run.sites[label], sources)
        except UnavailableError as error:
            leave_out(run, label, error.message)
    deletions = read_deletions(run.view, run.sites, history, now=now)
    for label, why in carry_orders(run.view, deletions, run.sites).items():
        leave_out(run, label, why)
    leave_doomed(run.view, run.sites, history, deletions, index)
    run.placement.check(run.sites, why_left_out(run))


def _behind(run: Run, history: RegisterHistory) -> list[Label]:
    """Sites whose ledger lacks the newest version: they were away, or are new."""
    return [label for label in run.sites if history.versions and label not in history.latest.held_by]

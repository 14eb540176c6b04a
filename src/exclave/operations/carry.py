"""What a site missed while it was away: public, signed things and lists, brought from the sites that have them.

Packs are not among them (``vault/catchup.py``). Nothing here needs a key, and only what the verified state names is
carried, so that no host can make others store its rubbish.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping

from exclave.errors import ExclaveError, IntegrityError, MissingObject, UnavailableError
from exclave.formats.note import parse_note
from exclave.formats.paths import box_key, card_key, charter_key, epoch_key, list_key, warrant_key
from exclave.ids import Digest, Key, Label, RegisterId
from exclave.ledger.publish import publish
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.rules.epochs import VerifiedEpoch
from exclave.sites.contract import Site
from exclave.vault.catchup import copy_objects, read_list
from exclave.verify.history import CountedVersion
from exclave.verify.state import StateView, find_box


def carry_state(
    view: StateView,
    register: RegisterId,
    sites: Mapping[Label, Site],
    *,
    targets: Collection[Label] | None = None,
    former_logs: bool = True,
) -> dict[Label, str]:
    """Gives each of ``targets`` (all ``sites``) the charters and the epochs of ``register`` that it lacks, with all
    that they name. Other sites are only read. Without ``former_logs``, (4) is left out.

    (1) boxes, cards and warrants · (2) the epochs' notes · (3) the charters' · (4) the logs of former epochs. A crash
    leaves a prefix of that, which the next run completes. Returns the sites that failed, with the reason.
    """
    failed: dict[Label, str] = {}
    wanting = sites.keys() if targets is None else targets
    for label in wanting:
        try:
            for key, data in _missing(view, register, label, sites):
                sites[label].put_same(key, data)
        except (UnavailableError, IntegrityError) as error:
            failed[label] = error.message
    working = {label: site for label, site in sites.items() if label not in failed}
    chain = view.epoch_chain(register).epochs
    for former, successor in itertools.pairwise(chain) if former_logs else ():
        if successor.note.previous is not None:
            failed |= _carry_log(view, former, successor.note.previous.size, working, wanting)
    return failed


def _missing(
    view: StateView, register: RegisterId, label: Label, sites: Mapping[Label, Site]
) -> Iterator[tuple[Key, bytes]]:
    shown = view.shown.get(label)
    if shown is None:
        return
    epochs = view.epoch_chain(register).epochs
    notes = _epoch_notes(view, register, epochs)
    own = shown.epochs.get(register, {})
    lacking = [e for e in epochs if not any(epoch_key(view.state, register, n) in own for n in notes[e.digest])]
    charters = [c for c in _charter_notes(view) if charter_key(view.state, c) not in shown.charters]
    rule = view.chain.newest.charter.register(register)
    boxes = [share.box for e in lacking for share in e.note.shares]  # (1)
    boxes += [e.note.ancestor for e in lacking if e.note.ancestor is not None]
    boxes += [rule.annex_box] if charters and rule is not None else []
    dispensable = view.epoch_chain(register).dispensable
    for box in boxes:
        if box in dispensable:
            continue
        yield box_key(view.state, register, box), find_box(sites, view.state, register, box)
    if lacking or charters:
        for digest in sorted(_named_cards(view, epochs)):
            key = card_key(view.state, digest)
            if key not in shown.cards and digest in view.cards:
                yield key, view.cards[digest].encode().encode()
    for epoch in lacking:
        if epoch.warrant is not None:
            warrant = view.warrants[epoch.warrant.digest].encode()
            yield warrant_key(view.state, warrant), warrant
    for epoch in lacking:  # (2)
        for note in notes[epoch.digest]:
            yield epoch_key(view.state, register, note), note
    for note in charters:  # (3)
        yield charter_key(view.state, note), note


def _named_cards(view: StateView, epochs: Iterable[VerifiedEpoch]) -> set[Digest]:
    """Cards of all custodians, witnesses and writers, and of the machines that rekeyed."""
    charters = [c.charter for c in view.chain.charters]
    people = {person.card for c in charters for person in c.custodians}
    return (
        people
        | {w.card for c in charters for w in c.witnesses}
        | {card.digest for epoch in epochs for card in (epoch.writer, epoch.maker)}
    )


def _epoch_notes(view: StateView, register: RegisterId, epochs: Iterable[VerifiedEpoch]) -> dict[Digest, list[bytes]]:
    """Each verified epoch's notes, as some site shows them."""
    found: dict[Digest, list[bytes]] = {epoch.digest: [] for epoch in epochs}
    everything = {data for site in view.shown.values() for data in site.epochs.get(register, {}).values()}
    for data in sorted(everything):
        notes = found.get(parse_note(data).digest)
        if notes is not None:
            notes.append(data)
    return found


def _charter_notes(view: StateView) -> list[bytes]:
    """Notes of the charters that stand in the chain, the first one first."""
    place = {charter.digest: i for i, charter in enumerate(view.chain.charters)}
    noted = [(place.get(parse_note(data).digest, -1), data) for data in view.charter_notes]
    return [data for number, data in sorted(noted) if number >= 0]


def _carry_log(
    view: StateView, epoch: VerifiedEpoch, size: int, sites: Mapping[Label, Site], targets: Collection[Label]
) -> dict[Label, str]:
    """(4) Brings the log of a former epoch, which ended with ``size`` entries, to the sites that show fewer."""
    failed: dict[Label, str] = {}
    source: tuple[Label, VerifiedCheckpoint] | None = None
    behind: list[Label] = []
    for label, site in sites.items():
        try:
            head = view.log_reader(epoch, site).head()
        except MissingObject:
            behind.append(label)
            continue
        except (UnavailableError, IntegrityError):
            continue  # `verify` names what is wrong with it
        if head.size == size:
            source = label, head
        elif head.size < size:
            behind.append(label)
    if source is not None and size:
        for label in (label for label in behind if label in targets):
            try:
                publish(view.log_reader(epoch, sites[source[0]]), source[1], sites[label])
            except ExclaveError as error:
                failed[label] = error.message
    return failed


def carry_lists(
    view: StateView, register: RegisterId, versions: Iterable[CountedVersion], sites: Mapping[Label, Site]
) -> dict[Label, str]:
    """Gives each of ``sites`` the object lists of ``versions`` that it lacks; those that failed, with the reason.

    Within a list the nodes may arrive in any order, since the ledger is published to the site after them.
    """
    prefix = list_key(view.state, register, Digest(bytes(32)))[:-64]
    failed: dict[Label, str] = {}
    have: dict[Label, set[Digest]] = {}
    for label, site in sites.items():
        try:
            have[label] = {Digest(bytes.fromhex(name)) for name in _names(site, prefix)}
        except UnavailableError as error:
            failed[label] = error.message
    working = {label: sites[label] for label in have}
    needed: set[Digest] = set()
    for version in versions:
        root = version.leaf.objects
        if any(root not in names for names in have.values()):
            try:
                needed |= read_list(view.state, register, root, working).nodes
            except IntegrityError:
                continue  # no site has it any more: `verify` says so, and nothing that is done here can help
    if needed:
        done = copy_objects(view.state, register, {}, have, working, targets=working, list_nodes=needed)
        failed |= {label: error.message for label, error in done.refused.items()}
    return failed


def _names(site: Site, prefix: str) -> Iterator[str]:
    for stat in site.list(prefix):
        name = stat.key[len(prefix) :]
        if len(name) == 64 and set(name) <= set("0123456789abcdef"):
            yield name

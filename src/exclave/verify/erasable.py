"""What an order to delete takes away, from the public object lists: a site's operator can compute it without keys.

A pack goes only when no living version names it, whatever epoch that version is of and whenever it was entered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from exclave.errors import MissingObject
from exclave.formats.paths import box_key
from exclave.ids import Digest, Epoch, Instant, Key, RegisterId
from exclave.ids import Sequence as VersionNumber
from exclave.sites.contract import Sources
from exclave.verify.deletions import Deletions, Ordered
from exclave.verify.history import RegisterHistory
from exclave.verify.inventory import read_lists
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class Erasable:
    """The objects of one order."""

    register: RegisterId
    packs: dict[Digest, int]
    """Name → size in bytes of packs that its versions name and no living version does."""
    shared: int
    """Packs of its versions that stay, because a living version names them."""
    boxes: dict[Key, str]
    """Sealed boxes that go too, by name; what each is."""
    waits: str
    """Why boxes that the order takes away still stay; empty if none does."""


def erasable(
    view: StateView,
    sources: Sources,
    history: RegisterHistory,
    ordered: Ordered,
    gone: Collection[VersionNumber],
) -> Erasable:
    """What goes when ``ordered`` is carried out, by what all ``sources`` together show.

    ``gone``: the versions of all orders that may be carried out; every other version of ``history`` is a living one.
    ``MissingObject`` if a living version's list cannot be read from any source: nobody can tell what it needs then.
    """
    roots: dict[bool, list[Digest]] = {True: [], False: []}
    for version in history.versions:
        if version.leaf.sequence in ordered.sequences:
            roots[True].append(version.leaf.objects)
        elif version.leaf.sequence not in gone:
            roots[False].append(version.leaf.objects)
    living = read_lists(view.state, history.register, roots[False], sources)
    if living.lost:
        key, error = next(iter(living.lost.items()))
        raise MissingObject(
            f"what living versions need cannot be told, so nothing is erased: {error.message}", key=key,
            hint="Repair the site's object lists first, or name another site that has them.",
        )  # fmt: skip
    dead = read_lists(view.state, history.register, roots[True], sources)
    packs = {name: size for name, size in dead.packs.items() if name not in living.packs}
    boxes: dict[Key, str] = {}
    waits = ""
    if ordered.order.keys is not None:
        waits = _keys_wait(view, sources, history, ordered, ordered.order.keys, gone, living.packs)
        boxes = {} if waits else _key_boxes(view, history.register, ordered.order.keys)
    return Erasable(history.register, packs, len(dead.packs) - len(packs), boxes, waits)


def _keys_wait(
    view: StateView,
    sources: Sources,
    history: RegisterHistory,
    ordered: Ordered,
    epoch: Epoch,
    gone: Collection[VersionNumber],
    living: Mapping[Digest, int],
) -> str:
    """Why the boxes with the key of ``epoch`` cannot go yet; empty if nothing needs them any more."""
    rule = view.chain.newest.charter.register(history.register)
    if rule is None or rule.epoch <= epoch:
        return f"the annex is sealed to epoch {rule.epoch if rule else '?'}: a new charter must name a later one first"
    if why := _needed(view, sources, history, ordered, epoch, gone, living):
        return why
    if epoch not in view.epoch_chain(history.register).newest.note.without:
        return f"the key of epoch {epoch} is among the older keys still: a rekey leaves it out"
    return ""


def _needed(
    view: StateView,
    sources: Sources,
    history: RegisterHistory,
    ordered: Ordered,
    epoch: Epoch,
    gone: Collection[VersionNumber],
    living: Mapping[Digest, int],
) -> str:
    """Why a version that is not ``gone`` may need the key of ``epoch``; empty if none does.

    Only what was entered after the order can be known not to need it: writers seal everything anew from then on.
    """
    entered = (ordered.fact.epoch, ordered.fact.index)
    kept = [v for v in history.versions if v.leaf.sequence not in gone]
    older = [v for v in kept if v.epoch >= epoch and (v.epoch, v.index) < entered]
    if older:
        return (
            f"version {older[-1].leaf.sequence} may need the key of epoch {epoch}: it goes when that version has gone"
        )
    before = [v.leaf.objects for v in history.versions if v.epoch >= epoch and (v.epoch, v.index) < entered]
    if living.keys() & read_lists(view.state, history.register, before, sources).packs.keys():
        return f"a living version names a pack that may be sealed to epoch {epoch}: its key goes with that version"
    return ""


def keys_due(
    view: StateView, sources: Sources, history: RegisterHistory, deletions: Deletions, now: Instant
) -> tuple[frozenset[Epoch], str]:
    """Epochs whose keys an order takes away that may be carried out, or was, and that no living version may need; and
    why an object list hides whether one does, empty if none is lost.
    """
    due, lost = set[Epoch](), ""
    taking = deletions.taking_keys(view, now)
    gone = frozenset(deletions.erased(view, now)) if taking else frozenset()
    kept = [v.leaf.objects for v in history.versions if v.leaf.sequence not in gone]
    living = read_lists(view.state, history.register, kept if taking else (), sources)
    for ordered in taking:
        epoch = ordered.order.keys
        if epoch is not None and not _needed(view, sources, history, ordered, epoch, gone, living.packs):
            due.add(epoch)
    if due and living.lost:
        lost = next(iter(living.lost.values())).message
    return frozenset(due), lost


def _key_boxes(view: StateView, register: RegisterId, epoch: Epoch) -> dict[Key, str]:
    """All boxes by which the key of ``epoch`` could be opened: its shares, and the older keys of epochs after it."""
    boxes: dict[Key, str] = {}
    for one in view.epoch_chain(register).epochs:
        if one.number == epoch:
            for share in one.note.shares:
                boxes[box_key(view.state, register, share.box)] = f"{share.custodian}'s share of epoch {epoch}"
        elif one.number > epoch and one.note.ancestor is not None and epoch not in one.note.without:
            boxes[box_key(view.state, register, one.note.ancestor)] = f"the older keys of epoch {one.number}"
    return boxes


def doomed_packs(
    view: StateView, sources: Sources, history: RegisterHistory, deletions: Deletions
) -> dict[Digest, int]:
    """Packs that only versions name which some order takes away: a writer must not refer to them again.

    Also those of orders that were objected to or are void: it costs no more than to ship them again. A list that no
    source has names nothing that a writer could know.
    """
    doomed = deletions.doomed()
    roots: dict[bool, list[Digest]] = {True: [], False: []}
    for version in history.versions:
        roots[version.leaf.sequence in doomed].append(version.leaf.objects)
    if not roots[True]:
        return {}
    living = read_lists(view.state, history.register, roots[False], sources).packs
    dead = read_lists(view.state, history.register, roots[True], sources).packs
    return {name: size for name, size in dead.items() if name not in living}

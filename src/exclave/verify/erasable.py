"""What an order to delete takes away, from the public object lists: a site's operator can compute it without keys.

A pack goes only when no living version names it, whatever epoch that version is of and whenever it was entered.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from exclave.errors import MissingObject
from exclave.ids import Digest, Key, RegisterId
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
    return Erasable(history.register, packs, len(dead.packs) - len(packs), {}, "")


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

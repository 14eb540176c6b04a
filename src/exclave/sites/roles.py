"""Which roles a site can be given, from the promises that a probe found kept or broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exclave.sites.conditions import CANNOT_BE_DELETED_FROM, KEEPS_HEADS, KEEPS_OBJECTS
from exclave.sites.probe import DELETION_REFUSED, Promise

_HEADS = ("replace-if", "one-first-head-wins", "one-replacer-wins")
MEMBER_HEADS = "member-heads-"
"""How the promises begin that members of a coded site keep heads."""
_LOCKS = ("lock-", "hidden-", "versions-")
_NOT_LOCKED = {
    "az": "who has the container's keys can delete there: Exclave locks nothing in this kind of store",
    "coded": "no member has lock=compliance in its address: who can delete at enough of them can delete there",
    "dir": "whoever may write to the folder can delete there",
    "gs": "who has the bucket's keys can delete there: Exclave locks nothing in this kind of store",
    "https": "it was not tried whether the gateway refuses a deletion",
    "s3": "no lock=compliance in the address: who has the bucket's keys can delete there",
    "web": "nothing is written there, and its operator can delete",
}
"""Why nothing that lies there is locked, by the address's scheme."""
UNSEEN = (
    "Whether it confirms writes before they are on its disks cannot be seen from outside: ask its operator"
    " (docs/spec/layout.md says what is known of each engine)."
)


@dataclass(frozen=True, slots=True)
class Role:
    """Something that a site may be relied on for."""

    name: str
    given: bool
    why: str
    """What speaks against it; empty if it is given."""
    partly: str = ""
    """To whom it is given all the same, though not to all."""

    @property
    def answer(self) -> str:
        """``yes`` or ``NO``; or for whom it is ``yes``."""
        return "yes" if self.given else self.partly or "NO"


def roles_of(promises: Sequence[Promise], kind: str = "dir") -> tuple[Role, ...]:
    """The three roles of a site whose address has the scheme ``kind``. A promise that was not tried is not kept.

    ``CANNOT_BE_DELETED_FROM`` is given where nobody can delete, the operator no more than others. A gateway that
    refuses a deletion is not that: what it keeps from all others, its operator can do.
    """
    asked = next((p for p in promises if p.name == DELETION_REFUSED), None)
    promises = [p for p in promises if p is not asked]
    locks = [p for p in promises if p.name.startswith(_LOCKS)]
    heads = [p for p in promises if p.name in _HEADS or p.name.startswith(MEMBER_HEADS)]
    objects = [p for p in promises if p not in locks and p not in heads]
    return (
        _role(KEEPS_OBJECTS, objects, "not tried"),
        _role(KEEPS_HEADS, heads, "not tried"),
        _at_gateway(asked) if asked is not None else _role(CANNOT_BE_DELETED_FROM, locks, _NOT_LOCKED.get(kind, "")),
    )


def _at_gateway(asked: Promise) -> Role:
    if not asked.kept:
        return Role(CANNOT_BE_DELETED_FROM, False, asked.detail)
    why = f"{asked.detail}: who has home's credentials cannot delete; the machine's operator can"
    return Role(CANNOT_BE_DELETED_FROM, False, why, partly="but by its operator")


def _role(name: str, promises: Sequence[Promise], untried: str) -> Role:
    if not promises:
        return Role(name, False, untried)
    refused = list(dict.fromkeys(promise.detail for promise in promises if not promise.tried))
    broken = [promise.name for promise in promises if promise.tried and not promise.kept]
    why = [f"broken: {', '.join(broken)}"] if broken else []
    return Role(name, not (broken or refused), "; ".join([*why, *(f"refused {detail}" for detail in refused)]))

"""Which roles a site can be given, from the promises that a probe found kept or broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exclave.sites.conditions import CANNOT_BE_DELETED_FROM, KEEPS_HEADS, KEEPS_OBJECTS
from exclave.sites.probe import Promise

_HEADS = ("replace-if", "one-first-head-wins", "one-replacer-wins")
MEMBER_HEADS = "member-heads-"
"""How the promises begin that members of a coded site keep heads."""
_LOCKS = ("lock-", "hidden-", "versions-")
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


def roles_of(promises: Sequence[Promise]) -> tuple[Role, ...]:
    """The three roles. A promise that was not tried is not kept."""
    locks = [p for p in promises if p.name.startswith(_LOCKS)]
    heads = [p for p in promises if p.name in _HEADS or p.name.startswith(MEMBER_HEADS)]
    objects = [p for p in promises if p not in locks and p not in heads]
    return (
        _role(KEEPS_OBJECTS, objects, "not tried"),
        _role(KEEPS_HEADS, heads, "not tried"),
        _role(
            CANNOT_BE_DELETED_FROM,
            locks,
            "no lock=compliance in the address: who has the keys of a bucket, or writes to a folder, can delete there;"
            " a gateway knows no request that deletes",
        ),
    )


def _role(name: str, promises: Sequence[Promise], untried: str) -> Role:
    if not promises:
        return Role(name, False, untried)
    refused = list(dict.fromkeys(promise.detail for promise in promises if not promise.tried))
    broken = [promise.name for promise in promises if promise.tried and not promise.kept]
    why = [f"broken: {', '.join(broken)}"] if broken else []
    return Role(name, not (broken or refused), "; ".join([*why, *(f"refused {detail}" for detail in refused)]))

"""Which witnesses must have cosigned a checkpoint before it counts. Page: ``docs/spec/charter.md``.

In a charter, after its witnesses::

    group <label> <k> <member> …                0 … 64; members sorted: witnesses, or groups of earlier lines
    quorum none | <label of a witness or group>

For other tools the same stands in a C2SP tlog-policy file (``PolicyFile``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from exclave.errors import MalformedError
from exclave.formats.card import Card
from exclave.formats.lines import LineReader
from exclave.formats.note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, ED25519, key_id
from exclave.ids import Label, b64, parse_label, parse_positive

MAX_GROUPS = 64
MAX_MEMBERS = 64
NOBODY: Final = "none"
"""Means that no cosignature is asked for; neither a witness nor a group bears this name."""


@dataclass(frozen=True, slots=True)
class WitnessGroup:
    """Vouches for a checkpoint when at least ``needed`` of ``members`` do."""

    name: Label
    needed: int
    members: tuple[Label, ...]
    """Witnesses or earlier groups, sorted."""


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """A checkpoint counts when ``quorum`` vouches for it: a witness, a group, or None for nobody at all."""

    groups: tuple[WitnessGroup, ...] = ()
    """Each names only witnesses and groups before it, and nobody is a member twice."""
    quorum: Label | None = None

    def encode(self) -> str:
        """The charter's lines."""
        groups = "".join(f"group {g.name} {g.needed} {' '.join(g.members)}\n" for g in self.groups)
        return f"{groups}quorum {self.quorum or NOBODY}\n"

    def group(self, name: Label) -> WitnessGroup | None:
        return next((group for group in self.groups if group.name == name), None)


NO_WITNESSES = WitnessPolicy()
"""Every checkpoint that the log's writer signed counts."""


def read_policy(lines: LineReader) -> WitnessPolicy:
    """The lines of a charter; ``check_policy`` is for the caller, who knows the witnesses. ``MalformedError``."""
    groups: list[WitnessGroup] = []
    while lines.peek() == "group" and len(groups) <= MAX_GROUPS:
        name, needed, members = lines.fields("group", 3, rest=True)
        groups.append(
            WitnessGroup(
                parse_label(name), parse_positive(needed, limit=MAX_MEMBERS),
                tuple(parse_label(member) for member in members.split(" ")),
            )
        )  # fmt: skip
    quorum = lines.field("quorum")
    return WitnessPolicy(tuple(groups), None if quorum == NOBODY else parse_label(quorum))


def check_policy(policy: WitnessPolicy, witnesses: Collection[Label]) -> None:
    """Every rule that a policy must keep over ``witnesses``. Raises ``MalformedError`` saying which group is wrong."""
    if len(policy.groups) > MAX_GROUPS:
        raise MalformedError(f"more than {MAX_GROUPS} groups of witnesses")
    known, used = set(witnesses), set[Label]()
    if NOBODY in known:
        raise MalformedError(f"a witness cannot be called {NOBODY!r}")
    for group in policy.groups:
        _check_group(group, known, used)
        known.add(group.name)
        used.update(group.members)
    if policy.quorum is not None and policy.quorum not in known:
        raise MalformedError(f"the quorum {policy.quorum} is neither a witness nor a group of witnesses")
    for group in policy.groups:
        # It would look like a rule and be none.
        if group.name not in used and group.name != policy.quorum:
            raise MalformedError(f"the group {group.name} of witnesses counts for nothing")
    if policy.quorum in used:
        raise MalformedError(
            f"the quorum {policy.quorum} is also a member of a group, so that group counts for nothing"
        )


def _check_group(group: WitnessGroup, known: Collection[Label], used: Collection[Label]) -> None:
    what = f"the group {group.name} of witnesses"
    if group.name == NOBODY or group.name in known:
        raise MalformedError(f"{what} has a name that is taken")
    if not 1 <= group.needed <= len(group.members) <= MAX_MEMBERS:
        raise MalformedError(f"{what} needs {group.needed} of {len(group.members)} members")
    if any(a >= b for a, b in pairwise(group.members)):
        raise MalformedError(f"{what} must have different members, sorted")
    for member in group.members:
        if member not in known:
            raise MalformedError(f"{what} names {member}, which is no witness and no group before it")
        # Whoever counted in two groups could satisfy a rule that asks for two.
        if member in used:
            raise MalformedError(f"{member} is a member of two groups of witnesses")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy as tools of others read it: C2SP tlog-policy.

    Each of our witnesses has two keys and counts only with both cosignatures, so it becomes a group ``all`` of two
    witnesses, ``NAME.ed25519`` and ``NAME.ml-dsa-44``. With ``classic`` only the former is asked for: for tools that do
    not know ML-DSA-44, and no protection against whoever can forge Ed25519.
    """

    policy: WitnessPolicy
    witnesses: tuple[Card, ...]
    log: tuple[str, Card] | None = None
    """Origin and writer of one log. A file names one at most: two logs under one key are not allowed there."""
    classic: bool = False

    def encode(self) -> str:
        lines = []
        if self.log is not None:
            origin, writer = self.log
            lines.append(f"log {vkey(origin, ED25519, writer.ed25519)}")
        for card in self.witnesses:
            lines += self._witness(card)
        for group in self.policy.groups:
            lines.append(f"group {group.name} {group.needed} {' '.join(group.members)}")
        return "\n".join([*lines, f"quorum {self.policy.quorum or NOBODY}"]) + "\n"

    def _witness(self, card: Card) -> list[str]:
        classic = vkey(card.name, COSIGNATURE_ED25519, card.ed25519)
        if self.classic:
            return [f"witness {card.name} {classic}"]
        both = f"{card.name}.ed25519", f"{card.name}.ml-dsa-44"
        return [
            f"witness {both[0]} {classic}",
            f"witness {both[1]} {vkey(card.name, COSIGNATURE_MLDSA44, card.mldsa44)}",
            f"group {card.name} all {both[0]} {both[1]}",
        ]


def vkey(name: str, kind: bytes, key: bytes) -> str:
    """A verifier key as C2SP signed-note writes it: name, key id, type and public key."""
    return f"{name}+{key_id(name, kind, key).hex()}+{b64(kind + key)}"

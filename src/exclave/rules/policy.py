"""Whether enough witnesses vouch for a checkpoint, since when, and which are missing. Pure.

A group vouches as soon as as many of its members do as it needs; a member is a witness or another group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from exclave.formats.policy import WitnessPolicy
from exclave.ids import Instant, Label


def met(policy: WitnessPolicy, cosigners: Collection[Label]) -> bool:
    """Whether ``cosigners`` are a quorum. Names that the policy does not have count for nothing."""
    return met_since(policy, dict.fromkeys(cosigners, Instant(0))) is not None


def met_since(policy: WitnessPolicy, times: Mapping[Label, Instant]) -> Instant | None:
    """The first moment at which enough had cosigned, if each did at the time in ``times``; None if they are too few.

    The beginning of time where the policy asks for nobody. No witness can make it later than the others together, nor
    earlier than as many as are needed say.
    """
    if policy.quorum is None:
        return Instant(0)
    reached = dict(times)
    # Groups name only earlier ones, so one pass settles all. A witness never bears a group's name.
    for group in policy.groups:
        there = sorted(reached[member] for member in group.members if member in reached)
        reached.pop(group.name, None)
        if len(there) >= group.needed:
            reached[group.name] = there[group.needed - 1]
    return reached.get(policy.quorum)


def lacking(policy: WitnessPolicy, cosigners: Collection[Label]) -> str:
    """What a quorum still lacks, in words; empty if nothing."""
    return "" if policy.quorum is None else _lacking(policy, policy.quorum, frozenset(cosigners))


def _lacking(policy: WitnessPolicy, name: Label, cosigners: frozenset[Label]) -> str:
    group = policy.group(name)
    if group is None:
        return "" if name in cosigners else name
    open_ones = [text for member in group.members if (text := _lacking(policy, member, cosigners))]
    more = group.needed - (len(group.members) - len(open_ones))
    if more <= 0:
        return ""
    if more == len(open_ones):
        return " and ".join(open_ones)
    return f"({more} of: {', '.join(open_ones)})"


def witnesses_in(policy: WitnessPolicy) -> frozenset[Label]:
    """The witnesses on whom the quorum depends."""
    groups = {group.name for group in policy.groups}
    named = {member for group in policy.groups for member in group.members}
    return frozenset((named | ({policy.quorum} if policy.quorum else set())) - groups)


def fewest_liars(policy: WitnessPolicy) -> int:
    """So many witnesses, well chosen, must cosign two histories before both can count; 0: it needs no liar at all.

    Honest ones cosign one history each, but not all the same one: of ``n`` members that are split, ``k`` can stand on
    both sides only if ``2k - n`` of them stand on both.
    """
    if policy.quorum is None:
        return 0
    liars: dict[Label, int] = {}
    for group in policy.groups:
        on_both = max(0, 2 * group.needed - len(group.members))
        liars[group.name] = sum(sorted(liars.get(member, 1) for member in group.members)[:on_both])
    return liars.get(policy.quorum, 1)


def most_absent(policy: WitnessPolicy) -> int:
    """So many witnesses, whichever they are, can be away without stopping any checkpoint from counting."""
    if policy.quorum is None:
        return 0
    blocking: dict[Label, int] = {}
    for group in policy.groups:
        spare = len(group.members) - group.needed + 1
        blocking[group.name] = sum(sorted(blocking.get(member, 1) for member in group.members)[:spare])
    return blocking.get(policy.quorum, 1) - 1


def in_words(policy: WitnessPolicy) -> str:
    """The policy as a person reads it: ``any 2 of: a, b, c``; groups in brackets."""
    return "no witness is needed" if policy.quorum is None else _words(policy, policy.quorum)


def _words(policy: WitnessPolicy, name: Label, *, inside: bool = False) -> str:
    group = policy.group(name)
    if group is None:
        return name
    members = [_words(policy, member, inside=True) for member in group.members]
    chosen = f"any {group.needed} of: {', '.join(members)}"
    text = " and ".join(members) if group.needed == len(members) else chosen
    return f"{name} ({text})" if inside else text

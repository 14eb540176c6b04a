"""Whether the operator of a site may take a state's objects away from it. Pure; page: ``docs/spec/exit.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exclave.formats.charter import CharterRegister, ParsedCharter
from exclave.ids import Instant, Label, RegisterId, instant_text
from exclave.rules.deletion import OrderState, Verdict
from exclave.rules.retention import terms_of


@dataclass(frozen=True, slots=True)
class Leaving:
    """Everything that an exit is judged by."""

    site: Label
    charters: Sequence[ParsedCharter]
    """The chain, the first one first."""
    public_since: Instant | None
    """Since when the charter that leaves the site out lies open there, by the store's clock; None if it does not."""
    holders: Mapping[RegisterId, frozenset[Label]]
    """Custodians who hold everything of a register, under the newest charter."""
    unheard: str
    """Why it cannot be told whether anybody holds; empty if it can."""
    at_risk: Sequence[str]
    """Versions that the sites that remain do not hold as the rule asks; in words."""


def left_out_by(charters: Sequence[ParsedCharter], site: Label) -> int:
    """Number of the first charter that leaves ``site`` out and that no later one takes back; 0 if the newest names it,
    or none ever did."""
    named = [charter.number for charter in charters if charter.site(site) is not None]
    return named[-1] + 1 if named and named[-1] < charters[-1].number else 0


def lay_there(charters: Sequence[ParsedCharter], site: Label) -> dict[RegisterId, list[tuple[int, CharterRegister]]]:
    """The registers that any charter placed at ``site``, each with its rules by number of the charter."""
    placed = {rule.id for charter in charters for rule in charter.registers if site in rule.at}
    return {
        register: [(c.number, rule) for c in charters if (rule := c.register(register)) is not None]
        for register in sorted(placed)
    }


def judge_exit(case: Leaving, now: Instant) -> Verdict:
    """Whether objects may go at ``now``: (1) the charter, (2) a hold, (3) what remains, (4) the delay."""
    if not left_out_by(case.charters, case.site):  # (1)
        named = case.charters[-1].site(case.site) is not None
        why = "the charter in force names this site" if named else "no charter ever named this site"
        return Verdict(OrderState.STOPPED, why, None)
    if case.unheard:  # (2)
        return Verdict(OrderState.STOPPED, case.unheard, None)
    delay_s = 1
    for register, rules in lay_there(case.charters, case.site).items():
        delay, objections = terms_of(rules, 1)
        delay_s = max(delay_s, delay)
        holding = case.holders.get(register, frozenset())
        if len(holding) >= objections:
            who = ", ".join(sorted(holding))
            return Verdict(OrderState.STOPPED, f"legal hold of register {register} by {who}", None)
    if case.at_risk:  # (3)
        more = f", and {len(case.at_risk) - 3} more" if len(case.at_risk) > 3 else ""
        why = "without this site the rule would not hold: " + "; ".join(case.at_risk[:3]) + more
        return Verdict(OrderState.STOPPED, why, None)
    if case.public_since is None:  # (4)
        return Verdict(OrderState.WAITING, "the charter that leaves it out does not lie open here yet", None)
    due = Instant(case.public_since + delay_s * 1_000_000)
    if now < due:
        return Verdict(OrderState.WAITING, f"its objects may go from {instant_text(due)} on", due)
    return Verdict(OrderState.DUE, f"its delay ended at {instant_text(due)}", due)

"""How long a site may be relied on: its lease, and each register's legal basis there. Pure.

Page: ``docs/spec/charter.md``.

Nothing ends by itself: an end is said long before, and after it nothing is shipped there under that legal basis. What
lies there stays until people take it away or a charter gives it a later end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exclave.errors import LegalBasisMissing
from exclave.formats.charter import CharterRegister, CharterSite, ParsedCharter
from exclave.ids import Instant, Label, RegisterId, instant_text

DEFAULT_DAYS = (90, 30, 7)
"""So many days before an end it is said, each time more urgently."""
_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Term:
    """Something that ends."""

    site: Label
    register: RegisterId | None
    """Whose legal basis at the site; None: the lease of the site itself."""
    until: Instant


@dataclass(frozen=True, slots=True)
class Alarm:
    """A term that ends soon, or has ended."""

    term: Term
    left_days: int
    """Whole days that are left; negative once it has ended."""
    level: int
    """How many of the alarm's days were reached: 1 for the first; one more than there are once it has ended."""

    @property
    def ended(self) -> bool:
        return self.left_days < 0

    def text(self, register: str = "") -> str:
        """One sentence; ``register``: what the register is called here."""
        what = f"the legal basis of {register or self.term.register}" if self.term.register else "the lease"
        day = instant_text(self.term.until)[:10]
        if self.ended:
            return f"{self.term.site}: {what} ended on {day}"
        left = "today" if self.left_days == 0 else f"in {self.left_days} day{'' if self.left_days == 1 else 's'}"
        return f"{self.term.site}: {what} ends {left}, on {day}"


def terms(charter: ParsedCharter) -> tuple[Term, ...]:
    """Everything in ``charter`` that ends, the soonest first."""
    found = [Term(site.label, None, site.lease_until) for site in charter.sites if site.lease_until is not None]
    found += [Term(label, rule.id, until) for rule in charter.registers for label, until in rule.until]
    return tuple(sorted(found, key=lambda term: (term.until, term.site, term.register or "")))


def alarms(charter: ParsedCharter, now: Instant, days: Sequence[int] = DEFAULT_DAYS) -> tuple[Alarm, ...]:
    """What ends within the largest of ``days``, or has ended; the soonest first."""
    found = []
    for term in terms(charter):
        left = (term.until - now) // _DAY_US
        level = sum(left < day for day in days) + (left < 0)
        if level:
            found.append(Alarm(term, left, level))
    return tuple(found)


def basis_ended(register: CharterRegister, site: Label, now: Instant) -> str:
    """Why nothing of ``register`` may be shipped to ``site`` any more; empty if it may."""
    until = dict(register.until).get(site)
    return "" if until is None or now < until else f"its legal basis ended on {instant_text(until)[:10]}"


def lease_ended(site: CharterSite, now: Instant) -> str:
    """Why nobody owes anything at ``site`` any more; empty if somebody does."""
    until = site.lease_until
    return "" if until is None or now < until else f"its lease ended on {instant_text(until)[:10]}"


def require_basis_now(register: CharterRegister, site: Label, now: Instant) -> None:
    """Raises ``LegalBasisMissing`` if the legal basis of ``register`` at ``site`` has ended; it says what to do."""
    why = basis_ended(register, site, now)
    if why:
        raise LegalBasisMissing(
            f"nothing of register {register.id} may be shipped to {site}: {why}",
            hint="Publish a charter with a later end for it (legal_basis_until in exclave.toml), or move the copies:"
            f" exclave site evacuate {site} --to ANOTHER.",
            site=site,
        )

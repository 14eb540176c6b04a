"""Whether the copies of a version meet its register's rule: copies, countries, copies abroad, administrators. Pure.

Only a copy counts whose site may hold the register now: a legal basis or a lease that has ended is said, and counts for
nothing, whatever lies there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exclave.errors import PlacementUnmet
from exclave.formats.charter import CharterRegister, CharterSite, ParsedCharter, Placement
from exclave.ids import Country, Instant, Label
from exclave.rules.lease import basis_ended, lease_ended


@dataclass(frozen=True, slots=True)
class Protection:
    """Whether a version is protected, and why, in words."""

    protected: bool
    why: str
    """``3 copies in 3 countries, 2 abroad, by 3 administrators``; of one that is not, what is missing."""
    brief: str = ""
    """``3 in 3 countries``, for a table's cell; empty if it is not protected."""


@dataclass(frozen=True, slots=True)
class PlacementRule:
    """The rule of one register and where its sites are."""

    home: Country
    rule: Placement
    sites: Mapping[Label, CharterSite]
    """Each site that the charter names for the register."""
    ended: Mapping[Label, str] = field(default_factory=dict)
    """Those of them whose copies do not count any more, and why."""

    @property
    def countries(self) -> Mapping[Label, Country]:
        """Where each of the sites is."""
        return {label: site.country for label, site in self.sites.items()}

    def missing(self, sites: Iterable[Label]) -> str:
        """What ``sites`` lack to meet the rule, in words; empty if nothing."""
        rule = self.rule
        wanted = (rule.copies, rule.countries, rule.outside_home, rule.administrators)
        what = ("copies", "countries", "copies abroad", "administrators")
        found = zip(self._counts(sites), wanted, what, strict=True)
        # One administrator is there with the first copy.
        return ", ".join(
            f"{have} of {need} {name}" for have, need, name in found if have < need and (name, need) != (what[3], 1)
        )

    def _counts(self, sites: Iterable[Label]) -> tuple[int, int, int, int]:
        good = [self.sites[name] for name in dict.fromkeys(sites) if name in self.sites and name not in self.ended]
        abroad = sum(site.country != self.home for site in good)
        return len(good), len({s.country for s in good}), abroad, len({s.operator for s in good})

    def protection(self, holders: Iterable[Label], problems: Mapping[Label, str] | None = None) -> Protection:
        """Whether a version is protected that was found whole at ``holders``; ``problems``: why not at others."""
        there = tuple(dict.fromkeys(holders))
        lacks = self.missing(there)
        if not lacks:
            copies, countries, abroad, administrators = self._counts(there)
            where = _many(countries, "country", "countries")
            return Protection(
                True, f"{_many(copies, 'copy', 'copies')} in {where}, {abroad} abroad,"
                f" by {_many(administrators, 'administrator', 'administrators')}", f"{copies} in {where}",
            )  # fmt: skip
        said = {**(problems or {}), **{label: why for label, why in self.ended.items() if label in there}}
        return Protection(False, "; ".join([lacks, *(f"{label}: {why}" for label, why in sorted(said.items()))]))

    def check(self, sites: Iterable[Label], why: str = "") -> None:
        """Raises ``PlacementUnmet`` unless ``sites`` meet the rule; ``why`` is added to the message."""
        lacks = self.missing(sites)
        if lacks:
            raise PlacementUnmet(f"too few sites hold this version: {lacks}{'; ' if why else ''}{why}", lacks=lacks)


def _many(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def placement_of(
    charter: ParsedCharter, register: CharterRegister, *, now: Instant, leases: bool = True
) -> PlacementRule:
    """The placement rule of ``register`` under ``charter`` at ``now``.

    Without ``leases``, a site whose lease has ended counts: its host owes nothing any more, but a writer goes on.
    """
    sites = {site.label: site for site in charter.sites if site.label in register.at}
    ended = {
        label: why
        for label, site in sites.items()
        if (why := basis_ended(register, label, now) or (lease_ended(site, now) if leases else ""))
    }
    return PlacementRule(charter.home, register.placement, sites, ended)

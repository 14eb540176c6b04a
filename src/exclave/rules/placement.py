"""Whether a set of sites meets a register's placement rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exclave.errors import PlacementUnmet
from exclave.formats.charter import CharterRegister, ParsedCharter, Placement
from exclave.ids import Country, Label


@dataclass(frozen=True, slots=True)
class PlacementRule:
    """The rule of one register and where its sites are."""

    home: Country
    rule: Placement
    countries: Mapping[Label, Country]
    """Country of each site that may hold the register."""

    def missing(self, sites: Iterable[Label]) -> str:
        """What ``sites`` lack to meet the rule, in words; empty if nothing."""
        good = [label for label in sites if label in self.countries]
        abroad = sum(self.countries[label] != self.home for label in good)
        lacks = []
        if len(good) < self.rule.copies:
            lacks.append(f"{len(good)} of {self.rule.copies} copies")
        if len({self.countries[label] for label in good}) < self.rule.countries:
            lacks.append(f"{len({self.countries[label] for label in good})} of {self.rule.countries} countries")
        if abroad < self.rule.outside_home:
            lacks.append(f"{abroad} of {self.rule.outside_home} copies abroad")
        return ", ".join(lacks)

    def check(self, sites: Iterable[Label], why: str = "") -> None:
        """Raises ``PlacementUnmet`` unless ``sites`` meet the rule; ``why`` is added to the message."""
        lacks = self.missing(sites)
        if lacks:
            raise PlacementUnmet(f"too few sites hold this version: {lacks}{'; ' if why else ''}{why}")


def placement_of(charter: ParsedCharter, register: CharterRegister) -> PlacementRule:
    """The placement rule of ``register`` under ``charter``."""
    countries = {site.label: site.country for site in charter.sites if site.label in register.at}
    return PlacementRule(charter.home, register.placement, countries)

"""At which sites a version is whole, by what the sites themselves show: without any key, and without reading packs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exclave.ids import Label, RegisterId
from exclave.sites.contract import Sources
from exclave.verify.history import CountedVersion
from exclave.verify.objects import RegisterObjects
from exclave.verify.state import Finding, StateView


@dataclass(frozen=True, slots=True)
class Holders:
    """Where versions are whole."""

    at: Mapping[int, tuple[Label, ...]]
    """By sequence: sites whose proven ledger shows the version, whose object lists of it were read and are right, and
    that list every pack in its right size. Bytes of packs are a scrub's work."""
    findings: tuple[Finding, ...]
    """What was not right, object by object."""


def find_holders(
    view: StateView, sources: Sources, register: RegisterId, versions: Iterable[CountedVersion]
) -> Holders:
    """Where each of ``versions`` is whole. Raises nothing; a source that does not answer holds nothing."""
    wanted = tuple(versions)
    objects = RegisterObjects(view.state, register, sources, wanted)
    objects.check_listings(read_packs=False)
    at: dict[int, tuple[Label, ...]] = {
        v.leaf.sequence: tuple(Label(str(name)) for name in sources if objects.complete(name, v)) for v in wanted
    }
    return Holders(at, tuple(objects.findings))

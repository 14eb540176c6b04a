"""From a command's options to the state as its sites show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exclave.app import open_home, open_named_sites, open_sites
from exclave.cli.output import typed
from exclave.errors import UsageError
from exclave.ids import Label, RegisterId, parse_fingerprint
from exclave.operations.home import Home
from exclave.sites.contract import Site
from exclave.verify.state import StateView, read_state

_PREFIX = 8


@dataclass(frozen=True, slots=True)
class Where:
    """The state, its sites, and its home if the command was run there."""

    view: StateView
    sites: dict[Label, Site]
    home: Home | None

    def names(self) -> dict[RegisterId, str]:
        """Names of registers as far as they are known here: of all at home, elsewhere of public ones only."""
        known = {r.id: r.public_name for r in self.view.chain.newest.charter.registers if r.public_name}
        if self.home is not None:
            known |= {number: name for name, number in self.home.register_ids().items()}
        return dict(known)

    def at(self, register: RegisterId) -> tuple[Label, ...]:
        """Names of all sites that the charter gives ``register``."""
        rule = self.view.chain.newest.charter.register(register)
        return () if rule is None else tuple(rule.at)

    def registers(self, wanted: str | None) -> list[tuple[RegisterId, str]]:
        """(id, name or id) of the register called ``wanted``, or of all. ``UsageError`` if there is none.

        ``wanted``: a name that is known here, an id, or the beginning of one: 8 or more of its digits.
        """
        names = self.names()
        all_ = [(r.id, names.get(r.id, r.id)) for r in self.view.chain.newest.charter.registers]
        if wanted is None:
            return all_
        found = [(number, name) for number, name in all_ if wanted in (number, name)]
        beginning = wanted.removesuffix("…")
        if not found and len(beginning) >= _PREFIX:
            found = [(number, name) for number, name in all_ if number.startswith(beginning)]
        if len(found) > 1:
            raise UsageError(f"more than one register's id begins with {wanted!r}: {', '.join(n for n, _ in found)}")
        if not found:
            raise UsageError(
                f"the charter has no register {wanted!r}; it has: {', '.join(n for _, n in all_)}",
                hint="Names that are not public are known at home alone. Elsewhere write the id, or its first 8 digits:"
                " `exclave verify` shows it, and an order file in its line `register`.",
            )
        return found


def view_of(home: Path, site: list[str] | None, fingerprint: str) -> Where:
    """From ``--site`` and ``--fingerprint``, or else from the home folder."""
    if site:
        if not fingerprint:
            raise UsageError("--site needs --fingerprint: without it nobody can tell whose copies these are")
        sites = open_named_sites(site)
        return Where(read_state(sites, typed(parse_fingerprint, fingerprint)), sites, None)
    opened = open_home(home)
    sites = open_sites(opened)
    return Where(read_state(sites, opened.fingerprint()), sites, opened)

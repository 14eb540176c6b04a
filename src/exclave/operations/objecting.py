"""What custodians say against orders to delete: said, put at the sites, and told to whoever handles a later order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exclave.errors import IntegrityError, NotAuthorised, OutcomeUnknown, UnavailableError
from exclave.formats.deletion import DeletionOrder, Objection, parse_objection
from exclave.formats.note import ParsedNote
from exclave.formats.paths import objection_key
from exclave.ids import Digest, Instant, Label, RegisterId, Sequence, instant_text
from exclave.keys.file import KeyFile
from exclave.operations.home import key_card
from exclave.rules.signatures import sign_text
from exclave.sites.contract import Site, Sources
from exclave.verify.deletions import read_deletions
from exclave.verify.history import read_history
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class Objected:
    """An objection that concerns an order, although it may not be against that very one."""

    custodian: Label
    time: Instant
    reason: str
    order: Digest | None
    """None: against every order."""
    versions: tuple[Sequence, ...]
    """Those of the order in question that ``order`` names too."""

    @property
    def words(self) -> str:
        """One line for people."""
        said = f"{self.custodian} objected on {instant_text(self.time)}"
        if self.order is None:
            return f"{said} to every order: {self.reason}"
        shared = ", ".join(str(number) for number in self.versions[:5])
        more = f" and {len(self.versions) - 5} more" if len(self.versions) > 5 else ""
        return f"{said} to the order {self.order.hex()}, which names version {shared}{more} too: {self.reason}"


def objected_before(view: StateView, sources: Sources, order: DeletionOrder, *, now: Instant) -> tuple[Objected, ...]:
    """What custodians said against any order that the ledger names over some of the same versions, the oldest first,
    and against every order, also where a later charter has lifted that.

    An objection stops only the order that it names. Whoever gives, signs or publishes another one over the same
    versions has to know of it.
    """
    history = read_history(view, sources, order.register, allow_unwitnessed=True)
    deletions = read_deletions(view, sources, history, now=now, listen=True)
    wanted = {version.sequence for version in order.versions}
    shared = {o.digest: tuple(sorted(wanted & o.sequences)) for o in deletions.orders}
    found = [
        Objected(o.custodian, o.time, o.reason, o.order, () if o.order is None else shared[o.order])
        for o in deletions.objections
        if o.order is None or shared.get(o.order)
    ]
    return tuple(sorted(found, key=lambda one: (one.time, one.custodian)))


def object_to(
    view: StateView, register: RegisterId, order: Digest | None, key: KeyFile, *, reason: str, now: Instant
) -> bytes:
    """A custodian's signed objection to ``order``, or (None) to every order of the register: a legal hold.

    ``NotAuthorised`` if the charter in force does not name him.
    """
    me = key_card(key)
    if not any(c.label == key.name and c.card == me.digest for c in view.chain.newest.charter.custodians):
        raise NotAuthorised(f"the charter does not name {key.name} with this key as a custodian")
    said = Objection(view.state, register, view.chain.newest.digest, order, key.name, now, reason)
    text = said.encode()
    parse_objection(text)
    return ParsedNote(text, sign_text(text, key.name, key.signing())).encode()


def put_objection(
    view: StateView, register: RegisterId, note: bytes, sites: Mapping[Label, Site]
) -> tuple[tuple[Label, ...], dict[Label, str]]:
    """Puts an objection at every site that takes it; those sites, and why the others did not. One site is enough: the
    next backup brings it to the others."""
    good: list[Label] = []
    failed: dict[Label, str] = {}
    for label, site in sites.items():
        try:
            site.put_same(objection_key(view.state, register, note), note)
            good.append(label)
        except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
            failed[label] = error.message
    return tuple(good), failed

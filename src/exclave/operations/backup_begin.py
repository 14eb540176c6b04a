"""Step (1) of a backup: whose the pen is, and at which sites the version may and must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from exclave.errors import ConfigError, Fenced, LegalBasisMissing, PlacementUnmet, UsageError
from exclave.formats.charter import CharterRegister
from exclave.ids import Epoch, Instant, Label, RegisterId
from exclave.operations.home import Home
from exclave.operations.new_epoch import require_not_older
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.lease import require_basis_now
from exclave.rules.placement import PlacementRule, placement_of
from exclave.sites.contract import Site
from exclave.verify.state import StateView, read_state, signed_names


@dataclass(slots=True)
class Run:
    """What the steps of one backup share."""

    home: Home
    register: RegisterId
    view: StateView
    sites: dict[Label, Site]
    rule: CharterRegister
    placement: PlacementRule
    epoch: VerifiedEpoch
    signed: dict[str, bytes | None]
    """What names each site listed of what is signed, just before it was read."""
    failed: dict[Label, str] = field(default_factory=dict)


def begin(home: Home, register: RegisterId, sites: Mapping[Label, Site], to: Sequence[Label], now: Instant) -> Run:
    """What the steps go by, and the sites that may take a version now, of ``to`` if it names any.

    ``Fenced`` if a later epoch has the pen, ``LegalBasisMissing``, ``PlacementUnmet``, ``ConfigError``, ``UsageError``.
    """
    signed = signed_names(sites, home.fingerprint(), register)
    view = read_state(sites, home.fingerprint(), only={register})
    rule = view.chain.newest.charter.register(register)
    if rule is None:
        raise UsageError(f"the charter in force does not list register {register}")
    for label in to:
        if label not in rule.at:
            raise LegalBasisMissing(f"the charter gives no legal basis for this register at {label}", site=label)
        require_basis_now(rule, label, now)
    require_not_older(home, view, register)
    epoch = view.epoch_chain(register).newest
    me = home.writer_card()
    if epoch.note.writer != me.digest:
        raise Fenced(
            f"epoch {epoch.number} of this register belongs to another writer, {epoch.writer.name}; this one may no"
            " longer write",
            epoch=epoch.number,
        )
    # A lease that has ended stops no writer: the copies would only grow older. `status` sounds the alarm.
    placement = placement_of(view.chain.newest.charter, rule, now=now, leases=False)
    ended = {label: f"{why}: nothing is shipped there" for label, why in placement.ended.items() if label in sites}
    wanted = [label for label in (to or rule.at) if label in sites and label not in ended]
    run = Run(
        home, register, view, {label: sites[label] for label in wanted}, rule, placement, epoch, signed, ended
    )  # fmt: skip
    if ended and not run.sites:
        require_basis_now(rule, next(iter(ended)), now)
    if not run.sites:
        raise ConfigError("none of the sites that the charter names for this register is in exclave.toml")
    if to and (lacks := run.placement.missing(run.sites)):
        raise PlacementUnmet(
            f"{', '.join(to)} alone cannot meet the register's placement rule: {lacks}",
            hint="Name further sites with --to, or leave it out; nothing was captured.",
        )
    return run


def require_pen_still(run: Run, sites: Mapping[Label, Site], entered: int | None = None) -> None:
    """Hours may have gone by since (1), and where no witness is needed nobody else would say that the pen is gone.

    Before the ledger, and after it with the log's size: who begins an epoch puts its note first and then looks at the
    former log, so one of the two always sees the other. Where every site lists what it listed in (1), nothing is new.
    """
    signed = signed_names(sites, run.view.state, run.register)
    if None not in signed.values() and signed == run.signed:
        return
    chain = read_state(sites, run.view.state, only={run.register}).epoch_chain(run.register)
    epoch = chain.newest
    if epoch.digest == run.epoch.digest:
        return
    follows = chain.find(Epoch(run.epoch.number + 1))
    if entered is not None and follows is not None and follows.note.previous is not None:
        cut = follows.note.previous
        if cut.note == run.epoch.digest and cut.size >= entered:
            return  # The new epoch begins after this version.
    if epoch.note.writer == run.epoch.note.writer:
        raise Fenced(
            f"epoch {epoch.number} of this register began while this backup ran, so its version does not count",
            hint="Run the backup again: what was shipped is kept, and the version is entered under the new epoch.",
            epoch=epoch.number,
        )
    raise Fenced(
        f"epoch {epoch.number} of this register began while this backup ran; this writer may no longer write",
        epoch=epoch.number,
    )


def leave_out(run: Run, label: Label, why: str) -> None:
    """The site takes no further part in this backup."""
    run.failed[label] = why
    run.sites.pop(label, None)


def why_left_out(run: Run, more: Mapping[Label, str] | None = None) -> str:
    """Which sites take no part, and why, in words; with ``more``."""
    return "; ".join(f"{label}: {reason}" for label, reason in {**run.failed, **(more or {})}.items())

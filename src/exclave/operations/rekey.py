"""Rekey: a register gets a new opening key and new shares; what is stored, and who has the pen, stay as they are.

(1) every register of the warrant can be rekeyed · (2) the new epoch is made and kept · (3) boxes, cards and warrant,
then its note, which makes it true · (4) it is read back · (5) the former log is looked at once more · (6) the fact.
A crash is a pause: the same command with the same files goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exclave.errors import (
    CorruptObject,
    Fenced,
    HeadMoved,
    IntegrityError,
    MissingObject,
    QuorumMissing,
    UnavailableError,
    UsageError,
)
from exclave.formats.epochnote import ParsedEpoch, parse_epoch
from exclave.formats.note import parse_note
from exclave.ids import Epoch, Instant, Label, RegisterId
from exclave.keys.file import KeyFile
from exclave.operations.act_fact import patiently
from exclave.operations.custody import Granted, OpenedRegister
from exclave.operations.epoch_make import MadeEpoch, cut_of, make_epoch, put_epoch, read_made
from exclave.operations.home import Home, key_card, write_private
from exclave.operations.keeping import keys_due
from exclave.operations.ledger_entry import enter, settle_outbox
from exclave.operations.new_epoch import NotedEpoch, note_epoch, rekey_facts
from exclave.operations.restore import remembered_heads, require_newest, require_unforked
from exclave.rules.epochs import VerifiedEpoch
from exclave.sites.contract import Site
from exclave.verify.history import RegisterHistory, read_history
from exclave.verify.state import StateView, read_state


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """One register's new epoch."""

    name: str
    register: RegisterId
    epoch: int
    charter: int
    """Number of the charter whose custodians got the shares."""
    threshold: int
    custodians: tuple[Label, ...]
    used: tuple[Label, ...]
    """Whose former shares opened it."""
    bad: tuple[Label, ...]
    """Whose former share was wrong and was left out."""
    sites: tuple[Label, ...]
    failed: dict[Label, str]
    """Sites that do not have it yet, and why; the next backup brings it to them."""
    overtaken: int
    """Entries that its writer made in the former ledger meanwhile: they do not count, and a backup is due."""
    fact: bool
    """Whether the ledger says so already; else the next backup enters it."""


@dataclass(slots=True)
class _Run:
    """What the steps share."""

    folder: Path
    machine: KeyFile
    granted: Granted
    view: StateView
    sites: Mapping[Label, Site]
    home: Home | None
    witnesses: Mapping[Label, str]
    clock: Callable[[], Instant]
    say: Callable[[str], None]

    def sites_of(self, register: RegisterId) -> dict[Label, Site]:
        rule = self.view.chain.newest.charter.register(register)
        if rule is None:
            raise UsageError(f"the charter does not list register {register}")
        return {label: self.sites[label] for label in rule.at if label in self.sites}

    @contextmanager
    def alone(self, register: RegisterId) -> Iterator[None]:
        """At home no backup runs meanwhile. Elsewhere (5) finds one that did."""
        if self.home is None:
            yield
            return
        home = self.home
        with patiently(lambda: home.alone(register)):
            yield


def rekey(
    folder: Path,
    *,
    machine: KeyFile,
    granted: Granted,
    view: StateView,
    sites: Mapping[Label, Site],
    opened: Mapping[RegisterId, OpenedRegister],
    clock: Callable[[], Instant],
    home: Home | None = None,
    witnesses: Mapping[Label, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Rekeyed, ...]:
    """A new epoch for each register in ``opened``, with shares for the custodians of the charter in force.

    ``folder``: where what was made is kept; the same one for the same warrant. ``sites``: by the charter's names.
    ``home``: the writer's folder if this is his machine; ``witnesses``: their addresses, for the fact that he enters.
    Raises ``QuorumMissing`` for versions that too few witnesses vouch for, ``RolledBack``, ``Forked``; ``Fenced`` if
    the pen went to somebody else meanwhile; ``PlacementUnmet`` if no site takes the epoch; ``UsageError`` for a
    register that cannot be rekeyed.
    """
    run = _Run(folder, machine, granted, view, sites, home, witnesses or {}, clock, say)
    for register, one in opened.items():  # (1)
        if any(dataset.kind == "identity" for dataset in one.annex.datasets):
            raise UsageError(
                f"{one.annex.name} holds the identity services, whose feed is tied to its epoch: it cannot be rekeyed",
                hint="Name the other registers in the request with --register ID.",
            )
        if _epoch_of(run, register) is None:
            _history(run, register, one)
    return tuple(_rekey_one(run, register, one) for register, one in opened.items())


def _epoch_of(run: _Run, register: RegisterId) -> VerifiedEpoch | None:
    """The epoch that this warrant made, if the sites show it."""
    newest = run.view.epoch_chain(register).newest
    return newest if newest.note.authority == run.granted.warrant.digest else None


def _rekey_one(run: _Run, register: RegisterId, opened: OpenedRegister) -> Rekeyed:
    sites = run.sites_of(register)
    with run.alone(register):
        chain = run.view.epoch_chain(register)
        former = chain.newest if _epoch_of(run, register) is None else chain.epochs[-2]
        made = _made(run, register, opened, former)  # (2)
        failed: dict[Label, str] = {}
        if made is not None:
            _require_unchanged(run, register, opened.annex.name, former, made)
            if run.home is not None:
                # From here on sites may show it: a home that dies writes nothing under the former one that they hide.
                digest = parse_note(made.note).digest
                note_epoch(run.home, register, NotedEpoch(False, Epoch(former.number + 1), digest))
            cards, warrant = [key_card(run.machine), former.writer], run.granted.note.encode()
            failed = put_epoch(run.view.state, register, made, cards, warrant, sites, run.say)  # (3)
        epoch = _read_back(run, register, opened.annex.name, made)  # (4)
        overtaken = _behind(run, epoch.note, former, sites)  # (5)
        fact = _enter_fact(run, epoch, {label: site for label, site in sites.items() if label not in failed})  # (6)
    note = epoch.note
    return Rekeyed(
        opened.annex.name, register, epoch.number, epoch.charter.charter.number, note.threshold,
        tuple(share.custodian for share in note.shares), opened.used, opened.bad,
        tuple(label for label in sites if label not in failed), failed, overtaken, fact,
    )  # fmt: skip


def _made(run: _Run, register: RegisterId, opened: OpenedRegister, former: VerifiedEpoch) -> MadeEpoch | None:
    """(2) The new epoch, as an earlier run kept it, or made now. None: the sites show it, and this folder has it not.

    A kept one that no site shows is thrown away if the former log has grown since: it would cut off what counts.
    """
    path = run.folder / f"{register}.epoch"
    kept = read_made(path) if path.exists() else None
    if kept is not None and kept.warrant != run.granted.warrant.digest:
        raise UsageError(f"{path} belongs to another warrant", hint="Name another folder with --dir.")
    if _epoch_of(run, register) is not None:
        return kept
    if run.home is not None:
        outbox = run.home.folder / "state" / f"{register}.outbox"
        sites, key = run.sites_of(register), run.home.writer_key()
        if former.note.writer == key_card(key).digest:
            settle_outbox(run.view, former, key, sites=sites, now=run.clock(), outbox=outbox)
    cut = cut_of(_history(run, register, opened), former)
    if kept is not None:
        previous = parse_epoch(parse_note(kept.note).text).previous
        if previous is not None and (previous.note, previous.size, previous.root) == (former.digest, *cut):
            return kept
        _require_all_answer(run, register, opened.annex.name)
    made = make_epoch(
        register, opened, former, cut, writer=former.writer.digest, machine=run.machine, granted=run.granted,
        erased=keys_due(run.view, run.sites_of(register), register, run.clock()),
    )  # fmt: skip
    # One warrant makes one epoch: what was made is kept before anybody sees it, and a restart puts the same.
    write_private(path, msgspec.msgpack.encode(made))
    return made


def _require_all_answer(run: _Run, register: RegisterId, name: str) -> None:
    """A site that is away may have the note of an earlier run: a second one under this warrant would be a fork."""
    rule = run.view.chain.newest.charter.register(register)
    away = [
        label for label in (rule.at if rule is not None else ())
        if label not in run.view.shown or register in run.view.shown[label].unread
    ]  # fmt: skip
    if away:
        raise UnavailableError(
            f"an earlier run made an epoch of {name} that may lie at {', '.join(away)}, and its writer went on since",
            hint="Bring these sites up and run the same command again.",
        )


def _require_unchanged(run: _Run, register: RegisterId, name: str, former: VerifiedEpoch, made: MadeEpoch) -> None:
    """Right before (3): nobody began an epoch meanwhile, and the writer entered nothing.

    Two epochs that begin in one moment are a fork: neither takes anything away, and people decide by a charter.
    """
    newest = read_state(run.sites, run.view.state).epoch_chain(register).newest
    if newest.note.authority == run.granted.warrant.digest:
        return
    if newest.digest != former.digest:
        raise Fenced(
            f"{name} is in epoch {newest.number} of {newest.writer.name} by now, so nothing was published",
            hint="Request a new warrant: its answers bring the shares of that epoch.",
            epoch=newest.number,
        )
    note = parse_epoch(parse_note(made.note).text)
    if _behind(run, note, former, run.sites_of(register)):
        raise HeadMoved(
            f"{name}: its writer entered something while the epoch was made, so nothing was published",
            hint="Run the same command again, while no backup runs.",
        )


def _history(run: _Run, register: RegisterId, opened: OpenedRegister) -> RegisterHistory:
    """What counts of a register, all of which the new epoch keeps; raises if that is in doubt."""
    sites = run.sites_of(register)
    addresses = {Label(w.label): w.url for w in opened.annex.witnesses}
    remembered, silent = remembered_heads(run.view, register, addresses)
    for label, why in silent.items():
        run.say(f"{opened.annex.name}: the witness {label} does not say what it has seen: {why}")
    history = read_history(run.view, sites, register, remembered=remembered)
    require_unforked(history)
    require_newest(history, "bring a site up that has them")
    shown = read_history(run.view, sites, register, allow_unwitnessed=True)
    if shown.newest_log.counted > history.newest_log.counted:
        raise QuorumMissing(
            f"register {opened.annex.name}: too few witnesses vouch for its newest entries, which would be cut off",
            hint="Run a backup while the witnesses answer, or make a charter with others; then rekey.",
        )
    return history


def _read_back(run: _Run, register: RegisterId, name: str, made: MadeEpoch | None) -> VerifiedEpoch:
    """(4) The new epoch, as anybody reads it from the sites."""
    run.view = read_state(run.sites, run.view.state)
    chain = run.view.epoch_chain(register)
    wanted = parse_note(made.note).digest if made is not None else None
    mine = [e for e in chain.epochs if e.note.authority == run.granted.warrant.digest]
    if not mine or (wanted is not None and mine[0].digest != wanted):
        raise CorruptObject(f"the sites do not show the new epoch of {name} as it was written")
    if mine[0].digest != chain.newest.digest and chain.newest.note.writer != mine[0].note.writer:
        raise Fenced(f"{name} was taken over meanwhile: epoch {chain.newest.number}", epoch=chain.newest.number)
    return mine[0]


def _behind(run: _Run, note: ParsedEpoch, former: VerifiedEpoch, sites: Mapping[Label, Site]) -> int:
    """(5) How many entries of the former log lie behind the cut of ``note``. The writer looks at the notes after he has
    entered something, and this looks at his log once the note is there: so at least one of the two knows.
    """
    size = note.previous.size if note.previous is not None else 0
    largest = size
    for site in sites.values():
        try:
            largest = max(largest, run.view.log_reader(former, site).head().size)
        except (MissingObject, UnavailableError, IntegrityError):
            continue
    return largest - size


def _enter_fact(run: _Run, epoch: VerifiedEpoch, sites: Mapping[Label, Site]) -> bool:
    """(6) At home, the first entry of the new ledger. Where it cannot be entered now, the next backup does it."""
    if run.home is None:
        return False
    key = run.home.writer_key()
    if epoch.note.writer != key_card(key).digest:
        return False
    outbox = run.home.folder / "state" / f"{epoch.register}.outbox"
    try:
        # What an earlier run claimed is finished first, so that the fact is entered once.
        settle_outbox(run.view, epoch, key, sites=sites, now=run.clock(), outbox=outbox)
        facts = rekey_facts(run.view, epoch, sites, run.clock())
        if not facts:
            return True
        enter(run.view, epoch, key, facts, sites=sites, witnesses=run.witnesses, now=run.clock(), outbox=outbox)
    except UnavailableError as error:
        run.say(f"the ledger does not say it yet: {error.message}")
        return False
    return True


def folder_of(warrant: Path) -> Path:
    """Where a rekey keeps what it made, if nobody names another folder: beside the warrant's file."""
    return warrant.absolute().with_suffix(".epochs")

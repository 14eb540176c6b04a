"""An embassy takes the identities over: it gets every entry that can be had, says what cannot be known, then decides.

A part of failover, after the new epoch was granted: home is fenced, nothing is added to the former feed that counts.

(1) the journal here is brought up to the restored version · (2) and up to the feed, opened with the quorum's key ·
(3) the gap is stated in public · (4) the epoch is taken up. A crash is a pause: each step finds what was done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from exclave.crypto.hpke import OpeningKey
from exclave.errors import ExclaveError, Forked, IntegrityError, MalformedError, UnavailableError
from exclave.formats.gap import GapStatement, parse_gap
from exclave.formats.journal import Entry, Head
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import statement_key
from exclave.identity.feed_read import read_tail
from exclave.identity.journal import Journal
from exclave.ids import Epoch, Instant, RegisterId
from exclave.operations.failover_run import Run
from exclave.operations.home import make_folder, write_private
from exclave.operations.identity_authority import TakenUp, has_taken_up, write_taken_up
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.signatures import sign_text
from exclave.verify.feeds import as_of, read_heads

GAP_FILE = "gap.note"
REPORT_LINE = "Whoever asked home for a revocation after the time in complete-until asks again, by the emergency line."
HOLD_LINE = "Certificates of which such a request is known are put on hold until it is clear what home decided."
NONE_LINE = "Home's last word is later than its loss: no decision is missing."


@dataclass(frozen=True, slots=True)
class Brought:
    """How far a journal could be brought."""

    head: Head
    complete_until: Instant
    problem: str
    """Why the feed could not be read to its end; empty: it was."""
    parted: bool = False
    """The feed does not contain the journal."""


def take_up_identity(run: Run, name: str, restored: Path) -> None:
    """The steps of an embassy; ``restored``: the folder with the version's copy of the journal."""
    register, opened, _ = run.register(name)
    chain = run.view.epoch_chain(register)
    epoch = chain.newest
    if has_taken_up(run.identity, epoch.number):
        return
    folder = run.identity / "journal"
    make_folder(folder)
    version, former = Journal.open(str(restored), captured=True), chain.find(Epoch(epoch.number - 1))
    journal = settle_journal(folder, version, run, newest=epoch.number - 1)  # (1)
    brought = bring(run, register, journal, opened.keys, former)  # (2)
    if brought.parted:  # it agrees with the version, which does not reach so far as the feed
        journal = _begin_anew(folder, version, run, "the identity feed", newest=epoch.number - 1)
        brought = bring(run, register, journal, opened.keys, former)
    if brought.problem:
        run.say(f"{name}: the identity feed could not be read to its end: {brought.problem}")
    gap = _state_gap(run, register, journal, brought)  # (3)
    head = brought.head
    # Until this is written the place goes on in standby; a restart states the same gap again.
    write_taken_up(
        run.identity, TakenUp(epoch.number, head.number, head.chain, run.granted.warrant.digest, run.clock())
    )  # (4)
    run.say(f"{name}: identities are decided here from now on; revocation gap {gap.gap_s} s, entries to {head.number}")


def settle_journal(folder: Path, restored: Journal, run: Run, *, newest: int) -> Journal:
    """(1) The journal in ``folder``, which has at least what the witnessed version has; nothing of an epoch later than
    ``newest``.

    One that stood by and says something else was misled: it is moved aside, and people look at it.
    """
    journal = Journal.open(str(folder))
    try:
        if restored.head().number > journal.head().number:
            journal.adopt(restored, newest=newest)
        else:
            _check_at(journal, restored.head(), "version")
    except Forked:
        return _begin_anew(folder, restored, run, "the register's version", newest=newest)
    return journal


def _begin_anew(folder: Path, restored: Journal, run: Run, other: str, *, newest: int) -> Journal:
    aside = folder.with_name(f"journal-aside-{run.clock()}")
    folder.rename(aside)  # a restart finds no journal, and begins with the version
    run.say(f"the journal that stood by does not agree with {other}; it lies in {aside}")
    make_folder(folder)
    journal = Journal.open(str(folder))
    journal.adopt(restored, newest=newest)
    return journal


def _check_at(journal: Journal, head: Head, where: str) -> None:
    if journal.at(head.number) != head:
        raise Forked(f"entry {head.number} is not the same in the {where} and in the journal here")


def bring(
    run: Run, register: RegisterId, journal: Journal, keys: Mapping[Epoch, OpeningKey], former: VerifiedEpoch | None
) -> Brought:
    """(2) Entries from the feed of ``former``, as far as sites give them."""
    sites = run.sites_of(register)
    if former is None:
        return Brought(journal.head(), last_time(journal), "")
    try:
        heads = read_heads(run.view.state, former, sites)
    except ExclaveError as error:
        return Brought(journal.head(), last_time(journal), error.message)
    if heads.best is None:
        why = "; ".join(f"{site}: {problem}" for site, problem in heads.problems.items())
        return Brought(journal.head(), last_time(journal), why)
    have, best = journal.head(), heads.best.head
    try:
        if best.number <= have.number:  # more than sites show now may have been followed before
            _check_at(journal, best, "feed")
        else:
            chain = run.view.epoch_chain(register)
            for entries in read_tail(run.view.state, chain, sites, keys, have, best=heads.best):
                have = journal.extend(entries, to=after(have, entries))
    except ExclaveError as error:
        return Brought(journal.head(), last_time(journal), error.message, isinstance(error, Forked))
    # What a head leads to counts whatever its date says; the date itself does not if it is yet to come.
    return Brought(have, max(as_of(heads, have, run.clock()), last_time(journal)), "")


def after(head: Head, entries: Iterable[bytes]) -> Head:
    """The head once ``entries`` stand behind ``head``."""
    for data in entries:
        head = head.after(data)
    return head


def last_time(journal: Journal) -> Instant:
    """When the last entry was made; every entry before it is there. 0: there is none."""
    entry = last_entry(journal)
    return Instant(entry.time) if entry is not None else Instant(0)


def last_entry(journal: Journal) -> Entry | None:
    number = journal.head().number
    before = journal.at(number - 1) if number else None
    if before is None:
        return None
    return next((entry for entry, _, _ in journal.read_after(before)), None)


def _state_gap(run: Run, register: RegisterId, journal: Journal, brought: Brought) -> GapStatement:
    """(3) The same statement again after a crash: it is kept here before any site has it."""
    epoch, kept = run.view.epoch_chain(register).newest, run.identity / "state" / GAP_FILE
    note = _kept_gap(kept, epoch)
    if note is None:
        gap = _compose(run, epoch, journal, brought)
        text = parse_gap(gap.encode()).encode()
        note = ParsedNote(text, sign_text(text, run.machine.name, run.machine.signing()))
        write_private(kept, note.encode())
    publish_statement(run, register, note.encode())
    return parse_gap(note.text)


def _kept_gap(path: Path, epoch: VerifiedEpoch) -> ParsedNote | None:
    try:
        note = parse_note(path.read_bytes())
        return note if parse_gap(note.text).epoch == epoch.number else None
    except (FileNotFoundError, MalformedError):
        return None


def _compose(run: Run, epoch: VerifiedEpoch, journal: Journal, brought: Brought) -> GapStatement:
    missing = brought.complete_until < run.lost
    say = [REPORT_LINE, HOLD_LINE] if missing else [NONE_LINE]
    if brought.problem:
        say.append(f"The feed could not be read to its end: {said_of(brought.problem)}")
    return GapStatement(
        run.view.state, epoch.register, epoch.number, run.place, run.granted.warrant.digest, journal.head().number,
        last_time(journal), brought.complete_until, run.lost, run.clock(), tuple(say),
    )  # fmt: skip


def said_of(problem: str) -> str:
    """``problem``, which a host may have worded, as a part of a line that a statement can hold."""
    shown = "".join(c if c.isprintable() else " " for c in problem)
    return " ".join(shown.split())[:400].strip() or "no reason was given"


def publish_statement(run: Run, register: RegisterId, note: bytes) -> None:
    """At every site that works; a site that does not is told of and gets it with the next statement."""
    for label, site in run.sites_of(register).items():
        try:
            site.put_same(statement_key(run.view.state, register, note), note)
        except (UnavailableError, IntegrityError) as error:
            run.say(f"{label} does not take the statement: {error.message}")

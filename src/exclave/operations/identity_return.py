"""The authority over identities moves to this machine: abroad (``identity_takeup``) or back home. A part of failover.

Home comes back in these steps, while its services answer nothing:

(1) the former place has seen that it decides no more, or has been silent for long · (2) exile's journal, from the
restored version and the feed, is put together beside home's own · (3) home's own is kept aside, exile's takes its place
· (4) what home had entered and nobody knew is joined, unless it is so much that people must decide · (5) the merge is
stated in public · (6) the epoch is taken up.

A crash at any point is a pause: a restart finds the journal kept aside, merges it again, and enters nothing twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exclave.durable import sync_folder
from exclave.errors import ExclaveError, MalformedError, UsageError
from exclave.formats.identityconfig import MAX_VERIFY_S
from exclave.formats.journal import Head
from exclave.formats.mergenote import MergeNote, parse_merge
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.warrant import Act
from exclave.identity.journal import Journal
from exclave.identity.merging import MAX_TAKEN, HomeTail, Merged, merge_journals
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import rebuild
from exclave.ids import Epoch, Instant, RegisterId, sha256
from exclave.operations.failover_run import Run
from exclave.operations.home import make_folder, write_private
from exclave.operations.identity_authority import TakenUp, has_taken_up, write_taken_up
from exclave.operations.identity_moved import MERGE_FILE
from exclave.operations.identity_takeup import bring, publish_statement, take_up_identity
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.signatures import sign_text
from exclave.verify.feeds import read_heads

SETTLE_S = 2 * MAX_VERIFY_S
"""So long the former place may take until it knows that it decides no more (twice the longest ``verify_s``), and its
last entries are in the feed."""
REPORT_FILE = "merge-report.txt"
_KEPT = "journal-of-home-before-epoch-{0}"
_SCRATCH = "merging"


def move_authority(run: Run, name: str, restored: Path) -> None:
    """Once the epoch is granted and the version restored; by a warrant to fail back, home merges."""
    if run.granted.warrant.warrant.act is Act.FAILBACK:
        return_identity(run, name, restored)
    else:
        take_up_identity(run, name, restored)


def return_identity(
    run: Run, name: str, restored: Path, *, sleep: Callable[[float], None] = time.sleep, settle_s: float = SETTLE_S
) -> None:
    """The steps of home. ``UsageError`` if home's own journal is damaged; everything that was done so far stays."""
    register = run.register(name)[0]
    chain = run.view.epoch_chain(register)
    epoch = chain.newest
    if has_taken_up(run.identity, epoch.number):
        return
    former = chain.find(Epoch(epoch.number - 1))
    _wait_settled(run, register, former, sleep, settle_s)  # (1)
    exile = _exile_journal(run, register, restored, former)  # (2)
    kept = _put_in_place(run, epoch, exile)  # (3)
    journal = Journal.open(str(run.identity / "journal"))
    start = journal.head()
    merged = _merge(run, epoch, kept, journal)  # (4)
    note = _state_merge(run, register, epoch, merged)  # (5)
    # Until this is written home answers nothing; a restart merges again, and finds that all is entered.
    taken = TakenUp(epoch.number, start.number, start.chain, run.granted.warrant.digest, run.clock())
    write_taken_up(run.identity, taken)  # (6)
    run.say(
        f"{name}: home decides about identities again, from entry {start.number} on: {note.exile_entries} entries of"
        f" exile, {note.home_entries} of home's own, {note.listed} for people to look at"
        f" ({run.identity / 'state' / REPORT_FILE})"
    )


def _wait_settled(
    run: Run, register: RegisterId, former: VerifiedEpoch | None, sleep: Callable[[float], None], settle_s: float
) -> None:
    """(1) The former place may enter something in the seconds until it sees the new epoch; it is sent then, too."""
    if former is None:
        return
    granted = run.clock()
    while run.clock() < granted + settle_s * 1_000_000:
        try:
            best = read_heads(run.view.state, former, run.sites_of(register)).best
        except ExclaveError as error:
            run.say(f"the former place's feed cannot be read: {error.message}")
            return
        if best is None or run.clock() - best.time > settle_s * 1_000_000:
            return  # it has been silent for long
        sleep(0.5)


def _exile_journal(run: Run, register: RegisterId, restored: Path, former: VerifiedEpoch | None) -> Path:
    """(2) Beside home's own: the version, and the feed as far as sites give it."""
    beside = run.identity / "journal-of-exile"
    if beside.exists():
        shutil.rmtree(beside)  # of a run that died
    make_folder(beside)
    journal = Journal.open(str(beside))
    # One of exile's own epoch or before: a later one would fence home, which comes back.
    newest = former.number if former is not None else 0
    journal.adopt(Journal.open(str(restored), captured=True), newest=newest)
    brought = bring(run, register, journal, run.opened[register].keys, former)
    if brought.problem:
        raise UsageError(
            f"exile's last entries cannot be read: {brought.problem}",
            hint="Bring a site up that has them, then run this again; without them home would forget decisions.",
        )
    return beside


def _put_in_place(run: Run, epoch: VerifiedEpoch, exile: Path) -> Path | None:
    """(3) Home's own journal, kept aside; None if there is none. A restart finds it kept (empty, if there was none),
    and exile's in its place."""
    own, kept = run.identity / "journal", run.identity / _KEPT.format(epoch.number)
    if not kept.exists():
        make_folder(own)
        own.rename(kept)
        sync_folder(run.identity)
    if own.exists():
        shutil.rmtree(own)  # exile's, of a run that died before it was taken up
    exile.rename(own)
    sync_folder(run.identity)
    return kept if any(kept.iterdir()) else None


def _merge(run: Run, epoch: VerifiedEpoch, kept: Path | None, journal: Journal) -> Merged | None:
    """(4) Home's own entries behind the fork are joined, under the new epoch."""
    if kept is None:
        return None
    scratch = run.identity / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that died
    make_folder(scratch)
    store = open_sqlite(str(scratch / "status.sqlite"))
    try:
        rebuild(journal, store)
        merged = merge_journals(Journal.open(str(kept)), journal, store)
    finally:
        store.close()
        shutil.rmtree(scratch)
    merged = _as_told(run, merged)
    if merged.bodies:
        journal.append(merged.bodies, time=run.clock(), epoch=epoch.number, warrant=run.granted.warrant.digest)
    return merged


def _as_told(run: Run, merged: Merged) -> Merged:
    """``UsageError`` if so much of home's own would be taken that people must say whether it is right."""
    if run.home_tail is HomeTail.NONE:
        return merged.nothing_taken()
    if run.home_tail is HomeTail.FEW and len(merged.bodies) > MAX_TAKEN:
        path = run.identity / "state" / REPORT_FILE
        write_private(path, merged.report.text().encode())
        raise UsageError(
            f"home stopped or removed {len(merged.bodies)} of which exile knows nothing; more than {MAX_TAKEN} are not"
            f" taken unread, since home may have been in other hands, and a revocation is for good",
            hint=f"Read {path}. Then run this again with --home-tail all, or with --home-tail none and enter by hand"
            " what is right.",
        )
    return merged


def _state_merge(run: Run, register: RegisterId, epoch: VerifiedEpoch, merged: Merged | None) -> MergeNote:
    """(5) Numbers for everybody; the report, which names certificates, stays here."""
    report = merged.report if merged is not None else None
    text = report.text() if report is not None else ""
    write_private(run.identity / "state" / REPORT_FILE, text.encode())
    said = MergeNote(
        run.view.state, register, epoch.number, run.place, run.granted.warrant.digest, Instant(run.clock()),
        report.fork if report is not None else Head(),
        report.exile_entries if report is not None else 0, report.home_entries if report is not None else 0,
        len(merged.bodies) if merged is not None else 0, len(report.listed) if report is not None else 0,
        sha256(text.encode()),
    )  # fmt: skip
    kept = run.identity / "state" / MERGE_FILE
    note = _kept_merge(kept, said)
    if note is None:
        body = parse_merge(said.encode()).encode()
        note = ParsedNote(body, sign_text(body, run.machine.name, run.machine.signing()))
        write_private(kept, note.encode())  # before any site has it: a restart says the same again
    publish_statement(run, register, note.encode())
    return said


def _kept_merge(path: Path, said: MergeNote) -> ParsedNote | None:
    """What an earlier run stated, if it was the same but for the time."""
    try:
        note = parse_note(path.read_bytes())
        return note if replace(parse_merge(note.text), time=said.time) == said else None
    except (FileNotFoundError, MalformedError):
        return None

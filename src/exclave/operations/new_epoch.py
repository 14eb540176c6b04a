"""What a writer does when it finds that its register has a new epoch: its caches follow, and a rekey becomes a fact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exclave.errors import IntegrityError, MissingObject, UnavailableError
from exclave.formats.fact import Fact
from exclave.ids import Digest, Epoch, Instant, Label
from exclave.operations.home import read_limited, write_private
from exclave.rules.epochs import EpochChain, VerifiedEpoch
from exclave.rules.pen import notes_of_pen
from exclave.sites.contract import Site
from exclave.vault.index import ChunkIndex
from exclave.verify.state import StateView

REKEY = Label("rekey")
_NOTE = "epoch-note"


def forget_others(cache: Path, index: ChunkIndex, chain: EpochChain) -> bool:
    """Makes ``index`` forget packs that cannot be built on; whether there were any.

    Packs of former writers, and all packs if the epoch that was written in last is not one of the chain (a fork that a
    charter decided otherwise): what was sealed under its opening key opens for nobody.
    """
    path, newest = cache / _NOTE, chain.newest
    last = Digest(read_limited(path, 64)) if path.exists() else newest.digest
    gone = index.forget_before(Epoch(newest.number + 1) if last not in notes_of_pen(chain) else chain.pen_since)
    if last != newest.digest or not path.exists():
        # Before the first pack under this note. Dies before: the next run forgets the same again.
        write_private(path, newest.digest)
    return gone


def rekey_facts(view: StateView, epoch: VerifiedEpoch, sites: Mapping[Label, Site], now: Instant) -> list[bytes]:
    """The fact that ``epoch`` changed keys, if it did and its ledger has no entry yet: it becomes the first one."""
    if not epoch.is_rekey or epoch.warrant is None or _begun(view, epoch, sites):
        return []
    note = epoch.note
    said = (
        f"new opening key: any {note.threshold} of {len(note.shares)} shares open it, and through it all before",
        f"under charter {epoch.charter.charter.number}",
    )
    return [Fact(epoch.register, epoch.number, now, REKEY, epoch.warrant.digest, said).encode()]


def _begun(view: StateView, epoch: VerifiedEpoch, sites: Mapping[Label, Site]) -> bool:
    """Whether any site shows an entry of the epoch's log."""
    for site in sites.values():
        try:
            if view.log_reader(epoch, site).head().size:
                return True
        except (MissingObject, UnavailableError, IntegrityError):
            continue
    return False

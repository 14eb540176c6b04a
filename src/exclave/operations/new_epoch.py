"""What a writer does when it finds that its register has a new epoch: its caches follow, and a rekey becomes a fact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exclave.errors import IntegrityError, MalformedError, MissingObject, RolledBack, UnavailableError
from exclave.formats.fact import Fact
from exclave.ids import Digest, Epoch, Instant, Label, RegisterId, parse_digest, parse_positive
from exclave.operations.home import Home, read_limited, write_private
from exclave.rules.epochs import EpochChain, VerifiedEpoch
from exclave.rules.pen import notes_of_pen
from exclave.sites.contract import Site
from exclave.vault.index import ChunkIndex
from exclave.verify.state import StateView

REKEY = Label("rekey")


@dataclass(frozen=True, slots=True)
class NotedEpoch:
    """The newest epoch that this home knows of, kept in ``state/ID.epoch-note``."""

    seen: bool
    """False: a rekey was about to put it, and nobody may ever have seen it."""
    number: Epoch
    note: Digest


def note_epoch(home: Home, register: RegisterId, noted: NotedEpoch) -> None:
    """Durable when it returns."""
    word = "seen" if noted.seen else "intended"
    path = home.folder / "state" / f"{register}.epoch-note"
    if read_noted(home, register) != noted:
        write_private(path, f"{word} {noted.number} {noted.note.hex()}\n".encode())


def read_noted(home: Home, register: RegisterId) -> NotedEpoch | None:
    """What ``note_epoch`` kept, None if nothing was. ``MalformedError`` if it is damaged."""
    path = home.folder / "state" / f"{register}.epoch-note"
    if not path.exists():
        return None
    try:
        word, number, note = read_limited(path, 200).decode("ascii").split()
        return NotedEpoch({"seen": True, "intended": False}[word], Epoch(parse_positive(number)), parse_digest(note))
    except (ValueError, KeyError, MalformedError) as error:
        raise MalformedError(f"{path} is damaged", hint="Remove it once all sites answer.") from error


def require_not_older(home: Home, view: StateView, register: RegisterId) -> None:
    """``RolledBack`` if the sites show less than an epoch that this home wrote in, or whose note may lie at a site that
    is away: what is written under the one before would be cut off when it comes back.
    """
    noted, newest = read_noted(home, register), view.epoch_chain(register).newest
    if noted is None or noted.number <= newest.number:
        return
    rule = view.chain.newest.charter.register(register)
    away = [s for s in (rule.at if rule is not None else ()) if s not in view.shown or register in view.shown[s].unread]
    if noted.seen or away:
        raise RolledBack(
            f"no site shows epoch {noted.number} of this register, which this home knows of; away: {', '.join(away)}",
            hint="Bring the sites up that have it, or run the rekey that was broken off again, with the same files.",
            epoch=noted.number,
        )


def forget_others(home: Home, index: ChunkIndex, chain: EpochChain) -> bool:
    """Makes ``index`` forget packs that cannot be built on; whether there were any.

    Packs of former writers, and all packs if the epoch that was noted last is not one of the chain (a fork that a
    charter decided otherwise): what was sealed under its opening key opens for nobody.
    """
    noted, newest = read_noted(home, chain.register), chain.newest
    known = noted is None or noted.note in notes_of_pen(chain)
    gone = index.forget_before(chain.pen_since if known else Epoch(newest.number + 1))
    # Before the first pack under this note. Dies before: the next run forgets the same again.
    note_epoch(home, chain.register, NotedEpoch(True, newest.number, newest.digest))
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

"""A new epoch of a register: its key, its shares, its note, and how these reach the sites.

The opening key's seed exists in one function. What leaves it are sealed boxes and a signed note, which are kept in a
file before anybody sees them: one warrant makes one epoch, and a restart puts the same one.
"""

from __future__ import annotations

import secrets as _random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from exclave.crypto.hpke import OpeningKey
from exclave.errors import CorruptObject, Forked, MalformedError, PlacementUnmet, UnavailableError
from exclave.formats.card import Card
from exclave.formats.epochnote import Cut, ParsedEpoch, parse_epoch
from exclave.formats.note import ParsedNote
from exclave.formats.paths import box_key, card_key, epoch_key, warrant_key
from exclave.ids import Digest, Epoch, Fingerprint, Label, RegisterId, sha256
from exclave.keys.file import KeyFile
from exclave.operations.custody import Granted, OpenedRegister
from exclave.operations.restore import require_newest, require_unforked
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.quorum import make_epoch_shares, seal_ancestors
from exclave.rules.signatures import sign_text
from exclave.rules.tree import EMPTY_ROOT
from exclave.sites.contract import Site
from exclave.verify.history import RegisterHistory


class MadeEpoch(msgspec.Struct, frozen=True):
    """A new epoch, made and perhaps not published yet; its opening key exists only as the shares in ``boxes``."""

    warrant: bytes
    boxes: tuple[bytes, ...]
    note: bytes


def read_made(path: Path) -> MadeEpoch:
    """What an earlier run kept in ``path``. ``MalformedError`` if it is damaged."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=MadeEpoch)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise MalformedError(f"{path} is damaged") from error


def make_epoch(
    register: RegisterId,
    opened: OpenedRegister,
    former: VerifiedEpoch,
    cut: tuple[int, Digest],
    *,
    writer: Digest,
    machine: KeyFile,
    granted: Granted,
    erased: Collection[Epoch] = (),
) -> MadeEpoch:
    """The epoch after ``former``, whose log is cut at ``cut``, with shares for the custodians of the warrant's charter.

    ``machine`` makes and signs it; ``writer`` is the card of who may write in it. ``erased``: epochs whose
    keys it leaves out, besides those that ``former`` left out.
    """
    charter = granted.warrant.charter
    number = Epoch(former.number + 1)
    seed = _random.token_bytes(32)
    opening = OpeningKey(seed).public
    shares, boxes = make_epoch_shares(
        seed, list(charter.cards), charter.charter.threshold, register=register, epoch=number,
        random=_random.token_bytes,
    )  # fmt: skip
    without = tuple(sorted({*former.note.without, *erased}))
    seeds = {epoch: key.seed for epoch, key in opened.keys.items() if epoch not in without}
    ancestors = seal_ancestors(seeds, opening, register, number, without=without)
    note = ParsedEpoch(
        register=register, epoch=number, authority=granted.warrant.digest, previous=Cut(former.digest, *cut),
        writer=writer, opening=opening.raw, threshold=charter.charter.threshold, shares=shares,
        ancestor=sha256(ancestors), without=without,
    )  # fmt: skip
    text = parse_epoch(note.encode()).encode()
    signed = ParsedNote(text, sign_text(text, machine.name, machine.signing()))
    return MadeEpoch(granted.warrant.digest, (*boxes, ancestors), signed.encode())


def cut_of(history: RegisterHistory, former: VerifiedEpoch, *, accept_older: bool = False) -> tuple[int, Digest]:
    """Where the former epoch's log ends: with the last entry that counts.

    ``RolledBack`` if more is vouched for than can be proven: the cut would take it away for good.
    """
    require_unforked(history)
    if not accept_older:
        require_newest(history, "--accept-older")
    log = history.newest_log
    if log.epoch.number != former.number:
        raise CorruptObject(f"the history of register {former.register} does not end in epoch {former.number}")
    if log.freshest is None or log.counted == 0:
        return 0, EMPTY_ROOT
    if log.counted != log.freshest.size:
        raise Forked(f"the sites show two logs of register {former.register} that cannot both be true")
    return log.freshest.size, log.freshest.root


def put_epoch(
    state: Fingerprint,
    register: RegisterId,
    made: MadeEpoch,
    cards: Sequence[Card],
    warrant: bytes,
    sites: Mapping[Label, Site],
    say: Callable[[str], None],
) -> dict[Label, str]:
    """Puts an epoch at each of ``sites``: all that its note names, everywhere; then the note. Those that did not take
    it, and why.

    From when the note is at one site, the epoch is true. ``PlacementUnmet`` if no site takes it.
    """
    failed: dict[Label, str] = {}
    last: UnavailableError | None = None

    def at_each(put: Callable[[Site], None]) -> None:
        nonlocal last
        for label, site in sites.items():
            try:
                if label not in failed:
                    put(site)
            except UnavailableError as error:
                say(f"{label} has not heard of the new epoch: {error.message}")
                failed[label], last = error.message, error

    def rest(site: Site) -> None:
        for box in made.boxes:
            site.put_same(box_key(state, register, sha256(box)), box)
        for card in cards:
            site.put_same(card_key(state, card.digest), card.encode().encode())
        site.put_same(warrant_key(state, warrant), warrant)

    # Until the first note a crash leaves objects that nothing names; the next run puts the same ones again.
    at_each(rest)
    at_each(lambda site: site.put_same(epoch_key(state, register, made.note), made.note))
    if len(failed) == len(sites):
        raise PlacementUnmet("no site can take the new epoch") from last
    return failed

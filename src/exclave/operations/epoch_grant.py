"""The first step of a failover: a new epoch of a register, granted by the warrant to this machine.

From when its note is at a site, the former writer is fenced.
"""

from __future__ import annotations

import secrets as _random
from pathlib import Path

import msgspec

from exclave.crypto.hpke import OpeningKey
from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    IntegrityError,
    MalformedError,
    PlacementUnmet,
    UnavailableError,
    UsageError,
)
from exclave.formats.card import Card
from exclave.formats.epochnote import Cut, ParsedEpoch, parse_epoch
from exclave.formats.manifest import Secrets
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import box_key, card_key, epoch_key, warrant_key
from exclave.ids import Digest, Epoch, RegisterId, sha256
from exclave.operations.custody import OpenedRegister
from exclave.operations.failover_run import Run
from exclave.operations.home import Home, key_card, write_private
from exclave.operations.restore import open_version, require_newest, require_unforked
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.quorum import make_epoch_shares, seal_ancestors
from exclave.rules.signatures import sign_text
from exclave.rules.tree import EMPTY_ROOT
from exclave.vault.writer import new_secrets
from exclave.verify.history import RegisterHistory
from exclave.verify.state import read_state


def grant_epoch(run: Run, name: str) -> None:
    """A new epoch of the register, with this machine as its writer. From when its note is at a site, home is fenced.

    (1) boxes, note and this machine's deduplication keys are made and kept · (2) boxes, card and warrant are put ·
    (3) the epoch note is put, which makes it true.
    """
    register, opened, _ = run.register(name)
    chain = run.view.epoch_chain(register)
    me = key_card(run.machine)
    if chain.newest.note.writer == me.digest and chain.newest.note.authority == run.granted.warrant.digest:
        return
    draft = run.folder / "state" / f"{register}.epoch"
    if draft.exists():
        made = _read_grant(draft)
    else:
        made = _make_grant(run, register, opened)
        # One warrant makes one epoch: what was made is kept before anybody sees it, and a restart puts the same.
        write_private(draft, msgspec.msgpack.encode(made))
    if made.warrant != run.granted.warrant.digest:
        raise UsageError(f"{draft} belongs to another warrant", hint="Use an empty folder for a new failover.")
    _put_epoch(run, register, made, me)
    # The new epoch is read back from the sites, as anybody else would read it.
    run.view = read_state(run.sites, run.view.state)
    if run.view.epoch_chain(register).newest.digest != parse_note(made.note).digest:
        raise CorruptObject(f"the sites do not show the new epoch of {name} as it was written")


class _Grant(msgspec.Struct, frozen=True):
    """A new epoch, made and perhaps not published yet; its opening key exists only as the shares in ``boxes``."""

    warrant: bytes
    boxes: tuple[bytes, ...]
    note: bytes


def _read_grant(path: Path) -> _Grant:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=_Grant)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise MalformedError(f"{path} is damaged") from error


def _make_grant(run: Run, register: RegisterId, opened: OpenedRegister) -> _Grant:
    charter = run.granted.warrant.charter
    former = run.view.epoch_chain(register).newest
    history = run.history(register)
    size, root = _cut(run, history, former)
    number = Epoch(former.number + 1)
    seed = _random.token_bytes(32)
    opening = OpeningKey(seed).public
    shares, boxes = make_epoch_shares(
        seed, list(charter.cards), charter.charter.threshold, register=register, epoch=number,
        random=_random.token_bytes,
    )  # fmt: skip
    ancestors = seal_ancestors({e: key.seed for e, key in opened.keys.items()}, opening, register, number)
    note = ParsedEpoch(
        register=register, epoch=number, authority=run.granted.warrant.digest,
        previous=Cut(former.digest, size, root), writer=key_card(run.machine).digest, opening=opening.raw,
        threshold=charter.charter.threshold, shares=shares, ancestor=sha256(ancestors),
    )  # fmt: skip
    text = parse_epoch(note.encode()).encode()
    signed = ParsedNote(text, sign_text(text, run.machine.name, run.machine.signing()))
    _save_secrets(run, register, opened, history, number)
    return _Grant(run.granted.warrant.digest, (*boxes, ancestors), signed.encode())


def _cut(run: Run, history: RegisterHistory, former: VerifiedEpoch) -> tuple[int, Digest]:
    """Where the former epoch's log ends: with the last entry that counts.

    ``RolledBack`` if more is vouched for than can be proven: the cut would take it away for good.
    """
    require_unforked(history)
    if not run.accept_older:
        require_newest(history, "--accept-older")
    log = history.newest_log
    if log.epoch.number != former.number:
        raise CorruptObject(f"the history of register {former.register} does not end in epoch {former.number}")
    if log.freshest is None or log.counted == 0:
        return 0, EMPTY_ROOT
    if log.counted != log.freshest.size:
        raise Forked(f"the sites show two logs of register {former.register} that cannot both be true")
    return log.freshest.size, log.freshest.root


def _save_secrets(
    run: Run, register: RegisterId, opened: OpenedRegister, history: RegisterHistory, epoch: Epoch
) -> None:
    """The former writer's deduplication keys, out of the version that is restored, and a new index key of this epoch.

    If that version does not open, the newest before it that does: whoever stole the former writer's key can enter
    versions that are none.
    """
    home = Home.open(run.folder)
    if not history.versions:
        home.save_secrets(register, new_secrets(epoch))
        return
    old = _newest_secrets(run, register, opened, history)
    keys = {**old.index_keys, int(epoch): _random.token_bytes(32)}
    home.save_secrets(register, Secrets(old.id_key, old.chunk_seed, keys))


def _newest_secrets(run: Run, register: RegisterId, opened: OpenedRegister, history: RegisterHistory) -> Secrets:
    chosen, sites = run.choose(history), run.sites_of(register)
    problem: ExclaveError | None = None
    for version in reversed([v for v in history.versions if v.leaf.sequence <= chosen.leaf.sequence]):
        try:
            return open_version(run.view.state, sites, opened, version)[1].secrets
        except (IntegrityError, MalformedError) as error:
            run.say(f"{opened.annex.name}: version {version.leaf.sequence} does not open: {error.message}")
            problem = problem or error
    raise CorruptObject(f"no version of {opened.annex.name} opens") from problem


def _put_epoch(run: Run, register: RegisterId, made: _Grant, me: Card) -> None:
    state, warrant = run.view.state, run.granted.note.encode()
    good = 0
    last: UnavailableError | None = None
    for label, site in run.sites_of(register).items():
        try:
            for box in made.boxes:
                site.put_same(box_key(state, register, sha256(box)), box)
            site.put_same(card_key(state, me.digest), me.encode().encode())
            site.put_same(warrant_key(state, warrant), warrant)
            # Until here a crash leaves objects that nothing names; the next run puts the same ones again.
            site.put_same(epoch_key(state, register, made.note), made.note)
            good += 1
        except UnavailableError as error:
            run.say(f"{label} cannot take the new epoch: {error.message}")
            last = error
    if not good:
        raise PlacementUnmet("no site can take the new epoch") from last

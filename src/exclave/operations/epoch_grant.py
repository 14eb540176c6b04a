"""The first step of a failover: a new epoch of a register, granted by the warrant to this machine.

From when its note is at a site, the former writer is fenced.
"""

from __future__ import annotations

import secrets as _random

import msgspec

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, UsageError
from exclave.formats.manifest import Secrets
from exclave.formats.note import parse_note
from exclave.ids import Epoch, RegisterId
from exclave.operations.custody import OpenedRegister
from exclave.operations.epoch_make import MadeEpoch, cut_of, make_epoch, put_epoch, read_made
from exclave.operations.failover_run import Run
from exclave.operations.home import Home, key_card, write_private
from exclave.operations.restore import open_version
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
        made = read_made(draft)
    else:
        made = _make(run, register, opened)
        # One warrant makes one epoch: what was made is kept before anybody sees it, and a restart puts the same.
        write_private(draft, msgspec.msgpack.encode(made))
    if made.warrant != run.granted.warrant.digest:
        raise UsageError(f"{draft} belongs to another warrant", hint="Use an empty folder for a new failover.")
    warrant = run.granted.note.encode()
    run.missed |= put_epoch(run.view.state, register, made, [me], warrant, run.sites_of(register), run.say)
    # The new epoch is read back from the sites, as anybody else would read it.
    run.view = read_state(run.sites, run.view.state)
    if run.view.epoch_chain(register).newest.digest != parse_note(made.note).digest:
        raise CorruptObject(f"the sites do not show the new epoch of {name} as it was written")


def _make(run: Run, register: RegisterId, opened: OpenedRegister) -> MadeEpoch:
    former = run.view.epoch_chain(register).newest
    history = run.history(register)
    cut = cut_of(history, former, accept_older=run.accept_older)
    me = key_card(run.machine).digest
    made = make_epoch(register, opened, former, cut, writer=me, machine=run.machine, granted=run.granted)
    _save_secrets(run, register, opened, history, Epoch(former.number + 1))
    return made


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

"""Puts a draft that enough custodians signed to the sites, and pins the fingerprint of a first one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exclave.errors import ExclaveError, Forked, MalformedError, QuorumMissing, UnavailableError, UsageError
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import box_key, card_key, charter_key, epoch_key
from exclave.ids import Fingerprint, Label, parse_digest, parse_register_id, sha256
from exclave.operations.charter_draft import Draft, listed, read_draft, read_part
from exclave.operations.home import Home
from exclave.rules.charters import CharterChain, find_charter_chain
from exclave.sites.contract import Site
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class Published:
    """What ``publish`` did."""

    fingerprint: Fingerprint
    number: int
    signers: tuple[Label, ...]
    sites: tuple[Label, ...]
    failed: dict[Label, str]


def publish(home: Home, folder: Path, sites: Mapping[Label, Site], view: StateView | None) -> Published:
    """Puts a draft that enough custodians signed to all ``sites``, and pins the fingerprint of a first one.

    (1) boxes and cards, (2) epoch notes, (3) the charter: a crash in between leaves objects that no charter names.
    Sites that fail are named; ``UnavailableError`` if all do.
    """
    draft = read_draft(folder)
    note = _assemble(draft)
    try:
        chain = _verify(draft, note, view)
    except QuorumMissing as error:
        hint = f"Have them run `exclave charter sign {folder}`; then publish the draft again."
        raise QuorumMissing(error.message, hint=hint, **error.facts) from error
    _require_present(draft, view)
    failed: dict[Label, str] = {}
    done: list[Label] = []
    last: UnavailableError | None = None
    for label, site in sites.items():
        try:
            _put_draft(draft, note, chain.state, site)
            done.append(label)
        except UnavailableError as error:
            failed[label], last = error.message, error
    if not done:
        raise last or UsageError("no site is configured")
    home.pin(chain.state)
    newest = chain.newest
    return Published(chain.state, newest.charter.number, tuple(sorted(newest.signers)), tuple(done), failed)


def _require_present(draft: Draft, view: StateView | None) -> None:
    """No register got a later epoch since the draft was made: this charter would give the pen back to its former one.

    ``Forked`` otherwise. A register whose epochs cannot be told is left to the custodians, who named one of them.
    """
    for rule in draft.charter.registers:
        chain = view.epochs.get(rule.id) if view is not None else None
        if chain is not None and chain.newest.number > rule.epoch:
            raise Forked(
                f"register {rule.id} is in epoch {chain.newest.number} by now, and the draft names epoch {rule.epoch}",
                hint="Draft the charter anew, so that it names the epoch in force.",
            )


def _assemble(draft: Draft) -> ParsedNote:
    text = draft.charter.encode()
    note = ParsedNote(text, ())
    for path in listed(draft.folder / "signatures"):
        signed = parse_note(read_part(path))
        if signed.text != text:
            raise MalformedError(f"{path} signs another text than this draft's charter")
        note = note.with_signatures(*signed.signatures)
    if not note.signatures:
        raise QuorumMissing("nobody has signed this draft yet", hint="Have custodians run `exclave charter sign`.")
    return note


def _verify(draft: Draft, note: ParsedNote, view: StateView | None) -> CharterChain:
    """The chain with this charter as its newest; raises ``QuorumMissing`` and the like otherwise."""
    if draft.charter.number == 1:
        pinned = Fingerprint(draft.fingerprint)
        return find_charter_chain([note.encode()], draft.cards, pinned)[0]
    if view is None:
        raise UsageError("the sites do not show the charters before this one")
    cards = {**view.cards, **draft.cards}
    earlier = view.charter_notes
    chain, rejected = find_charter_chain([*earlier, note.encode()], cards, view.state)
    if chain.newest.digest != draft.charter.digest:
        problem: ExclaveError = next((r.error for r in rejected if r.digest == draft.charter.digest), MalformedError(
            "the draft does not follow the newest charter"
        ))  # fmt: skip
        raise problem
    return chain


def _put_draft(draft: Draft, note: ParsedNote, state: Fingerprint, site: Site) -> None:
    for folder in listed(draft.folder / "boxes"):
        for path in listed(folder):
            data = read_part(path)
            if sha256(data) != parse_digest(path.name):
                raise MalformedError(f"{path} does not have the digest that it is named by")
            site.put_same(box_key(state, parse_register_id(folder.name), sha256(data)), data)
    for card in draft.cards.values():
        site.put_same(card_key(state, card.digest), card.encode().encode())
    for register, epoch in draft.epochs.items():
        site.put_same(epoch_key(state, register, epoch.encode()), epoch.encode())
    site.put_same(charter_key(state, note.encode()), note.encode())

"""Who signed a checkpoint, and which of several sites' checkpoints to believe. Pure.

A log signs with its writer's two keys under the log's origin: Ed25519 (type 0x01) and an ML-DSA-44 cosignature (type
0x06). A witness cosigns under its card's name: Ed25519 (type 0x04) and ML-DSA-44 (type 0x06). Either counts only if
both of its signatures verify.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from exclave.crypto.sign import (
    ED25519_SIGNATURE_BYTES,
    MLDSA44_SIGNATURE_BYTES,
    SigningPair,
    verify_ed25519,
    verify_mldsa44,
)
from exclave.errors import (
    CorruptObject,
    Forked,
    MalformedError,
    MissingObject,
    NotAuthorised,
    QuorumMissing,
    RolledBack,
    WrongFingerprint,
)
from exclave.formats.card import Card
from exclave.formats.checkpoint import (
    MAX_CHECKPOINT_BYTES,
    Checkpoint,
    ed25519_cosignature_message,
    encode_timed,
    log_message,
    mldsa44_cosignature_message,
    parse_checkpoint,
    parse_timed,
)
from exclave.formats.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    ParsedNote,
    Signature,
    key_id,
    parse_note,
)
from exclave.formats.policy import WitnessPolicy
from exclave.ids import Digest, Instant, Label
from exclave.rules.policy import lacking, met

_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that its log's writer signed with both keys. Built by ``verify_checkpoint`` only."""

    checkpoint: Checkpoint
    time: Instant
    """When the writer signed it, by its own clock; whole seconds."""
    cosigners: tuple[tuple[Label, Instant], ...]
    """Witnesses, out of those asked for, that cosigned it, with the time by their clocks; sorted by name."""
    note: ParsedNote = field(repr=False)

    @property
    def origin(self) -> str:
        return self.checkpoint.origin

    @property
    def size(self) -> int:
        return self.checkpoint.size

    @property
    def root(self) -> Digest:
        return self.checkpoint.root

    def encode(self) -> bytes:
        """The signed note, as a site stores it."""
        return self.note.encode()

    def counts_by(self, policy: WitnessPolicy) -> bool:
        """Whether a quorum by ``policy`` cosigned it."""
        return met(policy, dict(self.cosigners))

    def lacks_by(self, policy: WitnessPolicy) -> str:
        """Whose cosignatures a quorum by ``policy`` lacks, in words."""
        return lacking(policy, dict(self.cosigners))


def sign_checkpoint(checkpoint: Checkpoint, pair: SigningPair, now: Instant) -> ParsedNote:
    """The checkpoint as a note signed by its log's writer."""
    origin, time_s = checkpoint.origin, now // _SECOND
    classic = Signature(
        origin, key_id(origin, ED25519, pair.ed25519_public), pair.sign_ed25519(log_message(checkpoint))
    )
    return ParsedNote(checkpoint.encode(), (classic, _cosign_mldsa44(checkpoint, origin, pair, time_s)))


def cosign(checkpoint: Checkpoint, witness: Label, pair: SigningPair, now: Instant) -> tuple[Signature, Signature]:
    """``witness``'s two cosignatures. The caller has checked, and durably noted, that the log only grew."""
    time_s = now // _SECOND
    signature = pair.sign_ed25519(ed25519_cosignature_message(checkpoint, time_s))
    classic = Signature(
        witness, key_id(witness, COSIGNATURE_ED25519, pair.ed25519_public), encode_timed(time_s, signature)
    )
    return classic, _cosign_mldsa44(checkpoint, witness, pair, time_s)


def _cosign_mldsa44(checkpoint: Checkpoint, name: str, pair: SigningPair, time_s: int) -> Signature:
    signature = pair.sign_mldsa44(mldsa44_cosignature_message(name, checkpoint, time_s))
    return Signature(name, key_id(name, COSIGNATURE_MLDSA44, pair.mldsa44_public), encode_timed(time_s, signature))


def verify_checkpoint(data: bytes, origin: str, writer: Card, witnesses: Iterable[Card] = ()) -> VerifiedCheckpoint:
    """The checkpoint in ``data`` if ``writer`` signed it for the log ``origin``.

    ``MalformedError`` if it is none, ``WrongFingerprint`` if another log's, ``NotAuthorised`` if a signature of the
    writer's is missing, ``CorruptObject`` if one is wrong. Signatures of others do not matter, but for ``cosigners``.
    """
    if len(data) > MAX_CHECKPOINT_BYTES:
        raise MalformedError(f"a checkpoint is longer than {MAX_CHECKPOINT_BYTES} bytes")
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    if checkpoint.origin != origin:
        raise WrongFingerprint(f"this is a checkpoint of the log {checkpoint.origin}, not of {origin}")
    classic = _only(note, origin, key_id(origin, ED25519, writer.ed25519))
    verify_ed25519(writer.ed25519, classic, log_message(checkpoint))
    time_s = _verify_mldsa44(note, checkpoint, origin, writer)
    found = cosigners(note, witnesses)
    return VerifiedCheckpoint(checkpoint, Instant(time_s * _SECOND), tuple(sorted(found.items())), note)


def cosigners(note: ParsedNote, witnesses: Iterable[Card]) -> dict[Label, Instant]:
    """Those ``witnesses`` that cosigned ``note`` (a checkpoint) rightly, with the earlier time of both signatures.

    A wrong or doubled cosignature counts as none: whoever could add it could as well have left the right one out.
    """
    checkpoint = parse_checkpoint(note.text)
    found: dict[Label, Instant] = {}
    for card in witnesses:
        try:
            found[card.name] = verify_cosigned_by(note, checkpoint, card)
        except (NotAuthorised, CorruptObject, MalformedError):
            continue
    return found


def verify_cosigned_by(note: ParsedNote, checkpoint: Checkpoint, witness: Card) -> Instant:
    """When ``witness`` cosigned ``checkpoint``, the text of ``note``, by its own clock.

    ``NotAuthorised`` if a cosignature is missing, ``CorruptObject`` or ``MalformedError`` if one is wrong.
    """
    blob = _only(note, witness.name, key_id(witness.name, COSIGNATURE_ED25519, witness.ed25519))
    time_s, signature = parse_timed(blob, ED25519_SIGNATURE_BYTES)
    verify_ed25519(witness.ed25519, signature, ed25519_cosignature_message(checkpoint, time_s))
    return Instant(min(time_s, _verify_mldsa44(note, checkpoint, witness.name, witness)) * _SECOND)


def _verify_mldsa44(note: ParsedNote, checkpoint: Checkpoint, name: str, card: Card) -> int:
    blob = _only(note, name, key_id(name, COSIGNATURE_MLDSA44, card.mldsa44))
    time_s, signature = parse_timed(blob, MLDSA44_SIGNATURE_BYTES)
    verify_mldsa44(card.mldsa44, signature, mldsa44_cosignature_message(name, checkpoint, time_s))
    return time_s


def _only(note: ParsedNote, name: str, wanted: bytes) -> bytes:
    blobs = [s.blob for s in note.signatures if s.name == name and s.key_id == wanted]
    if not blobs:
        raise NotAuthorised(f"{name} has not signed this checkpoint", signer=name)
    if len(blobs) > 1:
        raise CorruptObject(f"{name} seems to have signed this checkpoint twice", signer=name)
    return blobs[0]


def merge_signatures(note: ParsedNote, more: Iterable[Signature]) -> ParsedNote:
    """``note`` with ``more`` signatures, each in place of an earlier one by the same key."""
    signatures = {(s.name, s.key_id): s for s in note.signatures}
    signatures.update({(s.name, s.key_id): s for s in more})
    return ParsedNote(note.text, tuple(signatures.values()))


class Standing(Enum):
    """What a site's checkpoint is worth beside the others'."""

    FRESHEST = "freshest"
    BEHIND = "behind"
    """Smaller than the freshest: not published there yet, or rolled back."""
    UNWITNESSED = "unwitnessed"
    """Larger than the freshest, but too few witnesses vouch for it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The checkpoint that one place showed."""

    place: str
    checkpoint: VerifiedCheckpoint


@dataclass(frozen=True, slots=True)
class Judged:
    """A place's checkpoint, its standing, and why, in words."""

    place: str
    size: int
    standing: Standing
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """``freshest`` carries the witnesses' signatures of all the places that showed it; ``judged`` has all places."""

    freshest: VerifiedCheckpoint
    judged: tuple[Judged, ...]


def choose_freshest(
    candidates: Sequence[Candidate], policy: WitnessPolicy, least: VerifiedCheckpoint | None = None
) -> Choice:
    """The largest checkpoint that a quorum by ``policy`` cosigned, among several places' of one log.

    Cosignatures of the same checkpoint count together, wherever they were found. That the smaller ones are starts of
    the larger ones is for the caller to prove, from tiles. ``MissingObject`` without candidates; ``Forked`` if two of
    one size differ; ``QuorumMissing`` if no checkpoint has enough witnesses; ``RolledBack`` if no place shows as much
    as ``least``, which the caller has seen before and which may itself be the choice.
    """
    if not candidates:
        raise MissingObject("no site shows a checkpoint of this log")
    shown = max(candidate.checkpoint.size for candidate in candidates)
    if least is not None and shown < least.size:
        raise RolledBack(f"the log had {least.size} entries before, and no site shows more than {shown}", size=shown)
    merged: dict[int, VerifiedCheckpoint] = {}
    places: dict[int, str] = {}
    seen = [*candidates] if least is None else [*candidates, Candidate("what was seen before", least)]
    for candidate in seen:
        checkpoint = candidate.checkpoint
        if checkpoint.origin != candidates[0].checkpoint.origin:
            raise WrongFingerprint(f"{candidate.place} shows a checkpoint of another log")
        held = merged.setdefault(checkpoint.size, checkpoint)
        first = places.setdefault(checkpoint.size, candidate.place)
        if held.root != checkpoint.root:
            raise Forked(f"{first} and {candidate.place} show two different logs of {held.size} entries")
        merged[checkpoint.size] = _join(held, checkpoint)
    enough = [size for size, checkpoint in merged.items() if checkpoint.counts_by(policy)]
    if not enough:
        lacks = least_lacking(policy, merged.values())
        raise QuorumMissing(f"no checkpoint has a quorum of witnesses; it lacks {lacks}")
    freshest = merged[max(enough)]
    return Choice(freshest, tuple(_judge(candidate, merged, freshest, policy) for candidate in candidates))


def least_lacking(policy: WitnessPolicy, heads: Iterable[VerifiedCheckpoint]) -> str:
    """What the head with most cosignatures lacks to a quorum, in words."""
    return max(heads, key=lambda head: len(head.cosigners)).lacks_by(policy)


def _join(one: VerifiedCheckpoint, other: VerifiedCheckpoint) -> VerifiedCheckpoint:
    """Two copies of one checkpoint, with the witnesses of both."""
    have = {name for name, _ in one.cosigners}
    new = [(name, time) for name, time in other.cosigners if name not in have]
    if not new:
        return one
    names = {name for name, _ in new}
    note = merge_signatures(one.note, [s for s in other.note.signatures if s.name in names])
    return VerifiedCheckpoint(one.checkpoint, one.time, tuple(sorted((*one.cosigners, *new))), note)


def _judge(
    candidate: Candidate, merged: dict[int, VerifiedCheckpoint], freshest: VerifiedCheckpoint, policy: WitnessPolicy
) -> Judged:
    size = candidate.checkpoint.size
    if size == freshest.size:
        return Judged(candidate.place, size, Standing.FRESHEST, f"holds the freshest witnessed state, {size} entries")
    if size < freshest.size:
        reason = f"holds {size} of {freshest.size} entries: not published there yet, or rolled back"
        return Judged(candidate.place, size, Standing.BEHIND, reason)
    reason = f"holds {size} entries, for which the quorum of witnesses lacks {merged[size].lacks_by(policy)}"
    return Judged(candidate.place, size, Standing.UNWITNESSED, reason)

"""A witness: cosigns a log's checkpoint only if the log did nothing but grow since the one before (C2SP tlog-witness).

Which logs it knows, and whose they are, ``authority`` decides at each request; so a witness follows the charter and
the chain of epochs, and refuses the log of a former epoch. What it cosigned is durable before the answer leaves. Once
it has cosigned a register's log of epoch n, it refuses every earlier epoch's by itself, whatever ``authority`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exclave.crypto.sign import SigningPair
from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Fenced,
    Forked,
    HeadMoved,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    UnavailableError,
)
from exclave.formats.card import Card
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES, parse_checkpoint
from exclave.formats.note import parse_note
from exclave.formats.witness import (
    SIZE_TYPE,
    AddCheckpoint,
    encode_signatures,
    encode_size,
    parse_add_checkpoint,
)
from exclave.ids import Digest, Instant
from exclave.ledger.witness_store import Pen, WitnessStore, log_name
from exclave.rules.checkpoints import (
    VerifiedCheckpoint,
    cosign,
    merge_signatures,
    verify_checkpoint,
    verify_cosigned_by,
)
from exclave.rules.tree import EMPTY_ROOT, verify_consistency

Authority = Callable[[str], Card]
"""From a log's origin to its writer's card. ``MissingObject``: no such log. ``Fenced``: a later epoch has the pen (the
message says which and since when). ``UnavailableError``: cannot be told now."""

TEXT = "text/plain; charset=utf-8"
SAID_AGAIN_US = 10_000_000
"""Who asks for what was cosigned so shortly before gets the same signatures: no new ones, and nothing is written."""
FENCED_PREFIX = "fenced: "
"""How the answer 403 begins if a later epoch has the pen."""


@dataclass(frozen=True, slots=True)
class WitnessAnswer:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


class Witness:
    """One witness: its key, its memory, and who tells it which logs there are. For many threads."""

    def __init__(self, store: WitnessStore, card: Card, pair: SigningPair, authority: Authority) -> None:
        if (pair.ed25519_public, pair.mldsa44_public) != (card.ed25519, card.mldsa44):
            raise NotAuthorised(f"this key is not the witness {card.name}'s")
        self._store = store
        self._card = card
        self._pair = pair
        self._authority = authority

    def add_checkpoint(self, body: bytes, now: Instant) -> WitnessAnswer:
        """Answers one ``add-checkpoint`` request.

        200 with cosignatures · 400 malformed · 403 not the log's writer, or fenced · 404 unknown log · 409 with the
        size that was cosigned last · 422 the proof does not hold · 500 own memory is damaged · 503 cannot tell now.
        """
        try:
            request = parse_add_checkpoint(body)
        except MalformedError as error:
            return _refuse(400, error.message)
        origin = request.checkpoint.origin
        try:
            writer = self._authority(origin)
        except MissingObject:
            return _refuse(404, "unknown log")
        except Fenced as error:
            return _refuse(403, FENCED_PREFIX + error.message)
        except (UnavailableError, IntegrityError, NotAuthorised, MalformedError):
            return _refuse(503, "the witness cannot tell now whose log this is; try again")
        try:
            checkpoint = verify_checkpoint(request.note.encode(), origin, writer)
        except (NotAuthorised, CorruptObject, MalformedError) as error:
            return _refuse(403, error.message)
        try:
            return self._answer(request, checkpoint, now)
        except Fenced as error:
            return _refuse(403, FENCED_PREFIX + error.message)
        except UnavailableError:
            return _refuse(503, "the witness cannot write down what it would sign; try again")
        except ExclaveError:
            return _refuse(500, "the witness's memory of this log is damaged; its operator must look")

    def latest(self, log: Digest) -> bytes | None:
        """The last cosigned checkpoint of the log whose origin has the SHA-256 ``log``, for monitors; None if none."""
        return self._store.load(log)

    def _answer(self, request: AddCheckpoint, checkpoint: VerifiedCheckpoint, now: Instant) -> WitnessAnswer:
        """Decides by what is remembered, remembers, and only then signs off."""
        log = log_name(checkpoint.origin)
        if request.old > checkpoint.size:
            return _refuse(400, "the old size is larger than the checkpoint's")
        remembered = self._store.load(log)
        last, not_before = self._recall(remembered, checkpoint.origin)
        if request.old != last[0]:
            return WitnessAnswer(409, SIZE_TYPE, encode_size(last[0]))
        try:
            verify_consistency(*last, checkpoint.size, checkpoint.root, request.proof)
        except Forked:
            return WitnessAnswer(409, SIZE_TYPE, encode_size(last[0]))
        except CorruptObject as error:
            return _refuse(422, error.message)
        if remembered is not None and request.old == checkpoint.size and 0 <= now - not_before < SAID_AGAIN_US:
            self._store.require_pen(Pen.of(checkpoint.origin))
            said = parse_note(remembered).signatures
            return WitnessAnswer(200, TEXT, encode_signatures(tuple(s for s in said if s.name == self._card.name)))
        # A clock that was set back must not make a later statement look like an earlier one.
        signatures = cosign(checkpoint.checkpoint, self._card.name, self._pair, max(now, not_before))
        keys = (self._card.name, checkpoint.origin)
        # Signatures of others could be junk, and would fill the file.
        own = [s for s in merge_signatures(checkpoint.note, signatures).signatures if s.name in keys]
        note = type(checkpoint.note)(checkpoint.note.text, tuple(own)).encode()
        if len(note) > MAX_CHECKPOINT_BYTES:
            return _refuse(400, "the checkpoint has too many signatures")
        try:
            # A restart finds this checkpoint and goes on from it: if the answer was lost, the log asks again.
            self._store.swap(log, remembered, note, Pen.of(checkpoint.origin))
        except HeadMoved:
            size = self._recall(self._store.load(log), checkpoint.origin)[0][0]
            return WitnessAnswer(409, SIZE_TYPE, encode_size(size))
        return WitnessAnswer(200, TEXT, encode_signatures(signatures))

    def _recall(self, data: bytes | None, origin: str) -> tuple[tuple[int, Digest], Instant]:
        """Size and root cosigned last, and when. Its own cosignature on the file tells whether the file is whole."""
        if data is None:
            return (0, EMPTY_ROOT), Instant(0)
        note = parse_note(data)
        checkpoint = parse_checkpoint(note.text)
        if checkpoint.origin != origin:
            raise CorruptObject("the witness's memory holds another log's checkpoint")
        return (checkpoint.size, checkpoint.root), verify_cosigned_by(note, checkpoint, self._card)


def _refuse(status: int, reason: str) -> WitnessAnswer:
    return WitnessAnswer(status, TEXT, f"{reason}\n".encode())

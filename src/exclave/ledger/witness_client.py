"""Asks one witness over HTTP to cosign a log's head, or what it cosigned last (C2SP tlog-witness)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exclave.errors import (
    CorruptObject,
    Fenced,
    Forked,
    MalformedError,
    NotAuthorised,
    RolledBack,
    SiteUnavailable,
    WrongFingerprint,
)
from exclave.formats.card import Card
from exclave.formats.checkpoint import MAX_CHECKPOINT_BYTES
from exclave.formats.note import ParsedNote, Signature
from exclave.formats.witness import (
    MAX_ANSWER_BYTES,
    SIZE_TYPE,
    AddCheckpoint,
    parse_signatures,
    parse_size,
)
from exclave.ledger.witness import FENCED_PREFIX
from exclave.ledger.witness_store import log_name
from exclave.rules.checkpoints import VerifiedCheckpoint, verify_checkpoint, verify_cosigned_by
from exclave.sites.in_time import in_time
from exclave.verify.logs import LogTree

if TYPE_CHECKING:
    import httpx

STEP_SECONDS = 10.0
"""Longest wait for a connection, and for each next piece of an answer."""
TOTAL_SECONDS = 30.0
"""Longest one request may take, however slowly it drips."""
_ASKS = 4


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content_type: str
    body: bytes


class WitnessClient:
    """One witness, at ``url`` (before ``/add-checkpoint``), with the key that ``card`` says."""

    def __init__(self, url: str, card: Card, client: httpx.Client | None = None) -> None:
        """``client`` may carry transport settings; by default no proxy, no redirects."""
        import httpx  # noqa: PLC0415 - takes a tenth of a second to load, and a state may have no witnesses

        self._url = url.rstrip("/")
        self._card = card
        self._client = client or httpx.Client(trust_env=False, follow_redirects=False)

    @property
    def name(self) -> str:
        return self._card.name

    def close(self) -> None:
        self._client.close()

    def cosign(self, tree: LogTree, old: int = 0) -> tuple[Signature, ...]:
        """The witness's two cosignatures on ``tree``'s checkpoint, verified. May be repeated.

        ``old``: the size that this witness is thought to have cosigned last; if it says otherwise it is asked again.
        ``Fenced`` if a later epoch has the pen · ``NotAuthorised`` if it does not take this writer · ``RolledBack`` if
        it has seen more entries than ``tree`` has · ``Forked`` if it has seen others · ``SiteUnavailable`` if it does
        not answer, does not know the log (yet) or fails · ``CorruptObject`` if it answers nonsense.
        """
        checkpoint = tree.checkpoint
        for _ in range(_ASKS):
            proof = tree.consistency(old)
            answer = self._post(AddCheckpoint(old, proof, checkpoint.note, checkpoint.checkpoint).encode())
            if answer.status == 200:
                return self._signatures(tree, answer.body)
            if answer.status != 409:
                raise self._failure(answer)
            seen = self._size(answer)
            if seen > checkpoint.size:
                raise RolledBack(f"the witness {self.name} has seen {seen} entries, not only {checkpoint.size}")
            if seen == old:
                raise Forked(f"the witness {self.name} has seen another log of {old} entries", size=old)
            old = seen
        raise SiteUnavailable(f"the witness {self.name} keeps changing its mind about the log's size")

    def latest(self, origin: str, writer: Card) -> VerifiedCheckpoint | None:
        """The last checkpoint of the log ``origin`` that this witness cosigned; None if it knows no such log.

        What it proves: the log had so many entries. ``CorruptObject`` if it is not ``writer``'s and this witness's,
        ``SiteUnavailable`` if the witness does not answer.
        """
        answer = self._ask("GET", f"/{log_name(origin).hex()}/checkpoint", None, MAX_CHECKPOINT_BYTES)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._failure(answer)
        try:
            found = verify_checkpoint(answer.body, origin, writer, [self._card])
        except (MalformedError, NotAuthorised, WrongFingerprint) as error:
            raise CorruptObject(f"the witness {self.name} did not answer with a checkpoint of {origin}") from error
        if not found.cosigners:
            raise CorruptObject(f"the witness {self.name} shows a checkpoint that it did not cosign")
        return found

    def _signatures(self, tree: LogTree, body: bytes) -> tuple[Signature, ...]:
        checkpoint = tree.checkpoint.checkpoint
        try:
            # Lines of keys that we do not know are not ours to keep.
            own = tuple(s for s in parse_signatures(body) if s.name == self._card.name)
            verify_cosigned_by(ParsedNote(checkpoint.encode(), own), checkpoint, self._card)
        except (MalformedError, NotAuthorised, CorruptObject) as error:
            raise CorruptObject(f"the witness {self.name} did not answer with its cosignatures") from error
        return own

    def _size(self, answer: _Answer) -> int:
        problem = f"the witness {self.name} did not say which size it has seen"
        if answer.content_type.split(";")[0].strip().lower() != SIZE_TYPE:
            raise CorruptObject(problem)
        try:
            return parse_size(answer.body)
        except MalformedError as error:
            raise CorruptObject(problem) from error

    def _failure(self, answer: _Answer) -> Exception:
        said = answer.body[:300].decode("utf-8", "replace").strip()
        text = "".join(c if c.isprintable() else "?" for c in said)
        if answer.status == 403 and text.startswith(FENCED_PREFIX):
            return Fenced(f"the witness {self.name} says: {text}", witness=self.name)
        if answer.status == 403:
            return NotAuthorised(f"the witness {self.name} does not take this writer: {text}", witness=self.name)
        if answer.status == 422:
            return Forked(f"the witness {self.name} does not see its last checkpoint in this log: {text}")
        return SiteUnavailable(f"the witness {self.name} answered {answer.status}: {text}", status=answer.status)

    def _post(self, body: bytes) -> _Answer:
        return self._ask("POST", "/add-checkpoint", body, MAX_ANSWER_BYTES)

    def _ask(self, method: str, path: str, body: bytes | None, limit: int) -> _Answer:
        """One request; an answer of at most ``limit`` bytes, in at most ``TOTAL_SECONDS``."""
        import httpx  # noqa: PLC0415 - see __init__

        headers = {"content-type": "text/plain; charset=utf-8", "accept-encoding": "identity"}
        url = self._url + path
        who = f"the witness {self.name}"

        def ask() -> _Answer:
            data = bytearray()
            try:
                with self._client.stream(method, url, content=body, headers=headers, timeout=STEP_SECONDS) as response:
                    # iter_raw: an answer that is compressed against our wish is nonsense, not a bomb.
                    for piece in response.iter_raw():
                        data.extend(piece)
                        if len(data) > limit:
                            raise SiteUnavailable(f"{who} answers too much")
                    return _Answer(response.status_code, response.headers.get("content-type", ""), bytes(data))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise SiteUnavailable(f"{who} does not answer: {error}") from error

        return in_time(TOTAL_SECONDS, ask, who)

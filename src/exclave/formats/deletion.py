"""Orders to delete versions, and what custodians say against one. Page: ``docs/spec/deletion.md``.

An order file, which a warrant to delete names by its SHA-256::

    exclave/deletion/v1
    state <fingerprint>
    register <id>
    ledger <epoch> <entries>                                the log that it was computed from, and how long it was
    delay <seconds>                                         how long it lies open before it may be carried out
    objections <k>                                          so many custodians stop it
    keys none | keys epoch <n>                              an epoch whose opening key goes too
    reason <free text>
    version <sequence> <epoch> <manifest> <instant>         1 or more, sorted; the instant: when its retention ended

What a custodian says, as a note that he signs::

    exclave/objection/v1
    state <fingerprint>
    register <id>
    charter <sha256 of the newest charter's text>
    against order <sha256 of the order> | against all
    custodian <label>
    time <instant>
    reason <free text>

``against all`` is a legal hold: of enough custodians, it stops every order until a later charter takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from exclave.errors import MalformedError
from exclave.formats.charter import MAX_CUSTODIANS, MAX_SECONDS
from exclave.formats.epochnote import MAX_EPOCH
from exclave.formats.leaf import MAX_SEQUENCE
from exclave.formats.lines import LineReader, plain_text, text_of
from exclave.ids import (
    Digest,
    Epoch,
    Fingerprint,
    Instant,
    Label,
    RegisterId,
    Sequence,
    instant_text,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    parse_label,
    parse_positive,
    parse_register_id,
    sha256,
)

HEADER = "exclave/deletion/v1"
OBJECTION_HEADER = "exclave/objection/v1"
MAX_VERSIONS = 5000
MAX_ORDER_CHARS = 1 << 20
MAX_OBJECTION_CHARS = 8 << 10
MAX_OBJECTION_BYTES = 32 << 10
"""Of the signed note."""

ORDERED = Label("deletion-ordered")
"""Kind of the fact that makes an order public; its first line is the order's digest."""
DONE = Label("deletion-done")
"""Kind of the fact that says what was erased; its first line is the order's digest."""
CHARTER = Label("charter")
"""Kind of the fact that says under which charter the versions after it are made; its line is the charter's digest."""


@dataclass(frozen=True, slots=True)
class OrderedVersion:
    """One version that is to go."""

    sequence: Sequence
    epoch: Epoch
    manifest: Digest
    until: Instant
    """When the last rule that kept it ended."""


@dataclass(frozen=True, slots=True)
class DeletionOrder:
    """An order whose form is right; whether anybody may give it is not checked yet."""

    state: Fingerprint
    register: RegisterId
    epoch: Epoch
    entries: int
    delay_s: int
    objections: int
    keys: Epoch | None
    reason: str
    versions: tuple[OrderedVersion, ...]

    def encode(self) -> str:
        lines = [
            HEADER,
            f"state {self.state}",
            f"register {self.register}",
            f"ledger {self.epoch} {self.entries}",
            f"delay {self.delay_s}",
            f"objections {self.objections}",
            f"keys {'none' if self.keys is None else f'epoch {self.keys}'}",
            f"reason {self.reason}",
            *(f"version {v.sequence} {v.epoch} {v.manifest.hex()} {instant_text(v.until)}" for v in self.versions),
        ]
        return "\n".join(lines) + "\n"

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text: what the warrant and the facts name."""
        return sha256(self.encode().encode())


def parse_deletion(data: bytes) -> DeletionOrder:
    """Strict inverse of ``DeletionOrder.encode``. Raises ``MalformedError``."""
    lines = LineReader(text_of(data, MAX_ORDER_CHARS, "an order to delete"), what="order", limit=MAX_ORDER_CHARS)
    lines.exactly(HEADER)
    state = parse_fingerprint(lines.field("state"))
    register = parse_register_id(lines.field("register"))
    epoch, entries = lines.fields("ledger", 2)
    order = DeletionOrder(
        state=state,
        register=register,
        epoch=Epoch(parse_positive(epoch, limit=MAX_EPOCH)),
        entries=parse_positive(entries),
        delay_s=parse_positive(lines.field("delay"), limit=MAX_SECONDS),
        objections=parse_positive(lines.field("objections"), limit=MAX_CUSTODIANS),
        keys=_keys(lines),
        reason=plain_text(lines.fields("reason", 1, rest=True)[0]),
        versions=_versions(lines),
    )
    lines.end()
    if order.keys is not None and order.keys >= order.epoch:
        raise MalformedError("order: the newest epoch's key is still in use")
    if order.encode().encode() != data:
        raise MalformedError("an order to delete is not in its one canonical form")
    return order


def _keys(lines: LineReader) -> Epoch | None:
    value = lines.fields("keys", 1, rest=True)[0]
    if value == "none":
        return None
    word, _, number = value.partition(" ")
    if word != "epoch":
        raise lines.fail("expected 'none', or 'epoch' with a number")
    return Epoch(parse_positive(number, limit=MAX_EPOCH))


def _versions(lines: LineReader) -> tuple[OrderedVersion, ...]:
    found: list[OrderedVersion] = []
    while lines.peek() == "version" and len(found) <= MAX_VERSIONS:
        sequence, epoch, manifest, until = lines.fields("version", 4)
        found.append(
            OrderedVersion(
                Sequence(parse_positive(sequence, limit=MAX_SEQUENCE)),
                Epoch(parse_positive(epoch, limit=MAX_EPOCH)),
                parse_digest(manifest),
                parse_instant(until),
            )
        )
    if not 1 <= len(found) <= MAX_VERSIONS:
        raise lines.fail(f"needs 1 to {MAX_VERSIONS} versions")
    if any(a.sequence >= b.sequence for a, b in pairwise(found)):
        raise lines.fail("versions must be sorted and different")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Objection:
    """What one custodian says; who signed it is not checked yet."""

    state: Fingerprint
    register: RegisterId
    charter: Digest
    """The newest charter that he knew."""
    order: Digest | None
    """None: against every order."""
    custodian: Label
    time: Instant
    reason: str

    def encode(self) -> str:
        against = "all" if self.order is None else f"order {self.order.hex()}"
        return (
            f"{OBJECTION_HEADER}\nstate {self.state}\nregister {self.register}\ncharter {self.charter.hex()}\n"
            f"against {against}\ncustodian {self.custodian}\ntime {instant_text(self.time)}\nreason {self.reason}\n"
        )


def parse_objection(text: str) -> Objection:
    """Strict inverse of ``Objection.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="objection", limit=MAX_OBJECTION_CHARS)
    lines.exactly(OBJECTION_HEADER)
    objection = Objection(
        state=parse_fingerprint(lines.field("state")),
        register=parse_register_id(lines.field("register")),
        charter=parse_digest(lines.field("charter")),
        order=_against(lines),
        custodian=parse_label(lines.field("custodian")),
        time=parse_instant(lines.field("time")),
        reason=plain_text(lines.fields("reason", 1, rest=True)[0]),
    )
    lines.end()
    if objection.encode() != text:
        raise MalformedError("an objection is not in its one canonical form")
    return objection


def _against(lines: LineReader) -> Digest | None:
    value = lines.fields("against", 1, rest=True)[0]
    if value == "all":
        return None
    word, _, digest = value.partition(" ")
    if word != "order":
        raise lines.fail("expected 'all', or 'order' with a digest")
    return parse_digest(digest)


def erased_digest(names: set[Digest]) -> Digest:
    """What the last record of a deletion binds: SHA-256 of the erased packs' names in hex, sorted, a line each."""
    return sha256("".join(f"{name.hex()}\n" for name in sorted(names)).encode())

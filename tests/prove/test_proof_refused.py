"""Proofs that must not be believed: altered, of something else, forged, or with something left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    QuorumMissing,
    RolledBack,
    UsageError,
    WrongFingerprint,
)
from exclave.formats.leaf import parse_version_leaf
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.proof import MAX_PROOF_BYTES, ParsedProof, parse_proof
from exclave.formats.record import MAX_RECORD_BYTES, FileRecord, Opening
from exclave.formats.warrant import Act
from exclave.ids import Digest, Fingerprint, Label
from exclave.rules.checkpoints import sign_checkpoint
from exclave.rules.tree import leaf_hash, root_of
from exclave.verify.proof import verify_document, verify_proof
from support.custody import actor, signed
from support.proving import ProvingState

DOCUMENTS = {f"act-{n}".encode(): b"act %d\n" % n for n in range(9)}
ROWS = [(n, f"owner {n}") for n in range(5)]
REFUSED = (IntegrityError, MalformedError, NotAuthorised)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> ProvingState:
    """Three charters, two witnesses of whom one is needed, three versions."""
    made = ProvingState(tmp_path_factory.mktemp("refused") / "state")
    made.commit(DOCUMENTS, ROWS)
    made.next_charter()
    made.name_witnesses(1, "nova", "vera")
    made.commit(DOCUMENTS, ROWS)
    made.commit({**DOCUMENTS, b"act-3": b"another text\n"}, ROWS)
    made.cosign("nova", "vera")
    return made


@pytest.fixture(scope="module")
def data(town: ProvingState) -> bytes:
    return town.document(2, b"act-3")


def changed(data: bytes, **parts: object) -> bytes:
    """The same proof with other parts, its first lines made to fit."""
    return replace(parse_proof(data), **parts).encode()  # type: ignore[arg-type]


def test_a_good_one(town: ProvingState, data: bytes) -> None:
    """What all others differ from: it names record, version, witnesses and the newest charter."""
    proven = verify_proof(data, town.state)
    assert proven.record == FileRecord(Label("land"), Label("docs"), b"act-3", 6, proven.record.content)  # type: ignore[union-attr]
    assert (proven.leaf.sequence, proven.charter, proven.witnesses_needed) == (2, 3, True)
    assert [name for name, _ in proven.cosigners] == ["nova", "vera"]
    assert parse_proof(data).encode() == data
    verify_document(proven.record, [b"act", b" 3\n"])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_every_flipped_bit(town: ProvingState, data: bytes, place: int, bit: int) -> None:
    """Whatever bit of a proof is another one, nothing is proven."""
    spoilt = bytearray(data)
    spoilt[place % len(data)] ^= 1 << bit
    with pytest.raises(REFUSED):
        verify_proof(bytes(spoilt), town.state)


def test_every_byte_of_some_lines(town: ProvingState, data: bytes) -> None:
    """The same for the head, and for first and last characters of lines."""
    places, at = set(range(0, 700, 3)), 0
    for number, line in enumerate(data.split(b"\n")):
        if number % 11 == 0 or not line.startswith(b" "):
            places |= {at, at + 1, max(at, at + len(line) - 1), at + len(line)}
        at += len(line) + 1
    for place in sorted(p for p in places if p < len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1
        with pytest.raises(REFUSED):
            verify_proof(bytes(spoilt), town.state)


def test_cut_and_lengthened(town: ProvingState, data: bytes) -> None:
    """Not a line too few, not one too many."""
    lines = data.split(b"\n")
    for at in range(0, len(lines), 7):
        with pytest.raises(REFUSED):
            verify_proof(b"\n".join(lines[:at] + lines[at + 1 :]), town.state)
    for more in (data + b"\n", b"\n" + data, data + data, data.replace(b"\n", b"\r\n"), data[:-1]):
        with pytest.raises(REFUSED):
            verify_proof(more, town.state)


@pytest.mark.parametrize("block", ["record-text", "salt"])
@pytest.mark.parametrize("letter", ["é", "\N{FULLWIDTH LATIN SMALL LETTER A}", "\u2028", "="])
def test_letters_that_are_no_base64(town: ProvingState, data: bytes, block: str, letter: str) -> None:
    """Whatever a line holds, a reader is told that it is no proof."""
    head, sep, tail = data.partition(f"\n{block}\n ".encode())
    with pytest.raises(MalformedError):
        verify_proof(head + sep + letter.encode() + tail[1:], town.state)


def test_lines_without_end(town: ProvingState, data: bytes) -> None:
    """So many short lines as would fill a reader's memory are counted before any of them is looked at."""
    head, sep, tail = data.partition(b"\ncard\n")
    with pytest.raises(MalformedError, match="lines"):
        verify_proof(head + b"\n" * (1 << 21) + sep + tail, town.state)


def test_of_another_version(town: ProvingState, data: bytes) -> None:
    """The opening of one version proves nothing of another, though the document is the same in both."""
    other = parse_proof(town.document(1, b"act-3"))
    for parts in ({"opening": other.opening}, {"entry": other.entry}, {"tlog": other.tlog}):
        with pytest.raises(CorruptObject):
            verify_proof(changed(data, **parts), town.state)


def test_of_another_state_or_register(
    tmp_path_factory: pytest.TempPathFactory, town: ProvingState, data: bytes
) -> None:
    """Another state's custodians and log prove nothing to who has this fingerprint."""
    other = ProvingState(tmp_path_factory.mktemp("other") / "state", sites=("home",), name="Gazette of another state")
    other.commit(DOCUMENTS, ROWS)
    foreign = other.document(1, b"act-3")
    with pytest.raises(WrongFingerprint):
        verify_proof(foreign, town.state)
    with pytest.raises(WrongFingerprint):
        verify_proof(changed(foreign, state=town.state), town.state)
    theirs = parse_proof(foreign)
    for parts in ({"entry": theirs.entry, "opening": theirs.opening}, {"epochs": theirs.epochs}, {"tlog": theirs.tlog}):
        with pytest.raises(REFUSED):
            verify_proof(changed(data, **parts), town.state)
    leaf = parse_version_leaf(parse_proof(data).entry)
    elsewhere = replace(leaf, register="f" * 32).encode()
    with pytest.raises(CorruptObject, match="does not list"):
        verify_proof(changed(data, entry=elsewhere), town.state)


def test_forged_entry(town: ProvingState, data: bytes) -> None:
    """An entry that commits to an invented record is in no log, and a log that has it is not the writer's."""
    record = FileRecord(Label("land"), Label("docs"), b"act-3", 6, bytes(32)).encode()
    opening = Opening(record, bytes(32), ())
    proof = parse_proof(data)
    root = Digest(leaf_hash(bytes(32) + record))
    leaf = replace(parse_version_leaf(proof.entry), records=root)
    with pytest.raises(CorruptObject, match="inclusion"):
        verify_proof(changed(data, entry=leaf.encode(), opening=opening), town.state)
    thief = actor("mallory")
    log = replace(town.open_log().checkpoint.checkpoint, size=1, root=root_of([leaf_hash(leaf.encode())]))  # type: ignore[union-attr]
    head = sign_checkpoint(log, thief.pair, town.time)
    tlog = replace(proof.tlog, index=0, path=(), checkpoint=head.encode())
    with pytest.raises(CorruptObject, match="not signed by the writer"):
        verify_proof(changed(data, entry=leaf.encode(), opening=opening, tlog=tlog), town.state)
    own = sign_checkpoint(log, town.epoch.by.pair, town.time)
    with pytest.raises(QuorumMissing, match="witnesses"):
        verify_proof(
            changed(data, entry=leaf.encode(), opening=opening, tlog=replace(tlog, checkpoint=own.encode())), town.state
        )


def test_charters_left_out(town: ProvingState, data: bytes) -> None:
    """One in the middle cannot be missing; the newest can, and is asked for by its number."""
    charters = parse_proof(data).charters
    for left in (charters[:1] + charters[2:], charters[1:], charters[::-1]):
        with pytest.raises(IntegrityError):
            verify_proof(changed(data, charters=left), town.state)
    town_of_one = ProvingStateBefore(town)
    old = town_of_one.proof
    assert verify_proof(old, town.state).charter == 1
    with pytest.raises(RolledBack, match="number 1"):
        verify_proof(old, town.state, least_charter=3)


class ProvingStateBefore:
    """A proof of version 1 by who keeps back all charters but the first: right when it was made."""

    def __init__(self, town: ProvingState) -> None:
        proof = parse_proof(town.document(1, b"act-3"))
        head = ParsedNote(parse_note(proof.tlog.checkpoint).text, parse_note(proof.tlog.checkpoint).signatures[:2])
        signers = {s.name for s in parse_note(proof.charters[0]).signatures} | {town.epoch.by.name}
        kept = tuple(c for c in proof.cards if c.split(b"\n")[1].split(b" ")[1].decode() in signers)
        tlog = replace(proof.tlog, checkpoint=head.encode())
        self.proof = replace(proof, charters=proof.charters[:1], cards=kept, tlog=tlog).encode()


def _more_signatures(note: bytes) -> bytes:
    parsed = parse_note(note)
    return parsed.with_signatures(*signed(parsed.text, actor("mallory")).signatures).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda p: {"charters": (_more_signatures(p.charters[0]), *p.charters[1:])},
        lambda p: {"epochs": (_more_signatures(p.epochs[0]),)},
        lambda p: {"cards": (*p.cards, actor("mallory").card.encode().encode())},
        lambda p: {"cards": (*p.cards, p.cards[0])},
        lambda p: {"cards": p.cards[1:]},
        lambda p: {"cards": p.cards[::-1]},
        lambda p: {"charters": (*p.charters, p.charters[-1])},
        lambda p: {"cut": (Digest(bytes(32)),)},
        lambda p: {"epochs": (p.epochs[0], p.epochs[0])},
        lambda p: {"tlog": replace(p.tlog, checkpoint=_more_signatures(p.tlog.checkpoint))},
        lambda p: {"opening": replace(p.opening, salt=bytes(31))},
        lambda p: {"opening": replace(p.opening, path=(*p.opening.path, Digest(bytes(32))))},
        lambda p: {"opening": replace(p.opening, path=p.opening.path[1:])},
        lambda p: {"opening": replace(p.opening, path=p.opening.path[::-1])},
    ],
)
def test_riders(town: ProvingState, data: bytes, change: Callable[[ParsedProof], dict[str, object]]) -> None:
    """Nothing rides along: no signature, card, note or hash that is not needed; and none of those is missing."""
    with pytest.raises(REFUSED):
        verify_proof(changed(data, **change(parse_proof(data))), town.state)


def test_a_node_is_no_record(town: ProvingState, data: bytes) -> None:
    """An inner node of the tree cannot be shown as a record: the two are hashed in different ways."""
    opening = parse_proof(data).opening
    for cut in range(len(opening.path)):
        forged = replace(opening, record=b"\x01" + opening.path[cut], path=opening.path[cut + 1 :])
        with pytest.raises(REFUSED):
            verify_proof(changed(data, opening=forged), town.state)


@pytest.mark.parametrize(
    "path", ["аct-3", "act-3%20", "act‐3", "act-3/", "./act-3", "%61ct-3", "ACT-3", "act-3%00", "act-3\u200b"]
)
def test_look_alikes(town: ProvingState, data: bytes, path: str) -> None:
    """A record with a name that looks the same is another record, or none at all."""
    proof = parse_proof(data)
    record = proof.opening.record.replace(b"file act-3 ", f"file {path} ".encode())
    assert record != proof.opening.record
    with pytest.raises(REFUSED):
        verify_proof(changed(data, opening=replace(proof.opening, record=record)), town.state)
    with pytest.raises(REFUSED):
        verify_proof(data.replace(b"record file act-3\n", f"record file {path}\n".encode()), town.state)


def test_another_document(town: ProvingState, data: bytes) -> None:
    """Another edition, one byte more, one less: not the document; and no file belongs to a row."""
    record = verify_proof(data, town.state).record
    for content in (b"another text\n", b"act 3\n\n", b"act 3", b""):
        with pytest.raises(CorruptObject, match="not the document"):
            verify_document(record, [content])
    row = verify_proof(town.row(2, "deed:id=4"), town.state).record
    with pytest.raises(MalformedError, match="row"):
        verify_document(row, [b"x"])


def test_too_few_witnesses(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A version for which the witnesses of the newest charter do not vouch proves nothing yet."""
    made = ProvingState(tmp_path_factory.mktemp("alone") / "state", sites=("home",))
    made.name_witnesses(2, "nova", "vera")
    made.commit(DOCUMENTS)
    made.cosign("nova")
    lonely = made.evidence(1, allow_unwitnessed=True).proof(made.open_document(1, b"act-1"))
    with pytest.raises(QuorumMissing, match="vera"):
        verify_proof(lonely, made.state)
    made.cosign("vera")
    assert verify_proof(made.document(1, b"act-1"), made.state).leaf.sequence == 1


def test_after_a_failover(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the next epoch's note leaves in the log stays proven, without witnesses; what it cuts off never was."""
    made = ProvingState(tmp_path_factory.mktemp("exile") / "state")
    made.commit(DOCUMENTS, ROWS)
    former = made.epoch
    made.new_epoch(Act.FAILOVER)
    made.commit({b"act-1": b"of exile\n"})
    kept = verify_proof(made.document(1, b"act-1"), made.state)
    assert (kept.cut_off, kept.leaf.epoch) == (True, 1)
    later = made.document(2, b"act-1")
    assert verify_proof(later, made.state).leaf.epoch == 2
    proof = parse_proof(later)
    for parts in ({"warrants": ()}, {"epochs": proof.epochs[:1]}, {"epochs": proof.epochs[1:]}):
        with pytest.raises(ExclaveError):
            verify_proof(changed(later, **parts), made.state)
    # The fenced writer goes on: his version is in his log, and behind the cut.
    late = parse_proof(made.document(1, b"act-1"))
    leaf = replace(parse_version_leaf(late.entry), sequence=2)
    log = made.open_log(former)
    log.append([leaf.encode()], made.time)
    assert log.checkpoint is not None
    tlog = replace(
        late.tlog, index=1, path=tuple(log.reader.tree(log.checkpoint).inclusion(1)), checkpoint=log.checkpoint.encode()
    )
    with pytest.raises(CorruptObject, match="cut the log off"):
        verify_proof(replace(late, entry=leaf.encode(), tlog=tlog).encode(), made.state)
    with pytest.raises((CorruptObject, MissingObject, Forked)):
        verify_proof(replace(late, epochs=late.epochs[:1], cut=()).encode(), made.state)


def test_no_records(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A version without the line commits to nothing, and nobody can make a proof of it."""
    made = ProvingState(tmp_path_factory.mktemp("none") / "state", sites=("home",))
    leaf = made.commit(DOCUMENTS)
    made.append(replace(leaf, sequence=2, records=None).encode())
    with pytest.raises(UsageError, match="no records"):
        made.evidence(2)
    proof = made.evidence(1)
    bare = replace(proof, leaf=replace(proof.leaf, records=None)).proof(made.open_document(1, b"act-1"))
    with pytest.raises(CorruptObject):
        verify_proof(bare, made.state)


@pytest.mark.parametrize(
    "hostile",
    [
        b"", b"\0" * 1000, b"exclave/proof/v1\n", b"exclave/proof/v1\n" * 100_000, b"a" * (MAX_PROOF_BYTES + 1),
        b"exclave/proof/v1\n" + b"charter\n" * 2_000_000 + b"\nc2sp.org/tlog-proof@v1\nindex 0\n\nx",
        b"exclave/proof/v1\n" + b"x\n" * 7 + b"charter\n" + b" AAAA\n" * 3_000_000 + b"\nc2sp.org/tlog-proof@v1\n",
        b"exclave/proof/v1\n\nc2sp.org/tlog-proof@v1\n" + b"index 0\n" * 1_000_000,
    ],
    ids=["nothing", "zeros", "header", "headers", "long", "blocks", "block", "indexes"],
)  # fmt: skip
def test_hostile_sizes(hostile: bytes) -> None:
    """Refused in our words, whatever its size."""
    with pytest.raises(MalformedError):
        verify_proof(hostile, Fingerprint("0" * 64))


def test_long_record(data: bytes, town: ProvingState) -> None:
    """A record above the limit is neither made into a proof nor read from one."""
    opening = replace(parse_proof(data).opening, record=bytes(MAX_RECORD_BYTES + 1))
    with pytest.raises(UsageError, match="longer"):
        town.evidence(2).proof(opening)

"""What a witness cosigns, what it refuses, and what it remembers."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from exclave.errors import CorruptObject, Fenced, HeadMoved, MissingObject, NotAuthorised, SiteUnavailable
from exclave.formats.card import Card
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.note import ParsedNote, Signature
from exclave.formats.witness import AddCheckpoint, parse_add_checkpoint, parse_signatures
from exclave.ids import Instant
from exclave.ledger.witness import SAID_AGAIN_US, Witness, WitnessAnswer
from exclave.ledger.witness_store import Pen, WitnessStore, log_name
from exclave.rules.checkpoints import VerifiedCheckpoint, cosigners, sign_checkpoint, verify_checkpoint
from exclave.rules.tree import EMPTY_ROOT, consistency_proof, leaf_hash
from support.ledger import NOW, ORIGIN, OTHER, WITNESSES, WRITER, entries, root_over, verified

OURS = WITNESSES[0]
EPOCH_2 = ORIGIN[:-1] + "2"
LATER = Instant(NOW + 60_000_000)


def authority(origin: str) -> Card:
    if origin in (ORIGIN, EPOCH_2):
        return WRITER.card
    raise MissingObject(f"no log {origin}")


def witness_in(folder: Path, **changes: object) -> Witness:
    return Witness(WitnessStore(folder), OURS.card, OURS.pair, changes.get("authority", authority))  # type: ignore[arg-type]


def request(old: int, new: int, *, tag: str = "entry", checkpoint: VerifiedCheckpoint | None = None) -> bytes:
    """A right request that the log of ``entries(new)`` grew from its first ``old``."""
    shown = checkpoint or verified(new, tag)
    leaves = [leaf_hash(e) for e in entries(new, 0, tag)]
    return AddCheckpoint(old, consistency_proof(leaves, old), shown.note, shown.checkpoint).encode()


def accepted(answer: WitnessAnswer, size: int, origin: str = ORIGIN) -> Instant:
    """The time of the cosignatures in an answer that must be 200."""
    assert answer.status == 200, answer.body
    note = ParsedNote(Checkpoint(origin, size, root_over(size)).encode(), parse_signatures(answer.body))
    return cosigners(note, [OURS.card])[OURS.card.name]


def test_a_growing_log_is_cosigned(tmp_path: Path) -> None:
    """First contact, growth, and the same checkpoint later on: each gets both cosignatures with the present time."""
    witness = witness_in(tmp_path)
    assert accepted(witness.add_checkpoint(request(0, 3), NOW), 3) == NOW
    assert accepted(witness.add_checkpoint(request(3, 10), LATER), 10) == LATER
    again = Instant(LATER + SAID_AGAIN_US)
    assert accepted(witness.add_checkpoint(request(10, 10), again), 10) == again


def test_who_asks_again_at_once_costs_no_signature(tmp_path: Path) -> None:
    """The same checkpoint a moment later gets the same answer, byte for byte, and nothing is written."""
    witness = witness_in(tmp_path)
    first = witness.add_checkpoint(request(0, 3), NOW)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert witness.add_checkpoint(request(3, 3), Instant(NOW + SAID_AGAIN_US - 1)) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert accepted(witness.add_checkpoint(request(3, 4), Instant(NOW + 1_000_000)), 4) == NOW + 1_000_000


def test_a_restarted_witness_goes_on_from_its_memory(tmp_path: Path) -> None:
    """What one process cosigned, the next one holds the log to."""
    witness_in(tmp_path).add_checkpoint(request(0, 5), NOW)
    restarted = witness_in(tmp_path)
    assert restarted.add_checkpoint(request(0, 5), NOW).body == b"5\n"
    assert accepted(restarted.add_checkpoint(request(5, 6), NOW), 6)


def test_an_old_size_gets_the_right_one(tmp_path: Path) -> None:
    """A request from another size, also a replayed one, is answered 409 with the size cosigned last."""
    witness = witness_in(tmp_path)
    replayed = request(0, 3)
    witness.add_checkpoint(replayed, NOW)
    witness.add_checkpoint(request(3, 5), NOW)
    for body in (replayed, request(4, 5), request(3, 5), request(3, 9)):
        assert witness.add_checkpoint(body, NOW) == WitnessAnswer(409, "text/x.tlog.size", b"5\n")


def test_a_smaller_log_is_never_cosigned(tmp_path: Path) -> None:
    """Rolling back is impossible in any wording of the request."""
    witness = witness_in(tmp_path)
    witness.add_checkpoint(request(0, 5), NOW)
    small = verified(3)
    assert witness.add_checkpoint(AddCheckpoint(5, (), small.note, small.checkpoint).encode(), NOW).status == 400
    assert witness.add_checkpoint(request(3, 3), NOW).status == 409
    assert witness.add_checkpoint(request(0, 3), NOW).status == 409


def test_a_forked_log_is_never_cosigned(tmp_path: Path) -> None:
    """Another history is refused at the same size, and beyond it whatever the proof."""
    witness = witness_in(tmp_path)
    witness.add_checkpoint(request(0, 5), NOW)
    assert witness.add_checkpoint(request(5, 5, tag="other"), NOW).status == 409
    assert witness.add_checkpoint(request(5, 8, tag="other"), NOW).status == 422
    true = parse_add_checkpoint(request(5, 8))
    forked = verified(8, "other")
    mixed = AddCheckpoint(5, true.proof, forked.note, forked.checkpoint).encode()
    assert witness.add_checkpoint(mixed, NOW).status == 422
    assert witness.latest(log_name(ORIGIN)) is not None
    assert accepted(witness.add_checkpoint(request(5, 8), NOW), 8)


def test_a_proof_that_is_not_needed_or_missing(tmp_path: Path) -> None:
    """From nothing the proof must be empty; from something it must not."""
    witness = witness_in(tmp_path)
    three, eight = verified(3), verified(8)
    assert (
        witness.add_checkpoint(AddCheckpoint(0, (EMPTY_ROOT,), three.note, three.checkpoint).encode(), NOW).status
        == 422
    )
    witness.add_checkpoint(request(0, 3), NOW)
    assert witness.add_checkpoint(AddCheckpoint(3, (), eight.note, eight.checkpoint).encode(), NOW).status == 422


def test_an_unknown_log_is_not_found(tmp_path: Path) -> None:
    """A log that the authority does not know gets 404, and leaves nothing behind."""
    checkpoint = Checkpoint("exclave/unknown/1", 3, root_over(3))
    note = sign_checkpoint(checkpoint, WRITER.pair, NOW)
    assert witness_in(tmp_path).add_checkpoint(AddCheckpoint(0, (), note, checkpoint).encode(), NOW).status == 404
    assert list(tmp_path.iterdir()) == []


def test_another_writer_is_forbidden(tmp_path: Path) -> None:
    """A signature that is missing, wrong or another's gets 403."""
    witness = witness_in(tmp_path)
    checkpoint = Checkpoint(ORIGIN, 3, root_over(3))
    foreign = sign_checkpoint(checkpoint, OTHER.pair, NOW)
    half = ParsedNote(foreign.text, verified(3).note.signatures[:1])
    first, second = verified(3).note.signatures
    wrong = ParsedNote(foreign.text, (Signature(first.name, first.key_id, bytes(64)), second))
    for note in (foreign, half, wrong):
        assert witness.add_checkpoint(AddCheckpoint(0, (), note, checkpoint).encode(), NOW).status == 403
    assert list(tmp_path.iterdir()) == []


def test_a_fenced_log_is_forbidden_with_the_reason(tmp_path: Path) -> None:
    """The authority's reason reaches the writer, in words that a client recognises."""

    def fenced(origin: str) -> Card:
        raise Fenced("epoch 2 holds the pen since 2026-11-23T10:00:00.000000Z")

    answer = witness_in(tmp_path, authority=fenced).add_checkpoint(request(0, 3), NOW)
    assert answer.status == 403
    assert answer.body == b"fenced: epoch 2 holds the pen since 2026-11-23T10:00:00.000000Z\n"


def test_a_cosigned_epoch_fences_the_former_one_by_itself(tmp_path: Path) -> None:
    """Once epoch 2 was cosigned, epoch 1 is refused even by an authority that forgot about epoch 2."""
    witness = witness_in(tmp_path)
    assert accepted(witness.add_checkpoint(request(0, 3), NOW), 3)
    checkpoint = Checkpoint(EPOCH_2, 2, root_over(2))
    note = sign_checkpoint(checkpoint, WRITER.pair, NOW)
    second = witness.add_checkpoint(AddCheckpoint(0, (), note, checkpoint).encode(), NOW)
    assert accepted(second, 2, EPOCH_2)
    for again in (witness, witness_in(tmp_path)):
        answer = again.add_checkpoint(request(3, 4), NOW)
        assert answer.status == 403
        assert answer.body.startswith(b"fenced: epoch 2 holds the pen")
    assert b"\n3\n" in (witness.latest(log_name(ORIGIN)) or b"")


def test_an_authority_that_cannot_tell_means_try_again(tmp_path: Path) -> None:
    """If the sites are out of reach or damaged, nothing is cosigned."""
    for error in (SiteUnavailable("down"), CorruptObject("bad charter")):

        def unsure(origin: str, error: Exception = error) -> Card:
            raise error

        assert witness_in(tmp_path, authority=unsure).add_checkpoint(request(0, 3), NOW).status == 503


def test_malformed_requests(tmp_path: Path) -> None:
    """Whatever is not exactly a request gets 400."""
    good = request(3, 10)
    bad = [
        b"",
        b"old 3\n",
        good.replace(b"old 3", b"old 03"),
        good.replace(b"old 3", b"old -3"),
        good.replace(b"old 3", b"new 3"),
        good.replace(b"old 3\n", b"old 3\n\n", 1),
        good.replace(b"old 3\n", b"old 3 \n"),
        b"old 3\n" + b"A" * 43 + b"=\n" * 1 + good.partition(b"\n")[2][:-1],
        good[:-1],
        b"old 0\n" + (b"A" * 43 + b"=\n") * 64 + b"\n" + verified(10).encode(),
        good + b"x" * 80_000,
        good.replace(b"\n10\n", b"\n010\n"),
        good.replace(b"\n10\n", b"\n10\nextension\n"),
    ]
    witness = witness_in(tmp_path)
    for body in bad:
        assert witness.add_checkpoint(body, NOW).status == 400, body[:80]
    assert list(tmp_path.iterdir()) == []


def test_a_clock_set_back_does_not_date_a_later_statement_earlier(tmp_path: Path) -> None:
    """Cosigning times never decrease."""
    witness = witness_in(tmp_path)
    witness.add_checkpoint(request(0, 3), LATER)
    assert accepted(witness.add_checkpoint(request(3, 5), NOW), 5) == LATER


def test_monitors_see_what_was_cosigned(tmp_path: Path) -> None:
    """The remembered checkpoint carries the writer's and the witness's signatures, and nobody else's."""
    witness = witness_in(tmp_path)
    assert witness.latest(log_name(ORIGIN)) is None
    plain = verified(3)
    crowded = plain.note.with_signatures(Signature("stranger", b"abcd", bytes(2000)))
    witness.add_checkpoint(AddCheckpoint(0, (), crowded, plain.checkpoint).encode(), NOW)
    shown = verify_checkpoint(witness.latest(log_name(ORIGIN)) or b"", ORIGIN, WRITER.card, [OURS.card])
    assert (shown.size, shown.cosigners) == (3, ((OURS.card.name, NOW),))
    assert {s.name for s in shown.note.signatures} == {ORIGIN, OURS.card.name}


@pytest.mark.parametrize("damage", [b"", b"junk", "flip", "foreign"])
def test_a_damaged_memory_is_not_taken_for_none(tmp_path: Path, damage: bytes | str) -> None:
    """A witness whose file is cut, flipped or exchanged stops, instead of trusting first contact again."""
    witness = witness_in(tmp_path)
    witness.add_checkpoint(request(0, 3), NOW)
    path = tmp_path / log_name(ORIGIN).hex()
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data.replace(b"\n3\n", b"\n2\n"))
    elif damage == "foreign":
        path.write_bytes(verified(3).encode())
    else:
        path.write_bytes(damage)  # type: ignore[arg-type]
    for old in (0, 3):
        assert witness.add_checkpoint(request(old, 5), NOW).status == 500


def test_nothing_is_signed_that_could_not_be_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk refuses the sync, the answer is 503 and holds no signature."""
    witness = witness_in(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("exclave.durable.os.fsync", full)
    answer = witness.add_checkpoint(request(0, 3), NOW)
    assert answer.status == 503
    assert "—".encode() not in answer.body


def test_the_file_is_durable_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and folder are both synced, in this order, for the epoch and for the checkpoint."""
    synced: list[str] = []
    real = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        real(descriptor)

    monkeypatch.setattr("exclave.durable.os.fsync", noting)
    witness_in(tmp_path).add_checkpoint(request(0, 3), NOW)
    pen = f"{Pen.of(ORIGIN).register.hex()}.pen.new"
    assert synced == [pen, tmp_path.name, f"{log_name(ORIGIN).hex()}.new", tmp_path.name]


def test_a_new_folder_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is made for the memory outlives a power failure, with those above it: else it would trust anew."""
    synced: list[Path] = []
    monkeypatch.setattr("exclave.durable.sync_folder", synced.append)
    WitnessStore(tmp_path / "a" / "b" / "memory")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    WitnessStore(tmp_path / "a" / "b" / "memory")
    assert len(synced) == 3


def test_a_pen_that_cannot_be_read(tmp_path: Path) -> None:
    """The answer is to come again, as for any failure of the disk."""
    store = WitnessStore(tmp_path)
    (tmp_path / f"{Pen.of(ORIGIN).register.hex()}.pen").mkdir()
    with pytest.raises(SiteUnavailable):
        store.require_pen(Pen.of(ORIGIN))


def test_swapping_compares(tmp_path: Path) -> None:
    """Of two answers that started from the same memory, one is written."""
    store, log, pen = WitnessStore(tmp_path), log_name("x"), Pen.of("x/1")
    store.swap(log, None, b"one", pen)
    with pytest.raises(HeadMoved):
        store.swap(log, None, b"two", pen)
    assert store.load(log) == b"one"
    with pytest.raises(HeadMoved):
        store.swap(log_name("y"), b"never was", b"two", pen)


def test_racing_forks_get_one_cosignature(tmp_path: Path) -> None:
    """Many threads submit two histories of the same size: only one history is ever cosigned."""
    bodies = [request(0, 4, tag=tag) for tag in ("entry", "other")]
    answers: list[tuple[int, WitnessAnswer]] = []
    barrier = threading.Barrier(8)

    def submit(which: int) -> None:
        witness = witness_in(tmp_path)
        barrier.wait()
        answers.append((which, witness.add_checkpoint(bodies[which], NOW)))

    threads = [threading.Thread(target=submit, args=(i % 2,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = {which for which, answer in answers if answer.status == 200}
    assert len(winners) == 1
    assert all(answer.status in (200, 409) for _, answer in answers)


def test_only_its_own_key_makes_a_witness(tmp_path: Path) -> None:
    """A card and a key that do not belong together are refused."""
    with pytest.raises(NotAuthorised):
        Witness(WitnessStore(tmp_path), OURS.card, OTHER.pair, authority)


def test_the_request_of_the_specification_parses() -> None:
    """The example in C2SP tlog-witness is read, and encodes to the same bytes."""
    text = (
        "old 20852014\n"
        "PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n"
        "jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
        "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n"
        "/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n"
        "\n"
        "example.com/behind-the-sofa\n"
        "20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        "\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE"
        "+xeMcTOAYQ8=\n"
        "— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovn"
        "zv++qbSzm9Q=\n"
    )
    parsed = parse_add_checkpoint(text.encode())
    assert (parsed.old, len(parsed.proof), parsed.checkpoint.size) == (20852014, 4, 20852163)
    assert parsed.checkpoint.origin == "example.com/behind-the-sofa"
    assert parsed.encode() == text.encode()

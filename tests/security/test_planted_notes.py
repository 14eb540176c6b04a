"""Notes that anybody with write access to a site can plant: none of them hides what was signed, or holds work up."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest

from exclave.errors import MalformedError
from exclave.formats.note import ParsedNote, Signature, check_note_text, parse_note
from exclave.formats.paths import charter_prefix, epoch_prefix, warrant_prefix
from exclave.ids import Epoch, Key, sha256
from exclave.rules.signatures import MAX_TRIES
from exclave.verify.shown import MAX_UNSIGNED
from exclave.verify.state import read_state
from support.custody import signed
from support.shown_sites import World, grave, world

LUX = "luxembourg"
ALL = ("home", LUX, "monaco")


def plant(w: World, prefix: str, data: bytes, *sites: str) -> Key:
    key = Key(prefix + sha256(data).hex())
    for site in sites or ALL:
        w.put(site, key, data)
    return key


def junk(note: ParsedNote, turn: int) -> tuple[Signature, ...]:
    """Blobs of the right length under the names and key ids of those who signed ``note``."""
    return tuple(replace(s, blob=bytes([turn]) * len(s.blob)) for s in note.signatures)


def the_warrant(w: World) -> ParsedNote:
    return parse_note(w.sites[LUX].get(next(k for k in w.names() if "/warrant/" in k)))


@pytest.mark.parametrize("turns", [1, 40])
def test_junk_under_the_custodians_names_hides_no_epoch(turns: int) -> None:
    """Copies of the warrant with junk blobs under the right names and key ids, whatever order they are listed in."""
    w = world()
    note = the_warrant(w)
    for turn in range(turns):
        plant(w, warrant_prefix(w.state), ParsedNote(note.text, junk(note, turn)).encode())
        plant(w, warrant_prefix(w.state), ParsedNote(note.text, note.signatures + junk(note, turn)).encode())
    report = w.report()
    assert report.ok
    assert (report.registers[0].epoch, report.registers[0].versions) == (2, 3)


def test_junk_beside_the_only_copy_hides_nothing() -> None:
    """The copy at every site was replaced by one that has junk of the same keys before and after the signatures."""
    w = world()
    note = the_warrant(w)
    for site in ALL:
        w.put(site, next(k for k in w.names(site) if "/warrant/" in k), None)
    plant(w, warrant_prefix(w.state), ParsedNote(note.text, junk(note, 0) + note.signatures + junk(note, 1)).encode())
    assert w.report().registers[0].epoch == 2


def test_a_rejected_epoch_that_a_custodian_signed_for_is_grave() -> None:
    """The warrant lost its signatures but one: the epoch does not count, and nobody can miss it."""
    w = world()
    note, aino = the_warrant(w), w.small.custodians[0]
    for site in ALL:
        w.put(site, next(k for k in w.names(site) if "/warrant/" in k), None)
    plant(w, warrant_prefix(w.state), signed(note.text, aino).encode())
    epoch = Key(epoch_prefix(w.state, w.register) + sha256(w.epoch(2).signed.encode()).hex())
    report = w.report()
    assert report.registers[0].epoch == 1
    assert {(site, "quorum-missing", epoch) for site in ALL} <= {(f.site, f.fault, f.what) for f in grave(report)}


@pytest.mark.parametrize("size", [0, 900])
def test_a_flood_of_names_hides_no_note(size: int) -> None:
    """Thousands of names that sort before the real ones, empty or with junk: nothing is lost."""
    w = world()
    for prefix in (charter_prefix(w.state), warrant_prefix(w.state), epoch_prefix(w.state, w.register)):
        for n in range(3000):
            w.put(LUX, Key(f"{prefix}{n:064x}"), bytes(size))
    report = w.report(sources={LUX: w.sites[LUX]})
    assert (report.charter, report.registers[0].epoch, report.registers[0].versions) == (1, 2, 3)
    assert len(report.findings) < 400


def test_copies_of_signed_notes_are_not_kept_twice() -> None:
    """Junk lines beside good signatures make endless many copies of a note; only a few are kept."""
    w = world()
    charter = parse_note(w.sites[LUX].get(next(k for k in w.names() if "/charter/" in k)))
    epoch, warrant = w.epoch(2).signed, the_warrant(w)
    for turn in range(200):
        line = Signature("stranger", b"abcd", bytes([turn, 1]))
        for prefix, note in (
            (charter_prefix(w.state), charter),
            (warrant_prefix(w.state), warrant),
            (epoch_prefix(w.state, w.register), epoch),
        ):
            plant(w, prefix, note.with_signatures(line).encode(), LUX)
    view = read_state(w.sites, w.state)
    shown = view.shown[LUX]
    assert max(len(shown.charters), len(shown.warrants), len(shown.epochs[w.register])) <= MAX_UNSIGNED + 2
    assert w.report().ok


def test_notes_that_are_too_long_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warrant of 1 MiB is passed over by its size; what is over the budget is told, and is grave."""
    w = world()
    plant(w, warrant_prefix(w.state), b"exclave/warrant/v1\n" + bytes(1 << 20), LUX)
    report = w.report()
    assert report.ok
    assert [(f.site, f.fault) for f in report.findings] == [(LUX, "malformed")]
    monkeypatch.setattr("exclave.verify.shown.MAX_BYTES", 64 << 10)
    for n in range(100):
        plant(w, warrant_prefix(w.state), b"exclave/warrant/v1\n" + bytes([n]) * 1000, LUX)
    report = w.report()
    assert report.registers[0].epoch == 2
    assert (LUX, "corrupt-object", warrant_prefix(w.state)) in {(f.site, f.fault, f.what) for f in grave(report)}


def test_a_charter_chain_is_found_beyond_a_full_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool of charters whose signers are not known yet is full, so the site is listed again."""
    w = world()
    monkeypatch.setattr("exclave.verify.shown.MAX_POOL_BYTES", 100)
    rule = replace(w.small.charter.registers[0], epoch=Epoch(2), epoch_note=w.small.epoch.note.digest)
    charter = replace(w.small.charter, number=2, previous=w.small.charter.digest, registers=(rule,))
    plant(w, charter_prefix(w.state), signed(charter.encode(), *w.small.custodians[:3]).encode())
    for n in range(50):
        other = replace(w.small.charter, number=2 + n, previous=sha256(bytes([n])))
        note = ParsedNote(other.encode(), (Signature("stranger", b"abcd", b"junk"),))
        plant(w, charter_prefix(w.state), note.encode(), LUX)
    report = w.report()
    assert report.ok
    assert report.charter == 2


def test_a_machine_that_signs_a_number_out_of_the_air_blocks_nothing() -> None:
    """Epoch 4 without epoch 3 is told gravely; epoch 2 stays in force."""
    w = world()
    made = w.epoch(2)
    note = replace(made.note, epoch=Epoch(4))
    key = plant(w, epoch_prefix(w.state, w.register), signed(note.encode(), made.by).encode(), LUX)
    report = w.report()
    assert report.registers[0].epoch == 2
    assert key in {f.what for f in report.findings}


def test_the_text_of_a_note_is_judged_as_before() -> None:
    """The quick check accepts just what Unicode's categories allow."""
    for code in (*range(0x3000), *range(0xD7F0, 0xE010), 0xFEFF, 0xE0001, 0x10FFFF):
        char = chr(code)
        bad = unicodedata.category(char) in ("Cc", "Cs") and char != "\n"
        if bad:
            with pytest.raises(MalformedError):
                check_note_text(f"a{char}\n")
        else:
            check_note_text(f"a{char}\n")


def test_junk_lines_are_not_tried_without_end() -> None:
    """A copy with more lines of one key than anybody makes counts as spoilt; the good copy beside it counts."""
    w = world()
    note = the_warrant(w)
    crowd = tuple(s for turn in range(MAX_TRIES) for s in junk(note, turn))[:90]
    plant(w, warrant_prefix(w.state), ParsedNote(note.text, crowd).encode())
    assert w.report().ok

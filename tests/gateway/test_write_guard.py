"""What a host lets into a state's folder: by public notes alone, whoever holds the credentials to write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
    RolledBack,
    SiteFull,
    SiteUnavailable,
)
from exclave.formats.note import ParsedNote
from exclave.formats.objectname import Part, parse_object_name
from exclave.formats.paths import box_key, card_key, card_prefix, charter_key, epoch_prefix, pack_key, warrant_key
from exclave.formats.tile import Tile, bundle_key, checkpoint_key, encode_bundle, encode_tile, stage_key, tile_key
from exclave.formats.warrant import Act
from exclave.ids import Digest, Epoch, Fingerprint, Key, RegisterId, sha256
from exclave.ledger import write_guard
from exclave.ledger.write_guard import Wanted, WriteGuard
from exclave.rules.tree import leaf_hash
from exclave.sites.contract import Site
from exclave.sites.directory import DirectorySite, content_tag
from exclave.sites.recording import RecordingSite
from exclave.verify.hosted import HostedView
from exclave.verify.state import StateView, read_state
from support.custody import actor, machine, signed
from support.hosted import ENTRIES, Hosted
from support.small_state import SmallState


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    return Hosted(tmp_path)


def all_objects(site: Site) -> Iterator[tuple[Key, bytes]]:
    return ((stat.key, site.get(stat.key)) for stat in site.list(""))


def test_an_honest_state_is_let_in_whole(tmp_path: Path) -> None:
    """All objects of two epochs with versions go through the guard to an empty host, notes first, heads last."""
    state = SmallState(tmp_path / "state", sites=("home",))
    source = tmp_path / "source"
    source.mkdir()
    (source / "act").write_text("known text of an act")
    state.write_version(source)
    state.new_epoch()
    state.write_version(source)
    state.next_charter()
    host = tmp_path / "host"
    host.mkdir()
    site = DirectorySite(str(host))
    guard = WriteGuard(site, HostedView(str(host), site, state.state), str(host), lambda: state.time)
    order = {Part.CARD: 0, Part.CHARTER: 1, Part.WARRANT: 1, Part.EPOCH: 2, Part.HEAD: 4}
    # Of a closed epoch nothing is appended any more, so its stages are not what a later copy needs.
    there = [(key, data) for key, data in all_objects(state.primary) if "/stage/" not in key]
    for key, data in sorted(there, key=lambda one: order.get(parse_object_name(one[0]).part, 3)):
        if parse_object_name(key).part is Part.HEAD:
            guard.check_head(Wanted(key, sha256(data), len(data), data), None)
            site.replace_if(key, data, None)
        else:
            guard.check_put(Wanted(key, sha256(data), len(data), None))
            guard.check_put(Wanted(key, sha256(data), len(data), data))
            site.put_same(key, data)
    assert dict(all_objects(site)) == dict(there)


@pytest.mark.parametrize(
    "name",
    ["x", "FP", "FP/charter", "FP/pack/x", "FP/REG/pack/aa/" + "b" * 64, "FP/REG/ledger/1-2/checkpoint",
     "FP/REG/ledger/00000001-0123456789abcdef/other", "FP/REG/ledger/00000001-0123456789abcdef/tile/8/000",
     "FP/REG/ledger/00000001-0123456789abcdef/tile/0/000.p/256",
     "FP/REG/ledger/00000001-0123456789abcdef/tile/0/x000/001", "FP/REG/secret/" + "a" * 64],
)  # fmt: skip
def test_a_name_that_the_layout_does_not_have_is_refused(hosted: Hosted, name: str) -> None:
    """Whatever is written below it, a folder of a host holds nothing but what the layout names."""
    key = Key(name.replace("FP", hosted.state.state).replace("REG", hosted.state.register))
    with pytest.raises(MalformedError):
        hosted.put(key, b"junk")


def test_a_name_that_is_a_hash_takes_its_bytes_alone(hosted: Hosted) -> None:
    """Pack, box and notes: other bytes than the name says are refused before they have come."""
    right = b"right bytes"
    for key in (
        pack_key(hosted.state.state, hosted.state.register, sha256(right)),
        box_key(hosted.state.state, hosted.state.register, sha256(right)),
        charter_key(hosted.state.state, right),
    ):
        with pytest.raises(CorruptObject):
            hosted.guard.check_put(Wanted(key, sha256(b"other"), 5, None))
        with pytest.raises(CorruptObject):
            hosted.guard.check_spoilt(Wanted(key, sha256(b"other"), 5, None))
    hosted.put(pack_key(hosted.state.state, hosted.state.register, sha256(right)), right)


def test_another_states_names_are_refused(hosted: Hosted) -> None:
    """Credentials of one state put nothing under another's fingerprint, not even right bytes."""
    data = b"bytes"
    with pytest.raises(NotAuthorised):
        hosted.put(pack_key(Fingerprint("ab" * 32), RegisterId("01" * 16), sha256(data)), data)


def test_what_is_no_note_is_not_kept_as_one(hosted: Hosted) -> None:
    """Junk named by its hash in a folder of notes is refused for its form."""
    for key in (charter_key(hosted.state.state, b"junk"), warrant_key(hosted.state.state, b"junk"),
                card_key(hosted.state.state, sha256(b"junk"))):  # fmt: skip
        with pytest.raises(MalformedError):
            hosted.put(key, b"junk")


def test_a_head_grows_as_its_tiles_prove(hosted: Hosted) -> None:
    """The writer's next head is taken once its tiles are here, and not before."""
    more = [*ENTRIES, b"entry 3\n"]
    with pytest.raises(ExclaveError) as missing:
        hosted.replace(hosted.head_key, hosted.head(more))
    assert missing.value.code == "missing-object"
    hosted.lay_out(more)
    hosted.replace(hosted.head_key, hosted.head(more))
    assert hosted.view.log(hosted.view.find(hosted.state.register, hosted.state.epochs[0].note.epoch)).head().size == 4


def test_a_head_is_not_rolled_back(hosted: Hosted) -> None:
    """A smaller head that the writer did sign is refused; so is another one of the same size, or one from a race."""
    with pytest.raises(RolledBack):
        hosted.replace(hosted.head_key, hosted.head(ENTRIES[:2]))
    with pytest.raises(Forked):
        hosted.replace(hosted.head_key, hosted.head([*ENTRIES[:2], b"forged\n"]))
    with pytest.raises(HeadMoved):
        hosted.replace(hosted.head_key, hosted.head(ENTRIES), expected=None)
    with pytest.raises(HeadMoved):
        hosted.replace(hosted.head_key, hosted.head(ENTRIES), expected=content_tag(b"another"))


def test_a_fork_is_refused_with_all_its_tiles(hosted: Hosted) -> None:
    """A thief with the writer's own key cannot have another history in the place of the one that is here."""
    fork = [b"forged\n", *ENTRIES[1:], b"entry 3\n"]
    hosted.lay_out(fork)
    with pytest.raises(Forked):
        hosted.replace(hosted.head_key, hosted.head(fork))


def test_a_head_of_another_key_is_refused(hosted: Hosted) -> None:
    """Who has the host's credentials and not the writer's key moves no head, and decides no append."""
    more = [*ENTRIES, b"entry 3\n"]
    hosted.lay_out(more)
    with pytest.raises(NotAuthorised):
        hosted.replace(hosted.head_key, hosted.head(more, by=actor("thief")))
    text = "exclave/stage/v1\n"
    for note in (signed(text, actor("thief")), ParsedNote(text, hosted.state.epochs[0].signed.signatures)):
        with pytest.raises((NotAuthorised, CorruptObject)):
            hosted.put(stage_key(hosted.prefix, 3), note.encode())


def test_write_once_objects_and_heads_are_not_confused(hosted: Hosted) -> None:
    """A head cannot be put, and nothing that is write-once can be replaced, whatever tag is named."""
    with pytest.raises(NotAuthorised):
        hosted.put(hosted.head_key, hosted.head(ENTRIES))
    with pytest.raises(NotAuthorised):
        hosted.repair(hosted.head_key, hosted.head(ENTRIES))
    data = b"a pack"
    key = pack_key(hosted.state.state, hosted.state.register, sha256(data))
    hosted.put(key, data)
    with pytest.raises(NotAuthorised):
        hosted.replace(key, data)


def test_a_warrant_ends_an_epoch_at_once(hosted: Hosted) -> None:
    """From the moment when warrant and note of the next epoch are here, the former writer appends nothing."""
    more = [*ENTRIES, b"entry 3\n"]
    hosted.lay_out(more)
    hosted.state.new_epoch()
    with pytest.raises(Fenced) as fenced:
        hosted.replace(hosted.head_key, hosted.head(more))
    assert "epoch 2 has the pen" in fenced.value.message
    with pytest.raises(Fenced):
        hosted.put(stage_key(hosted.prefix, 3), b"any")
    with pytest.raises(Fenced):
        hosted.put(bundle_key(hosted.prefix, 1, 1), encode_bundle([b"x"]))


def test_an_ended_log_is_completed_up_to_its_cut(tmp_path: Path) -> None:
    """A host that was behind when the epoch ended gets the rest of its log, and no other rest."""
    hosted = Hosted(tmp_path)
    hosted.state.append(b"entry 3\n", publish_to=())
    hosted.state.new_epoch(Act.FAILOVER, by=machine("rescue"))
    fork, more = [*ENTRIES, b"forged\n"], [*ENTRIES, b"entry 3\n"]
    wrong = encode_tile([leaf_hash(e) for e in fork])
    hosted.lay_out(fork, put=False)
    with pytest.raises(Forked):
        hosted.replace(hosted.head_key, hosted.head(fork))
    # The forger's tile lies where the right one belongs: until the log reaches to its cut, a repair may replace it.
    tile = tile_key(hosted.prefix, Tile(0, 0, 4))
    hosted.repair(bundle_key(hosted.prefix, 0, 4), encode_bundle(more))
    hosted.repair(tile, encode_tile([leaf_hash(e) for e in more]))
    hosted.replace(hosted.head_key, hosted.head(more))
    with pytest.raises(Fenced):
        hosted.replace(hosted.head_key, hosted.head([*more, b"late\n"]))
    with pytest.raises(Forked):
        hosted.repair(tile, wrong)


def test_an_ended_log_whose_disk_died_is_repaired(tmp_path: Path) -> None:
    """Head, tile and bundle are spoilt, and the epoch is over: all are replaced, and then the head proves them."""
    hosted = Hosted(tmp_path)
    hosted.state.new_epoch(Act.FAILOVER, by=machine("rescue"))
    tile, bundle = tile_key(hosted.prefix, Tile(0, 0, 3)), bundle_key(hosted.prefix, 0, 3)
    right = {bundle: encode_bundle(ENTRIES), tile: encode_tile([leaf_hash(e) for e in ENTRIES])}
    head = hosted.site.get(hosted.head_key)
    for key in (*right, hosted.head_key):
        (hosted.folder / key).chmod(0o600)
        (hosted.folder / key).write_bytes(b"what a dying disk left")
    for key, data in right.items():
        hosted.repair(key, data)
    hosted.replace(hosted.head_key, head)
    assert {key: hosted.site.get(key) for key in right} == right
    for key, data in right.items():
        with pytest.raises(IntegrityError):
            hosted.repair(key, data[:-1] + bytes([data[-1] ^ 1]))


def test_an_unknown_epoch_has_no_ledger(hosted: Hosted) -> None:
    """Objects of a log that no note here grants are refused: nobody occupies the place of what comes next."""
    place = hosted.prefix.replace("00000001-", "00000002-")
    for key in (checkpoint_key(place),):
        with pytest.raises(NotAuthorised):
            hosted.replace(key, b"x")
    with pytest.raises(NotAuthorised):
        hosted.put(bundle_key(place, 0, 1), encode_bundle([b"x"]))


def test_spoilt_tiles_are_repaired_and_good_ones_are_not(hosted: Hosted) -> None:
    """What the head here promises may replace other bytes; nothing may replace what it promises."""
    right_tile, right_bundle = encode_tile([leaf_hash(e) for e in ENTRIES]), encode_bundle(ENTRIES)
    forged = [b"forged\n", *ENTRIES[1:]]
    tile, bundle = tile_key(hosted.prefix, Tile(0, 0, 3)), bundle_key(hosted.prefix, 0, 3)
    for key, data in ((tile, encode_tile([leaf_hash(e) for e in forged])), (bundle, encode_bundle(forged))):
        with pytest.raises(Forked):
            hosted.repair(key, data)
    for key, right in ((tile, right_tile), (bundle, right_bundle)):
        hosted.site.replace_spoilt(key, right[:-1] + bytes([right[-1] ^ 1]), sha256(right))
        hosted.repair(key, right)
        assert hosted.site.get(key) == right


def test_junk_notes_are_bounded_and_true_ones_find_room(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound only notes are taken that somebody of the state signed, and cards that one names."""
    monkeypatch.setattr(write_guard, "MAX_UNVOUCHED", 12)
    refused = 0
    for number in range(30):
        stranger = actor(f"stranger-{number}")
        try:
            hosted.put(card_key(hosted.state.state, stranger.card.digest), stranger.card.encode().encode())
            note = signed(hosted.state.warrant_text(Act.FAILOVER, stranger), stranger)
            hosted.put(warrant_key(hosted.state.state, note.encode()), note.encode())
        except SiteFull:
            refused += 1
    assert refused >= 17
    rescue = machine("rescue-late")
    good = signed(hosted.state.warrant_text(Act.FAILOVER, rescue), rescue, *hosted.state.custodians[:3])
    hosted.put(warrant_key(hosted.state.state, good.encode()), good.encode())
    hosted.put(card_key(hosted.state.state, rescue.card.digest), rescue.card.encode().encode())
    charter = signed(hosted.state.charter.encode(), hosted.state.custodians[4])
    hosted.put(charter_key(hosted.state.state, charter.encode()), charter.encode())


def test_the_notes_are_read_again_only_when_they_changed(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking about heads reads no notes as long as no folder of notes has changed."""
    from exclave.verify import hosted as module

    register, number = hosted.state.register, hosted.state.epochs[0].note.epoch
    now = [time.time_ns() + 10**10]
    view = HostedView(
        str(hosted.folder), hosted.site, hosted.state.state, clock_ns=lambda: now[0], elapsed_s=lambda: 0.0
    )
    readings: list[int] = []

    def counted(*asked: Any) -> StateView:
        readings.append(1)
        return read_state(*asked)

    monkeypatch.setattr(module, "read_state", counted)
    view.find(register, number)
    view.find(register, number)
    read = len(readings)
    for _ in range(50):
        assert view.find(register, number).cut is None
    assert len(readings) == read <= 2
    hosted.state.new_epoch()
    now[0] += 10**10
    assert view.find(register, number).cut is not None


def test_who_asks_for_registers_that_are_none_reads_nothing(hosted: Hosted) -> None:
    """Anybody may ask a host's witness about any log: of a register that the state does not have, also of one for which
    somebody has planted a folder, he costs the host no reading of the notes."""
    now = [time.time_ns() + 10**10]
    read = RecordingSite(hosted.site, keep_calls=True)
    view = HostedView(str(hosted.folder), read, hosted.state.state, clock_ns=lambda: now[0], elapsed_s=lambda: 0.0)
    view.view()
    registers = [RegisterId(f"{number:032x}") for number in range(6)]
    for register in registers[3:]:
        (hosted.folder / epoch_prefix(hosted.state.state, register)).mkdir(parents=True)
        with pytest.raises(MissingObject):
            view.find(register, Epoch(1))
    read.forget()
    for register in registers * 2:
        with pytest.raises(MissingObject):
            view.find(register, Epoch(1))
    assert read.calls == ()
    hosted.state.new_epoch()
    now[0] += 10**10
    assert view.find(hosted.state.register, hosted.state.epochs[0].note.epoch).cut is not None


def test_a_card_may_come_after_the_notes_that_need_it(hosted: Hosted) -> None:
    """A rebuild brings them in any order: once the writer's card is there, his epoch is known without another note."""
    register, number = hosted.state.register, hosted.state.epochs[0].note.epoch
    cards = hosted.folder / card_prefix(hosted.state.state)
    (card,) = (path for path in cards.iterdir() if path.name == hosted.state.epochs[0].note.writer.hex())
    away = card.rename(hosted.folder.parent / "card")
    now = [time.time_ns() + 10**10]
    view = HostedView(
        str(hosted.folder), hosted.site, hosted.state.state, clock_ns=lambda: now[0], elapsed_s=lambda: 0.0
    )
    for _ in range(2):
        with pytest.raises(MissingObject):
            view.find(register, number)
    away.rename(card)
    now[0] += 10**10
    assert view.find(register, number).cut is None


def test_a_folder_that_cannot_be_read_is_no_fault_of_ours(hosted: Hosted, tmp_path: Path) -> None:
    """What the disk says then is told as the site's failure, which a client tries again."""
    (tmp_path / "none").write_bytes(b"")
    with pytest.raises(SiteUnavailable):
        HostedView(str(tmp_path / "none"), hosted.site, hosted.state.state).view()


def test_a_digest_type() -> None:
    """Names say which digest must be right."""
    name = parse_object_name(pack_key(Fingerprint("ab" * 32), RegisterId("01" * 16), Digest(bytes(32))))
    assert (name.part, name.digest) == (Part.PACK, bytes(32))

"""Appending to a log, and what every crash and every loss leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave.errors import (
    CorruptObject,
    ExclaveError,
    Forked,
    HeadMoved,
    MalformedError,
    NotAuthorised,
    RolledBack,
)
from exclave.formats.note import ParsedNote
from exclave.formats.stage import Stage
from exclave.formats.tile import bundle_key, checkpoint_key, stage_key, tile_path
from exclave.ids import Instant
from exclave.ledger.log import MAX_APPEND, Log
from exclave.rules.checkpoints import cosign, cosigners
from exclave.rules.signatures import sign_text
from exclave.rules.tree import EMPTY_ROOT, edge_tiles, verify_consistency
from exclave.sites.directory import DirectorySite
from exclave.sites.memory import MemorySite
from support.hostile import FailingSite, Fault, FlippingSite, Killed, StaleSite, containing
from support.ledger import (
    NOW,
    ORIGIN,
    OTHER,
    PREFIX,
    WITNESSES,
    WRITER,
    entries,
    entry,
    fill,
    open_log,
    reader_of,
    root_over,
    verified,
)


def contents(site: MemorySite) -> list[bytes]:
    """What an outsider reads from the site, fully verified; nothing if there is no head."""
    if site.read_head(checkpoint_key(PREFIX)) is None:
        return []
    reader = reader_of(site)
    tree = reader.tree(reader.head())
    tree.check_bundles()
    return [data for _, data in tree.entries()]


def test_a_new_log_is_empty() -> None:
    """Without a head the log has no entries, and nothing is written by opening it."""
    site = MemorySite()
    log = open_log(site)
    assert (log.size, log.root, log.checkpoint) == (0, EMPTY_ROOT, None)
    assert list(site.list("")) == []


def test_what_is_appended_is_read_by_an_outsider() -> None:
    """Entries come back in order, verified; the answer names where they are."""
    site = MemorySite()
    log = open_log(site)
    first = log.append(entries(2), NOW)
    second = log.append(entries(3, 2), Instant(NOW + 1_000_000))
    assert (first.first, first.count, first.checkpoint.size) == (0, 2, 2)
    assert (second.first, second.count, second.checkpoint.size) == (2, 3, 5)
    assert second.checkpoint.root == root_over(5)
    assert second.checkpoint.time == NOW + 1_000_000
    assert contents(site) == entries(5)
    assert open_log(site).size == 5


@pytest.mark.parametrize("sizes", [[255, 1], [256, 1], [255, 2], [250, 128, 128, 7], [1] * 5 + [300]])
def test_across_the_ends_of_tiles(sizes: list[int]) -> None:
    """Full tiles, their parents and new partial ones are right, also for a writer that opens the log anew."""
    site, total = MemorySite(), 0
    for size in sizes:
        fill(open_log(site), size)
        total += size
    assert contents(site) == entries(total)
    assert reader_of(site).head().root == root_over(total)
    for tile in edge_tiles(total):
        assert site.stat(PREFIX + tile_path(tile)) is not None  # type: ignore[arg-type]


def test_every_object_lies_where_the_specification_says() -> None:
    """Three entries and one head leave these names and no others."""
    site = MemorySite()
    open_log(site).append(entries(3), NOW)
    assert [item.key.removeprefix(PREFIX) for item in site.list("")] == [
        "checkpoint",
        "stage/000",
        "tile/0/000.p/3",
        "tile/entries/000.p/3",
    ]


@pytest.mark.parametrize("bad", [[], [b""], [b"x" * 4097], [b"x"] * (MAX_APPEND + 1)])
def test_impossible_appends_are_refused_before_anything_is_written(bad: list[bytes]) -> None:
    """No entries, empty ones, too long ones, and too many at once."""
    site = MemorySite()
    with pytest.raises(MalformedError):
        open_log(site).append(bad, NOW)
    assert list(site.list("")) == []


def test_the_largest_append_fits() -> None:
    """128 entries of 4096 bytes can be staged and appended."""
    site = MemorySite()
    open_log(site).append([bytes([i]) * 4096 for i in range(128)], NOW)
    assert len(contents(site)) == 128


def test_only_the_writer_opens_a_log() -> None:
    """A key that is not the card's is refused."""
    with pytest.raises(NotAuthorised):
        Log.open(MemorySite(), PREFIX, ORIGIN, WRITER.card, OTHER.pair, now=NOW)


WRITES = 7
"""Durable writes of the append below: the stage, two bundles, three tiles on two levels, the head."""


def prepared() -> MemorySite:
    """A log of 254 entries: three more fill a tile, make its parent, and start the next tile."""
    site = MemorySite()
    fill(open_log(site), 254)
    return site


def test_the_crash_matrix_knows_every_write() -> None:
    """The append that the matrix breaks has exactly as many durable writes as the matrix tries."""
    counting = FailingSite(prepared(), nth=0, fault=Fault.LOST)
    open_log(counting).append(entries(3, 254), NOW)
    assert counting.writes == WRITES


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("nth", range(1, WRITES + 1))
def test_crash_matrix(nth: int, fault: Fault) -> None:
    """Whatever happens to any one write, a restart finds one history, and the next append, with others, goes on."""
    site = prepared()
    before = reader_of(site).head()
    failing = FailingSite(site, nth=nth, fault=fault)
    done = False
    try:
        open_log(failing).append(entries(3, 254), NOW)
        done = True
    except (ExclaveError, Killed):
        pass
    # An outsider sees either the old log or the new one.
    assert contents(site) in (entries(254), entries(257))
    if done:
        assert contents(site) == entries(257)
    # The restarted writer knows nothing of the attempt, and wants something else.
    log = open_log(site)
    assert log.size in (254, 257)
    kept = log.size
    log.append(entries(2, kept, "after the crash"), NOW)
    assert contents(site) == entries(kept) + entries(2, kept, "after the crash")
    # Every checkpoint ever shown is a start of the present log.
    reader = reader_of(site)
    head = reader.head()
    verify_consistency(254, before.root, head.size, head.root, reader.tree(head).consistency(254))


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.LOST, Fault.APPLIED])
@pytest.mark.parametrize("nth", range(1, WRITES + 1))
def test_the_same_append_may_be_repeated(nth: int, fault: Fault) -> None:
    """A writer that survives calls again with the same entries: they are in the log once."""
    site = prepared()
    log = open_log(FailingSite(site, nth=nth, fault=fault))
    for _ in range(2):
        try:
            log.append(entries(3, 254), NOW)
            break
        except ExclaveError:
            continue
    assert contents(site) == entries(257)
    log.append(entries(1, 257), NOW)
    assert contents(site) == entries(258)


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_crash_during_the_first_append(nth: int) -> None:
    """A log without a head is as safe: the first entries are finished or were never there."""
    site = MemorySite()
    with pytest.raises(Killed):
        open_log(FailingSite(site, nth=nth, fault=Fault.KILLED_AFTER)).append(entries(2), NOW)
    log = open_log(site)
    assert log.size == 2
    log.append(entries(1, 2, "x"), NOW)
    assert contents(site) == entries(2) + entries(1, 2, "x")


def test_a_crash_while_finishing_after_a_crash() -> None:
    """Finishing what was staged may itself be cut off any number of times."""
    site = prepared()
    with pytest.raises(Killed):
        open_log(FailingSite(site, nth=1, fault=Fault.KILLED_AFTER)).append(entries(3, 254), NOW)
    for nth in range(1, WRITES):
        with pytest.raises(Killed):
            open_log(FailingSite(site, nth=nth, fault=Fault.KILLED_BEFORE))
        assert contents(site) == entries(254)
    assert open_log(site).size == 257
    assert contents(site) == entries(257)


def test_of_two_writers_one_is_told_to_look_again() -> None:
    """Two processes with the same key: the second append fails, and goes on after a reload."""
    site = MemorySite()
    one, two = open_log(site), open_log(site)
    one.append([entry(0, "one")], NOW)
    with pytest.raises(HeadMoved):
        two.append([entry(0, "two")], NOW)
    two.reload(NOW)
    two.append([entry(1, "two")], NOW)
    with pytest.raises(HeadMoved):
        one.append([entry(1, "one")], NOW)
    assert contents(site) == [entry(0, "one"), entry(1, "two")]


def test_a_paused_writer_does_no_harm() -> None:
    """A writer sleeps after staging; another finishes its append and goes on; the first wakes up and is told so."""
    site = MemorySite()
    with pytest.raises(Killed):
        open_log(FailingSite(site, nth=1, fault=Fault.KILLED_AFTER)).append(entries(1), NOW)
    sleeper = Log(site, PREFIX, ORIGIN, WRITER.card, WRITER.pair)  # has seen the empty log only
    open_log(site).append(entries(2, 1), NOW)
    answer = sleeper.append(entries(1), NOW)
    assert (answer.first, answer.count, answer.checkpoint.size) == (0, 1, 3)
    assert sleeper.size == 3
    assert contents(site) == entries(3)


def test_cosignatures_are_attached_and_do_not_disturb_an_append() -> None:
    """A head that only got cosignatures meanwhile is the same tree: the append goes through."""
    site = MemorySite()
    one, two = open_log(site), open_log(site)
    one.append(entries(1), NOW)
    two.reload(NOW)
    witness = WITNESSES[0]
    head = one.attach(cosign(one.reader.head().checkpoint, witness.card.name, witness.pair, NOW))
    assert cosigners(head.note, [witness.card]) == {"witness-a": NOW}
    assert one.attach(cosign(head.checkpoint, witness.card.name, witness.pair, NOW)).size == 1
    two.append(entries(1, 1), NOW)
    assert contents(site) == entries(2)
    with pytest.raises(HeadMoved):
        one.attach(cosign(head.checkpoint, witness.card.name, witness.pair, NOW))


def test_a_site_that_lost_its_latest_objects_is_found_out() -> None:
    """With what is known from elsewhere, a writer refuses a site that shows less, or another history."""
    site = MemorySite()
    stale = StaleSite(site)
    fill(open_log(site), 3)
    stale.freeze()
    log = open_log(site)
    fill(log, 2)
    with pytest.raises(RolledBack):
        open_log(stale, least=log.checkpoint)
    with pytest.raises(RolledBack):
        open_log(MemorySite(), least=log.checkpoint)
    with pytest.raises(Forked):
        open_log(site, least=verified(4, "other"))
    assert open_log(site, least=verified(4)).size == 5


def test_a_site_that_fell_back_to_an_old_head_is_led_forward() -> None:
    """If the stages are still there, opening the log decides the same entries again: no second history."""
    site = MemorySite()
    log = open_log(site)
    log.append(entries(2), NOW)
    old = site.read_head(checkpoint_key(PREFIX))
    log.append(entries(2, 2), NOW)
    log.append(entries(1, 4), NOW)
    new = site.read_head(checkpoint_key(PREFIX))
    assert old
    assert new
    site.replace_if(checkpoint_key(PREFIX), old.data, new.tag)
    again = open_log(site)
    assert (again.size, again.root) == (5, root_over(5))
    new = site.read_head(checkpoint_key(PREFIX))
    assert new
    site.replace_if(checkpoint_key(PREFIX), old.data, new.tag)
    with pytest.raises(RolledBack):
        again.reload(NOW)


def test_a_made_up_stage_is_never_finished() -> None:
    """What the writer did not sign, or signed for another tree, is not appended."""
    for signer, root, error in [
        (OTHER, root_over(3), CorruptObject),
        (WRITER, root_over(4), Forked),
    ]:
        site = MemorySite()
        fill(open_log(site), 3)
        text = Stage(ORIGIN, 3, root, (b"forged\n",)).encode()
        note = ParsedNote(text, sign_text(text, WRITER.card.name, signer.pair))
        site.put_new(stage_key(PREFIX, 3), note.encode())
        with pytest.raises(error):
            open_log(site)
        assert contents(site) == entries(3)


def test_on_a_real_folder(tmp_path: Path) -> None:
    """On disk as in memory: appends, a crash in between, a restart, and an outsider who reads it all."""
    log = open_log(FailingSite(DirectorySite(str(tmp_path)), nth=3, fault=Fault.KILLED_AFTER))
    with pytest.raises(Killed):
        log.append(entries(2), NOW)
    site = DirectorySite(str(tmp_path))
    log = open_log(site)
    assert log.size == 2
    fill(log, 300)
    reader = reader_of(DirectorySite(str(tmp_path)))
    assert [data for _, data in reader.tree(reader.head()).entries()] == entries(302)


@pytest.mark.parametrize("part", ["checkpoint", "tile/0/", "tile/entries/"])
def test_a_log_with_damaged_objects_is_not_continued(part: str) -> None:
    """A flipped bit in head, edge or bundle stops the writer."""
    site = MemorySite()
    fill(open_log(site), 3)
    with pytest.raises(CorruptObject):
        open_log(FlippingSite(site, containing(part), position=-40))


def test_a_site_with_other_bytes_under_a_tile_s_name_stops_the_append() -> None:
    """put_same does not write over a tile that somebody planted; the head stays."""
    site = MemorySite()
    fill(open_log(site), 3)
    site.put_new(bundle_key(PREFIX, 0, 4), b"planted")
    with pytest.raises(CorruptObject):
        open_log(site).append(entries(1, 3), NOW)
    assert contents(site) == entries(3)

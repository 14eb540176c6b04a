"""Copying a log to other sites, and refusing to copy over another history."""

from __future__ import annotations

import contextlib

import pytest

from exclave.errors import CorruptObject, ExclaveError, Forked, HeadMoved, MissingObject
from exclave.formats.tile import checkpoint_key
from exclave.ledger.publish import publish
from exclave.rules.checkpoints import cosign, cosigners
from exclave.sites.memory import MemorySite
from support.hostile import FailingSite, Fault, FlippingSite, Killed, StaleSite, containing
from support.ledger import (
    NOW,
    PREFIX,
    WITNESS_CARDS,
    WITNESSES,
    entries,
    fill,
    open_log,
    reader_of,
    verified,
)


def log_at(size: int, tag: str = "entry") -> MemorySite:
    site = MemorySite()
    fill(open_log(site), size, tag)
    return site


def read_all(site: MemorySite) -> list[bytes]:
    reader = reader_of(site)
    tree = reader.tree(reader.head())
    tree.check_bundles()
    return [data for _, data in tree.entries()]


def test_an_empty_site_gets_everything() -> None:
    """All that is needed to read the log is there afterwards, and no stages."""
    source, target = log_at(300), MemorySite()
    reader = reader_of(source)
    done = publish(reader, reader.head(), target)
    assert (done.before, done.after, done.head.size) == (0, 300, 300)
    assert read_all(target) == entries(300)
    assert not list(target.list(PREFIX + "stage/"))
    assert done.objects == len(list(target.list(PREFIX + "tile/")))


def test_only_what_is_new_is_sent() -> None:
    """A site that has the log up to some size gets the rest."""
    source, target = log_at(300), MemorySite()
    reader = reader_of(source)
    publish(reader, reader.head(), target)
    fill(open_log(source), 3)
    done = publish(reader, reader.head(), target)
    assert (done.before, done.after, done.objects) == (300, 303, 2)
    assert publish(reader, reader.head(), target).objects == 0
    assert read_all(target) == entries(303)


def test_cosignatures_of_both_sides_are_kept() -> None:
    """At the same size, signatures that either side has are shown afterwards."""
    source, target = log_at(5), MemorySite()
    reader = reader_of(source)
    publish(reader, reader.head(), target)
    for site, witness in ((source, WITNESSES[0]), (target, WITNESSES[1])):
        log = open_log(site)
        log.attach(cosign(verified(5).checkpoint, witness.card.name, witness.pair, NOW))
    done = publish(reader, reader.head(), target)
    assert set(cosigners(done.head.note, WITNESS_CARDS)) == {"witness-a", "witness-b"}
    assert set(cosigners(reader_of(target).head().note, WITNESS_CARDS)) == {"witness-a", "witness-b"}


def test_a_larger_log_is_not_replaced() -> None:
    """A target that is ahead stays as it is."""
    source, target = log_at(5), log_at(7)
    reader = reader_of(source)
    with pytest.raises(HeadMoved):
        publish(reader, reader.head(), target)
    assert read_all(target) == entries(7)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_another_history_is_not_replaced(size: int) -> None:
    """A smaller, equal or larger log of other entries is a fork, and stays for the investigation."""
    source, target = log_at(5), log_at(size, "other")
    reader = reader_of(source)
    with pytest.raises(Forked):
        publish(reader, reader.head(), target)
    assert read_all(target) == entries(size, tag="other")


def test_a_head_that_is_no_checkpoint_is_not_replaced() -> None:
    """Junk under the head's name is reported; only a repair that was asked for replaces it."""
    target = MemorySite()
    target.replace_if(checkpoint_key(PREFIX), b"junk", None)
    reader = reader_of(log_at(5))
    with pytest.raises(CorruptObject):
        publish(reader, reader.head(), target)
    publish(reader, reader.head(), target, everything=True)
    assert read_all(target) == entries(5)


def test_damage_at_the_source_is_not_spread() -> None:
    """A flipped bit at the primary site stops the copy before the head."""
    source, target = log_at(300), MemorySite()
    reader = reader_of(FlippingSite(source, containing("entries/000")))
    with pytest.raises(CorruptObject):
        publish(reader, reader_of(source).head(), target)
    assert target.read_head(checkpoint_key(PREFIX)) is None


@pytest.mark.parametrize("fault", list(Fault))
def test_crash_matrix_of_publishing(fault: Fault) -> None:
    """Whatever write is cut off, the target shows its old log or the new one, and doing it again completes it."""
    source = log_at(300)
    reader = reader_of(source)
    counting = FailingSite(MemorySite(), nth=0, fault=fault)
    publish(reader, reader.head(), counting)
    for nth in range(1, counting.writes + 1):
        target = MemorySite()
        publish(reader, verified(100), target)
        with contextlib.suppress(ExclaveError, Killed):
            publish(reader, reader.head(), FailingSite(target, nth=nth, fault=fault))
        assert read_all(target) in (entries(100), entries(300))
        publish(reader, reader.head(), target)
        assert read_all(target) == entries(300)


def test_a_race_for_the_head_has_one_winner() -> None:
    """A head that is replaced while tiles are copied is not written over."""
    source, target = log_at(5), MemorySite()
    stale = StaleSite(target)
    stale.freeze()
    reader = reader_of(source)
    publish(reader, reader.head(), target)
    with pytest.raises(HeadMoved):
        publish(reader, reader.head(), stale)


def test_a_site_that_lost_objects_is_made_whole() -> None:
    """With ``everything``, objects that the target should have had are put again."""
    source, target = log_at(300), MemorySite()
    reader = reader_of(source)
    # The head alone, without what it promises.
    target.replace_if(checkpoint_key(PREFIX), verified(300).encode(), None)
    publish(reader, reader.head(), target)
    with pytest.raises(MissingObject):
        read_all(target)
    publish(reader, reader.head(), target, everything=True)
    assert read_all(target) == entries(300)

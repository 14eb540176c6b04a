"""Heads of identity feeds, as a host takes them: nobody's date keeps the true writer out."""

from __future__ import annotations

from pathlib import Path

import pytest

from exclave.errors import Forked, NotAuthorised, RolledBack
from exclave.formats.feed import ParsedFeedHead
from exclave.formats.journal import Head
from exclave.formats.note import ParsedNote
from exclave.ids import Digest, Instant
from exclave.rules.signatures import sign_text
from exclave.verify.feeds import head_key, verify_feed_head
from support.hosted import Hosted

HOUR = 3_600_000_000


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    return Hosted(tmp_path)


def feed_head(hosted: Hosted, time: int, number: int, chain: int = 7) -> bytes:
    """A head that the first epoch's writer signed."""
    made = hosted.state.epochs[0]
    head = Head(number, Digest(bytes([chain]) * 32))
    text = ParsedFeedHead(hosted.state.register, made.note.epoch, Instant(time), head, None).encode()
    return ParsedNote(text, sign_text(text, made.by.card.name, made.by.pair)).encode()


def replace(hosted: Hosted, data: bytes) -> ParsedFeedHead:
    """Replaces the head through the guard; what stands there then."""
    epoch = hosted.view.find(hosted.state.register, hosted.state.epochs[0].note.epoch).epoch
    key = head_key(hosted.state.state, epoch)
    hosted.replace(key, data)
    return verify_feed_head(hosted.site.get(key), epoch)


def test_a_head_of_the_far_future_is_refused_and_locks_nobody_out(hosted: Hosted) -> None:
    """Who has the writer's key cannot put a head that no later one could ever replace."""
    for ahead in (HOUR + 1, 24 * HOUR, 100 * 365 * 24 * HOUR):
        with pytest.raises(NotAuthorised, match="ahead of this clock"):
            replace(hosted, feed_head(hosted, hosted.host_time + ahead, 5))
    assert replace(hosted, feed_head(hosted, hosted.host_time + HOUR, 5)).time == hosted.host_time + HOUR


def test_a_head_that_was_let_in_by_a_wrong_clock_gives_way_to_a_true_one(hosted: Hosted) -> None:
    """The host's clock was a year ahead once: when it is right again, the writer's next head takes its place."""
    right = hosted.host_time
    hosted.host_time = Instant(right + 365 * 24 * HOUR)
    replace(hosted, feed_head(hosted, hosted.host_time, 5))
    hosted.host_time = right
    assert replace(hosted, feed_head(hosted, right, 5)).time == right
    with pytest.raises(RolledBack):
        replace(hosted, feed_head(hosted, right - 1, 6))


def test_a_far_date_lets_no_feed_go_back_or_fork(hosted: Hosted) -> None:
    """Of a head that is dated far ahead, the number and the chain count all the same."""
    right = hosted.host_time
    hosted.host_time = Instant(right + 365 * 24 * HOUR)
    replace(hosted, feed_head(hosted, hosted.host_time, 5))
    hosted.host_time = right
    with pytest.raises(RolledBack):
        replace(hosted, feed_head(hosted, right, 4))
    with pytest.raises(Forked):
        replace(hosted, feed_head(hosted, right, 5, chain=8))

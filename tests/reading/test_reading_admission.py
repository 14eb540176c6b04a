"""Who may search: limits of a client and its network, a fair line, bounded waiting and bounded memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exclave.serve import reading_admission
from exclave.serve.reading_admission import Admission, Answer, Client, Limits, client_of

LIMITS = Limits(
    client_per_s=1.0, client_burst=3, network_per_s=10.0, network_burst=20, at_work=1, waiting=4, waiting_of_network=2,
    patience_s=0.3,
)  # fmt: skip


def client(number: int, network: int = 0) -> Client:
    return client_of(f"10.0.{network}.{number}")


def answers(admission: Admission, who: Client, count: int, now: float = 0.0) -> list[Answer]:
    return [admission.arrive(who, now)[0] for _ in range(count)]


@pytest.mark.parametrize(
    ("address", "own", "network"),
    [
        ("192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("::ffff:192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"),
        ("unix:", "?", "?"),
        ("", "?", "?"),
    ],
)
def test_addresses_and_their_networks(address: str, own: str, network: str) -> None:
    """An IPv6 household counts as one client; what is no address shares one name, so it gains nothing."""
    assert client_of(address) == Client(own, network)


def test_a_client_gets_its_burst_and_then_its_rate() -> None:
    """Three at once, then one a second."""
    admission = Admission(replace(LIMITS, at_work=100))
    assert answers(admission, client(1), 4) == [Answer.RUN] * 3 + [Answer.TOO_MANY]
    assert answers(admission, client(1), 2, now=1.0) == [Answer.RUN, Answer.TOO_MANY]
    assert answers(admission, client(2), 1, now=1.0) == [Answer.RUN]


def test_a_network_of_many_addresses_is_one_neighbourhood() -> None:
    """Hundred addresses of one /24 get no more than the network's burst; another network is untouched."""
    admission = Admission(replace(LIMITS, at_work=1000))
    got = [admission.arrive(client(number), 0.0)[0] for number in range(100)]
    assert got.count(Answer.RUN) == 20
    assert answers(admission, client(1, network=7), 1) == [Answer.RUN]


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    """Tokens neither vanish nor grow when the time passed in is earlier than before."""
    admission = Admission(replace(LIMITS, at_work=100))
    assert answers(admission, client(1), 3, now=100.0) == [Answer.RUN] * 3
    assert answers(admission, client(1), 1, now=0.0) == [Answer.TOO_MANY]


def test_the_line_serves_who_asked_least() -> None:
    """A reader who comes after a whole network of others is served before them."""
    admission = Admission(LIMITS)
    assert admission.arrive(client(1), 0.0)[0] is Answer.RUN
    flood = [admission.arrive(client(number), 0.0) for number in range(2, 12)]
    assert [answer for answer, _, _ in flood] == [Answer.WAIT] * 2 + [Answer.FULL] * 8
    answer, mine, _ = admission.arrive(client(1, network=9), 0.1)
    assert answer is Answer.WAIT
    assert admission.leave(0.1) == mine


def test_a_full_line_gives_a_place_to_who_asked_less() -> None:
    """Four networks fill the line; a reader from a fifth that asked less takes the place of who asked most."""
    admission = Admission(LIMITS)
    answers(admission, client(1, network=1), 3)
    for network in (1, 2, 3, 4):
        admission.arrive(client(2, network=network), 0.0)
    admission.arrive(client(3, network=1), 0.0)
    assert admission.waiting == 4
    answer, mine, pushed = admission.arrive(client(1, network=9), 0.0)
    assert answer is Answer.WAIT
    assert mine is not None
    assert pushed is not None
    assert pushed.client.network == "10.0.1.0/24"
    assert admission.waiting == 4


def test_equal_claims_are_served_in_the_order_in_which_they_came() -> None:
    """First come, first served, among those who asked equally much."""
    admission = Admission(LIMITS)
    admission.arrive(client(1, network=1), 0.0)
    tickets = [admission.arrive(client(1, network=n), 0.0)[1] for n in (2, 3, 4)]
    assert [admission.leave(0.0) for _ in range(3)] == tickets
    assert admission.leave(0.0) is None
    assert admission.running == 0


def test_whoever_gives_up_leaves_the_line() -> None:
    """Gone or out of patience: the turn goes to the next one, and to nobody if there is none."""
    admission = Admission(LIMITS)
    admission.arrive(client(1, network=1), 0.0)
    _, first, _ = admission.arrive(client(1, network=2), 0.0)
    _, second, _ = admission.arrive(client(1, network=3), 0.2)
    assert first is not None
    assert second is not None
    admission.give_up(first)
    admission.give_up(first)
    assert admission.leave(0.4) == second
    admission.give_up(second)
    assert (admission.waiting, admission.leave(0.5)) == (0, None)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes with ever new addresses makes us forget the oldest, not run out of memory."""
    monkeypatch.setattr(reading_admission, "REMEMBERED", 50)
    admission = Admission(replace(LIMITS, at_work=10_000))
    for number in range(500):
        admission.arrive(client_of(f"10.{number // 250}.{number % 250}.1"), 0.0)
    assert len(admission._clients) == len(admission._networks) == 50


def test_a_reader_among_twenty_times_the_capacity() -> None:
    """One second of a simulated flood: 1,000 searches of 20 networks at a room that can do 50; the reader, who asks
    five times, is answered each time, and never waits for more than three others."""
    limits = Limits(at_work=1)
    admission = Admission(limits)
    length, free_at, waits = 0.020, 0.0, []
    reader = client(1, network=200)
    mine: dict[int, float] = {}
    events = sorted(
        [(n / 1000, client(n % 250, network=n % 20)) for n in range(1000)] + [(0.1 + n / 5, reader) for n in range(5)],
        key=lambda event: event[0],
    )
    for now, who in events:
        while admission.running and free_at <= now:
            following = admission.leave(free_at)
            if following is not None and following.number in mine:
                waits.append(free_at - mine.pop(following.number))
            free_at += length
        for late in [t for t in admission._line.values() if now - t.since >= limits.patience_s]:
            admission.give_up(late)
            assert late.number not in mine
        answer, ticket, pushed = admission.arrive(who, now)
        assert pushed is None or pushed.number not in mine
        if answer is Answer.RUN:
            free_at = now + length
        if who is reader:
            assert answer in (Answer.RUN, Answer.WAIT)
            if ticket is not None:
                mine[ticket.number] = now
    assert not mine
    assert len(waits) >= 4
    assert max(waits) <= 3 * length

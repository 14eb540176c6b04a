"""Home's return: every kind of entry in home's tail against every answer of exile's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import make_pki
from exclave.formats import journal as j
from exclave.formats.journal import Body, Head, entry_at, serial_bytes
from exclave.formats.relying import RelyingService, encode_service
from exclave.identity.contract import Authority, IdentityState
from exclave.identity.fold import settle
from exclave.identity.journal import Journal
from exclave.identity.merging import Merged, merge_journals, merge_tails
from exclave.identity.status_log import CertificateStatus, Good, Held, Reason, Revoked, Serial, Stop, Unknown, stop_of
from exclave.identity.store import Store
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import Pen, catch_up, rebuild
from exclave.ids import Digest, Instant, Label

T = Instant(1_790_000_000_000_000)
EARLY, LATE = Instant(T - 60_000_000), Instant(T + 60_000_000)
PKI = make_pki(T)
ISSUER = issuer_id(PKI.first.der)
ONE = serial_bytes(1)


def held(since: int = T) -> j.Stopped:
    return j.Stopped(ISSUER, ONE, since, "certificateHold")


def revoked(since: int = T, reason: str = "superseded") -> j.Stopped:
    return j.Stopped(ISSUER, ONE, since, reason)


RELEASED = j.Released(ISSUER, ONE)
COMMON: list[Body] = [j.Issuer("esteid-2018", PKI.first.der, True), j.Issued(ISSUER, (ONE,))]


def service(name: str) -> j.Service:
    return j.Service("tax", encode_service(RelyingService("tax", {"en": name}, ("https://tax.test/cb",))))


@dataclass
class Scene:
    """Two journals with a common beginning."""

    home: Journal
    exile: Journal
    store: Store
    folder: Path

    def merge(self, home: list[Body], exile: list[Body]) -> Merged:
        self.home.append(home, time=T, epoch=1)
        self.exile.append(exile, time=T, epoch=2)
        catch_up(self.exile, self.store)
        return merge_journals(self.home, self.exile, self.store)

    def back(self, merged: Merged) -> Store:
        """Home as it is afterwards."""
        folder = self.folder / "back"
        folder.mkdir()
        journal, store = Journal.open(str(folder)), open_sqlite(str(self.folder / "back.db"))
        journal.adopt(self.exile)
        rebuild(journal, store)
        pen = Pen(journal, store, lambda: Authority(IdentityState.HOME, Label("home"), 3, T), lambda: LATE)
        pen.enter(merged.bodies)
        again = merge_journals(self.home, journal, store)
        # Things whose last word was taken are now changed on both sides: listed, and not taken again.
        assert again.bodies == (), "merging again enters nothing twice"
        return store


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    for name in ("home", "exile"):
        (tmp_path / name).mkdir()
    home, exile = Journal.open(str(tmp_path / "home")), Journal.open(str(tmp_path / "exile"))
    home.append([*COMMON, j.Confirmed(ISSUER, T, 0)], time=T, epoch=1)
    exile.adopt(home)
    return Scene(home, exile, open_sqlite(str(tmp_path / "exile.db")), tmp_path)


KEY, SUPER = Reason.KEY_COMPROMISE, Reason.SUPERSEDED


@pytest.mark.parametrize(
    ("home", "exile", "expected", "taken"),
    [
        ([], [], Good(), []),
        ([], [revoked()], Revoked(T, SUPER), []),
        ([revoked()], [], Revoked(T, SUPER), [True]),
        ([revoked()], [revoked()], Revoked(T, SUPER), []),
        ([revoked(EARLY)], [revoked()], Revoked(EARLY, SUPER), [True]),
        ([revoked(LATE)], [revoked()], Revoked(T, SUPER), []),
        ([revoked(LATE, "keyCompromise")], [revoked()], Revoked(T, KEY), [True]),
        ([held()], [], Held(T), [True]),
        ([held()], [revoked()], Revoked(T, SUPER), []),
        ([held(EARLY)], [revoked()], Revoked(EARLY, SUPER), [True]),
        ([revoked(LATE)], [held()], Revoked(T, SUPER), [True]),
        ([held(LATE)], [held()], Held(T), []),
        ([held(), RELEASED], [], Held(T), [True, False]),
        ([held()], [held(), RELEASED], Held(T), [True]),
        ([RELEASED], [held()], Held(T), [False]),
        ([RELEASED], [revoked()], Revoked(T, SUPER), [False]),
        ([held(), RELEASED, revoked(LATE)], [], Revoked(T, SUPER), [True, False, True]),
        ([j.Confirmed(ISSUER, LATE, 0)], [], Good(), []),
    ],
)
def test_certificates(
    scene: Scene, home: list[Body], exile: list[Body], expected: CertificateStatus, taken: list[bool]
) -> None:
    """Revocations only grow, holds stay, releases are listed and never taken."""
    merged = scene.merge(home, exile)
    assert [item.taken for item in merged.report.listed] == taken
    assert (merged.report.home_entries, merged.report.exile_entries) == (len(home), len(exile))
    assert scene.back(merged).status(ISSUER, Serial(1)) == expected


def test_issued_are_told_again_by_their_source(scene: Scene) -> None:
    """Who had home could have entered any serial: what only home calls issued stays unknown, and is listed."""
    two, three = serial_bytes(2), serial_bytes(3)
    merged = scene.merge([j.Issued(ISSUER, (two, three)), j.Issued(ISSUER, (ONE,))], [j.Issued(ISSUER, (two,))])
    assert merged.bodies == ()
    assert [(item.number, item.taken, item.what[:21]) for item in merged.report.listed] == [
        (4, False, "1 certificates issued")
    ]
    store = scene.back(merged)
    assert [store.status(ISSUER, Serial(n)) for n in (1, 2, 3)] == [Good(), Good(), Unknown()]


NOTE = b"exclave/extension/v1\nsomething\n\n\xe2\x80\x94 lk AAAAAAA=\n"
PERSON = b'{"subject":"EE1"}'
SECOND = j.Issuer("esteid-2025", PKI.second.der, True)


@pytest.mark.parametrize(
    ("home", "exile", "taken"),
    [
        (service("home"), None, False),
        (service("home"), service("exile"), False),
        (service("home"), j.ServiceGone("tax"), False),
        (j.ServiceGone("tax"), None, True),
        (j.ServiceGone("tax"), service("exile"), False),
        (j.PlaceKeys("home", b"{}"), None, False),
        (j.PlaceKeys("home", b"{}"), j.PlaceKeys("home", b"[]"), False),
        (j.PlaceKeys("home", b"{}"), j.PlaceKeys("lu", b"[]"), False),
        (j.Responder(ISSUER, "lu", b"c"), None, False),
        (j.Passkey(b"1", b"", PERSON, b"h"), None, False),
        (j.PasskeyGone(b"1"), None, True),
        (j.PasskeyGone(b"1"), j.Passkey(b"1", b"", PERSON, b"h"), False),
        (j.Extension(NOTE), None, False),
        (j.ExtensionEnded(bytes(32)), None, True),
        (SECOND, None, False),
        (SECOND, SECOND, False),
        (j.Settings(b"x"), None, False),
        (j.Settings(b"x"), j.Settings(b"y"), False),
    ],
)
def test_things(scene: Scene, home: Body, exile: Body | None, taken: bool) -> None:
    """What only home took away is gone, nothing that it brought is taken, exile's decision stands; each is listed."""
    merged = scene.merge([home], [] if exile is None else [exile])
    (item,) = merged.report.listed
    assert (item.number, item.taken) == (4, taken)
    assert merged.bodies == ((home,) if taken else ())
    assert f"4 2026-09-21T14:13:20.000000Z {'taken' if taken else 'not taken'}: {item.what}" in merged.report.text()
    scene.back(merged)


def test_what_is_taken_away_stays_away(scene: Scene) -> None:
    """Of several changes of one thing at home those that take it away count; all are listed."""
    merged = scene.merge([service("a"), j.ServiceGone("tax"), service("b")], [])
    assert merged.bodies == (j.ServiceGone("tax"),)
    assert len(merged.report.listed) == 3
    assert scene.back(merged).service("tax") is None


def test_senders_are_asked_again(scene: Scene) -> None:
    """The number of a push that only home took is not taken: the sender sends that message again."""
    merged = scene.merge([revoked(), j.Pushed("ca", 9, bytes(32))], [j.Pushed("ca", 5, bytes(32))])
    found = scene.back(merged).pushed(Label("ca"))
    assert found is not None
    assert found.sequence == 5


def test_nothing_in_common(tmp_path: Path) -> None:
    """Two journals that share no entry fork at the beginning."""
    for name in ("home", "exile"):
        (tmp_path / name).mkdir()
    home, exile = Journal.open(str(tmp_path / "home")), Journal.open(str(tmp_path / "exile"))
    home.append([revoked()], time=T, epoch=1)
    exile.append(COMMON, time=T, epoch=1)
    store = open_sqlite(str(tmp_path / "db"))
    catch_up(exile, store)
    merged = merge_journals(home, exile, store)
    assert merged.report.fork == Head()
    assert merged.bodies == (revoked(),)
    assert len(merged.report.digest) == 32


class Told:
    """What certificate 1 and 2 are, as a plain dictionary."""

    def __init__(self, stops: dict[Serial, Stop | None]) -> None:
        self.stops = stops

    def status(self, issuer: Digest, serial: Serial) -> CertificateStatus:
        if issuer != ISSUER or serial not in self.stops:
            return Unknown()
        return self.stops[serial] or Good()


EVENTS = st.lists(
    st.one_of(
        st.builds(lambda n: j.Released(ISSUER, serial_bytes(n)), st.integers(1, 2)),
        st.builds(
            lambda n, t, r: j.Stopped(ISSUER, serial_bytes(n), T + t, r),
            st.integers(1, 2), st.integers(0, 3), st.sampled_from(["certificateHold", "superseded", "keyCompromise"]),
        ),
    ),
    max_size=6,
)  # fmt: skip
STOPS = st.none() | st.integers(0, 3).map(lambda t: Held(Instant(T + t))) | st.builds(
    lambda t, r: Revoked(Instant(T + t), r), st.integers(0, 3), st.sampled_from([SUPER, KEY])
)  # fmt: skip


@given(EVENTS, st.dictionaries(st.integers(1, 2).map(Serial), STOPS))
def test_nobody_is_let_in_by_a_merge(events: list[Body], known: dict[Serial, Stop | None]) -> None:
    """Whatever home's tail says: each of its stops stays, since the earliest time and for the gravest reason, and
    nothing that exile stopped is started."""
    entries = [entry_at(Head(n), T, 1, body) for n, body in enumerate(events)]
    merged = merge_tails(Head(), entries, [], Told(known))
    news: list[tuple[tuple[Digest, bytes], Stop | None]] = [
        ((ISSUER, b.serial), stop_of(b.reason, Instant(b.since))) for b in merged.bodies if isinstance(b, j.Stopped)
    ]
    assert len(news) == len(merged.bodies)
    before = {(ISSUER, serial_bytes(s)): stop for s, stop in known.items() if stop is not None}
    after = {**before, **settle(news, before)}
    for body in events:
        if isinstance(body, j.Stopped):
            stop = after[ISSUER, body.serial]
            assert stop is not None
            assert stop.time <= body.since
            assert isinstance(stop, Revoked) or body.reason == "certificateHold"
    for name, stop in before.items():
        assert settle([(name, stop)], after) == {name: after[name]}

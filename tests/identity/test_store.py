"""The status store, in SQLite and in PostgreSQL: the same answers as a plain dictionary gives, whatever happened."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import exclave.identity.fold as fold_module
from exclave.crypto.crl import issuer_id
from exclave.demo.pki import make_pki
from exclave.errors import CorruptObject, Forked, MalformedError, NotAuthorised, RolledBack, UnavailableError
from exclave.formats import journal as j
from exclave.formats.journal import Body, Entry, Head, entry_at, serial_bytes
from exclave.formats.relying import RelyingService, encode_service
from exclave.identity.contract import Authority, IdentityState
from exclave.identity.journal import Journal
from exclave.identity.status_log import CertificateStatus, Good, Held, Reason, Revoked, Serial, Unknown
from exclave.identity.store import Store
from exclave.identity.store_postgres import open_postgres
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import Pen, catch_up, rebuild
from exclave.ids import Digest, Instant, Label
from support.postgres import running_server

T = Instant(1_790_000_000_000_000)
PKI = make_pki(T)
FIRST, SECOND = (issuer_id(ca.der) for ca in (PKI.first, PKI.second))
STRANGER = Digest(b"\x07" * 32)
Open = Callable[[], Store]


@pytest.fixture(scope="module")
def conninfo() -> Iterator[str]:
    with running_server(15) as server:
        yield psycopg.conninfo.make_conninfo(
            host=str(server.socket_dir), port=server.port, user="postgres", dbname="postgres"
        )


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store as often as it is called; empty at first."""
    if request.param == "sqlite":
        return lambda: open_sqlite(str(tmp_path / "status.db"))
    where = request.getfixturevalue("conninfo")
    store = open_postgres(where)
    store.replace([])
    store.close()
    return lambda: open_postgres(where, connections=3)


class Story:
    """Entries one after another, without a folder."""

    def __init__(self) -> None:
        self.head = Head()
        self.entries: list[tuple[Entry, Head]] = []

    def add(self, *bodies: Body, time: int = T) -> list[tuple[Entry, Head]]:
        new = []
        for body in bodies:
            entry = j.parse_entry(j.encode_entry(entry_at(self.head, Instant(time), 1, body)))
            self.head = self.head.after(j.encode_entry(entry))
            new.append((entry, self.head))
        self.entries += new
        return new


def issued(*numbers: int, issuer: Digest = FIRST) -> j.Issued:
    return j.Issued(issuer, tuple(sorted(map(serial_bytes, numbers))))


def stopped(number: int, since: int, reason: str = "certificateHold", issuer: Digest = FIRST) -> j.Stopped:
    return j.Stopped(issuer, serial_bytes(number), since, reason)


def released(number: int, issuer: Digest = FIRST) -> j.Released:
    return j.Released(issuer, serial_bytes(number))


def status(store: Store, number: int, issuer: Digest = FIRST) -> CertificateStatus:
    return store.status(issuer, Serial(number))


INTRODUCED = (j.Issuer("esteid-2018", PKI.first.der, True), j.Issuer("esteid-2025", PKI.second.der, False))


def test_certificates(opener: Open) -> None:
    """Issued is good, held may be released, revoked is for good; unknown is what nobody issued."""
    store, story = opener(), Story()
    assert status(store, 1) == Unknown()
    store.apply(story.add(*INTRODUCED, issued(0, 1, 2, 3), stopped(2, T), stopped(9, T, "superseded")))
    assert [status(store, n) for n in (0, 1, 2, 3, 4)] == [Good(), Good(), Held(T), Good(), Unknown()]
    assert status(store, 9) == Revoked(T, Reason.SUPERSEDED)
    assert status(store, 1, SECOND) == status(store, 1, STRANGER) == status(store, -1) == Unknown()
    store.apply(story.add(released(2), released(9), released(3), issued(9)))
    assert [status(store, n) for n in (2, 3)] == [Good(), Good()]
    assert status(store, 9) == Revoked(T, Reason.SUPERSEDED)
    store.apply(story.add(stopped(9, T - 5), stopped(9, T + 5, "keyCompromise"), stopped(3, T), stopped(3, T + 9, "superseded")))  # fmt: skip  # noqa: E501
    assert status(store, 9) == Revoked(Instant(T - 5), Reason.KEY_COMPROMISE)
    assert status(store, 3) == Revoked(T, Reason.SUPERSEDED)
    store.close()


def test_stopped_come_by_number(opener: Open) -> None:
    """All revoked and held ones, sorted as numbers, of one moment even while more are written."""
    store, story = opener(), Story()
    numbers = [0, 1, 255, 256, 65_535, 2**64, 2**159 + 1, 2**160 - 1]
    store.apply(story.add(*INTRODUCED, *(stopped(n, T + n % 7, "superseded") for n in reversed(numbers))))
    found = store.stopped(FIRST)
    first = next(found)
    store.apply(story.add(stopped(2, T), stopped(2**160 - 1, T - 50)))
    assert [first[0], *(serial for serial, _ in found)] == numbers
    assert [serial for serial, _ in store.stopped(FIRST)] == sorted([*numbers, 2])
    assert dict(store.stopped(FIRST))[Serial(0)] == Revoked(T, Reason.SUPERSEDED)
    assert list(store.stopped(STRANGER)) == list(store.stopped(SECOND)) == []
    abandoned = store.stopped(FIRST)
    next(abandoned)
    abandoned.close()
    store.close()


def test_issuers(opener: Open) -> None:
    """What is known of issuers: cross-certificates gather, confirmations go forward only."""
    store, story = opener(), Story()
    store.apply(story.add(issued(1, issuer=SECOND), j.Confirmed(SECOND, T, 0)))
    assert store.issuers() == ()
    store.apply(story.add(*INTRODUCED, j.Confirmed(FIRST, T, T + 9), j.Confirmed(FIRST, T - 1, 0), INTRODUCED[0]))
    by_label = {info.label: info for info in store.issuers()}
    first, second = by_label[Label("esteid-2018")], by_label[Label("esteid-2025")]
    assert (first.id, first.certificates, first.live) == (FIRST, (PKI.first.der,), True)
    assert (first.as_of, first.next_update, first.issued_known) == (T, T + 9, False)
    assert (second.as_of, second.next_update, second.issued_known, second.live) == (T, 0, True, False)
    assert status(store, 1, SECOND) == Good()
    store.close()


def test_a_confirmation_of_what_is_yet_to_come_gives_way(opener: Open) -> None:
    """It counts as of its entry's time; and where that was in the future too, the next confirmation replaces it."""
    store, story = opener(), Story()
    year = 365 * 86_400_000_000
    store.apply(story.add(INTRODUCED[0], j.Confirmed(FIRST, T + year, T + year), time=T + 5))
    assert [(i.as_of, i.next_update) for i in store.issuers()] == [(T + 5, T + year)]
    store.apply(story.add(j.Confirmed(FIRST, T + 2 * year, 0), time=T + year))
    store.apply(story.add(j.Confirmed(FIRST, T + 6, T + 9), time=T + 7))
    assert [(i.as_of, i.next_update) for i in store.issuers()] == [(T + 6, T + 9)]
    store.close()


def service(client_id: str = "tax", **changes: object) -> j.Service:
    made = RelyingService(client_id, {"en": "Tax"}, ("https://tax.test/cb",), **changes)  # type: ignore[arg-type]
    return j.Service(client_id, encode_service(made))


def passkey(credential: bytes, subject: str) -> j.Passkey:
    person = msgspec.json.encode({"subject": subject, "given_name": "Mari"})
    return j.Passkey(credential, b"\xa0", person, b"handle")


NOTE = "exclave/extension/v1\nsomething\n\n— lk {}\n"
NOTES = [NOTE.format(s).encode() for s in ("AAAAAAA=", "BBBBBBB=")]


def test_things(opener: Open) -> None:
    """Services, keys, passkeys, responders and lists come as they were last entered, and go when they are gone."""
    store, story = opener(), Story()
    store.apply(
        story.add(
            *INTRODUCED, service(), service("bank"), j.PlaceKeys("lu", b"1"), j.PlaceKeys("lu", b"2"),
            passkey(b"\x01", "EE1"), passkey(b"\x02", "EE1"), passkey(b"\x03", "EE2"),
            j.Responder(FIRST, "lu", b"c1"), j.Responder(FIRST, "lu", b"c2"), j.Responder(FIRST, "fi", b"c3"),
            j.Responder(SECOND, "lu", b"c4"), j.Extension(NOTES[0]),
        )
    )  # fmt: skip
    tax = store.service("tax")
    assert tax is not None
    assert tax.enabled
    assert [s.client_id for s in store.services()] == ["bank", "tax"]
    assert store.place_keys() == {"lu": b"2"}
    assert {p.credential for p in store.passkeys_of("EE1")} == {b"\x01", b"\x02"}
    assert store.passkey(b"\x03") is not None
    assert sorted(store.responders(FIRST, Label("lu"))) == [b"c1", b"c2"]
    assert store.responders(STRANGER, Label("lu")) == ()
    assert store.extensions() == (NOTES[0],)
    generation = store.generation()
    text = __import__("hashlib").sha256(NOTES[0].split(b"\n\n")[0] + b"\n").digest()
    store.apply(
        story.add(service(enabled=False), j.ServiceGone("bank"), j.PasskeyGone(b"\x01"), j.ExtensionEnded(text))
    )
    assert store.generation() != generation
    assert store.service("bank") is store.service("nobody\ud800") is store.passkey(b"\x01") is None
    tax = store.service("tax")
    assert tax is not None
    assert not tax.enabled
    assert len(store.passkeys_of("EE1")) == 1
    store.apply(story.add(j.Extension(NOTES[1])))
    assert store.extensions() == ()
    store.close()


def test_what_cannot_be_read_leaves_nothing_in_force(opener: Open) -> None:
    """An entry that nobody should have entered takes the older permission with it and stops nothing else."""
    store, story = opener(), Story()
    store.apply(story.add(*INTRODUCED, service(), passkey(b"\x01", "EE1"), issued(1)))
    store.apply(
        story.add(
            j.Service("tax", b"{"), j.Passkey(b"\x01", b"", b"[]", b"h"), j.Issuer("bad", b"\x30", True),
            j.Extension(b"no note"), stopped(1, T),
        )
    )  # fmt: skip
    assert store.service("tax") is store.passkey(b"\x01") is None
    assert len(store.issuers()) == 2
    assert store.extensions() == ()
    assert status(store, 1) == Held(T)
    store.close()


def test_entries_must_follow(opener: Open) -> None:
    """A gap or another history is refused and changes nothing; what is applied already is passed over."""
    store, story, other = opener(), Story(), Story()
    entries = story.add(*INTRODUCED, issued(1), issued(2))
    store.apply(entries[:2])
    other.add(INTRODUCED[1], INTRODUCED[1], issued(1), issued(2))
    for bad in (entries[3:], other.entries, [(entries[0][0], entries[2][1])]):
        with pytest.raises(CorruptObject):
            store.apply(bad)
        assert store.head() == entries[1][1]
    store.apply(entries)
    assert store.head() == story.head
    store.apply(entries)
    assert status(store, 2) == Good()
    store.close()


def test_other_openings_see_it(opener: Open) -> None:
    """What one process applied, others answer from at once and show in their generation soon; a rebuild too."""
    one, two, story = opener(), opener(), Story()
    before = two.generation()
    one.apply(story.add(*INTRODUCED, issued(1)))
    deadline = threading.Event()
    deadline.wait(0.2)
    assert two.generation() != before
    assert status(two, 1) == Good()
    one.apply(story.add(stopped(1, T)))
    assert status(two, 1) == Held(T)
    two.replace(story.entries[:3])
    deadline.wait(0.2)
    assert status(one, 1) == Good()
    assert one.head() == story.entries[2][1]
    for store in (one, two):
        store.close()
        with pytest.raises(UnavailableError):
            status(store, 1)


def test_threads(opener: Open) -> None:
    """Readers in many threads get answers, never a failure and never a step back, while entries are applied."""
    store, story = opener(), Story()
    store.apply(story.add(*INTRODUCED, issued(*range(100))))
    done, problems = threading.Event(), []

    def read() -> None:
        seen = 0
        try:
            while not done.is_set():
                count = sum(isinstance(status(store, n), Revoked) for n in range(100))
                assert count >= seen
                seen = count
                assert len(list(store.stopped(FIRST))) >= seen
        except BaseException as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(100):
        store.apply(story.add(stopped(n, T, "superseded")))
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []
    store.close()


class Against(RuleBasedStateMachine):
    """Random entries against a dictionary; the store is reopened and rebuilt in between."""

    open: Open
    numbers = st.sampled_from([0, 1, 2, 255, 256, 2**160 - 1])
    issuers = st.sampled_from([FIRST, SECOND, STRANGER])
    times = st.integers(0, 3).map(lambda n: T + n)
    bodies = st.one_of(
        st.builds(lambda n, i: issued(*n, issuer=i), st.sets(numbers, min_size=1), issuers),
        st.builds(stopped, numbers, times, st.sampled_from(sorted(j.REASONS)), issuers),
        st.builds(lambda n, t, i: stopped(n, t, issuer=i), numbers, times, issuers),
        st.builds(released, numbers, issuers),
    )

    @initialize()
    def begin(self) -> None:
        self.store = self.open()
        self.store.replace([])
        self.story = Story()
        self.model: dict[tuple[bytes, bytes], tuple[int, int] | None] = {}

    @rule(bodies=st.lists(bodies, min_size=1, max_size=12))
    def enter(self, bodies: list[Body]) -> None:
        self.store.apply(self.story.add(*bodies))
        for body in bodies:
            self._model(body)

    def _model(self, body: Body) -> None:
        """(since, gravity); gravity 8 is a hold."""
        gravity = {reason: place for place, reason in enumerate([*Reason, "certificateHold"])}
        if isinstance(body, j.Issued):
            for serial in body.serials:
                self.model.setdefault((body.issuer, serial))
            return
        assert isinstance(body, j.Stopped | j.Released)
        name = body.issuer, body.serial
        old = self.model.get(name)
        if isinstance(body, j.Released):
            self.model[name] = None if old is None or old[1] == 8 else old
            return
        new = body.since, gravity[body.reason]
        self.model[name] = new if old is None else (min(old[0], new[0]), min(old[1], new[1]))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule()
    def begin_anew(self) -> None:
        self.store.replace(self.story.entries)

    @rule(issuer=issuers)
    def compare(self, issuer: Digest) -> None:
        expected: dict[int, CertificateStatus] = {}
        for (of, serial), stop in self.model.items():
            if of == issuer:
                good = Good() if stop is None else Held(Instant(stop[0]))
                revoked = stop is not None and stop[1] < 8
                number = int.from_bytes(serial, "big")
                expected[number] = Revoked(Instant(stop[0]), list(Reason)[stop[1]]) if stop and revoked else good
        for number in (0, 1, 2, 3, 255, 256, 2**160 - 1):
            assert status(self.store, number, issuer) == expected.get(number, Unknown())
        told = [(n, s) for n, s in sorted(expected.items()) if not isinstance(s, Good)]
        assert list(self.store.stopped(issuer)) == told
        assert self.store.head() == self.story.head

    def teardown(self) -> None:
        for issuer in (FIRST, SECOND, STRANGER):
            self.compare(issuer)
        self.store.close()


def test_against_a_dictionary(opener: Open, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is entered in whatever order, in whatever batches: both stores and a dictionary agree."""
    monkeypatch.setattr(fold_module, "BATCH_SERIALS", 5)
    machine = type("Machine", (Against,), {"open": staticmethod(opener)})
    examples = 20 if "postgres" in request.node.name else 60
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=12, deadline=None, suppress_health_check=checks),
    )


# The database


def test_a_database_that_goes_away() -> None:
    """While the server is down nothing is answered, and nothing but ``UnavailableError`` is raised; then it goes on."""
    with running_server(15) as server:
        where = psycopg.conninfo.make_conninfo(
            host=str(server.socket_dir), port=server.port, user="postgres", dbname="postgres"
        )
        store, story = open_postgres(where), Story()
        store.apply(story.add(*INTRODUCED, issued(1), stopped(2, T)))
        server.stop()
        for call in (lambda: status(store, 1), store.head, lambda: list(store.stopped(FIRST)), lambda: store.apply([])):
            threading.Event().wait(0.16)
            with pytest.raises(UnavailableError):
                call()
        with pytest.raises(UnavailableError):
            open_postgres(where)
        server.start()
        assert _once_it_answers(lambda: status(store, 1)) == Good()
        store.apply(story.add(stopped(1, T)))
        assert status(store, 1) == Held(T)
        with psycopg.connect(where, autocommit=True) as db:
            db.execute("UPDATE exclave_meta SET schema = 0")
        other = open_postgres(where)
        assert other.head() == Head()
        other.apply(story.entries)
        assert status(other, 1) == Held(T)
        store.close()
        other.close()


def _once_it_answers(call: Callable[[], CertificateStatus]) -> CertificateStatus:
    """The pool tries the server again after growing pauses."""
    until = time.monotonic() + 60
    while True:
        try:
            return call()
        except UnavailableError:
            if time.monotonic() > until:
                raise


# SQLite's file


def test_damaged_and_older_files_are_rebuilt(tmp_path: Path) -> None:
    """Whatever was done to the cache's file, opening it and catching up gives the journal's answers."""
    (tmp_path / "journal").mkdir()
    journal, path = Journal.open(str(tmp_path / "journal")), tmp_path / "status.db"
    journal.append([*INTRODUCED, issued(*range(5000)), stopped(7, T)], time=T, epoch=1)
    store = open_sqlite(str(path))
    catch_up(journal, store)
    store.close()
    whole = path.read_bytes()
    assert len(whole) > 40_000

    def older() -> None:
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 0")

    for damage in (
        path.unlink,
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"rubbish" * 5000),
        lambda: path.write_bytes(whole[:20_000]),
        lambda: path.write_bytes(whole[:8192] + bytes(8192) + whole[16384:]),
        lambda: path.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:]),
        older,
    ):
        damage()
        store = open_sqlite(str(path))
        assert catch_up(journal, store) == journal.head()
        assert status(store, 7) == Held(T)
        assert status(store, 4999) == Good()
        store.close()
    assert os.stat(path).st_mode & 0o077 == 0


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    """A process that has the old file open goes on with the new one."""
    path, story = str(tmp_path / "status.db"), Story()
    story.add(*INTRODUCED, issued(1))
    old = open_sqlite(path)
    old.apply(story.entries)
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)
    new = open_sqlite(path)
    new.apply([*story.entries, *story.add(stopped(1, T))])
    threading.Event().wait(1.1)
    assert status(old, 1) == Held(T)
    old.close()
    new.close()


APPLIER = """
import sys
from exclave.identity.journal import Journal
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import catch_up
journal, store = Journal.open(sys.argv[1]), open_sqlite(sys.argv[2])
print("ready", flush=True)
while catch_up(journal, store).number < 200:
    pass
"""


def test_processes_catch_up_together(tmp_path: Path) -> None:
    """Two processes that follow one journal into one store apply each entry once, while a third writes."""
    (tmp_path / "journal").mkdir()
    journal, path = Journal.open(str(tmp_path / "journal")), str(tmp_path / "status.db")
    arguments = [sys.executable, "-c", APPLIER, str(tmp_path / "journal"), path]
    appliers = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(2)]
    for applier in appliers:
        assert applier.stdout is not None
        assert applier.stdout.readline() == b"ready\n"
    for n in range(200):
        journal.append([stopped(n, T)], time=T, epoch=1)
    assert [applier.wait(30) for applier in appliers] == [0, 0]
    for applier in appliers:
        applier.stdout.close()  # type: ignore[union-attr]
    store = open_sqlite(path)
    assert store.head() == journal.head()
    assert len(list(store.stopped(FIRST))) == 200
    assert store.generation() <= 200


def test_speed(tmp_path: Path) -> None:
    """Two hundred thousand certificates: tens of thousands of answers each second, and entries as quickly."""
    story, store = Story(), open_sqlite(str(tmp_path / "status.db"))
    numbers = [n * 2**100 for n in range(200_000)]
    chunks = [issued(*numbers[at : at + 20_000]) for at in range(0, len(numbers), 20_000)]
    entries = story.add(*INTRODUCED, *chunks)
    began = time.process_time()
    store.apply(entries)
    assert time.process_time() - began < 2
    began = time.process_time()
    assert all(status(store, number) == Good() for number in numbers[::10])
    assert len(numbers) / 10 / (time.process_time() - began) > 20_000
    store.close()


# Entering


def authority(state: IdentityState, epoch: int = 3) -> Authority:
    return Authority(state, Label("home"), epoch, T)


def test_pen(opener: Open, tmp_path: Path) -> None:
    """Decisions are in the journal and in the answers when it returns; only where the authority is."""
    (tmp_path / "journal").mkdir()
    journal, store = Journal.open(str(tmp_path / "journal")), opener()
    states = [IdentityState.HOME]
    pen = Pen(journal, store, lambda: authority(states[-1]), lambda: T)
    head = pen.enter([*INTRODUCED, issued(1)])
    assert store.head() == journal.head() == head
    pen.enter(iter([stopped(1, T)]), warrant=bytes(32))
    assert status(store, 1) == Held(T)
    entry = next(entry for entry, _, _ in journal.read_after(head))
    assert (entry.epoch, entry.warrant, entry.time) == (3, bytes(32), T)
    head = store.head()
    for bad in (
        j.Issuer("bad", b"", True), j.Service("tax", b"{}"), j.Service("other", service().data), j.Extension(b""),
        passkey(b"", "EE1"), passkey(b"1", ""), "revoke them all", j.ServiceGone(""),
    ):  # fmt: skip
        with pytest.raises(MalformedError):
            pen.enter([stopped(2, T), bad])
    for state in (IdentityState.STANDBY, IdentityState.RETURNING):
        states.append(state)
        with pytest.raises(NotAuthorised):
            pen.enter([stopped(2, T)])
    assert store.head() == journal.head() == head
    store.close()


def test_a_store_of_another_journal(opener: Open, tmp_path: Path) -> None:
    """A journal that is shorter or another one than the store was made from is not silently followed."""
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    one, two, three = (Journal.open(str(folder)) for folder in folders)
    one.append([*INTRODUCED, issued(1), stopped(1, T)], time=T, epoch=1)
    two.append([*INTRODUCED, issued(1), issued(2), issued(3)], time=T, epoch=1)
    three.append(INTRODUCED, time=T, epoch=1)
    store = opener()
    catch_up(one, store)
    for other, error in ((two, Forked), (three, RolledBack)):
        with pytest.raises(error):
            catch_up(other, store)
        assert status(store, 1) == Held(T)
    assert rebuild(two, store) == two.head() == store.head()
    assert status(store, 1) == status(store, 3) == Good()
    store.close()

"""From CA software to the journal: OpenSSL's own files, lists over HTTP and in folders, tables; only changes."""

from __future__ import annotations

import http.server
import io
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto.crl import issuer_id, verify_crl, verify_delta_crl
from exclave.demo.pki import make_pki
from exclave.errors import CorruptObject, MalformedError, NotAuthorised, WrongFingerprint
from exclave.formats.journal import Confirmed, Issued, Issuer, Released, Stopped, serial_bytes
from exclave.formats.push import parse_second
from exclave.identity.contract import Authority, IdentityState
from exclave.identity.feeding.difference import compare
from exclave.identity.feeding.source import Reading, Source, SourceKind
from exclave.identity.feeding.table import HEADER, parse_row, read_table
from exclave.identity.journal import Journal
from exclave.identity.status_log import Good, Held, Reason, Revoked, Serial, StatusLog, Stop, Unknown
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import Pen
from exclave.ids import Digest, Instant, Label, now
from exclave.operations.identity_feed import Feed, SourceReport
from support.openssl_ca import OpensslCa

ISSUER = Digest(bytes(range(32)))
T = Instant(1_790_000_000_000_000)
HOUR = 3_600_000_000
LABEL = Label("test-ca")
Flags = x509.ReasonFlags


class Home:
    """A journal, a store and a clock that goes on by itself when it is asked to."""

    def __init__(self, folder: Path, certificate: bytes, time: Instant | None = None) -> None:
        (folder / "journal").mkdir()
        self.time = time
        self.state = IdentityState.HOME
        self.journal = Journal.open(str(folder / "journal"))
        self.store = open_sqlite(str(folder / "status.db"))
        self.pen = Pen(self.journal, self.store, lambda: Authority(self.state, Label("home"), 1, T), self.clock)
        self.issuer = issuer_id(certificate)
        self.certificate = certificate
        self.pen.enter([Issuer(LABEL, certificate, True)])

    def clock(self) -> Instant:
        return self.time if self.time is not None else now()

    def source(self, kind: SourceKind, **where: object) -> Source:
        return Source(kind, LABEL, self.issuer, self.certificate, **where)  # type: ignore[arg-type]

    def feed(self, *sources: Source) -> Feed:
        return Feed(sources, self.store, self.pen, self.clock)

    def status(self, serial: int) -> object:
        return self.store.status(self.issuer, Serial(serial))

    def count(self) -> int:
        return self.journal.head().number


def only(feed: Feed) -> SourceReport:
    (report,) = feed.once().sources
    return report


@pytest.fixture
def ca(tmp_path: Path) -> OpensslCa:
    return OpensslCa(tmp_path / "ca")


def later(home: Home, seconds: int = 1) -> None:
    home.time = Instant(home.clock() + seconds * 1_000_000)


def test_index_followed(tmp_path: Path, ca: OpensslCa) -> None:
    """What ``openssl ca`` does shows after the next reading, one entry for each change, and nothing without change."""
    home = Home(tmp_path, ca.certificate)
    feed = home.feed(home.source(SourceKind.INDEX_TXT, path=str(ca.folder / "index.txt")))
    assert only(feed).problem == ""
    one, two = ca.issue("one"), ca.issue("two")
    assert only(feed).changed == 2
    assert [home.status(s) for s in (one, two)] == [Good(), Good()]
    ca.revoke("one", "-crl_reason", "keyCompromise")
    before = home.count()
    report = only(feed)
    assert (report.changed, report.problem, report.withdrawn) == (1, "", ())
    assert isinstance(home.status(one), Revoked)
    assert home.count() == before + 2
    info = home.store.issuers()[0]
    assert info.as_of == report.as_of
    assert now() - info.as_of < 5_000_000
    os.utime(ca.folder / "index.txt", (1, 1))
    later(home)
    assert only(feed).changed == 0
    assert home.count() == before + 2
    assert only(home.feed(*feed.sources)).changed == 0


def test_confirmations_come_at_intervals(tmp_path: Path, ca: OpensslCa) -> None:
    """A source that stays the same is confirmed every minute, not at every reading."""
    home = Home(tmp_path, ca.certificate, now())
    source = home.source(SourceKind.INDEX_TXT, path=str(ca.folder / "index.txt"))
    ca.issue("one")
    feed = home.feed(source)
    for _ in range(180):
        later(home)
        feed.once()
    entries = [entry.body for entry, _, _ in home.journal.read_after(home.journal.at(0))]  # type: ignore[arg-type]
    assert [type(body) for body in entries] == [Issuer, Issued, Confirmed, Confirmed, Confirmed]


def test_a_confirmation_from_a_clock_that_was_ahead_gives_way(tmp_path: Path, ca: OpensslCa) -> None:
    """A machine whose clock was a day ahead confirmed a moment that is to come: the next reading puts that right."""
    home = Home(tmp_path, ca.certificate, now())
    ca.issue("one")
    feed = home.feed(home.source(SourceKind.INDEX_TXT, path=str(ca.folder / "index.txt")))
    later(home, 86_400)
    feed.once()
    later(home, -86_400 + 1)
    feed.once()
    assert home.store.issuers()[0].as_of == home.clock()


def test_index_holds_end_only_where_they_began(tmp_path: Path, ca: OpensslCa) -> None:
    """A hold of the file ends when the file says valid; another one's hold does not, and is reported."""
    home = Home(tmp_path, ca.certificate)
    one, two = ca.issue("one"), ca.issue("two")
    path = ca.folder / "index.txt"
    feed = home.feed(home.source(SourceKind.INDEX_TXT, path=str(path)))
    valid = path.read_bytes()
    ca.revoke("one", "-crl_hold", "holdInstructionReject")
    feed.once()
    assert isinstance(home.status(one), Held)
    since = Instant(home.clock() // 1_000_000 * 1_000_000)
    home.pen.enter([Stopped(home.issuer, serial_bytes(two), since, "certificateHold")])
    path.write_bytes(valid)
    report = only(feed)
    assert (home.status(one), home.status(two)) == (Good(), Held(since))
    assert report.withdrawn == (two,)
    ca.revoke("two", "-crl_reason", "superseded")
    assert only(feed).withdrawn == ()
    assert home.status(two) == Revoked(since, Reason.SUPERSEDED)
    path.write_bytes(valid)
    report = only(feed)
    assert report.withdrawn == (two,)
    assert isinstance(home.status(two), Revoked)


def test_a_released_hold_that_is_still_listed(tmp_path: Path, ca: OpensslCa) -> None:
    """Who released a certificate here is not overruled by the same old line of the file."""
    home = Home(tmp_path, ca.certificate)
    one = ca.issue("one")
    ca.revoke("one", "-crl_hold", "holdInstructionReject")
    feed = home.feed(home.source(SourceKind.INDEX_TXT, path=str(ca.folder / "index.txt")))
    feed.once()
    home.pen.enter([Released(home.issuer, serial_bytes(one))])
    ca.issue("two")
    assert only(feed).changed == 1
    assert home.status(one) == Good()


def test_a_source_that_fails_holds_up_no_other(tmp_path: Path, ca: OpensslCa) -> None:
    """A damaged file enters nothing, is reported with its line, and is read when it is whole again."""
    home = Home(tmp_path, ca.certificate)
    one = ca.issue("one")
    path, crl = ca.folder / "index.txt", ca.folder / "list.crl"
    good = path.read_bytes()
    path.write_bytes(good + b"R\tbroken\n")
    feed = home.feed(
        home.source(SourceKind.INDEX_TXT, path=str(path)),
        home.source(SourceKind.CRL, path=str(crl)),
        home.source(SourceKind.CRL, path=str(tmp_path / "missing")),
        home.source(SourceKind.CSV, path="/dev/zero"),
    )
    before = home.count()
    problems = [report.problem for report in feed.once().sources]
    assert "cannot be read" in problems[0]
    assert "line 2" in problems[2]
    assert "not a file" in problems[3]
    assert home.count() == before
    path.write_bytes(good)
    assert [report.changed for report in feed.once().sources] == [0, 0, 1, 0]
    assert home.status(one) == Good()


def test_full_lists(tmp_path: Path, ca: OpensslCa) -> None:
    """A CRL of ``openssl ca``: revocations, its own time as confirmation, withdrawn ones stay and are reported."""
    home = Home(tmp_path, ca.certificate)
    one, two, three = ca.issue("one"), ca.issue("two"), ca.issue("three")
    ca.revoke("one", "-crl_reason", "keyCompromise")
    ca.revoke("two", "-crl_hold", "holdInstructionReject")
    index = (ca.folder / "index.txt").read_bytes()
    ca.crl()
    feed = home.feed(home.source(SourceKind.CRL, path=str(ca.folder / "list.crl")))
    report = only(feed)
    crl = verify_crl((ca.folder / "list.crl").read_bytes(), ca.certificate, now=now())
    assert (report.changed, report.as_of) == (2, crl.this_update)
    info = home.store.issuers()[0]
    assert (info.as_of, info.next_update, info.issued_known) == (crl.this_update, crl.next_update, False)
    assert isinstance(home.status(one), Revoked)
    assert isinstance(home.status(two), Held)
    assert home.status(three) == Unknown()
    before = home.count()
    assert only(feed).changed == 0
    assert home.count() == before
    lines = [line for line in index.splitlines(keepends=True) if not line.startswith(b"R")]
    (ca.folder / "index.txt").write_bytes(b"".join(lines))
    ca.crl()
    assert only(feed).withdrawn == tuple(sorted((one, two)))
    assert isinstance(home.status(one), Revoked)
    assert isinstance(home.status(two), Held)


def test_delta_list_made_by_openssl(tmp_path: Path, ca: OpensslCa) -> None:
    """A delta on its base: a new revocation, and removeFromCRL ends a hold."""
    home = Home(tmp_path, ca.certificate)
    one, two = ca.issue("one"), ca.issue("two")
    ca.revoke("one", "-crl_hold", "holdInstructionReject")
    full, delta = tmp_path / "full.crl", tmp_path / "delta.crl"
    full.write_bytes(ca.crl())
    config = ca.folder / "ca.cnf"
    config.write_text(config.read_text() + "[delta]\n2.5.29.27 = critical, ASN1:INTEGER:1\n")
    feed = home.feed(home.source(SourceKind.DELTA_CRL, path=str(delta)), home.source(SourceKind.CRL, path=str(full)))
    first = feed.once().sources
    assert [report.changed for report in first] == [1, 0]
    assert "cannot be read" in first[1].problem
    lines = (ca.folder / "index.txt").read_text().splitlines()
    lines = [line.replace("holdInstruction,holdInstructionReject", "removeFromCRL") for line in lines]
    (ca.folder / "index.txt").write_text("\n".join(lines) + "\n")
    ca.revoke("two", "-crl_reason", "superseded")
    made = ca.crl("-crlexts", "delta")
    with pytest.raises(MalformedError, match="delta"):
        verify_crl(made, ca.certificate, now=now())
    verified = verify_delta_crl(made, ca.certificate, now=now())
    assert (verified.base, verified.number) == (1, 2)
    delta.write_bytes(made)
    reports = feed.once().sources
    assert [report.problem for report in reports] == ["", ""]
    assert reports[1].changed == 2
    assert home.status(one) == Good()
    assert isinstance(home.status(two), Revoked)
    assert only(home.feed(feed.sources[0])).problem.endswith("none was read")


PKI = make_pki(T)
CA = PKI.first


def delta(entries: dict[int, tuple[Instant, Flags | None]], *, number: int, base: int, at: Instant = T) -> bytes:
    return CA.crl(entries, this_update=at, number=number, delta_of=base)


def test_deltas_that_do_not_fit(tmp_path: Path) -> None:
    """A delta whose base was not read stops certificates, and does no more; one that is not newer is passed over."""
    home = Home(tmp_path, CA.der, Instant(T + HOUR))
    full, change = tmp_path / "full", tmp_path / "delta"
    full.write_bytes(CA.crl({1: (T, Flags.certificate_hold), 2: (T, Flags.certificate_hold)}, this_update=T, number=5))
    feed = home.feed(home.source(SourceKind.CRL, path=str(full)), home.source(SourceKind.DELTA_CRL, path=str(change)))
    change.write_bytes(delta({1: (T, Flags.remove_from_crl)}, number=5, base=4))
    assert [report.problem for report in feed.once().sources] == ["", ""]
    assert home.status(1) == Held(T)
    at = Instant(T + 60_000_000)
    entries = {1: (T, Flags.remove_from_crl), 3: (T, Flags.superseded)}
    change.write_bytes(delta(entries, number=9, base=6, at=at))
    report = feed.once().sources[1]
    assert "builds on the full list number 6" in report.problem
    assert (report.changed, report.as_of) == (1, 0)
    assert home.status(1) == Held(T)
    assert home.status(3) == Revoked(T, Reason.SUPERSEDED)
    assert home.store.issuers()[0].as_of == T
    change.write_bytes(delta(entries, number=9, base=5, at=at))
    report = feed.once().sources[1]
    assert (report.changed, report.as_of, report.problem) == (1, at, "")
    assert home.status(1) == Good()
    assert home.status(2) == Held(T)
    assert home.store.issuers()[0].as_of == at


def test_a_newer_hold_is_not_released_by_an_older_list(tmp_path: Path) -> None:
    """removeFromCRL ends the hold that the list knew of, not one that was set after it."""
    home = Home(tmp_path, CA.der, Instant(T + 9 * HOUR))
    full, change = tmp_path / "full", tmp_path / "delta"
    full.write_bytes(CA.crl({}, this_update=T, number=1))
    change.write_bytes(delta({1: (T, Flags.remove_from_crl), 2: (T, Flags.remove_from_crl)}, number=2, base=1))
    for serial, since in ((1, T + 1_000_000), (2, T)):
        home.pen.enter([Stopped(home.issuer, serial_bytes(serial), since, "certificateHold")])
    home.feed(home.source(SourceKind.CRL, path=str(full)), home.source(SourceKind.DELTA_CRL, path=str(change))).once()
    assert isinstance(home.status(1), Held)
    assert home.status(2) == Good()


def test_bad_deltas() -> None:
    """A full list, a future one, another CA's, a changed byte, a number before its base: each is refused."""
    good = delta({1: (T, None)}, number=3, base=2)
    assert verify_delta_crl(good, CA.der, now=T).base == 2
    broken = good[:-5] + bytes([good[-5] ^ 1]) + good[-4:]
    for data, issuer, error in (
        (CA.crl({}, this_update=T), CA.der, MalformedError),
        (delta({}, number=1, base=2), CA.der, MalformedError),
        (delta({}, number=3, base=2, at=Instant(T + HOUR)), CA.der, CorruptObject),
        (good, PKI.second.der, WrongFingerprint),
        (broken, CA.der, CorruptObject),
        (good[:-20], CA.der, MalformedError),
    ):
        with pytest.raises(error):
            verify_delta_crl(data, issuer, now=T)


def test_a_delta_is_read_again_when_its_base_comes(tmp_path: Path) -> None:
    """A delta that came first counts in full as soon as the full list that it stands on was read."""
    home = Home(tmp_path, CA.der, now())
    at = Instant(home.clock() - HOUR)
    full, change = tmp_path / "full", tmp_path / "delta"
    change.write_bytes(delta({1: (at, Flags.remove_from_crl)}, number=7, base=6, at=Instant(at + 60_000_000)))
    for path in (change,):
        os.utime(path, (1, 1))
    feed = home.feed(home.source(SourceKind.CRL, path=str(full)), home.source(SourceKind.DELTA_CRL, path=str(change)))
    assert "none was read" in feed.once().sources[1].problem
    later(home)
    full.write_bytes(CA.crl({1: (at, Flags.certificate_hold)}, this_update=at, number=6))
    assert [report.problem for report in feed.once().sources] == ["", ""]
    assert home.status(1) == Good()
    feed.forget()
    assert [report.changed for report in feed.once().sources] == [1, 1]
    assert home.status(1) == Good()


def test_a_list_is_not_blamed_for_what_came_after_it(tmp_path: Path) -> None:
    """What was stopped after a list's time is not withdrawn by it."""
    home = Home(tmp_path, CA.der, Instant(T + HOUR))
    path = tmp_path / "crl"
    path.write_bytes(CA.crl({}, this_update=T))
    for serial, since in ((1, T), (2, T + 1)):
        home.pen.enter([Stopped(home.issuer, serial_bytes(serial), since, "superseded")])
    assert only(home.feed(home.source(SourceKind.CRL, path=str(path)))).withdrawn == (Serial(1),)


def test_drop_folder(tmp_path: Path) -> None:
    """The newest good list of a folder counts; bad ones are told; names with a dot are not looked at."""
    home = Home(tmp_path, CA.der, Instant(T + HOUR))
    folder = tmp_path / "drop"
    folder.mkdir()
    feed = home.feed(home.source(SourceKind.CRL, path=str(folder)))
    assert "nothing was dropped" in only(feed).problem
    (folder / "b").write_bytes(CA.crl({1: (T, None)}, this_update=Instant(T - HOUR)))
    (folder / "a").write_bytes(CA.crl({2: (T, None)}, this_update=T))
    (folder / ".coming").write_bytes(b"half")
    report = only(feed)
    assert (report.changed, report.as_of, report.problem) == (1, T, "")
    assert home.status(1) == Unknown()
    (folder / "c").write_bytes(PKI.second.crl({3: (T, None)}, this_update=T))
    newer = Instant(T + 60_000_000)
    (folder / "d").write_bytes(CA.crl({2: (T, None)}, this_update=newer))
    report = only(feed)
    assert "1 of the files" in report.problem
    assert report.as_of == newer
    (folder / "d").unlink()
    for name in ("a", "b"):
        (folder / name).unlink()
    assert "is of" in only(feed).problem
    assert home.status(3) == Unknown()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``answers``: by path (status, headers, body)."""

    answers: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("if-none-match")))
        status, headers, body = self.answers[self.path]
        if headers.get("etag") and headers["etag"] == self.headers.get("if-none-match"):
            status, body = 304, b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    handler = type("Handler", (Server,), {"answers": {}, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", handler
        listening.shutdown()
        thread.join()


def test_over_http(tmp_path: Path, server: tuple[str, type[Server]]) -> None:
    """Fetched once, then asked for by its tag; a redirect on the same host is followed, another place is not."""
    base, handler = server
    home = Home(tmp_path, CA.der, Instant(T + HOUR))
    handler.answers = {
        "/crl": (302, {"location": "/real"}, b""),
        "/real": (200, {"etag": '"one"'}, CA.crl({1: (T, None)}, this_update=T)),
        "/away": (302, {"location": "http://127.0.0.2:1/crl"}, b""),
        "/file": (302, {"location": "file:///etc/passwd"}, b""),
        "/round": (302, {"location": "/round"}, b""),
        "/gone": (404, {}, b""),
        "/rubbish": (200, {}, b"<html>"),
    }
    feed = home.feed(home.source(SourceKind.CRL, url=f"{base}/crl"))
    assert only(feed).changed == 1
    before, asked = home.count(), len(handler.asked)
    assert only(feed).problem == ""
    assert len(handler.asked) == asked, "asked again at once"
    later(home, 60)
    assert only(feed).problem == ""
    assert home.count() == before
    assert handler.asked[-1] == ("/real", '"one"')
    handler.answers["/real"] = (200, {"etag": '"two"'}, CA.crl({1: (T, None), 2: (T, None)}, this_update=T))
    later(home, 60)
    assert only(feed).changed == 1
    del handler.answers["/real"]
    later(home, 60)
    assert "does not answer" in only(feed).problem
    assert "does not answer" in only(feed).problem, "told until it is asked again"
    for path, says in (
        ("/away", "another place"), ("/file", "another place"), ("/round", "circles"), ("/gone", "404"),
        ("/rubbish", "not in the format"),
    ):  # fmt: skip
        assert says in only(home.feed(home.source(SourceKind.CRL, url=base + path))).problem
    closed = only(home.feed(home.source(SourceKind.CRL, url="http://127.0.0.1:9/crl")))
    assert "does not answer" in closed.problem


def test_too_long_over_http(tmp_path: Path, server: tuple[str, type[Server]], monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is cut off at the limit."""
    base, handler = server
    handler.answers = {"/crl": (200, {}, bytes(200_000))}
    monkeypatch.setattr("exclave.operations.identity_feed.MAX_CRL_BYTES", 100_000)
    home = Home(tmp_path, CA.der, T)
    assert "longer than 100000" in only(home.feed(home.source(SourceKind.CRL, url=f"{base}/crl"))).problem


def test_only_the_authority_feeds(tmp_path: Path) -> None:
    """Where the authority is not, nothing is entered and the run ends."""
    home = Home(tmp_path, CA.der, T)
    path = tmp_path / "crl"
    path.write_bytes(CA.crl({1: (T, None)}, this_update=T))
    source = home.source(SourceKind.CRL, path=str(path))
    home.state = IdentityState.RETURNING
    before = home.count()
    with pytest.raises(NotAuthorised):
        home.feed(source).once()
    assert home.count() == before
    home.state = IdentityState.HOME
    assert home.feed(source).once().sources[0].changed == 1


# Tables


def row(text: str) -> bytes:
    return text.encode() + b"\n"


TABLE = (
    HEADER + row("0,issued,,") + row("A1,held,2026-11-23T14:22:01Z,")
    + row("FF,revoked,2026-11-23T14:22:01Z,keyCompromise") + row("B2,released,2026-11-24T00:00:00Z,")
)  # fmt: skip
AT = parse_second("2026-11-23T14:22:01Z")


def test_table(tmp_path: Path) -> None:
    """Every state; a release ends an older hold and no newer one; the table replaces no knowledge of others."""
    home = Home(tmp_path, CA.der)
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE)
    for serial, since in ((0xB2, AT), (0x7, AT)):
        home.pen.enter([Stopped(home.issuer, serial_bytes(serial), since, "certificateHold")])
    feed = home.feed(home.source(SourceKind.CSV, path=str(path)))
    report = only(feed)
    assert (report.problem, report.changed, report.withdrawn) == ("", 6, (Serial(7),))
    assert [home.status(s) for s in (0, 0xA1, 0xFF, 0xB2)] == [
        Good(), Held(AT), Revoked(AT, Reason.KEY_COMPROMISE), Good(),
    ]  # fmt: skip
    late = Instant(AT + 2 * 86400 * 1_000_000)
    home.pen.enter([Stopped(home.issuer, serial_bytes(0xB2), late, "certificateHold")])
    path.write_bytes(TABLE + row("C3,issued,,"))
    report = only(feed)
    assert report.changed == 1
    assert home.status(0xB2) == Held(late)
    assert Serial(0xB2) in report.withdrawn


@pytest.mark.parametrize(
    "bad",
    [
        "", "A1", "A1,issued,", "A1,issued,,,", "a1,issued,,", "0A,issued,,", "-1,issued,,", "A1 ,issued,,",
        "F" * 41 + ",issued,,", ",issued,,", "A1,Issued,,", "A1,good,,", "A1,issued,2026-11-23T14:22:01Z,",
        "A1,issued,,superseded", "A1,held,,", "A1,held,2026-11-23T14:22:01Z,certificateHold",
        "A1,revoked,2026-11-23T14:22:01Z,", "A1,revoked,2026-11-23T14:22:01Z,removeFromCRL",
        "A1,revoked,,superseded", "A1,revoked,2026-13-23T14:22:01Z,superseded", "A1,revoked,2026-11-23,superseded",
        "A1,revoked,2026-11-23T14:22:01+00:00,superseded", "A1,revoked,1969-11-23T14:22:01Z,superseded",
        "A1,released,,", '"A1",issued,,', "A1,issued,,\r", "А1,issued,,", "0,issued,,", "A1,issued,," + " " * 200,
        "A1,revoked,٢٠٢٦-11-23T14:22:01Z,superseded",
    ],
)  # fmt: skip
def test_bad_rows(bad: str) -> None:
    """A row that deviates is refused with its line, and the whole table with it."""
    with pytest.raises(MalformedError, match="line 3"):
        read_table(io.BytesIO(HEADER + row("0,issued,,") + row(bad)), issuer=ISSUER, as_of=T)


def test_bad_headers() -> None:
    """Another header, or none, is not our table."""
    for head in (
        b"",
        b"serial;state;time;reason\n",
        b"serial,state,time,reason",
        b"\xef\xbb\xbf" + HEADER,
        HEADER.upper(),
    ):
        with pytest.raises(MalformedError, match="line 1"):
            read_table(io.BytesIO(head), issuer=ISSUER, as_of=T)


@given(st.integers(0, 2**160 - 1), st.integers(0, 253_402_300_799), st.sampled_from(["held", "revoked", "released"]))
def test_rows_are_read_as_written(serial: int, seconds: int, state: str) -> None:
    """Number and time come out as they went in."""
    moment = datetime.fromtimestamp(seconds, UTC)
    text = f"{moment.year:04}-{moment:%m-%dT%H:%M:%S}Z"
    found, told = parse_row(row(f"{serial:X},{state},{text},{'superseded' if state == 'revoked' else ''}"))
    assert found == serial
    assert (told if isinstance(told, int) else told.time if told else None) == seconds * 1_000_000


# The difference alone


STOPS = st.none() | st.builds(Held, st.integers(0, 3).map(Instant)) | st.builds(
    Revoked, st.integers(0, 3).map(Instant), st.sampled_from(list(Reason)[:3])
)  # fmt: skip
SERIALS = st.integers(0, 4).map(Serial)
LOGS = st.dictionaries(SERIALS, STOPS)


def as_reading(states: dict[Serial, Stop | None], **options: object) -> Reading:
    stops = {serial: stop for serial, stop in states.items() if stop is not None}
    return Reading(StatusLog(ISSUER, T, frozenset(states), stops), **options)  # type: ignore[arg-type]


@given(LOGS, LOGS, st.none() | LOGS, st.booleans())
def test_nothing_is_taken_back(
    said: dict[Serial, Stop | None],
    known: dict[Serial, Stop | None],
    before: dict[Serial, Stop | None] | None,
    index: bool,
) -> None:
    """After a reading nothing revoked is less revoked, each stop that vanished is withdrawn or was the source's hold,
    and reading the same again changes nothing."""
    stops = {serial: stop for serial, stop in known.items() if stop is not None}
    reading = as_reading(said, valid_ends_holds=index)
    earlier = None if before is None else as_reading(before)
    found = compare(reading, stops, known.__contains__, earlier)
    after = dict(stops)
    for serial, stop in found.stopped:
        after[serial] = stop
    for serial in found.released:
        assert isinstance(after.pop(serial), Held)
        assert index
        assert before is not None
        assert before.get(serial) == stops[serial]
    assert set(found.withdrawn) == {s for s in stops if said.get(s) is None} - set(found.released)
    issued = {*known, *said}
    again = compare(reading, after, issued.__contains__, reading)
    assert again.stopped == again.issued == ()

"""Names that move at a real, signing Knot server: one update or none, undone exactly, and told honestly."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import dns.dnssec
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rrset
import dns.update
import msgspec
import pytest

from exclave.errors import Busy, ConfigError, HeadMoved, KeyFileExposed, NotAuthorised, UnavailableError, UsageError
from exclave.formats.dnsplan import HOME, DnsPlan, parse_dns_plan
from exclave.formats.namesmoved import parse_names_moved
from exclave.ids import Instant, Label
from exclave.operations import identity_names
from exclave.operations.identity_names import NamesReport, check_names, move_names, prepare_names, undo_names
from exclave.runners.dns import read_sets
from support.knot import STRANGER, UPDATER, ZONE, Knot, free_port, key_file, primary, secondary_of

NOW = Instant(1_790_000_000_000_000)
LUX, OSLO = Label("lux"), Label("oslo")
RECORDS = """
tara 600 A 192.0.2.1
tara 600 AAAA 2001:db8::1
login 600 CNAME tara
state 600 TXT "at home"
other 600 A 192.0.2.9
"""
PLAN = """
zone = "demo.test"
servers = [{servers}]
key_file = "{key}"
ttl_s = 30
resolvers = [{resolvers}]
timeout_s = 1.0

[[record]]
name = "tara.demo.test"
type = "A"
home = ["192.0.2.1"]
embassy = {{ lux = ["198.51.100.2", "198.51.100.1"], oslo = ["203.0.113.1"] }}

[[record]]
name = "tara.demo.test"
type = "AAAA"
home = ["2001:db8::1"]
embassy = {{ lux = ["2001:db8:1::1"], oslo = ["2001:db8:2::1"] }}

[[record]]
name = "login.demo.test"
type = "CNAME"
home = ["tara.demo.test"]
embassy = {{ lux = ["tara-lux.demo.test"], oslo = ["tara-oslo.demo.test"] }}

[[record]]
name = "state.demo.test"
type = "TXT"
home = ["at home"]
embassy = {{ lux = ["in Luxembourg"], oslo = ["in \\"Oslo\\""] }}
"""


def _quoted(addresses: list[str]) -> str:
    return ", ".join(f'"{address}"' for address in addresses)


def _plan(
    folder: Path, servers: list[str], resolvers: list[str] | None = None, key: tuple[str, str, str] = UPDATER
) -> DnsPlan:
    key_file(folder / "dns.key", key)
    text = PLAN.format(servers=_quoted(servers), resolvers=_quoted(resolvers or []), key="dns.key")
    return parse_dns_plan(text.encode())


@pytest.fixture
def knot(tmp_path: Path) -> Iterator[Knot]:
    with primary(tmp_path / "primary", RECORDS) as server:
        yield server


class Mover:
    """The verbs with their folders."""

    def __init__(self, plan: DnsPlan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.said: list[str] = []
        self.say: Callable[[str], None] = self.said.append
        """Tests put what shall happen just before the update here."""

    def move(self, place: Label = LUX) -> NamesReport:
        return move_names(self.plan, place, self.folder, self.folder / "state", now=NOW, say=self.say)

    def undo(self) -> NamesReport:
        return undo_names(self.plan, self.folder, self.folder / "state", self.say)

    def led_to(self, state: str = "state") -> Label | None:
        """Where a move that was not undone led, by what is written down in that folder."""
        path = self.folder / state / f"names-{self.plan.zone}.json"
        return Label(parse_names_moved(path.read_bytes()).place) if path.exists() else None


@pytest.fixture
def mover(knot: Knot, tmp_path: Path) -> Mover:
    return Mover(_plan(tmp_path, [knot.address]), tmp_path)


def _dig(knot: Knot, name: str, kind: str) -> list[str]:
    """Knot's own client: values and times to live, as the world sees them."""
    done = subprocess.run(
        ["kdig", "@127.0.0.1", "-p", str(knot.port), "+noall", "+answer", f"{name}.{ZONE}", kind],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.split(maxsplit=4) for line in done.stdout.splitlines() if line and not line.startswith(";")]
    return sorted(f"{ttl} {value}" for _, ttl, _, found, value in lines if found == kind)


def _all(knot: Knot) -> dict[tuple[str, str], list[str]]:
    return {
        spot: _dig(knot, *spot)
        for spot in (("tara", "A"), ("tara", "AAAA"), ("login", "CNAME"), ("state", "TXT"), ("other", "A"))
    }


HOME_STATE = {
    ("tara", "A"): ["600 192.0.2.1"],
    ("tara", "AAAA"): ["600 2001:db8::1"],
    ("login", "CNAME"): ["600 tara.demo.test."],
    ("state", "TXT"): ['600 "at home"'],
    ("other", "A"): ["600 192.0.2.9"],
}
LUX_STATE = {
    ("tara", "A"): ["30 198.51.100.1", "30 198.51.100.2"],
    ("tara", "AAAA"): ["30 2001:db8:1::1"],
    ("login", "CNAME"): ["30 tara-lux.demo.test."],
    ("state", "TXT"): ['30 "in Luxembourg"'],
    ("other", "A"): ["600 192.0.2.9"],
}


def test_names_move_and_come_back_exactly(knot: Knot, mover: Mover) -> None:
    """All records of the plan move in one step and return with their own values and times; a second run is idle."""
    report = mover.move()
    assert _all(knot) == LUX_STATE
    assert report.everywhere
    assert (len(report.changes), report.server, report.settles_in_s) == (4, knot.address, 0)
    assert mover.led_to() == LUX
    assert mover.move().changes == ()
    assert mover.said[-1] == "The names lead to lux already."
    assert len(mover.undo().changes) == 4
    assert _all(knot) == HOME_STATE
    assert mover.led_to() is None
    with pytest.raises(UsageError, match="no move"):
        mover.undo()
    log = (knot.folder / "log").read_text()
    assert log.count("incrementally signed") == 2


def test_on_to_another_embassy_and_home(knot: Knot, mover: Mover) -> None:
    """A second move goes on from the first, and undoing it leads home, not to the first embassy."""
    mover.move(LUX)
    mover.move(OSLO)
    assert _dig(knot, "state", "TXT") == ['30 "in \\"Oslo\\""']
    assert mover.led_to() == OSLO
    mover.undo()
    assert _all(knot) == HOME_STATE


def test_home_is_a_place_too(knot: Knot, mover: Mover) -> None:
    """Moving home, from a machine that knows nothing of the move away, leads home and leaves nothing to be undone."""
    mover.move(LUX)
    home = Mover(mover.plan, mover.folder)
    report = move_names(home.plan, HOME, home.folder, home.folder / "elsewhere", now=NOW, say=home.say)
    assert report.everywhere
    assert _dig(knot, "tara", "A") == ["30 192.0.2.1"]
    assert home.led_to("elsewhere") is None
    mover.move(OSLO)
    assert mover.led_to() == OSLO
    mover.undo()
    assert _dig(knot, "tara", "A") == ["30 192.0.2.1"]


def test_prepared_names_move_faster(knot: Knot, mover: Mover) -> None:
    """In peace only the times to live change; then the world forgets the old values within them."""
    report = prepare_names(mover.plan, mover.folder, mover.say)
    assert len(report.changes) == 4
    assert _all(knot) == {
        spot: [v.replace("600", "30") if spot[0] != "other" else v for v in values]
        for spot, values in HOME_STATE.items()
    }
    assert prepare_names(mover.plan, mover.folder, mover.say).changes == ()
    mover.move()
    with pytest.raises(HeadMoved):
        prepare_names(mover.plan, mover.folder, mover.say)
    mover.undo()
    assert _dig(knot, "tara", "A") == ["30 192.0.2.1"]


def test_moved_names_are_signed(knot: Knot, mover: Mover) -> None:
    """After the move the zone's DNSSEC signatures are valid over the new values."""
    mover.move()

    def ask(name: str, kind: str) -> list[dns.rrset.RRset]:
        query = dns.message.make_query(name, kind, want_dnssec=True)
        return dns.query.tcp(query, "127.0.0.1", 2, knot.port).answer

    zone = dns.name.from_text(ZONE)
    keys = next(found for found in ask(f"{ZONE}.", "DNSKEY") if found.rdtype == dns.rdatatype.DNSKEY)
    for name, kind in (("tara", "A"), ("login", "CNAME"), ("state", "TXT")):
        answer = ask(f"{name}.{ZONE}.", kind)
        signed = next(found for found in answer if found.rdtype == dns.rdatatype.RRSIG)
        values = next(found for found in answer if found.rdtype == dns.rdatatype.from_text(kind))
        dns.dnssec.validate(values, signed, {zone: keys})


def test_resolvers_that_lag_are_told(tmp_path: Path) -> None:
    """Each resolver that still says the old value is named, with its time to live, until it has followed; one that is
    silent is named too."""
    port, dead = free_port(), free_port()
    with (
        primary(tmp_path / "primary", RECORDS, secondary=port) as knot,
        secondary_of(tmp_path / "second", port, knot.port) as second,
    ):
        plan = _plan(tmp_path, [knot.address], [second.address, f"127.0.0.1:{dead}"])
        mover = Mover(plan, tmp_path)
        second.freeze()
        report = mover.move()
        assert {row.server for row in report.rows if not row.there} == {second.address, f"127.0.0.1:{dead}"}
        second.thaw()
        deadline = time.monotonic() + 10
        while not all(row.there for row in check_names(plan, LUX).rows if row.server == second.address):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        rows = check_names(plan, Label("home")).rows
        lagging = [row for row in rows if row.server == second.address]
        assert {row.why for row in lagging} == {"as of lux"}
        assert {row.ttl_s for row in lagging} == {30}
        silent = [row for row in rows if row.server.endswith(f":{dead}")]
        assert all(row.why and row.values == () and not row.there for row in silent)
        assert check_names(plan, Label("home")).settles_in_s == 30


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (STRANGER, "PeerBadKey"),
        (("hmac-sha256", "nobody", UPDATER[2]), "PeerBadKey"),
        (("hmac-sha256", "exclave", STRANGER[2]), "PeerBadSignature"),
        (("hmac-sha512", "exclave", UPDATER[2]), "PeerBad"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_not_authorised(knot: Knot, tmp_path: Path, key: tuple[str, str, str], why: str) -> None:
    """A key that may only ask, an unknown one, a wrong secret or algorithm: refused, and nothing changes."""
    mover = Mover(_plan(tmp_path, [knot.address], key=key), tmp_path)
    with pytest.raises(NotAuthorised, match=why):
        mover.move()
    assert _all(knot) == HOME_STATE
    (tmp_path / "dns.key").chmod(0o644)
    with pytest.raises(KeyFileExposed):
        mover.move()


def test_names_that_somebody_else_changed_are_left_alone(knot: Knot, mover: Mover) -> None:
    """A value that no place of the plan has, or a record that is gone, stops the move before anything is changed."""
    _by_hand(knot, lambda update: update.replace("tara", 60, "A", "192.0.2.77"))
    with pytest.raises(HeadMoved, match="no place of the plan"):
        mover.move()
    _by_hand(knot, lambda update: update.delete("tara", "A"))
    with pytest.raises(HeadMoved, match="no A record"):
        mover.move()
    assert _dig(knot, "state", "TXT") == HOME_STATE["state", "TXT"]


def _by_hand(knot: Knot, change: Callable[[dns.update.UpdateMessage], None]) -> None:
    update = dns.update.UpdateMessage(
        ZONE, keyring={dns.name.from_text("exclave"): dns.tsig.Key("exclave", UPDATER[2], UPDATER[0])}
    )
    change(update)
    assert dns.query.tcp(update, "127.0.0.1", 2, knot.port).rcode() == dns.rcode.NOERROR


def test_a_change_in_between_changes_nothing(knot: Knot, mover: Mover) -> None:
    """If one record changes after it was read, the server carries out none of the update."""
    done = threading.Event()

    def interfere(line: str) -> None:
        if not done.is_set():
            done.set()
            _by_hand(knot, lambda update: update.replace("state", 60, "TXT", '"somebody"'))

    mover.say = interfere
    with pytest.raises(HeadMoved, match="no longer"):
        mover.move()
    assert _all(knot) == {**HOME_STATE, ("state", "TXT"): ['60 "somebody"']}


def test_a_server_that_hangs_in_between(knot: Knot, mover: Mover) -> None:
    """If the server hangs as the update is sent, the move is unavailable; run again later it ends as it should."""
    mover.say = lambda line: knot.freeze()
    with pytest.raises(UnavailableError, match="no answer that counts"):
        mover.move()
    knot.thaw()
    mover.say = mover.said.append
    mover.move()
    assert _all(knot) == LUX_STATE
    mover.undo()
    assert _all(knot) == HOME_STATE


def test_a_process_that_dies_around_the_update(knot: Knot, mover: Mover, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before or after the update, a new run, or an undo, finds its way."""

    class Died(BaseException):
        pass

    def die(*args: object) -> None:
        raise Died

    def apply_and_die(*args: object) -> None:
        whole(*args)
        raise Died

    whole = identity_names.apply_changes
    monkeypatch.setattr(identity_names, "apply_changes", die)
    with pytest.raises(Died):
        mover.move()
    monkeypatch.undo()
    assert mover.undo().changes == ()
    assert _all(knot) == HOME_STATE
    monkeypatch.setattr(identity_names, "apply_changes", apply_and_die)
    for place in (LUX, OSLO):
        with pytest.raises(Died):
            mover.move(place)
    with pytest.raises(Died):
        mover.undo()
    monkeypatch.undo()
    assert _all(knot) == HOME_STATE
    assert mover.undo().changes == ()
    assert mover.led_to() is None


def test_a_dead_server_is_passed_over(knot: Knot, tmp_path: Path) -> None:
    """The first server that answers is used; if none does, each is named."""
    dead = f"127.0.0.1:{free_port()}"
    Mover(_plan(tmp_path, [dead, knot.address]), tmp_path).move()
    assert _all(knot) == LUX_STATE
    knot.stop()
    with pytest.raises(UnavailableError, match=rf"{dead}.*{knot.address}"):
        Mover(_plan(tmp_path, [dead, knot.address]), tmp_path).undo()


def test_another_process_is_waited_for(mover: Mover) -> None:
    """While one process moves the names, a second one is told so."""

    def second(line: str) -> None:
        with pytest.raises(Busy):
            move_names(mover.plan, OSLO, mover.folder, mover.folder / "state", now=NOW, say=mover.said.append)

    mover.say = second
    mover.move()


def test_unknown_places_and_foreign_zones(knot: Knot, mover: Mover, tmp_path: Path) -> None:
    """A place that the plan does not know is a mistake in it; from a server that does not have the zone no answer
    counts."""
    with pytest.raises(ConfigError, match="no values for paris"):
        mover.move(Label("paris"))
    foreign = msgspec.structs.replace(mover.plan, zone="test")
    with pytest.raises(UnavailableError, match="TSIG"):
        Mover(foreign, tmp_path).move()


def _fake(answer: Callable[[bytes], bytes]) -> tuple[str, socket.socket]:
    """A name server that says what the test wants, over TCP."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                size = int.from_bytes(connection.recv(2), "big")
                said = answer(connection.recv(size))
                connection.sendall(len(said).to_bytes(2, "big") + said)

    threading.Thread(target=serve, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}", listener


@pytest.mark.parametrize(
    "answer",
    [
        lambda asked: dns.message.from_wire(asked[:12], ignore_trailing=True).to_wire()[:2] + b"\xa8\x00" + bytes(8),
        lambda asked: b"",
        lambda asked: b"\x00" * 40,
        lambda asked: bytes(range(200)),
        lambda asked: asked[:2] + b"\xa8\x02" + bytes(8),
    ],
)  # fmt: skip
def test_a_false_server_is_not_believed(tmp_path: Path, answer: Callable[[bytes], bytes]) -> None:
    """Unsigned consent, nothing, noise and unsigned failure from somebody in between: unavailable, nothing believed."""

    def say(asked: bytes) -> bytes:
        try:
            return answer(asked)
        except dns.exception.DNSException:
            return asked[:2] + b"\xa8\x00" + bytes(8)

    address, listener = _fake(say)
    with closing(listener), pytest.raises(UnavailableError):
        Mover(_plan(tmp_path, [address]), tmp_path).move()


def test_the_state_must_be_whole(knot: Knot, mover: Mover) -> None:
    """A damaged record of the move is refused by name, not guessed at."""
    mover.move()
    (file,) = (mover.folder / "state").glob("*.json")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UsageError, match="moved names"):
        mover.undo()
    assert _all(knot) == LUX_STATE


def test_a_missing_record_is_left_out(knot: Knot, mover: Mover) -> None:
    """What the server does not have is not in what is read."""
    key = identity_names.load_tsig_key(str(mover.folder / "dns.key"))
    found = read_sets(mover.plan, key, knot.address, [("tara.demo.test", "A"), ("nowhere.demo.test", "A")])
    assert list(found) == [("tara.demo.test", "A")]
    assert replace(found["tara.demo.test", "A"], ttl_s=0).says() == "tara.demo.test A 192.0.2.1 (0 s)"

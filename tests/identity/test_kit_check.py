"""The weekly check of the exile kit: a whole kit passes, and each thing that is amiss is told by name."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from exclave.crypto.tls_certificate import read_tls
from exclave.demo.pki import make_pki, pem
from exclave.errors import CorruptObject, MalformedError
from exclave.formats.dnsplan import parse_dns_plan
from exclave.identity.contract import IssuerInfo
from exclave.identity.key_folder import KeyFolder
from exclave.ids import Instant, Label, now
from exclave.operations.identity_check import KitPlaces, gather_kit
from exclave.operations.identity_kit import KitWishes, accept_certificates, request_kit
from exclave.rules.kit import (
    ClockSeen,
    Gathered,
    KitReport,
    LadderSeen,
    LogSeen,
    NameSeen,
    RowState,
    TlsSeen,
    TokensSeen,
    UpdateSeen,
    check_kit,
)
from exclave.rules.ladder import DAY_S, Window, plan
from support.kit import KitStore, info_of
from support.knot import UPDATER, Knot, free_port, key_file, primary

DAY = DAY_S * 1_000_000
NOW = Instant(1_790_000_000_000_000)
PLACE, CA = Label("luxembourg"), Label("esteid-2018")

WHOLE = Gathered(
    place=PLACE, now=NOW, decides=False, store_problem="",
    ladders=(LadderSeen(PLACE, CA, plan(NOW)),),
    logs=(LogSeen(CA, True, Instant(NOW - 60_000_000), Instant(0), True),),
    tokens=TokensSeen(frozenset({"a", "b"}), (), frozenset({"a", "b", "c"}), frozenset({"a", "b", "z"})),
    names=(NameSeen("tara.demo.test", "192.0.2.53:53", ("192.0.2.1",), 60),),
    tls=(TlsSeen("tara.demo.test", "", True, True, Instant(NOW - DAY), Instant(NOW + 60 * DAY)),),
    update=UpdateSeen("192.0.2.53:53"),
    clocks=(ClockSeen("https://home.test/jwks", 0.4),),
)  # fmt: skip


def test_a_whole_kit_passes() -> None:
    """Every row of a whole kit is good, and the report says how long it stays so."""
    report = check_kit(WHOLE)
    assert [row.state for row in report.rows] == [RowState.OK] * 10
    assert report.whole
    assert report.good_until == NOW + 60 * DAY


_TLS, _LOG, _TOKENS = WHOLE.tls[0], WHOLE.logs[0], WHOLE.tokens


_FAR = Window(Instant(NOW + 400 * DAY), Instant(NOW + 410 * DAY))


def _ladder(windows: tuple[Window, ...], *unusable: str) -> Gathered:
    return replace(WHOLE, ladders=(LadderSeen(PLACE, CA, windows, unusable),))


def _tokens(**changed: object) -> Gathered:
    return replace(WHOLE, tokens=replace(_TOKENS, **changed))  # type: ignore[arg-type]


def _name(**changed: object) -> Gathered:
    return replace(WHOLE, names=(replace(WHOLE.names[0], **changed),))  # type: ignore[arg-type]


def _tls(**changed: object) -> Gathered:
    return replace(WHOLE, tls=(replace(_TLS, **changed),))  # type: ignore[arg-type]


def _log(**changed: object) -> Gathered:
    return replace(WHOLE, logs=(replace(_LOG, **changed),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gathered", "what", "state", "detail"),
    [
        (replace(WHOLE, arrival="nothing came; do it"), "identity feed", "alarm", "do it"),
        (replace(WHOLE, store_problem="the disk died"), "status store", "missing", "disk died"),
        (replace(WHOLE, logs=()), "status store", "missing", "no issuing CA"),
        (_ladder(()), "certificates of luxembourg", "missing", "there is none"),
        (_ladder(plan(NOW), "the key is gone"), "certificates", "alarm", "is gone"),
        (_ladder((), "the key is gone"), "certificates", "alarm", "is gone"),
        (_ladder(plan(Instant(NOW + DAY))), "certificates", "missing", "2026-09-22"),
        (_ladder(plan(NOW, rungs=2)), "certificates", "alarm", "less than 90 days"),
        (_ladder((*plan(NOW, rungs=2), _FAR)), "certificates", "alarm", "covered; gap from 2026-12-05 to 2027-10-26"),
        (_ladder((*plan(NOW), _FAR)), "certificates", "alarm", "gap from 2027-10-01 to 2027-10-26"),
        (_tokens(own=frozenset()), "token keys", "missing", "has none"),
        (_tokens(unusable=("key one: gone",)), "token keys", "alarm", "key one"),
        (_tokens(strange=("atlantis",)), "token keys of strangers", "alarm", "atlantis"),
        (_tokens(in_journal=frozenset("a")), "token keys in the journal", "missing", "published: b"),
        (_tokens(at_home=frozenset("b")), "token keys in home's", "missing", "published: a"),
        (_tokens(at_home=None, problem="no answer"), "token keys in home's", "alarm", "no answer"),
        (replace(WHOLE, names=()), "names", "missing", "configured"),
        (_name(ttl_s=301), "tara.demo.test asked", "alarm", "301 s"),
        (_name(addresses=()), "tara.demo.test asked", "alarm", "no address"),
        (_name(problem="silent"), "tara.demo.test asked", "alarm", "silent"),
        (replace(WHOLE, tls=()), "TLS certificate", "missing", "configured"),
        (_tls(problem="no such file"), "TLS certificate for tara", "missing", "no such file"),
        (_tls(key_matches=False), "TLS certificate", "alarm", "another one's"),
        (_tls(covered=False), "TLS certificate", "alarm", "does not name"),
        (_tls(begin=Instant(NOW + 1)), "TLS certificate", "alarm", "not valid before"),
        (_tls(end=Instant(NOW + 30 * DAY - 1)), "TLS certificate", "alarm", "29 days"),
        (_tls(end=Instant(NOW - 1)), "TLS certificate", "alarm", "has ended"),
        (replace(WHOLE, update=UpdateSeen()), "key that moves", "missing", "names.toml"),
        (replace(WHOLE, update=UpdateSeen(problem="refused")), "key that moves", "alarm", "refused"),
        (_log(as_of=Instant(0)), "statuses of", "missing", "ever confirmed"),
        (_log(as_of=Instant(NOW - 901_000_000)), "statuses of", "alarm", "901 s old"),
        (_log(live=False, next_update=Instant(NOW - 1)), "statuses of", "alarm", "promised"),
        (_log(live=False, as_of=Instant(NOW - 2 * DAY)), "statuses of", "alarm", "last list"),
        (_log(issued_known=False), "statuses of", "alarm", "good is said of nobody"),
        (replace(WHOLE, clocks=()), "clock", "missing", "compare"),
        (replace(WHOLE, clocks=(ClockSeen("x", -3.6),)), "clock against x", "alarm", "-4 s"),
        (replace(WHOLE, clocks=(ClockSeen("x", problem="silent"),)), "clock against x", "alarm", "silent"),
    ],
)
def test_each_fault_is_told(gathered: Gathered, what: str, state: str, detail: str) -> None:
    """One thing amiss makes its own row bad, says what to do, and leaves the other rows good."""
    report = check_kit(gathered)
    bad = [row for row in report.rows if row.state is not RowState.OK]
    assert not report.whole
    assert bad[0].what.startswith(what)
    assert bad[0].state == state
    assert detail in bad[0].detail
    assert len(bad) == 1


def test_in_exile_statuses_are_as_recent_as_now() -> None:
    """Where the authority is here, an old feed is no alarm."""
    old = replace(WHOLE, decides=True, logs=(replace(_LOG, as_of=Instant(NOW - 9 * DAY)),))
    assert check_kit(old).whole


# Against real servers and files


@dataclass
class Scene:
    """A kit that is whole, and the means to spoil it."""

    keys: KeyFolder
    store: KitStore
    places: KitPlaces
    folder: Path
    knot: Knot
    jwks: list[bytes]
    now: Instant

    def check(self, **changed: object) -> KitReport:
        places = replace(self.places, **changed)  # type: ignore[arg-type]
        return check_kit(gather_kit(self.keys, self.store, PLACE, places, now=self.now, clock=now, decides=False))


def _tls_files(folder: Path, names: list[str], at: Instant) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    begin = datetime.fromtimestamp(at // 1_000_000, UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(begin + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(pem(certificate))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    private.chmod(0o600)
    return chain, private


@contextmanager
def _serving(bodies: list[bytes]) -> Iterator[str]:
    """Home's key set, over HTTP."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if bodies else 500)
            self.end_headers()
            self.wfile.write(b"".join(bodies))

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/jwks"
    server.shutdown()
    server.server_close()


NAMES = """
zone = "demo.test"
servers = ["{server}"]
key_file = "dns.key"
ttl_s = 60
timeout_s = 1.0
[[record]]
name = "tara.demo.test"
type = "A"
home = ["192.0.2.1"]
embassy = {{ luxembourg = ["198.51.100.1"] }}
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder, at = tmp_path_factory.mktemp("kit"), now()
    pki = make_pki(at)
    store = KitStore((info_of(pki.first, "esteid-2018", as_of=at), info_of(pki.second, "esteid-2025", as_of=at)))
    keys = KeyFolder(folder / "identity-keys")
    made = request_kit(keys, store, PLACE, folder / "out", KitWishes("EE", "Demo"), now=at, say=lambda line: None)
    answers = []
    for request in made.requests:
        ca = pki.first if request.issuer == "esteid-2018" else pki.second
        csr = x509.load_pem_x509_csr((made.folder / request.file).read_bytes())
        answers.append(pem(ca.certify(csr, begin=request.window.begin, days=45)))
    store.enter([*accept_certificates(keys, store, PLACE, answers, now=at).bodies, made.place_keys])
    chain, private = _tls_files(folder, ["tara.demo.test"], at)
    key_file(folder / "dns.key", UPDATER)
    jwks = [made.place_keys.jwks]
    with (
        primary(folder / "knot", "tara 60 A 192.0.2.1\naia 60 CNAME tara\nslow 900 A 192.0.2.3\n") as knot,
        _serving(jwks) as url,
    ):
        places = KitPlaces(
            (PLACE,), url, None, ("tara.demo.test",), ("aia.demo.test",), (knot.address,), chain, private,
            parse_dns_plan(NAMES.format(server=knot.address).encode()), folder,
        )  # fmt: skip
        yield Scene(keys, store, places, folder, knot, jwks, at)


def test_a_real_kit_passes(scene: Scene) -> None:
    """Keys, certificates, names, TLS files, update key, statuses and clock of a real embassy are all found good."""
    report = scene.check()
    assert [(row.what, row.detail) for row in report.rows if row.state is not RowState.OK] == []
    assert len(report.rows) == 13
    assert report.good_until is not None


def _bad(report: KitReport) -> dict[str, str]:
    return {row.what: row.detail for row in report.rows if row.state is not RowState.OK}


def test_what_is_not_configured_is_missing(scene: Scene) -> None:
    """An empty configuration gives a report, not an exception: everything that it cannot look at is missing."""
    none = KeyFolder(scene.folder / "none")
    report = check_kit(
        gather_kit(none, scene.store, PLACE, KitPlaces((PLACE,)), now=scene.now, clock=now, decides=False)
    )
    assert set(_bad(report)) >= {"token keys", "names", "TLS certificate", "key that moves the names", "clock"}
    assert "is not here" in _bad(report)["certificates of luxembourg to answer for esteid-2018"]
    later = Instant(scene.now + 800 * DAY)
    report = check_kit(gather_kit(none, scene.store, PLACE, KitPlaces((PLACE,)), now=later, clock=now, decides=False))
    assert "there is none" in _bad(report)["certificates of luxembourg to answer for esteid-2018"]


def test_home_that_is_down_or_publishes_other_keys(scene: Scene) -> None:
    """A home that does not answer, answers nonsense, or lacks our keys is told, and nothing else suffers."""
    rows = _bad(scene.check(jwks_url=f"http://127.0.0.1:{free_port()}/"))
    assert len(rows) == 2
    assert all("does not answer" in detail for detail in rows.values())
    assert "https address" in _bad(scene.check(jwks_url="file:///etc/passwd"))["token keys in home's key set"]
    kept = scene.jwks[:]
    for body, word in (
        (b"nonsense", "not a JWK set"),
        (b'{"keys":[]}', "not published"),
        (b"x" * 300_000, "more than"),
    ):
        scene.jwks[:] = [body]
        assert word in _bad(scene.check())["token keys in home's key set"]
    scene.jwks[:] = []
    assert "status 500" in _bad(scene.check())["token keys in home's key set"]
    scene.jwks[:] = kept


def test_names_that_are_slow_or_unknown(scene: Scene) -> None:
    """A long time to live, an unknown host and a resolver that is silent each make their row bad."""
    dead = f"127.0.0.1:{free_port()}"
    rows = _bad(scene.check(status_hosts=("slow.demo.test", "nobody.demo.test"), resolvers=(scene.knot.address, dead)))
    assert "900 s" in rows[f"slow.demo.test asked of {scene.knot.address}"]
    assert "NXDOMAIN" in rows[f"nobody.demo.test asked of {scene.knot.address}"]
    assert sum(dead in what for what in rows) == 3
    wrong = msgspec.structs.replace(scene.places.names, key_file="none.key")
    assert "cannot be opened" in _bad(scene.check(names=wrong))["key that moves the names"]


def test_tls_files_that_do_not_fit(scene: Scene, tmp_path: Path) -> None:
    """Another host's, a missing or an exposed file, and a key of another certificate are told."""
    chain, private = _tls_files(tmp_path, ["*.demo.test", "other.test"], scene.now)
    assert not _bad(scene.check(tls_chain=chain, tls_key=private))
    what = "TLS certificate for tara.demo.test"
    assert "another one's" in _bad(scene.check(tls_chain=chain))[what]
    unseen = [row.detail for row in scene.check(tls_chain=chain, tls_key=None).rows if row.what == what]
    assert unseen == ["88 days left; its key was not looked at"]
    assert "no certificate" in _bad(scene.check(tls_chain=None))[what]
    assert "cannot be read" in _bad(scene.check(tls_chain=tmp_path / "none"))[what]
    assert (
        "does not name"
        in _bad(scene.check(tls_chain=chain, tls_key=private, issuer_hosts=("a.b.demo.test",)))[
            "TLS certificate for a.b.demo.test"
        ]
    )
    private.chmod(0o644)
    assert "other users" in _bad(scene.check(tls_chain=chain, tls_key=private))[what]
    for wrong in ((b"x", private.read_bytes()), (chain.read_bytes(), b"x"), (chain.read_bytes(), b"")):
        with pytest.raises(MalformedError):
            read_tls(*wrong)


def test_keys_and_stores_that_fail(scene: Scene, tmp_path: Path) -> None:
    """An exchanged responder key, and a store that cannot be read, are told; the check goes on."""
    name = scene.keys.records()[0].name
    file = scene.keys.path / f"{name}.pem"
    kept = file.read_bytes()
    file.write_bytes((scene.keys.path / f"{scene.keys.records()[1].name}.pem").read_bytes())
    spoilt = replace_keys(scene, KeyFolder(scene.keys.path))
    assert "another one" in _bad(spoilt.check())["certificates of luxembourg to answer for esteid-2018"]
    file.write_bytes(kept)

    class Broken(KitStore):
        def issuers(self) -> tuple[IssuerInfo, ...]:
            raise CorruptObject("the store is damaged")

    broken = Scene(scene.keys, Broken(()), scene.places, scene.folder, scene.knot, scene.jwks, scene.now)
    assert "damaged" in _bad(broken.check())["status store"]


def replace_keys(scene: Scene, keys: KeyFolder) -> Scene:
    """The same kit with other keys."""
    return Scene(keys, scene.store, scene.places, scene.folder, scene.knot, scene.jwks, scene.now)

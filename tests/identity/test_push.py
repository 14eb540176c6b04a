"""Pushes: the example client against a real server, order and repeats, bad signatures, bad content."""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey
from starlette.applications import Starlette

from exclave.crypto.crl import issuer_id
from exclave.crypto.jws import parse_sender_key, verify_message
from exclave.demo.pki import make_pki
from exclave.errors import CorruptObject, MalformedError, OutcomeUnknown
from exclave.formats.journal import Issuer, Pushed
from exclave.formats.push import Change, Push, encode_push, parse_push, parse_second
from exclave.identity.contract import Authority, IdentityState
from exclave.identity.feeding.pushing import PushDesk, Sender
from exclave.identity.journal import Journal
from exclave.identity.status_log import Good, Held, Reason, Revoked, Serial
from exclave.identity.store_sqlite import open_sqlite
from exclave.identity.sync import Pen
from exclave.ids import Instant, Label, now
from exclave.serve.push import MAX_BODY_BYTES, answer_push, routes

SPEC = (Path(__file__).parents[2] / "docs" / "spec" / "push.md").read_text()
T = parse_second("2026-11-23T14:22:02Z")
CA = make_pki(T).second
ISSUER = issuer_id(CA.der)
NAME = Label("ca-one")


def pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


ED, EC = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())


def private(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signed(content: bytes, *, kid: str = NAME, alg: str = "Ed25519", **more: object) -> bytes:
    key = OKPKey.import_key(private(ED)) if alg.startswith("Ed") else ECKey.import_key(private(EC))
    header = {"alg": alg, "kid": kid, **more}
    return jws.serialize_compact(header, content, key, registry=Long(algorithms=[alg])).encode()


class Long(jws.JWSRegistry):
    max_payload_length = 10 << 20


def message(sequence: int, *changes: Change, as_of: str = "2026-11-23T14:22:02Z") -> bytes:
    return encode_push(Push("esteid-2025", sequence, as_of, changes))


class Place:
    """A home that takes pushes."""

    def __init__(self, folder: Path, clock: Callable[[], Instant] = lambda: T) -> None:
        (folder / "journal").mkdir(exist_ok=True)
        self.state = IdentityState.HOME
        self.journal = Journal.open(str(folder / "journal"))
        self.store = open_sqlite(str(folder / "status.db"))
        self.pen = Pen(self.journal, self.store, lambda: Authority(self.state, Label("home"), 1, T), clock)
        if not self.store.issuers():
            self.pen.enter([Issuer("esteid-2025", CA.der, True)])
        senders = [Sender(NAME, parse_sender_key(pem(ED)), Label("esteid-2025"))]
        senders += [Sender(Label("ca-two"), parse_sender_key(pem(EC)), Label("esteid-2025"))]
        senders += [Sender(Label("ca-three"), parse_sender_key(pem(ED)), Label("unknown-ca"))]
        self.desk = PushDesk({s.name: s for s in senders}, self.store, self.pen, clock)

    def push(self, content: bytes, **header: object) -> tuple[int, dict[str, object]]:
        return answer_push(self.desk, signed(content, **header))  # type: ignore[arg-type]

    def status(self, serial: int) -> object:
        return self.store.status(ISSUER, Serial(serial))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Place]]:
    place = Place(tmp_path, now)
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes(place.desk)), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", place
    server.should_exit = True
    thread.join()


def test_the_example_of_the_page(served: tuple[str, Place], tmp_path: Path) -> None:
    """What the page shows, run by a shell with openssl and curl, enters what it says, once."""
    url, place = served
    script, example = re.search(r"```sh\n(.*?)```", SPEC, re.S), re.search(r"```json\n(.*?)```", SPEC, re.S)
    assert script is not None
    assert example is not None
    (tmp_path / "push.json").write_text(example[1])
    (tmp_path / "sender.key").write_bytes(private(ED))
    environment = {**os.environ, "SENDER": NAME, "URL": url}
    for repeated in (False, True):
        done = subprocess.run(
            ["sh", "-eu", "-c", script[1]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        answer = json.loads(done.stdout)
        assert (answer["sequence"], answer["repeated"], answer["ignored"]) == (1, repeated, [])
        head = place.journal.head()
        assert answer["head"] == {"number": head.number, "chain": head.chain.hex()}
    assert place.status(0x5A01) == Good()
    assert place.status(0x4F9C) == Revoked(Instant(T - 1_000_000), Reason.KEY_COMPROMISE)
    assert place.store.issuers()[0].as_of == T


def test_limits_over_http(served: tuple[str, Place]) -> None:
    """Another method, a body that is too long, rubbish: each gets its plain answer."""
    url, place = served
    before = place.journal.head()
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/push/v1").status_code == 405
        assert client.post("/push/v1", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 401
        named = signed(message(1)).split(b".")[0] + b"."
        assert client.post("/push/v1", content=named + b"x" * MAX_BODY_BYTES).status_code == 413
        for rubbish in (b"", b"a.b.c", b"{}", b"." * 1000, "õ.õ.õ".encode()):
            answer = client.post("/push/v1", content=rubbish)
            assert (answer.status_code, answer.json()["error"]) == (401, "signature")
            assert answer.headers["cache-control"] == "no-store"
    assert place.journal.head() == before


def change(serial: str, state: str, reason: str = "") -> Change:
    timed = "2026-11-23T14:22:01Z" if state in ("held", "revoked") else ""
    return Change(serial, state, timed, reason)  # type: ignore[arg-type]


def test_states(place: Place) -> None:
    """Issued, held, released, revoked; a release of what is not held is told; only changes become entries."""
    status, answer = place.push(message(7, change("A1", "issued"), change("B2", "held"), change("0", "issued")))
    assert (status, answer["changed"]) == (200, 4)
    assert [place.status(s) for s in (0, 0xA1, 0xB2)] == [Good(), Good(), Held(Instant(T - 1_000_000))]
    before = place.journal.head().number
    status, answer = place.push(message(8, change("A1", "issued"), change("B2", "held")))
    assert (status, answer["changed"]) == (200, 0)
    assert place.journal.head().number == before + 2
    status, answer = place.push(message(9, change("B2", "released"), change("A1", "revoked", "superseded")))
    assert (status, answer["changed"]) == (200, 2)
    assert place.status(0xB2) == Good()
    status, answer = place.push(message(10, change("A1", "released"), change("C3", "released")))
    assert (status, answer["ignored"]) == (200, ["A1", "C3"])
    assert isinstance(place.status(0xA1), Revoked)
    assert place.push(message(11))[0] == 200


def test_order_and_replay(place: Place, tmp_path: Path) -> None:
    """Each number once and in order, after a restart too; an old message or another one under its number is refused."""
    hold, release = message(1, change("A1", "held")), message(2, change("A1", "released"))
    assert place.push(hold)[0] == place.push(release)[0] == 200
    status, answer = place.push(hold)
    assert (status, answer["error"], answer["expected"]) == (409, "sequence", 3)
    assert place.push(release) == (200, place.push(release)[1])
    assert place.push(message(2, change("A1", "held")))[0] == 409
    assert place.push(message(4))[0] == 409
    assert place.push(message(3, change("A1", "held")))[0] == 200
    again = Place(tmp_path)
    status, answer = again.push(release)
    assert (status, answer["expected"]) == (409, 4)
    assert isinstance(again.status(0xA1), Held)
    assert again.push(message(1, change("D4", "issued")), kid="ca-two", alg="ES256")[0] == 200
    assert again.store.pushed(NAME) == Pushed(NAME, 3, again.store.pushed(NAME).digest)  # type: ignore[union-attr]


def test_where_nothing_is_decided(place: Place) -> None:
    """A place without the authority refuses, and takes the message when it has it again."""
    place.state = IdentityState.RETURNING
    assert place.push(message(1))[0] == 403
    place.state = IdentityState.HOME
    assert place.push(message(1))[0] == 200


def test_a_disk_that_fails(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer the sender repeats, and whatever was left behind, the message counts once."""
    content = message(1, change("A1", "issued"), change("B2", "revoked", "superseded"))
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2], at) and os.close(-1))
    assert place.push(content)[0] == 500
    monkeypatch.undo()
    with pytest.raises(OutcomeUnknown):
        place.pen.enter([])
    again = Place(tmp_path)
    assert again.push(content)[0] == 200
    assert isinstance(again.status(0xB2), Revoked)
    assert again.push(content)[1]["repeated"] is True


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"{", b"\xff", b'{"issuer":"esteid-2025"}',
        message(1).replace(b"esteid-2025", b"esteid-2018"),
        message(1).replace(b"esteid-2025", b"EstEID"),
        message(1).replace(b":1,", b":0,"),
        message(1).replace(b":1,", b":-1,"),
        message(1).replace(b":1,", b":1.5,"),
        message(1).replace(b":1,", b':"1",'),
        message(1).replace(b":1,", b":9007199254740992,"),
        message(1).replace(b"2026-11", b"2026-13"),
        message(1).replace(b"02Z", b"02.5Z"),
        message(1).replace(b"2026-11-23T14:22", b"2026-11-23T14:28"),
        message(1)[:-1] + b',"more":1}',
        message(1, change("A1", "issued")).replace(b'"A1"', b'"a1"'),
        message(1, change("A1", "issued")).replace(b'"A1"', b'"0A"'),
        message(1, change("A1", "issued")).replace(b'"A1"', b'"' + b"F" * 41 + b'"'),
        message(1, change("A1", "issued")).replace(b'"issued"', b'"good"'),
        message(1, change("A1", "issued")).replace(b'"issued"', b'"issued","time":"2026-11-23T14:22:01Z"'),
        message(1, change("A1", "held")).replace(b'"held"', b'"held","reason":"superseded"'),
        message(1, change("A1", "held")).replace(b',"time":"2026-11-23T14:22:01Z"', b""),
        message(1, change("A1", "held")).replace(b"22:01Z", b"59:01Z"),
        message(1, change("A1", "revoked", "superseded")).replace(b"superseded", b"certificateHold"),
        message(1, change("A1", "revoked", "superseded")).replace(b',"reason":"superseded"', b""),
        message(1, change("A1", "issued"), change("B1", "issued")).replace(b"B1", b"A1"),
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_bad_content(place: Place, content: bytes) -> None:
    """Well signed and wrong: refused as a whole, told why, and its number is not used up."""
    before = place.journal.head()
    status, answer = place.push(content)
    assert (status, answer["error"]) == (422, "malformed")
    assert place.journal.head() == before
    assert place.push(message(1))[0] == 200


def test_too_many_changes(place: Place) -> None:
    """20,000 changes are taken at once, one more is not."""
    many = [change(f"{n + 1:X}", "revoked", "superseded") for n in range(20_001)]
    fields = [{"serial": c.serial, "state": c.state, "time": c.time, "reason": c.reason} for c in many]
    content = {"issuer": "esteid-2025", "sequence": 1, "as_of": "2026-11-23T14:22:02Z", "changes": fields}
    assert place.push(json.dumps(content).encode())[0] == 422
    assert place.push(message(1, *many[:-1]))[1]["changed"] == 20_000


def test_an_issuer_that_is_not_there_yet(place: Place) -> None:
    """A sender whose issuer nobody entered is asked to come again."""
    content = encode_push(Push("unknown-ca", 1, "2026-11-23T14:22:02Z", ()))
    assert place.push(content, kid="ca-three")[0] == 503


def test_signatures() -> None:
    """Only the known key with its own algorithm, over these bytes, under a header with nothing else in it."""
    keys = {NAME: parse_sender_key(pem(ED)), "ca-two": parse_sender_key(pem(EC))}
    good = signed(b"content")
    assert verify_message(good, keys) == (NAME, b"content")
    assert verify_message(signed(b"content", typ="x"), keys) == (NAME, b"content")
    with pytest.warns(UserWarning, match="RFC 9864"):
        assert verify_message(signed(b"content", alg="EdDSA"), keys) == (NAME, b"content")
    assert verify_message(signed(b"c", kid="ca-two", alg="ES256"), keys) == ("ca-two", b"c")
    header, body, signature = good.split(b".")
    hashed = hmac.new(pem(ED), b"eyJhbGciOiJIUzI1NiIsImtpZCI6ImNhLW9uZSJ9." + body, "sha256").digest()
    forged = b"eyJhbGciOiJIUzI1NiIsImtpZCI6ImNhLW9uZSJ9." + body + b"." + base64.urlsafe_b64encode(hashed).rstrip(b"=")
    bad = [
        signed(b"content", kid="ca-two"), signed(b"content", alg="ES256"), signed(b"content", kid="nobody"),
        forged, b".".join((header, body, b"")),
        b".".join((header, signed(b"other").split(b".")[1], signature)),
        b'eyJhbGciOiJub25lIiwia2lkIjoiY2Etb25lIn0.' + body + b".",
        signed(b"content", jwk={}), signed(b"content", crit=["b64"], b64=True), good + b".", good + b"\n", header,
    ]  # fmt: skip
    for message_ in bad:
        with pytest.raises((CorruptObject, MalformedError)):
            verify_message(message_, keys)
    for at in range(len(good)):
        flipped = bytearray(good)
        flipped[at] ^= 1
        with pytest.raises((CorruptObject, MalformedError)):
            verify_message(bytes(flipped), keys)


def test_keys_that_are_none() -> None:
    """RSA, other curves, private keys, rubbish: not a sender's key."""
    for data in (
        pem(rsa.generate_private_key(65537, 2048)), pem(ec.generate_private_key(ec.SECP384R1())), private(ED),
        b"", b"x",
    ):  # fmt: skip
        with pytest.raises(MalformedError):
            parse_sender_key(data)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever is signed or sent, it is a push or refused in the one way."""
    for parse in (parse_push, lambda d: verify_message(d, {}), parse_sender_key):
        with pytest.raises((MalformedError, CorruptObject)):
            parse(data)

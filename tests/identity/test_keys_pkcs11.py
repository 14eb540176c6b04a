"""Keys in a real SoftHSM token: made there, used there, never readable, and back after the token was lost."""

from __future__ import annotations

import importlib
import os
import subprocess
import threading
from pathlib import Path

import pkcs11
import pytest

from exclave.crypto.signer import Algorithm, Signer
from exclave.errors import AlreadyExists, KeyFileExposed, NotAuthorised, UnavailableError, UsageError
from exclave.keys.pkcs11 import HardwareToken, TokenPlace
from support.softhsm import MODULE, SoftToken, make_token

_HASH = {Algorithm.ES256: "-sha256", Algorithm.ES384: "-sha384", Algorithm.ES512: "-sha512", Algorithm.RS256: "-sha256"}


@pytest.fixture(scope="module")
def soft() -> SoftToken:
    return make_token("embassy")


@pytest.fixture
def token(soft: SoftToken) -> HardwareToken:
    opened = HardwareToken(soft.place)
    yield opened
    opened.close()


def _verify(signer: Signer, message: bytes, signature: bytes, folder: Path) -> None:
    for name, data in (("message", message), ("public", signer.public_der), ("signature", signature)):
        (folder / name).write_bytes(data)
    done = subprocess.run(
        ["openssl", "dgst", _HASH[signer.algorithm], "-keyform", "DER", "-verify", "public", "-signature", "signature",
         "message"], cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "Verified OK\n", done.stderr


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_openssl_verifies_what_a_token_signs(token: HardwareToken, algorithm: Algorithm, tmp_path: Path) -> None:
    """Each kind of key signs short, empty and long messages so that openssl verifies them."""
    signer = token.make(f"sign-{algorithm}", algorithm, rsa_bits=2048)
    assert isinstance(signer, Signer)
    assert signer.algorithm is algorithm
    assert token.signer(f"sign-{algorithm}").public_der == signer.public_der
    for message in (b"", b"of the state", os.urandom(300_000)):
        _verify(signer, message, signer.sign(message), tmp_path)


def test_a_key_cannot_be_read_or_replaced(soft: SoftToken, token: HardwareToken) -> None:
    """The private key is sensitive, was never extractable, and a second one under its label is refused."""
    token.make("stays", Algorithm.ES256)
    with pytest.raises(AlreadyExists):
        token.make("stays", Algorithm.ES256)
    session = pkcs11.lib(MODULE).get_token(token_label="embassy").open()  # the process is logged in already
    key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="stays")
    for attribute in ("SENSITIVE", "NEVER_EXTRACTABLE", "ALWAYS_SENSITIVE", "LOCAL", "PRIVATE", "TOKEN"):
        assert key[getattr(pkcs11.Attribute, attribute)] is True
    assert key[pkcs11.Attribute.EXTRACTABLE] is False
    assert key[pkcs11.Attribute.DECRYPT] is False
    with pytest.raises(pkcs11.AttributeSensitive):
        key[pkcs11.Attribute.VALUE]
    session.close()


def test_a_key_that_can_be_read_out_is_not_used(token: HardwareToken) -> None:
    """A key pair that somebody made extractable is refused, since it may have been copied."""
    token.reach()
    session = pkcs11.lib(MODULE).get_token(token_label="embassy").open(rw=True)
    session.generate_keypair(
        pkcs11.KeyType.RSA, 2048, label="loose", store=True,
        private_template={pkcs11.Attribute.EXTRACTABLE: True, pkcs11.Attribute.SENSITIVE: False},
    )  # fmt: skip
    session.close()
    with pytest.raises(KeyFileExposed, match="read out"):
        token.signer("loose")
    with pytest.raises(UsageError, match="no key pair"):
        token.signer("nobody")
    assert not token.has("nobody")


def test_many_threads_sign_at_once(token: HardwareToken, tmp_path: Path) -> None:
    """Signatures made by eight threads at the same time all verify."""
    signer = token.make("threads", Algorithm.ES256)
    made: list[tuple[bytes, bytes]] = []

    def work(number: int) -> None:
        for turn in range(25):
            message = b"%d %d" % (number, turn)
            made.append((message, signer.sign(message)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 200
    for message, signature in made[::10]:
        _verify(signer, message, signature, tmp_path)


def test_a_lost_token_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    """While its store is gone signing fails as unavailable, at once for a second; when it is back, signing goes on."""
    soft, clock = make_token("wanders"), [0.0]
    other = HardwareToken(make_token("stays-here").place)
    beside = other.make("beside", Algorithm.ES256)
    token = HardwareToken(soft.place, clock=lambda: clock[0])
    signer = token.make("key", Algorithm.ES256)
    _verify(signer, b"before", signer.sign(b"before"), tmp_path)
    away = soft.folder.rename(soft.folder.parent.parent / "away")
    with pytest.raises(UnavailableError, match="wanders"):
        signer.sign(b"while it is gone")
    with pytest.raises(UnavailableError, match="not reachable"):
        signer.sign(b"at once")
    _verify(beside, b"beside", beside.sign(b"beside"), tmp_path)
    clock[0] += 2
    with pytest.raises(UnavailableError, match="wanders"):
        signer.sign(b"still gone")
    away.rename(soft.folder)
    clock[0] += 2
    _verify(signer, b"after", signer.sign(b"after"), tmp_path)
    _verify(beside, b"beside", beside.sign(b"beside"), tmp_path)
    token.close()
    other.close()


def test_a_session_that_ended_is_opened_anew(soft: SoftToken, token: HardwareToken, tmp_path: Path) -> None:
    """Somebody else's log-out in this process, or another user of the module that starts it anew, goes unnoticed."""
    signer = token.make("again", Algorithm.ES384)
    second = HardwareToken(soft.place)
    second.close()
    _verify(signer, b"after a log-out", signer.sign(b"after a log-out"), tmp_path)
    pkcs11.lib(MODULE).reinitialize()
    _verify(signer, b"after a restart", signer.sign(b"after a restart"), tmp_path)


def test_a_child_process_may_go_on_signing(token: HardwareToken) -> None:
    """After a fork the child starts the module anew, as PKCS#11 asks, and signs."""
    signer = token.make("forked", Algorithm.ES256)
    child = os.fork()
    if child == 0:
        try:
            signer.sign(b"in the child")
        finally:
            os._exit(0 if signer.sign(b"again") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert signer.sign(b"in the parent")


def test_a_wrong_pin_is_tried_once(tmp_path: Path) -> None:
    """A wrong PIN is not authorised, and is not sent again, so that the token does not lock."""
    wrong = make_token("locked", pin="000000")
    with pytest.raises(NotAuthorised, match="PinIncorrect"):
        HardwareToken(wrong.place).reach()
    soft = make_token("repinned")
    token = HardwareToken(soft.place)
    signer = token.make("key", Algorithm.ES256)
    Path(soft.place.pin_file).write_text("111111\n")
    token.close()
    with pytest.raises(NotAuthorised, match="PinIncorrect"):
        signer.sign(b"x")
    Path(soft.place.pin_file).write_text("222222\n")
    with pytest.raises(NotAuthorised, match="PinIncorrect"):
        signer.sign(b"x")


def test_places_that_are_wrong(soft: SoftToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such module or package, no such token, an exposed or odd PIN file: each is told for what it is."""
    place = soft.place
    with pytest.raises(UsageError, match="cannot be loaded"):
        HardwareToken(TokenPlace(str(tmp_path / "none.so"), "embassy", place.pin_file))
    with pytest.raises(UnavailableError, match="NoSuchToken"):
        HardwareToken(TokenPlace(MODULE, "elsewhere", place.pin_file)).reach()
    pin = tmp_path / "pin"
    pin.write_text("one\ntwo\n")
    pin.chmod(0o600)
    with pytest.raises(UsageError, match="one PIN"):
        HardwareToken(TokenPlace(MODULE, "embassy", str(pin))).reach()
    pin.chmod(0o640)
    with pytest.raises(KeyFileExposed):
        HardwareToken(TokenPlace(MODULE, "embassy", str(pin))).reach()

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match="python-pkcs11"):
        HardwareToken(TokenPlace(str(tmp_path / "other.so"), "embassy", place.pin_file))

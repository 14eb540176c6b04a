"""A CA's key out of custody: taken in where it belongs, and used for its CRLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from exclave.demo.pki import IssuingCa
from exclave.identity.crl_publisher import CrlPublisher
from exclave.ids import Label
from support.embassy import PKI, Embassy
from support.small_home import run


@pytest.fixture(scope="module")
def embassy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embassy]:
    made = Embassy(tmp_path_factory.mktemp("keep-key"))
    yield made
    made.home.ok("failover", "stop", "--dir", str(made.folder))


def _key(folder: Path, ca: IssuingCa) -> Path:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "ca.key"
    path.write_bytes(ca.key.private_bytes(*form))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("label", "ca"), [("esteid-2018", PKI.first), ("esteid-2025", PKI.second)])
def test_its_crl_is_issued(embassy: Embassy, tmp_path: Path, label: str, ca: IssuingCa) -> None:
    """With the key (P-521 and P-384), the place that decides issues a CRL that the CA's certificate verifies."""
    key = _key(tmp_path, ca)
    said = run("identity", "keep-key", f"{label}-ca", "--dir", str(embassy.identity), "--issuer", label, "--key",
               str(key), "--json")  # fmt: skip
    assert (said.code, set(json.loads(said.out))) == (0, {"name", "issuer", "algorithm"})
    with embassy.place() as place:
        place.watch.refresh()
        publisher = CrlPublisher(place.store, place.keyring, place.authority, place.clock)
        publisher.refresh()
        found = publisher.latest(Label(label))
    assert found is not None
    crl = x509.load_der_x509_crl(found.data)
    assert crl.is_signature_valid(ca.certificate.public_key())  # type: ignore[arg-type]


def test_another_key_is_refused(embassy: Embassy, tmp_path: Path) -> None:
    """A key that is not the CA's, or a CA that the journal does not name, is refused by name; nothing is kept."""
    key = _key(tmp_path, PKI.second)
    where = ["--dir", str(embassy.identity), "--key", str(key), "--json"]
    wrong = run("identity", "keep-key", "wrong", "--issuer", "esteid-2018", *where)
    assert (wrong.code, json.loads(wrong.out)["error"]) == (30, "not-authorised")
    nobody = run("identity", "keep-key", "wrong", "--issuer", "nobody", *where)
    assert (nobody.code, json.loads(nobody.out)["error"]) == (2, "usage")
    assert not list((embassy.identity / "identity-keys").glob("wrong*"))

"""What a newcomer types wrong when a place is made and filled: each mistake is named, with what to do next."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from exclave.demo.pki import pem
from support.moving_places import MovingPlaces, pki
from support.refusal import refused
from support.small_home import run

SETTINGS = 'issuer = "https://login.demo.test"\n'


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> MovingPlaces:
    return MovingPlaces(tmp_path_factory.mktemp("first") / "state").made()


@pytest.fixture
def home(state: MovingPlaces) -> Iterator[Path]:
    """Home's folder; its place.toml is as before in the end."""
    path = state.at_home / "place.toml"
    before = path.read_bytes()
    yield state.at_home
    path.write_bytes(before)
    (state.at_home / "identity.toml").unlink(missing_ok=True)


def source(home: Path, issuer: str, certificate: x509.Certificate | None, *, kind: str = "index-txt") -> None:
    """Adds a ``[[source]]``; without ``certificate`` its file is not there."""
    if certificate is not None:
        (home / f"{issuer}.pem").write_bytes(pem(certificate))
    place = home / "place.toml"
    place.write_text(
        place.read_text() + f'\n[[source]]\nissuer = "{issuer}"\ncertificate = "{issuer}.pem"\nkind = "{kind}"\n'
        f'path = "{issuer}.txt"\n'
    )


def again(*, key_cert_sign: bool) -> x509.Certificate:
    """Another certificate of the first CA's name and key."""
    ca, now = pki().first, datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(False, False, False, False, False, key_cert_sign, True, False, False)
    return (
        x509.CertificateBuilder(ca.certificate.subject, ca.certificate.subject)
        .public_key(ca.key.public_key()).serial_number(7)
        .not_valid_before(now).not_valid_after(now + datetime.timedelta(days=9))
        .add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
        .sign(ca.key, SHA256())
    )  # fmt: skip


def entered(state: MovingPlaces, home: Path) -> list[str]:
    with state.place() as place:
        return [str(info.label) for info in place.store.issuers()]


def test_a_citizens_certificate_is_no_issuing_ca(state: MovingPlaces, home: Path) -> None:
    """Named as a source, it is refused by its file's name, and nothing is entered."""
    source(home, "wrong", pki().first.card().certificate)
    told = refused(3, "identity", "enter", "--dir", str(home), says="basicConstraints do not say that it is a CA's")
    assert str(home / "wrong.pem") in told["message"]
    assert "[[source]] of place.toml" in told["hint"]
    assert "wrong" not in entered(state, home)


def test_a_ca_that_may_not_sign_certificates_is_refused(state: MovingPlaces, home: Path) -> None:
    """A CA by its basicConstraints, whose key usage lets it sign lists alone."""
    source(home, "lists", again(key_cert_sign=False))
    refused(3, "identity", "enter", "--dir", str(home), says="key usage does not let it sign certificates")


def test_two_cas_never_have_one_label(state: MovingPlaces, home: Path) -> None:
    """Neither where the journal has one, nor in one file; a new CA under a new label is entered."""
    source(home, "first", pki().second.certificate)
    told = refused(3, "identity", "enter", "--dir", str(home), says="is called 'first' already")
    assert "Choose another label" in told["hint"]
    (home / "place.toml").write_text((home / "place.toml").read_text().replace('"first"', '"renewed"', 1))
    assert state.small.ok("identity", "enter", "--dir", str(home))["issuers"] == ["renewed"]
    assert entered(state, home) == ["first", "renewed"]
    assert state.small.ok("identity", "enter", "--dir", str(home))["entries"] == 0


def test_a_further_certificate_of_one_ca_keeps_its_label(state: MovingPlaces, home: Path) -> None:
    """The same name and key: it is the same issuer."""
    source(home, "first", again(key_cert_sign=True))
    assert state.small.ok("identity", "enter", "--dir", str(home))["issuers"] == ["first"]
    assert entered(state, home).count("first") == 1


def test_a_source_that_is_not_there_is_told(state: MovingPlaces, home: Path) -> None:
    """Its certificate is needed at once; its list may come later, and is told of until it does."""
    source(home, "absent", None)
    told = refused(3, "identity", "enter", "--dir", str(home), says=str(home / "absent.pem"))
    assert "Put the CA's certificate there" in told["hint"]
    (home / "absent.pem").write_bytes(pem(pki().second.certificate))
    done = state.small.ok("identity", "enter", "--dir", str(home))
    assert len(done["unread"]) == 1
    assert done["unread"][0].startswith(f"absent: {home / 'absent.txt'} cannot be read")
    assert "cannot be read yet: absent: " in run("identity", "enter", "--dir", str(home)).err
    (home / "absent.txt").write_text("")
    assert state.small.ok("identity", "enter", "--dir", str(home))["unread"] == []


def test_what_was_never_said_is_named(state: MovingPlaces, home: Path) -> None:
    """Without settings nothing is served, whatever else is entered."""
    assert "identity.toml" in state.small.ok("identity", "enter", "--dir", str(home))["lacking"][0]
    said = run("identity", "enter", "--dir", str(home))
    assert "Still missing: settings: write" in said.err
    assert "Nothing differs" not in said.out
    (home / "identity.toml").write_text(SETTINGS)
    assert run("identity", "enter", "--dir", str(home)).out.startswith("1 entry.\n")
    assert "Nothing differs" in run("identity", "enter", "--dir", str(home)).out


def test_an_embassy_is_checked_before_anything_is_written(state: MovingPlaces, tmp_path: Path) -> None:
    """A wrong register, place or site leaves nothing behind, so that the corrected command succeeds."""
    where = ["--dir", str(tmp_path / "nord"), *state.small.where()]
    told = refused(2, "identity", "init", *where, "--place", "nord", "--register", "identity", says="has no register")
    assert state.register in told["message"]
    told = refused(2, "identity", "init", *where, "--place", "norden", "--register", state.register, says="no site")
    assert "lux, nord" in told["message"]
    refused(2, "identity", "init", *where, "--place", "nord", "--register", state.register, "--status", "nowhere",
            says="nowhere")  # fmt: skip
    assert not (tmp_path / "nord").exists()
    state.small.ok("identity", "init", *where, "--place", "nord", "--register", state.register)


def test_an_embassy_that_can_reach_no_site_says_so(state: MovingPlaces, tmp_path: Path) -> None:
    """What was typed is taken unread only where that is asked for."""
    where = ["--dir", str(tmp_path / "far"), "--site", f"lux=dir:{tmp_path}/nothing", "--fingerprint", state.state]
    typed = ["--place", "nord", "--register", state.register]
    told = refused(11, "identity", "init", *where, *typed, says="no site can be read")
    assert "--unread" in told["hint"]
    assert not (tmp_path / "far").exists()
    state.small.ok("identity", "init", *where, *typed, "--unread")


def test_each_hint_names_the_file_that_is_wrong(state: MovingPlaces, home: Path) -> None:
    """It is never exclave.toml, which a place of the identity services does not have."""
    (home / "identity.toml").write_text("issuer = 5\n")
    assert "Correct identity.toml" in refused(3, "identity", "enter", "--dir", str(home))["hint"]
    (home / "names.toml").write_text('zone = "demo.test"\n')
    assert "Correct names.toml" in refused(3, "identity", "names", "check", "--dir", str(home))["hint"]
    (home / "names.toml").unlink()
    good = (home / "place.toml").read_text()
    for old, new, says in (
        ("[serve]", '[serve]\nworkers = "two"', "workers"),
        ('url = "dir:', 'url = "ftp:', "unknown kind of site"),
        ("[serve]", '[[source]]\nissuer = "a"\ncertificate = "a"\nkind = "ocsp"\n\n[serve]', "delta-crl, index-txt"),
        ('role = "home"', 'role = "boss"', "one of home, embassy"),
    ):
        assert old in good
        (home / "place.toml").write_text(good.replace(old, new, 1))
        told = refused(3, "identity", "state", "--dir", str(home), says=says)
        assert "place.toml" in told["hint"] + told["message"]
        assert "exclave.toml" not in told["hint"]


def test_what_is_typed_wrong_is_a_matter_of_typing(state: MovingPlaces, home: Path, tmp_path: Path) -> None:
    """No file is called damaged, and nobody is told to distrust a copy."""
    where = ["--dir", str(home)]
    for client, uri in (("b", "http://t.example/#x"), ("b d", "https://t.example/cb")):
        refused(2, "identity", "service", "add", client, "--name", "en=T", "--redirect-uri", uri, *where)
    refused(2, "identity", "csr", *where, "--out", str(tmp_path / "out"), "--country", "Estonia", "--organization", "X")
    told = refused(2, "identity", "enter-kit", "lux", str(tmp_path), *where, says="holds no kit")
    assert str(tmp_path) in told["message"]
    assert "identity accept --out" in told["hint"]
    refused(2, "identity", "gap", *where[1:], says="no epoch has been taken up")
    told = refused(2, "identity", "accept", str(tmp_path / "none.pem"), *where, says="none.pem")
    assert "--help" not in told["hint"]


def test_an_act_at_home_asks_for_homes_folder(state: MovingPlaces, home: Path, tmp_path: Path) -> None:
    """Where the identity folder does not lie in the writer's, --home names that; no home is to be made."""
    away = tmp_path / "away"
    shutil.copytree(home, away / "identity")
    (away / "identity" / "place.toml").write_text(
        (home / "place.toml").read_text().replace("../home/", f"{state.small.folder}/")
    )
    argued = ["--dir", str(away / "identity"), "--warrant", "x", "--order", "y"]
    for act in ("revoke", "hold", "release", "extend"):
        told = refused(2, "identity", act, *argued, says="there is no exclave.toml")
        assert "--home" in told["hint"]
        assert "Run `exclave init`" not in told["hint"]


def test_the_folder_of_a_serving_process_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the other commands."""
    monkeypatch.setenv("EXCLAVE_IDENTITY", str(tmp_path))
    said = run("serve", "identity")
    assert f"there is no place.toml in {tmp_path}" in said.err

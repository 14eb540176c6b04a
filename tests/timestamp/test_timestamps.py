"""Tokens of a real ``openssl ts`` authority: asked for, kept at the sites, read by others, not believed too much."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from exclave.crypto.timestamp import request_timestamp, root_certificate, verify_timestamp
from exclave.errors import ConfigError, CorruptObject, ExclaveError, MalformedError, NotAuthorised
from exclave.ids import Fingerprint, Key, Label, RegisterId, sha256
from exclave.sites.contract import MAX_OBJECT_BYTES
from exclave.sites.opening import open_site
from exclave.verify.history import read_history
from exclave.verify.state import read_state
from exclave.verify.timestamps import MAX_READ, TokenReader, bounds
from support.hostile import PassThrough
from support.small_home import SmallHome
from support.timestamper import POLICY, Timestamper

MESSAGE = b"example.org/log\n7\nroot\n"
SEED = 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Timestamper:
    return Timestamper(tmp_path_factory.mktemp("tsa") / "good")


def _root(authority: Timestamper) -> bytes:
    return root_certificate(authority.root.read_bytes(), "root.pem")


def test_openssl_and_we_agree_about_its_tokens(authority: Timestamper) -> None:
    """What ``openssl ts`` answers to our request verifies here, and there against the same root."""
    asked = request_timestamp(MESSAGE)
    token = authority.answer(asked.data)
    found = verify_timestamp(token, sha256(MESSAGE), root=_root(authority), policy=POLICY, nonce=asked.nonce)
    assert (found.policy, found.signer) == (POLICY, "CN=Test TSA")
    assert "Verification: OK" in authority.accepts(token, MESSAGE)
    assert "Verification: OK" not in authority.accepts(token, MESSAGE + b"x")


def test_certificates_in_another_order(authority: Timestamper) -> None:
    """No signature covers their order, so it does not matter; and to set it right takes few steps, since whoever may
    write at a site can put sixteen such tokens beside each version."""
    asked = request_timestamp(MESSAGE)
    token, root = authority.answer(asked.data), _root(authority)
    first, second = _certificates(authority)
    pair = first + second if first + second in token else second + first
    assert token.count(pair) == 1
    calls = 0

    def count(_frame: object, event: str, _what: object) -> None:
        nonlocal calls
        calls += event == "call"

    for order in (first + second, second + first):
        moved = token.replace(pair, order)
        sys.setprofile(count)
        try:
            found = verify_timestamp(moved, sha256(MESSAGE), root=root, policy=POLICY, nonce=asked.nonce)
        finally:
            sys.setprofile(None)
        assert found.signer == "CN=Test TSA"
    assert calls < 20_000


def _certificates(authority: Timestamper) -> list[bytes]:
    """DER of the two that lie in each of its tokens."""
    files = [(authority.folder / name).read_bytes() for name in ("root.pem", "signer.pem")]
    return [x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER) for pem in files]


def test_another_message_nonce_policy_or_root_is_refused(authority: Timestamper, tmp_path: Path) -> None:
    """A true token proves nothing else than what was asked, to whom trusts its root."""
    asked = request_timestamp(MESSAGE)
    token, root = authority.answer(asked.data), _root(authority)
    with pytest.raises(CorruptObject, match="something else"):
        verify_timestamp(token, sha256(b"other"), root=root, policy=None)
    with pytest.raises(CorruptObject, match="nonce"):
        verify_timestamp(token, sha256(MESSAGE), root=root, policy=None, nonce=asked.nonce + 1)
    with pytest.raises(NotAuthorised, match=r"not 1\.2\.3"):
        verify_timestamp(token, sha256(MESSAGE), root=root, policy="1.2.3")
    with pytest.raises(NotAuthorised):
        verify_timestamp(token, sha256(MESSAGE), root=_root(Timestamper(tmp_path / "other")), policy=None)


def test_an_authority_whose_certificate_was_not_valid_at_the_time_is_refused(tmp_path: Path) -> None:
    """The chain is checked at the token's own time: a certificate that had ended by then vouches for nothing."""
    ended = Timestamper(tmp_path / "ended", valid=(datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)))
    asked = request_timestamp(MESSAGE)
    with pytest.raises(NotAuthorised, match="signed"):
        verify_timestamp(ended.answer(asked.data), sha256(MESSAGE), root=_root(ended), policy=None)


def test_a_certificate_for_another_purpose_signs_no_time(authority: Timestamper, tmp_path: Path) -> None:
    """A token by a key whose certificate is for web servers is refused, though its root is trusted."""
    server = Timestamper(tmp_path / "server", eku="critical,serverAuth")
    # `openssl ts` itself refuses to sign with it, so the certificate is swapped into a true token's place.
    asked = request_timestamp(MESSAGE)
    token = authority.answer(asked.data)
    old, new = (
        subprocess.run(
            ["openssl", "x509", "-in", folder / "signer.pem", "-outform", "DER"], capture_output=True, check=True
        ).stdout
        for folder in (authority.folder, server.folder)
    )  # fmt: skip
    assert old in token
    with pytest.raises(ExclaveError):
        verify_timestamp(token.replace(old, new), sha256(MESSAGE), root=_root(server), policy=None)


def test_flipped_bits_never_change_what_is_believed(authority: Timestamper) -> None:
    """A token with one bit flipped is refused, or says the very same: the bit lay in what nobody relies on."""
    asked = request_timestamp(MESSAGE)
    token, root = authority.answer(asked.data), _root(authority)
    right = verify_timestamp(token, sha256(MESSAGE), root=root, policy=POLICY, nonce=asked.nonce)
    chance, refused = random.Random(SEED), 0
    for _ in range(300):
        spoilt = bytearray(token)
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        try:
            found = verify_timestamp(bytes(spoilt), sha256(MESSAGE), root=root, policy=POLICY, nonce=asked.nonce)
        except ExclaveError:
            refused += 1
            continue
        assert found == right
    assert refused > 150


@pytest.mark.parametrize(
    "junk", [b"", b"0", b"\x30\x03\x02\x01\x00", b"<html>", bytes(40_000), b"\x30\x84\xff\xff\xff\xff"]
)
def test_junk_is_no_token(authority: Timestamper, junk: bytes) -> None:
    """Whatever a host puts in a token's place is refused in our own words."""
    with pytest.raises(MalformedError):
        verify_timestamp(junk, sha256(MESSAGE), root=_root(authority), policy=None)


def test_a_leaf_is_no_root(authority: Timestamper) -> None:
    """A charter never names the authority's own certificate, which ends sooner than its root."""
    with pytest.raises(ConfigError, match="root"):
        root_certificate((authority.folder / "signer.pem").read_bytes(), "signer.pem")


class Dated(SmallHome):
    """A home whose charter names one timestamp authority."""

    url = ""
    tsa_root = Path()

    def config(self) -> str:
        block = f'[[timestamp]]\nname = "tsa"\nurl = "{self.url}"\nroot = "{self.tsa_root}"\npolicy = "{POLICY}"\n\n'
        return super().config().replace("[[site]]", block + "[[site]]", 1)


@pytest.fixture
def home(authority: Timestamper, tmp_path: Path) -> Iterator[Dated]:
    made = Dated(tmp_path)
    with authority.serving() as url:
        made.url, made.tsa_root = url, authority.root
        made.found()
        yield made


def test_a_backup_dates_its_ledger_and_a_reader_sees_it(home: Dated, authority: Timestamper) -> None:
    """The token lies at every site, `verify` tells before when the version existed, and openssl checks the object."""
    asked = authority.asked
    assert home.backup()[0]["timestamps"] == ["tsa"]
    assert home.backup()[0]["timestamps"] == []  # not due again
    assert authority.asked == asked + 1
    report = home.verify()
    assert report["ok"] is True
    dated = report["registers"][0]["timestamps"]
    assert [(d["authority"], d["sequence"]) for d in dated] == [("tsa", 1)]
    tokens = [sorted(home.site(name).rglob("timestamp/*")) for name in home.sites]
    assert [len(found) for found in tokens] == [1] * len(tokens)
    shown = home.ok("timestamp", *home.home)
    assert [d["sequence"] for d in shown["proven"]["gazette"]] == [1, 2]
    newest = max(home.site(home.sites[0]).rglob("timestamp/*"))
    checkpoint = next(home.site(home.sites[0]).rglob("ledger/*/checkpoint")).read_bytes()
    assert "Verification: OK" in authority.accepts(newest.read_bytes(), checkpoint.partition(b"\n\n")[0] + b"\n")


def test_an_authority_that_is_down_or_lies_stops_no_backup(home: Dated, authority: Timestamper) -> None:
    """The version is there and protected; what the authority did not do is told, and asked for the next time."""
    authority.spoil = lambda answer: answer[:-40] + bytes(40)
    try:
        receipt = home.backup()[0]
    finally:
        authority.spoil = lambda answer: answer
    assert receipt["timestamps"] == []
    assert "tsa" in receipt["timestamps_failed"]
    assert not list(home.site(home.sites[0]).rglob("timestamp/*"))
    assert home.backup()[0]["timestamps"] == ["tsa"]


def test_a_planted_or_moved_token_proves_nothing(home: Dated) -> None:
    """What a host puts where tokens lie, or renames, is told of and believed by nobody."""
    home.backup()
    token = next(home.site(home.sites[0]).rglob("timestamp/*"))
    token.with_name(f"{1:020d}-{'0' * 16}").write_bytes(token.read_bytes())
    token.with_name(f"{1:020d}-{sha256(b'junk').hex()[:16]}").write_bytes(b"junk")
    report = home.verify()
    assert report["ok"] is True
    assert len(report["registers"][0]["timestamps"]) == 1
    odd = [f["what"] for f in report["findings"] if "/timestamp/" in f["what"]]
    assert len(odd) == 2


class Counting(PassThrough):
    """Counts what is read."""

    reads = 0

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        self.reads += 1
        return self.inner.get(key, limit=limit)


def test_each_version_is_dated_as_tightly_as_its_own_token_allows(authority: Timestamper, home: Dated) -> None:
    """However many tokens and planted names there are, each version gets the bound of the first token after it."""
    versions, junk = 3, 40
    for _ in range(versions):
        home.backup()
        home.ok("timestamp", *home.home)
    site = home.site(home.sites[0])
    log = next(site.rglob("timestamp"))
    for number in range(junk):  # a thief's, at every site, beside the token of the second version
        data = f"junk {number}".encode()
        for name in home.sites:
            (home.site(name) / log.relative_to(site) / f"{2:020d}-{sha256(data).hex()[:16]}").write_bytes(data)
    sources = {Label(name): open_site(home.urls[name]) for name in home.sites}
    view = read_state(sources, Fingerprint(home.fingerprint))
    history = read_history(view, sources, RegisterId(home.id_of()))
    counting = {name: Counting(source) for name, source in sources.items()}
    stamps, odd = TokenReader(view, sources, history).read(counting)
    earliest = bounds(history, stamps)
    entries = {s: one.entries for s, one in earliest.items()}
    by_index = {v.leaf.sequence: v.index for v in history.versions}
    assert set(entries) == set(by_index)
    for sequence, index in by_index.items():
        covering = [s for s in stamps if s.entries > index]
        assert earliest[sequence].before == min(s.before for s in covering)
    assert entries[max(entries)] == by_index[max(entries)] + 1
    assert 0 < len(odd) <= len(sources) * MAX_READ
    assert all(one.reads <= (versions + 1) * MAX_READ for one in counting.values())

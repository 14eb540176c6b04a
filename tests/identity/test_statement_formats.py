"""What is said in public when the authority moves, the feed's bytes, and the two configuration files of a place."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import ConfigError, CorruptObject, ExclaveError, MalformedError
from exclave.formats.feed import (
    MAX_CONTENT_BYTES,
    MAX_RECIPIENTS,
    SEALED_KEY_BYTES,
    Batch,
    bound_header,
    padded_bytes,
    parse_batch,
    parse_content,
    parse_feed_head,
)
from exclave.formats.feed import pad_content as pad
from exclave.formats.gap import GapStatement, parse_gap
from exclave.formats.identityconfig import MAX_CONFIG_BYTES, parse_identity_config, parse_place_config
from exclave.formats.journal import Head
from exclave.formats.mergenote import MergeNote, parse_merge
from exclave.ids import Digest, Epoch, Fingerprint, Instant, Label, RegisterId
from exclave.operations.identity_place import place_text

VECTORS = Path(__file__).parent.parent / "vectors"
_TEXTS: dict[tuple[str, str], Callable[[str], str]] = {
    ("gap", "cases"): lambda text: parse_gap(text).encode(),
    ("mergenote", "cases"): lambda text: parse_merge(text).encode(),
    ("feed", "heads"): lambda text: parse_feed_head(text).encode(),
}


def _batch_again(data: bytes) -> bytes:
    found = parse_batch(data)
    return bound_header(found.previous, found.keys) + found.sealed


_BYTES: dict[str, Callable[[bytes], bytes]] = {
    "batches": _batch_again,
    "contents": lambda data: pad(parse_content(data)),
}


def _cases(name: str, part: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((VECTORS / name / "vectors.json").read_text())[part]
    assert len({case["expect"] for case in found}) == 2
    assert len({case["name"] for case in found}) == len(found)
    return found


@pytest.mark.parametrize(
    ("of", "case"),
    [pytest.param(of, case, id=f"{of[0]}: {case['name']}") for of in _TEXTS for case in _cases(*of)],
)
def test_text_vectors(of: tuple[str, str], case: dict[str, str]) -> None:
    """Each good text re-encodes to itself, each bad one is malformed."""
    if case["expect"] == "ok":
        assert _TEXTS[of](case["text"]) == case["text"]
        return
    assert case["expect"] == MalformedError.code
    with pytest.raises(MalformedError):
        _TEXTS[of](case["text"])


@pytest.mark.parametrize(
    ("part", "case"), [pytest.param(p, c, id=f"feed {p}: {c['name']}") for p in _BYTES for c in _cases("feed", p)]
)
def test_batch_vectors(part: str, case: dict[str, str]) -> None:
    """Each good batch and content re-encodes to itself; a bad one ends as its vector says."""
    data = bytes.fromhex(case["hex"])
    if case["expect"] == "ok":
        assert _BYTES[part](data) == data
        return
    with pytest.raises(ExclaveError) as caught:
        _BYTES[part](data)
    assert caught.value.code == case["expect"]


def test_the_generator_makes_these_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that are kept are what the generator writes now."""
    generator = runpy.run_path(str(VECTORS / "generate_moves.py"))
    made = {"gap": generator["gaps"](), "mergenote": generator["merges"](), "feed": generator["heads"]()}
    for (name, part), _ in zip(_TEXTS, made, strict=True):
        assert made[name] == _cases(name, part)
    assert generator["batches"]() == _cases("feed", "batches")
    assert generator["contents"]() == _cases("feed", "contents")


@pytest.mark.parametrize("of", _TEXTS, ids=lambda of: of[0])
def test_no_flipped_character_is_accepted(of: tuple[str, str]) -> None:
    """Each character changed in turn: refused, or it says something else in its own one form; never the same."""
    text = next(case["text"] for case in _cases(*of) if case["expect"] == "ok")
    before = _TEXTS[of](text)
    for at, flip in ((at, flip) for at in range(len(text)) for flip in (1, 0x20)):
        changed = text[:at] + chr(ord(text[at]) ^ flip) + text[at + 1 :]
        try:
            again = _TEXTS[of](changed)
        except MalformedError:
            continue
        assert again == changed != before


_digests = st.binary(min_size=32, max_size=32).map(Digest)
_instants = st.integers(0, 4_000_000_000_000_000).map(Instant)
_counts = st.integers(0, 2**53 - 1)
_epochs = st.integers(1, 2**32 - 1).map(Epoch)
_labels = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True).map(Label)
_STATE, _REGISTER = Fingerprint("11" * 32), RegisterId("ab" * 16)
_words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1, max_size=80
)
_says = st.lists(_words.filter(lambda text: text == text.strip()), min_size=1, max_size=20).map(tuple)


@given(
    st.builds(
        GapStatement, st.just(_STATE), st.just(_REGISTER), _epochs, _labels, _digests, _counts, _instants, _instants,
        _instants, _instants, _says,
    )
)  # fmt: skip
def test_gap_round_trip(gap: GapStatement) -> None:
    """What is said is what is read, and the gap never says less time than it is."""
    assert parse_gap(gap.encode()) == gap
    assert gap.gap_s * 1_000_000 >= gap.lost - gap.complete_until
    assert gap.gap_s == 0 or (gap.gap_s - 1) * 1_000_000 < gap.lost - gap.complete_until


@given(
    st.builds(
        MergeNote, st.just(_STATE), st.just(_REGISTER), _epochs, _labels, _digests, _instants,
        st.builds(Head, _counts, _digests), _counts, _counts, _counts, _counts, _digests,
    )
)  # fmt: skip
def test_merge_round_trip(merge: MergeNote) -> None:
    """What is said is what is read."""
    assert parse_merge(merge.encode()) == merge


@given(_counts, _digests, st.lists(st.binary(max_size=3000), min_size=1, max_size=5))
def test_content_round_trip(number: int, chain: Digest, entries: list[bytes]) -> None:
    """Entries of any size come back, padded to a power of two from 4 KiB."""
    batch = Batch(Head(number, chain), tuple(entries))
    plain = pad(batch)
    assert parse_content(plain) == batch
    assert len(plain) >= 4096
    assert len(plain) & (len(plain) - 1) == 0


@given(st.integers(1, 1 << 23))
def test_padding(size: int) -> None:
    """The next power of two: never smaller, never twice as much beyond the least."""
    padded = padded_bytes(size)
    assert padded >= size
    assert padded & (padded - 1) == 0
    assert padded == 4096 or padded < 2 * size


def test_limits_of_a_batch() -> None:
    """Too many recipients, none, or entries that do not fit are refused before anything is sealed."""
    keys = {Digest(bytes([n]) * 32): bytes(SEALED_KEY_BYTES) for n in range(MAX_RECIPIENTS + 1)}
    for wrong in ({}, keys):
        with pytest.raises(MalformedError):
            bound_header(None, wrong)
    with pytest.raises(MalformedError):
        pad(Batch(Head(), (bytes(MAX_CONTENT_BYTES),)))
    largest = pad(Batch(Head(), (bytes(MAX_CONTENT_BYTES - 64),)))
    assert len(largest) == 8 << 20
    with pytest.raises(CorruptObject):
        parse_content(largest[:-1])


# identity.toml and place.toml

IDENTITY = """\
issuer = "https://login.demo.test"
card_origin = "https://card.demo.test:8443"
aia_hosts = ["aia.demo.test", "ocsp.demo.test"]
languages = ["en", "et"]
rp_id = "demo.test"
secure_cookies = true
passkey_acr = "high"
say_exile = true
drop_home_keys = false
status_lasts_s = 3600
disallowed_policies = ["1.2.3"]

[state_name]
en = "Demo"
"""
PLACE = place_text(
    place="lux", role="embassy", fingerprint="11" * 32, register="ab" * 16, key="machine.key",
    sites={"lux": "dir:/srv/lux", "nord": "dir:/srv/nord"}, status="127.0.0.1:8421", login="[::1]:8422",
)  # fmt: skip
HOME = PLACE.replace('"lux"\nrole = "embassy"', '"home"\nrole = "home"')
SOURCE = '\n[[source]]\nissuer = "first"\ncertificate = "ca.pem"\nkind = "crl"\npath = "list.crl"\n'


def test_identity_config() -> None:
    """A whole one, and one that says the least."""
    found = parse_identity_config(IDENTITY.encode())
    assert (found.host, found.aia_hosts, found.passkey_acr) == (
        "login.demo.test",
        ("aia.demo.test", "ocsp.demo.test"),
        "high",
    )
    least = parse_identity_config(b'issuer = "https://login.demo.test"\n')
    assert (least.languages, least.status_lasts_s, least.say_exile) == (("et", "en", "ar"), 43_200, False)
    local = parse_identity_config(b'issuer = "http://localhost:8422"\nsecure_cookies = false\n')
    assert local.host == "localhost"
    assert parse_identity_config(b'issuer = "http://127.0.0.1:8422"\n').host == "127.0.0.1"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("https://login", "http://login", "https address"),
        ("https://login", "ftp://login", "https address"),
        ("https://login.demo.test", "https://", "without user"),
        ("https://login.demo.test", "https://[login", "no address"),
        ("https://login.demo.test", "https://login.demo.test:65536", "no address"),
        ("https://login.demo.test", "https://login.demo.test:http", "no address"),
        ("demo.test\"\ncard", "demo.test/\"\ncard", "final slash"),
        ("demo.test\"\ncard", "demo.test?a=b\"\ncard", "query"),
        ("demo.test\"\ncard", "demo.test#a\"\ncard", "fragment"),
        ("https://login", "https://me@login", "user"),
        ("aia.demo.test", "aia_demo.test", "not a host name"),
        ("aia.demo.test", "-aia.demo.test", "not a host name"),
        ("aia.demo.test", "aia.demo.test:80", "not a host name"),
        ("aia.demo.test", "AIA.demo.test", "not a host name"),
        ("aia.demo.test", "a." * 127 + "test", "not a host name"),
        ('rp_id = "demo.test"', 'rp_id = "https://demo.test"', "not a host name"),
        ('["en", "et"]', '["en", "fr"]', "fr"),
        ('["en", "et"]', "[]", "languages"),
        ("3600", "59", "between a minute"),
        ("3600", "2592001", "between a minute"),
        ('"high"', '"highest"', "passkey_acr"),
        ("secure_cookies = true", 'secure_cookies = "yes"', "secure_cookies"),
        ("secure_cookies = true", "secure_cookies = 1", "secure_cookies"),
        ("say_exile", "say_nothing", "say_nothing"),
        ('issuer = "https://login.demo.test"', "", "issuer"),
        ("[state_name]", "[state_name", "not TOML"),
        ('en = "Demo"', 'en = "Demo"\nen = "Twice"', "not TOML"),
        ('en = "Demo"', "en = 5", "state_name"),
    ],
)  # fmt: skip
def test_identity_config_is_strict(old: str, new: str, why: str) -> None:
    """Each rule has an error that names the file and what is wrong."""
    assert old in IDENTITY
    with pytest.raises(ConfigError, match=why) as caught:
        parse_identity_config(IDENTITY.replace(old, new, 1).encode())
    assert "identity.toml" in caught.value.message


def test_place_config() -> None:
    """What is written is read; an embassy, and home with sources, senders and embassies."""
    found = parse_place_config(PLACE.encode())
    assert (found.place, found.role, found.key) == ("lux", "embassy", "machine.key")
    assert [site.name for site in found.site] == ["lux", "nord"]
    assert (found.serve.status, found.serve.login, found.serve.workers) == ("127.0.0.1:8421", "[::1]:8422", 1)
    assert (found.poll_s, found.verify_s, found.lease_s) == (1.0, 5.0, 86_400)
    more = (
        '\n[[embassy]]\nplace = "lux"\ncard = "lux.card"\n\n[[sender]]\nname = "ca"\nissuer = "first"\nkey = "ca.pub"\n'
    )
    home = parse_place_config((HOME + SOURCE + more).encode())
    assert (home.source[0].kind, home.embassy[0].place, home.sender[0].name) == ("crl", "lux", "ca")
    unix = HOME.replace('login = "[::1]:8422"', 'login = "[::1]:8422"\ncard_socket = "unix:/run/exclave.sock"')
    assert parse_place_config(unix.encode()).serve.card_socket == "unix:/run/exclave.sock"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('place = "lux"', 'place = "Lux"', "place.toml"),
        ('place = "lux"', 'place = ""', "place.toml"),
        ('name = "nord"', 'name = "../nord"', "place.toml"),
        ("11" * 32, "11" * 31, "place.toml"),
        ("ab" * 16, "AB" * 16, "place.toml"),
        ('"embassy"', '"consulate"', "role"),
        ("127.0.0.1:8421", "127.0.0.1", "neither address:port"),
        ("127.0.0.1:8421", ":8421", "neither address:port"),
        ("127.0.0.1:8421", "127.0.0.1:port", "neither address:port"),
        ("[::1]:8422", "::1:8422", "neither address:port"),
        ("[::1]:8422", "unix:relative", "neither address:port"),
        ("[serve]", "[serve]\ncard_socket = \"/run/no-scheme\"", "neither address:port"),
        ("[serve]", "[serve]\nworkers = 0", "workers"),
        ("[serve]", "[serve]\nworkers = 1000", "workers"),
        ("[serve]", "[serve]\nthreads = 3", "threads"),
        ("127.0.0.1:8421", "127.0.0.1:65536", "neither address:port"),
        ('key = "machine.key"', 'key = "machine.key"\npoll_s = 0.01', "poll_s"),
        ('key = "machine.key"', 'key = "machine.key"\nverify_s = 0.0', "poll_s"),
        ('key = "machine.key"', 'key = "machine.key"\npoll_s = nan', "poll_s"),
        ('key = "machine.key"', 'key = "machine.key"\nverify_s = inf', "poll_s"),
        ('key = "machine.key"', 'key = "machine.key"\nlease_s = 0', "lease_s"),
        ('key = "machine.key"', 'key = "machine.key"\nlease_s = 604801', "lease_s"),
        ('key = "machine.key"', 'key = "machine.key"\nlease_s = 5.5', "lease_s"),
        ('key = "machine.key"', 'key = "machine.key"\nunknown = 1', "unknown"),
        ("[serve]", SOURCE + "\n[serve]", "no sources of its own"),
        ("[serve]", SOURCE.replace('"crl"', '"ldap"') + "\n[serve]", "kind"),
        ("[serve]", '[[embassy]]\nplace = "A B"\ncard = "x"\n[serve]', "place.toml"),
    ],
)  # fmt: skip
def test_place_config_is_strict(old: str, new: str, why: str) -> None:
    """Each rule has an error that names the file and what is wrong."""
    assert old in PLACE
    with pytest.raises(ConfigError, match=why) as caught:
        parse_place_config(PLACE.replace(old, new, 1).encode())
    assert "place.toml" in caught.value.message


def test_place_config_without_sites() -> None:
    """A place that reads no site would never know who decides."""
    text = PLACE.split("\n[[site]]")[0] + "\n"
    with pytest.raises(ConfigError, match="site"):
        parse_place_config(text.encode())
    with pytest.raises(ConfigError, match="at least one"):
        parse_place_config(("site = []\n" + text).encode())


@pytest.mark.parametrize("parse", [parse_identity_config, parse_place_config])
def test_configs_that_are_no_text(parse: Callable[[bytes], Any]) -> None:
    """Too long, not UTF-8, not TOML: refused with the one error that people get for configuration."""
    for wrong in (b"#" * (MAX_CONFIG_BYTES + 1), b"\xff\xfe", b"\x00", b"a = ", b"[" * 5000, b"a." * 5000 + b"b = 1"):
        with pytest.raises(ConfigError):
            parse(wrong)


@given(st.integers(0, 2000), st.integers(1, 255), st.booleans())
def test_a_changed_byte_of_a_config_is_refused_or_read(at: int, flip: int, place: bool) -> None:
    """No byte makes the parsers fail with anything but their own error."""
    data = bytearray((PLACE if place else IDENTITY).encode())
    data[at % len(data)] ^= flip
    try:
        (parse_place_config if place else parse_identity_config)(bytes(data))
    except ConfigError:
        return

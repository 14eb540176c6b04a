"""Golden vectors and properties of the ledger's formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exclave.crypto.sign import verify_mldsa44
from exclave.errors import ExclaveError, MalformedError
from exclave.formats.card import parse_card
from exclave.formats.checkpoint import (
    Checkpoint,
    ed25519_cosignature_message,
    encode_timed,
    mldsa44_cosignature_message,
    parse_checkpoint,
    parse_timed,
    subtree_message,
)
from exclave.formats.fact import Fact, parse_fact
from exclave.formats.leaf import MAX_SEQUENCE, VersionLeaf, parse_ledger_entry, parse_version_leaf
from exclave.formats.note import key_id, parse_note
from exclave.formats.stage import Stage, parse_stage
from exclave.formats.tile import (
    Tile,
    bundle_path,
    encode_bundle,
    encode_tile,
    number_path,
    parse_bundle,
    parse_tile,
    stage_key,
    tile_path,
)
from exclave.formats.witness import encode_size, parse_size
from exclave.ids import Digest, Epoch, Instant, Label, RegisterId, Sequence, parse_b64, parse_key
from exclave.rules.checkpoints import verify_checkpoint
from exclave.rules.tree import EMPTY_ROOT, leaf_hash
from support.ledger import ORIGIN, root_over

VECTORS = Path(__file__).parent.parent / "vectors"


def vectors(path: str, part: str = "cases") -> list[Any]:
    """The cases of a file, each with its name as the test's id; an empty file is a failure."""
    cases = json.loads((VECTORS / path).read_text())[part]
    assert cases
    return [pytest.param(case, id=case["name"]) for case in cases]


def check(expect: str, work: Any) -> Any:
    """Runs ``work``; it must succeed or fail as the vector says."""
    if expect == "ok":
        return work()
    with pytest.raises(ExclaveError) as caught:
        work()
    assert caught.value.code == expect
    return None


@pytest.mark.parametrize("case", vectors("checkpoint/vectors.json"))
def test_checkpoint_vectors(case: dict[str, Any]) -> None:
    """Each golden checkpoint verifies, or fails in its class; good ones encode to the same bytes."""
    whole = json.loads((VECTORS / "checkpoint/vectors.json").read_text())
    writer = parse_card(whole["writer"].encode())
    witnesses = [parse_card(text.encode()) for text in whole["witnesses"]]
    data = parse_b64(case["data"]) if case["data"] else b""
    found = check(case["expect"], lambda: verify_checkpoint(data, whole["origin"], writer, witnesses))
    if found:
        assert found.encode() == data
        assert found.checkpoint.encode() == parse_note(data).text
        assert len(found.cosigners) == case["cosigners"]


@pytest.mark.parametrize("case", vectors("tile/vectors.json", "tiles"))
def test_tile_vectors(case: dict[str, Any]) -> None:
    """Each golden tile parses and encodes to the same bytes, or is refused."""
    data = parse_b64(case["data"]) if case["data"] else b""
    found = check(case["expect"], lambda: parse_tile(data, case["width"]))
    assert found is None or encode_tile(found) == data


@pytest.mark.parametrize("case", vectors("tile/vectors.json", "bundles"))
def test_bundle_vectors(case: dict[str, Any]) -> None:
    """Each golden bundle parses and encodes to the same bytes, or is refused."""
    data = parse_b64(case["data"]) if case["data"] else b""
    found = check(case["expect"], lambda: parse_bundle(data, case["width"]))
    assert found is None or encode_bundle(found) == data


@pytest.mark.parametrize("case", vectors("leaf/vectors.json"))
def test_leaf_vectors(case: dict[str, Any]) -> None:
    """Each golden version leaf parses and encodes to the same bytes and hash, or is refused."""
    data = case["text"].encode()
    found = check(case["expect"], lambda: parse_version_leaf(data))
    if found:
        assert found.encode() == data
        assert parse_ledger_entry(data) == found
        assert leaf_hash(data).hex() == case["leaf_hash"]


@pytest.mark.parametrize("case", vectors("fact/vectors.json"))
def test_fact_vectors(case: dict[str, Any]) -> None:
    """Each golden fact parses and encodes to the same bytes and hash, or is refused."""
    data = case["text"].encode()
    found = check(case["expect"], lambda: parse_fact(data))
    if found:
        assert found.encode() == data
        assert parse_ledger_entry(data) == found
        assert leaf_hash(data).hex() == case["leaf_hash"]


def test_tile_numbers() -> None:
    """Numbers are written as C2SP tlog-tiles says, and always fit the names of objects."""
    for number, path in json.loads((VECTORS / "tile/vectors.json").read_text())["paths"].items():
        assert number_path(int(number)) == path
        parse_key(stage_key("prefix/", int(number)))
    assert tile_path(Tile(1, 1234067, 256)) == "tile/1/x001/x234/067"
    assert bundle_path(273, 112) == "tile/entries/273.p/112"


@pytest.mark.parametrize("tile", [Tile(8, 0, 1), Tile(-1, 0, 1), Tile(0, 0, 0), Tile(0, 0, 257), Tile(0, -1, 1)])
def test_impossible_tiles_have_no_path(tile: Tile) -> None:
    """Levels, numbers and widths outside of their ranges are refused."""
    with pytest.raises(MalformedError):
        tile_path(tile)


def test_a_cosignature_by_another_implementation() -> None:
    """An ML-DSA-44 cosignature that a Go program made verifies over our message bytes, under our key id."""
    case = json.loads((VECTORS / "checkpoint/foreign.json").read_text())
    public = parse_b64(case["public"])
    note = parse_note(f"x\n\n{case['line']}\n".encode())
    (signature,) = note.signatures
    assert public[:1] == b"\x06"
    assert signature.key_id == key_id(case["name"], public[:1], public[1:])
    assert signature.blob[:8] == bytes(8)
    root = Digest(parse_b64(case["root"]))
    message = subtree_message(case["name"], case["time_s"], case["origin"], (case["start"], case["end"]), root)
    verify_mldsa44(public[1:], signature.blob[8:], message)


def test_the_checkpoint_of_the_specification() -> None:
    """The cosigned example in C2SP tlog-cosignature parses; its cosignature has the time and message shown there."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    data = (
        f"{text}\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE"
        "+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0x"
        "Ue+mbIUBkBIfZ+qnA==\n"
    ).encode()
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    assert note.encode() == data
    assert checkpoint.encode() == text
    time_s, _ = parse_timed(note.signatures[1].blob, 64)
    assert time_s == 1679315147
    expected = f"cosignature/v1\ntime 1679315147\n{text}".encode()
    assert ed25519_cosignature_message(checkpoint, time_s) == expected


def test_bytes_of_the_mldsa44_message() -> None:
    """The struct of C2SP tlog-cosignature, put together by hand."""
    checkpoint = Checkpoint("log", 258, root_over(258))
    expected = b"subtree/v1\n\0" + b"\x01w" + (7).to_bytes(8, "big") + b"\x03log"
    expected += bytes(8) + b"\0\0\0\0\0\0\x01\x02" + root_over(258)
    assert mldsa44_cosignature_message("w", checkpoint, 7) == expected


@pytest.mark.parametrize("time_s", [0, -1, 253_402_300_800, 2**63])
def test_times_outside_of_the_calendar(time_s: int) -> None:
    """A cosignature states a printable time after 1970."""
    with pytest.raises(MalformedError):
        encode_timed(time_s, bytes(64))
    if time_s >= 0:
        with pytest.raises(MalformedError):
            parse_timed(time_s.to_bytes(8, "big") + bytes(64), 64)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb", "a\u00a0b", "x" * 256, "é" * 128, "a\x7f"])
def test_origins_that_no_note_can_name(origin: str) -> None:
    """An origin must also be a key name of at most 255 bytes."""
    with pytest.raises(MalformedError):
        parse_checkpoint(f"{origin}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")


DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
INSTANTS = st.integers(0, 253_402_300_799_999_999).map(Instant)
REGISTERS = st.binary(min_size=16, max_size=16).map(lambda raw: RegisterId(raw.hex()))
COUNTS = st.integers(1, 2**63 - 1)


@given(st.integers(0, 2**63 - 1), DIGESTS)
def test_checkpoints_round_trip(size: int, root: Digest) -> None:
    """Any size and root."""
    checkpoint = Checkpoint(ORIGIN, size, root if size else EMPTY_ROOT)
    assert parse_checkpoint(checkpoint.encode()) == checkpoint


@given(
    st.builds(
        VersionLeaf,
        REGISTERS,
        COUNTS.map(Epoch),
        st.integers(1, MAX_SEQUENCE).map(Sequence),
        INSTANTS,
        DIGESTS,
        DIGESTS,
        COUNTS,
        st.integers(0, 2**63 - 1),
    )
)
def test_leaves_round_trip(leaf: VersionLeaf) -> None:
    """Any version leaf."""
    assert parse_version_leaf(leaf.encode()) == leaf


@given(
    st.builds(
        Fact,
        REGISTERS,
        COUNTS.map(Epoch),
        INSTANTS,
        st.from_regex(r"[a-z][a-z0-9-]{0,39}", fullmatch=True).map(Label),
        st.none() | DIGESTS,
        st.lists(st.from_regex(r"[!-~õ]([ -~]{0,80}[!-~])?", fullmatch=True), max_size=20).map(tuple),
    )
)
def test_facts_round_trip(fact: Fact) -> None:
    """Any fact that fits."""
    assert parse_fact(fact.encode()) == fact


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=128), st.integers(0, 2**40), DIGESTS)
def test_stages_and_bundles_round_trip(entries: list[bytes], size: int, root: Digest) -> None:
    """Any entries, as a stage and as a bundle."""
    stage = Stage(ORIGIN, size, root, tuple(entries))
    assert parse_stage(stage.encode()) == stage
    assert parse_bundle(encode_bundle(entries), len(entries)) == tuple(entries)


@given(st.binary(max_size=600), st.integers(0, 260))
def test_what_parses_as_a_bundle_encodes_to_itself(data: bytes, width: int) -> None:
    """No two byte strings are the same bundle."""
    try:
        entries = parse_bundle(data, width)
    except MalformedError:
        return
    assert encode_bundle(entries) == data


LEAF = VersionLeaf(
    RegisterId("0f" * 16), Epoch(1), Sequence(3), Instant(10**15), root_over(1), root_over(2), 4, 99
).encode()
FACT = Fact(RegisterId("0f" * 16), Epoch(1), Instant(10**15), Label("opened"), None, ("said",)).encode()


@pytest.mark.parametrize("good", [LEAF, FACT], ids=["leaf", "fact"])
@given(data=st.data())
def test_changed_texts_parse_to_something_else_or_not_at_all(good: bytes, data: st.DataObject) -> None:
    """A flipped bit is refused, or is another value that encodes to exactly the flipped bytes."""
    spoilt = bytearray(good)
    bit = data.draw(st.integers(0, len(good) * 8 - 1))
    spoilt[bit // 8] ^= 1 << bit % 8
    try:
        found = parse_ledger_entry(bytes(spoilt))
    except MalformedError:
        return
    assert found.encode() == bytes(spoilt)
    assert found != parse_ledger_entry(good)


@pytest.mark.parametrize("data", [b"", b"exclave/fact/v1", b"exclave/other/v1\n", b"\xff", b"x" * 5000])
def test_foreign_entries_are_refused(data: bytes) -> None:
    """What is neither version nor fact is no entry of ours."""
    with pytest.raises(MalformedError):
        parse_ledger_entry(data)


@pytest.mark.parametrize("bad", [b"", b"1", b"01\n", b"-1\n", b"1\n\n", "١\n".encode(), b"9" * 40 + b"\n"])
def test_sizes_in_answers_are_strict(bad: bytes) -> None:
    """A witness's size is a plain decimal with one newline."""
    assert parse_size(encode_size(0)) == 0
    with pytest.raises(MalformedError):
        parse_size(bad)


def test_a_fact_that_does_not_fit_is_refused_when_made() -> None:
    """Too many or too long lines fail before anything is appended."""
    base = Fact(RegisterId("0f" * 16), Epoch(1), Instant(0), Label("opened"))
    for say in (("x",) * 21, ("y" * 501,), ("y" * 500,) * 9, ("a\nb",), ("",)):
        with pytest.raises(MalformedError):
            Fact(base.register, base.epoch, base.time, base.kind, None, say).encode()

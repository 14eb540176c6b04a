"""Proofs checked by a program that was written from ``docs/spec`` alone and shares no line with the product."""

from __future__ import annotations

import base64
import hashlib
import struct
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from support.proving import ProvingState

DOCUMENTS = {f"2026/act {n}.txt".encode(): b"act %d\n" % n for n in range(21)}
ROWS = [(n, f"owner {n}") for n in range(9)]
TEXTS = ("charter", "card", "warrant", "epoch", "entry")


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def unpacked(data: bytes) -> tuple[dict[str, list[bytes]], bytes]:
    """Blocks by name, and the tlog-proof."""
    head, _, tail = data.partition(b"\n\nc2sp.org/tlog-proof@v1\n")
    found: dict[str, list[bytes]] = {}
    name = ""
    for line in head.decode().split("\n")[8:]:
        if line.startswith(" ") and name in TEXTS:
            found[name][-1] += line[1:].encode() + b"\n"
        elif line.startswith((" ", "way ", "cut ")):
            if not line.startswith(" "):
                found.setdefault(line[:3], []).append(b"")
                name = line[:3]
            found[name][-1] += line.rpartition(" ")[2].encode()
        else:
            name = line
            found.setdefault(name, []).append(b"")
    return {n: [p if n in TEXTS else base64.b64decode(p) for p in parts] for n, parts in found.items()}, tail


def fields(text: bytes, word: str) -> list[list[str]]:
    return [line.split(" ")[1:] for line in text.decode().split("\n") if line.startswith(word + " ")]


def signed(note: bytes, card: bytes, name: str, messages: tuple[bytes, bytes], skip: int = 0) -> bool:
    """Whether ``card``'s two keys signed; ``skip``: bytes of time before a checkpoint's ML-DSA-44 signature."""
    keys = [base64.b64decode(fields(card, word)[0][0]) for word in ("ed25519", "ml-dsa-44")]
    blobs = [base64.b64decode(line.rpartition(" ")[2])[4:] for line in note.decode().split("\n\n")[-1].split("\n")
             if line.startswith(f"— {name} ")]  # fmt: skip
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(keys[0]).verify(blobs[0], messages[0])
        time = blobs[1][:skip]
        message = messages[1].replace(b"TIME----", time)
        mldsa.MLDSA44PublicKey.from_public_bytes(keys[1]).verify(blobs[1][skip:], message)
    except (InvalidSignature, IndexError, ValueError):
        return False
    return True


def included(leaf: bytes, index: int, size: int, hashes: list[bytes]) -> bytes:
    """The root that RFC 9162 (2.1.3.2) computes."""
    at, last, root = index, size - 1, leaf
    for step in hashes:
        if at & 1 or at == last:
            root = sha(b"\1" + step + root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = sha(b"\1" + root + step)
        at, last = at >> 1, last >> 1
    return root


def check(data: bytes, fingerprint: str) -> bytes:
    """The record that ``data`` proves."""
    parts, tail = unpacked(data)
    cards = {sha(card).hex(): card for card in parts["card"]}
    texts = [note.rpartition(b"\n\n")[0] + b"\n" for note in parts["charter"]]
    assert sha(texts[0]).hex() == fingerprint
    for at, (note, text) in enumerate(zip(parts["charter"], texts, strict=True)):
        assert not at or fields(text, "previous")[0][0] == sha(texts[at - 1]).hex()
        for rules in texts[max(0, at - 1) : at + 1]:
            people = [c for c in fields(rules, "custodian") if c[2] in cards]
            good = [c for c in people if signed(note, cards[c[2]], c[0], (text, text))]
            assert len(good) >= int(fields(rules, "threshold")[0][0])
    (entry,), (record,), (salt,) = parts["entry"], parts["record-text"], parts["salt"]
    register, number = fields(entry, "register")[0][0], fields(entry, "epoch")[0][0]
    epoch = parts["epoch"][int(number) - 1].rpartition(b"\n\n")[0] + b"\n"
    block = texts[-1].decode().split(f"\nregister {register} ")[1]
    assert number == "1"  # a later one needs its warrant looked at, too
    assert f"\nepoch 1 {sha(epoch).hex()}\n" in block
    head, _, checkpoint = tail.partition(b"\n\n")
    text = checkpoint.partition(b"\n\n")[0] + b"\n"
    origin, size, root = text.decode().split("\n")[:3]
    assert origin == f"exclave/{fingerprint}/{register}/{number}"
    who = bytes([len(origin)]) + origin.encode()
    tree = struct.pack(">QQ", 0, int(size)) + base64.b64decode(root)
    assert signed(checkpoint, cards[fields(epoch, "writer")[0][0]], origin,
                  (text, b"subtree/v1\n\0" + who + b"TIME----" + who + tree), 8)  # fmt: skip
    index, *hashes = head.decode().split("\n")
    steps = [base64.b64decode(line) for line in hashes]
    assert included(sha(b"\0" + entry), int(index.split()[1]), int(size), steps) == base64.b64decode(root)
    found = sha(b"\0" + salt + record)
    for step in parts["way"]:
        found = sha(b"\1" + min(found, step) + max(found, step))
    assert found.hex() == fields(entry, "records")[0][0]
    return record


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> ProvingState:
    made = ProvingState(tmp_path_factory.mktemp("foreign") / "state")
    for _ in range(3):
        made.commit(DOCUMENTS, ROWS)
    made.next_charter()
    made.commit(DOCUMENTS, ROWS)
    return made


@pytest.mark.parametrize("sequence", [1, 3, 4])
def test_documents(state: ProvingState, sequence: int) -> None:
    """Each document's proof leads the foreign program to the document's own record."""
    for path, content in list(DOCUMENTS.items())[::5]:
        record = check(state.document(sequence, path), state.state).decode().split("\n")
        assert record[3].split(" ")[1:3] == [path.decode().replace(" ", "%20"), str(len(content))]


def test_rows(state: ProvingState) -> None:
    """The same for a row of a table."""
    assert check(state.row(2, "deed:id=7"), state.state).endswith(b"\x92\x07\xa7owner 7")


def test_the_foreign_program_refuses(state: ProvingState, tmp_path: Path) -> None:
    """It is no witness if it takes everything: another state's proof, and another record, are refused."""
    data = state.document(1, b"2026/act 3.txt")
    with pytest.raises(AssertionError):
        check(data, "0" * 64)
    parts, _ = unpacked(data)
    false = base64.b64encode(parts["salt"][0]).decode()
    with pytest.raises(AssertionError):
        check(data.replace(false.encode(), base64.b64encode(bytes(32))), state.state)

"""Which witnesses make a quorum, since when, and the same policy as other tools read it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import struct

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from hypothesis import given
from hypothesis import strategies as st

from exclave.errors import MalformedError
from exclave.formats.note import parse_note
from exclave.formats.policy import NO_WITNESSES, PolicyFile, WitnessGroup, WitnessPolicy, check_policy
from exclave.ids import Instant, Label
from exclave.rules.checkpoints import cosign, merge_signatures
from exclave.rules.policy import fewest_liars, in_words, lacking, met, met_since, most_absent, witnesses_in
from support.ledger import NOW, ORIGIN, WITNESS_CARDS, WITNESSES, WRITER, verified


def group(name: str, needed: int, *members: str) -> WitnessGroup:
    return WitnessGroup(Label(name), needed, tuple(Label(m) for m in members))


X = group("x", 2, "x1", "x2", "x3")
Y = group("y", 1, "y1", "y2", "y3")
BOTH = WitnessPolicy((X, Y, group("both", 2, "x", "y")), Label("both"))
EITHER = WitnessPolicy((X, Y, group("either", 1, "x", "y")), Label("either"))
ONE = WitnessPolicy((), Label("y1"))
ALL = ("x1", "x2", "x3", "y1", "y2", "y3")
NAMES = [Label(name) for name in ALL]


@pytest.mark.parametrize(
    ("policy", "cosigners", "lacks"),
    [
        (NO_WITNESSES, "", ""),
        (NO_WITNESSES, "stranger", ""),
        (ONE, "", "y1"),
        (ONE, "y1", ""),
        (ONE, "y2 x1", "y1"),
        (BOTH, "x1 x2 y1", ""),
        (BOTH, "x1 x3 y3", ""),
        (BOTH, "x1 x2 x3 y1 y2 y3", ""),
        (BOTH, "x1 x2 x3", "(1 of: y1, y2, y3)"),
        (BOTH, "y1 y2 y3", "(2 of: x1, x2, x3)"),
        (BOTH, "x1 y1", "(1 of: x2, x3)"),
        (BOTH, "x y both", "(2 of: x1, x2, x3) and (1 of: y1, y2, y3)"),
        (EITHER, "y2", ""),
        (EITHER, "x2 x3", ""),
        (EITHER, "x2", "(1 of: (1 of: x1, x3), (1 of: y1, y2, y3))"),
    ],
)
def test_a_quorum_is_as_many_of_each_group_as_it_needs(policy: WitnessPolicy, cosigners: str, lacks: str) -> None:
    """Members count up to their group and no further; the name of a group signs nothing."""
    names = [Label(name) for name in cosigners.split()]
    assert met(policy, names) == (not lacks)
    assert lacking(policy, names) == lacks


@pytest.mark.parametrize(
    ("policy", "liars", "spare", "words"),
    [
        (NO_WITNESSES, 0, 0, "no witness is needed"),
        (ONE, 1, 0, "y1"),
        (BOTH, 1, 1, "x (any 2 of: x1, x2, x3) and y (any 1 of: y1, y2, y3)"),
        (EITHER, 0, 4, "any 1 of: x (any 2 of: x1, x2, x3), y (any 1 of: y1, y2, y3)"),
    ],
)
def test_what_a_policy_withstands(policy: WitnessPolicy, liars: int, spare: int, words: str) -> None:
    """So few liars make two histories count, so many witnesses can be away, and a person reads who they are."""
    assert (fewest_liars(policy), most_absent(policy), in_words(policy)) == (liars, spare, words)


@pytest.mark.parametrize(
    "policy", [ONE, BOTH, EITHER, WitnessPolicy((group("q", 3, "x1", "x2", "x3", "y1"),), Label("q"))]
)
def test_fewer_liars_never_make_two_histories_count(policy: WitnessPolicy) -> None:
    """Of all ways to split the witnesses over two histories, none that makes both count needs fewer liars."""
    found = [
        split.count("both")
        for split in itertools.product(("first", "second", "both"), repeat=len(NAMES))
        if all(
            met(policy, [n for n, s in zip(NAMES, split, strict=True) if s in (one, "both")])
            for one in ("first", "second")
        )
    ]
    assert min(found) == fewest_liars(policy)


@pytest.mark.parametrize("policy", [ONE, BOTH, EITHER])
def test_so_many_can_be_away(policy: WitnessPolicy) -> None:
    """Without any ``most_absent`` of them there still is a quorum; with one more away, not always."""
    spare = most_absent(policy)
    assert all(met(policy, set(NAMES) - set(away)) for away in itertools.combinations(NAMES, spare))
    assert not all(met(policy, set(NAMES) - set(away)) for away in itertools.combinations(NAMES, spare + 1))


@given(st.sampled_from([BOTH, EITHER, ONE]), st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
def test_one_more_witness_never_hurts(policy: WitnessPolicy, some: set[Label], one: Label) -> None:
    """What is met stays met, and does not depend on who is no part of the quorum."""
    if met(policy, some):
        assert met(policy, some | {one})
    assert met(policy, some) == met(policy, some & witnesses_in(policy)) == (not lacking(policy, some))


@pytest.mark.parametrize(
    ("times", "since"),
    [
        ({"x1": 5, "x2": 9, "y1": 7}, 9),
        ({"x1": 5, "x2": 6, "x3": 99, "y1": 7, "y2": 8}, 7),
        ({"x1": 5, "y1": 7}, None),
        ({"x": 1, "y": 1, "both": 1}, None),
    ],
)
def test_a_quorum_stands_since_its_last_needed_member_signed(times: dict[str, int], since: int | None) -> None:
    """Late members beyond the needed ones do not move the time."""
    found = met_since(BOTH, {Label(name): Instant(at) for name, at in times.items()})
    assert found == since


@pytest.mark.parametrize(
    ("groups", "quorum", "complaint"),
    [
        ([group("g", 2, "x1")], "g", "needs 2 of 1"),
        ([group("g", 0, "x1")], "g", "needs 0 of 1"),
        ([group("g", 1)], "g", "needs 1 of 0"),
        ([group("g", 1, "x2", "x1")], "g", "sorted"),
        ([group("g", 1, "x1", "x1")], "g", "sorted"),
        ([group("g", 1, "nobody")], "g", "no group before it"),
        ([group("g", 1, "h"), group("h", 1, "x1")], "g", "no group before it"),
        ([group("x1", 1, "x2")], "x1", "taken"),
        ([group("none", 1, "x2")], "none", "taken"),
        ([group("g", 1, "x1"), group("h", 1, "g", "x1")], "h", "two groups"),
        ([group("g", 1, "x1")], "x2", "counts for nothing"),
        ([group("g", 1, "x1"), group("h", 1, "g")], "g", "counts for nothing"),
        ([], "x9", "neither a witness nor a group"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(groups: list[WitnessGroup], quorum: str, complaint: str) -> None:
    """Every mistake is named before anybody signs it."""
    with pytest.raises(MalformedError, match=complaint):
        check_policy(WitnessPolicy(tuple(groups), Label(quorum)), NAMES)


class ForeignTool:
    """Another's reader of C2SP policies and checkpoints, written from the specifications with bare signatures."""

    def __init__(self, policy: str) -> None:
        self.logs: list[str] = []
        self.witnesses: dict[str, str] = {}
        self.groups: dict[str, tuple[int, list[str]]] = {}
        self.quorum = ""
        for line in policy.splitlines():
            word, *rest = line.split()
            if word == "log":
                self.logs.append(rest[0])
            elif word == "witness":
                assert all(rest[0] not in known for known in (self.witnesses, self.groups))
                self.witnesses[rest[0]] = rest[1]
            elif word == "group":
                members = rest[2:]
                assert all(m in self.witnesses or m in self.groups for m in members)
                self.groups[rest[0]] = ({"all": len(members), "any": 1}.get(rest[1]) or int(rest[1]), members)
            else:
                assert word == "quorum"
                assert not self.quorum
                self.quorum = rest[0]

    def accepts(self, checkpoint: bytes) -> bool:
        text, _, lines = checkpoint.decode().rpartition("\n\n")
        body = text + "\n"
        signed = [line.removeprefix("— ").split(" ") for line in lines.splitlines()]
        blobs = [(name, base64.b64decode(data)) for name, data in signed]
        by_log = any(self._signed(key, body, blobs) for key in self.logs) or not self.logs
        return by_log and (self.quorum == "none" or self._counts(self.quorum, body, blobs))

    def _counts(self, name: str, body: str, blobs: list[tuple[str, bytes]]) -> bool:
        if name in self.witnesses:
            return self._signed(self.witnesses[name], body, blobs)
        needed, members = self.groups[name]
        return sum(self._counts(member, body, blobs) for member in members) >= needed

    def _signed(self, vkey: str, body: str, blobs: list[tuple[str, bytes]]) -> bool:
        name, wanted, coded = vkey.split("+", 2)
        kind, key = base64.b64decode(coded)[:1], base64.b64decode(coded)[1:]
        assert hashlib.sha256(name.encode() + b"\n" + kind + key).hexdigest()[:8] == wanted
        return any(
            self._verifies(name, kind, key, body, blob[4:])
            for by, blob in blobs
            if by == name and blob[:4].hex() == wanted
        )

    def _verifies(self, name: str, kind: bytes, key: bytes, body: str, blob: bytes) -> bool:
        origin, size, root = body.splitlines()
        try:
            if kind == b"\x01":
                Ed25519PublicKey.from_public_bytes(key).verify(blob, body.encode())
            elif kind == b"\x04":
                (time_s,) = struct.unpack(">Q", blob[:8])
                message = f"cosignature/v1\ntime {time_s}\n{body}".encode()
                Ed25519PublicKey.from_public_bytes(key).verify(blob[8:], message)
            else:
                assert kind == b"\x06"
                named = bytes([len(name)]) + name.encode() + blob[:8] + bytes([len(origin)]) + origin.encode()
                message = b"subtree/v1\n\0" + named + struct.pack(">QQ", 0, int(size)) + base64.b64decode(root)
                MLDSA44PublicKey.from_public_bytes(key).verify(blob[8:], message)
        except InvalidSignature:
            return False
        return True


@pytest.mark.parametrize("classic", [False, True])
def test_other_tools_check_our_checkpoints_by_the_exported_policy(classic: bool) -> None:
    """A reader of C2SP files that knows nothing of us accepts exactly the checkpoints that count for us."""
    names = [card.name for card in WITNESS_CARDS]
    policy = WitnessPolicy((WitnessGroup(Label("q"), 2, tuple(names)),), Label("q"))
    tool = ForeignTool(PolicyFile(policy, tuple(WITNESS_CARDS), (ORIGIN, WRITER.card), classic).encode())
    for chosen in ([], [0], [0, 1], [1, 2], [0, 1, 2]):
        plain = verified(7)
        by = [WITNESSES[i] for i in chosen]
        more = [s for w in by for s in cosign(plain.checkpoint, w.card.name, w.pair, NOW)]
        note = merge_signatures(plain.note, more)
        assert tool.accepts(note.encode()) == met(policy, [w.card.name for w in by])
        halves = parse_note(note.encode())
        kept = tuple(s for s in halves.signatures if s.name == ORIGIN or len(s.blob) < 100)
        assert tool.accepts(type(halves)(halves.text, kept).encode()) == (classic and len(by) >= 2)
    other = ForeignTool(PolicyFile(NO_WITNESSES, (), ("elsewhere.example/log", WRITER.card)).encode())
    assert not other.accepts(verified(7).encode())

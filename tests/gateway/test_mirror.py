"""A mirror cosigns what lies durably at its site and has been seen to grow, and nothing else."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exclave.errors import CorruptObject, MalformedError, NotAuthorised
from exclave.formats.hostconfig import HostedConfig
from exclave.formats.mirror import INFO_TYPE, MAX_BODY_BYTES, AddEntries, EntryPackage, parse_add_entries
from exclave.formats.note import ParsedNote
from exclave.formats.tile import TILE_WIDTH, bundle_key, encode_bundle
from exclave.formats.witness import AddCheckpoint, parse_signatures
from exclave.ids import Digest, Label, sha256
from exclave.ledger import mirror as ledger_mirror
from exclave.ledger.hosted_logs import HostedLogs
from exclave.ledger.mirror import Mirror
from exclave.ledger.witness import Witness, WitnessAnswer
from exclave.ledger.witness_store import WitnessStore, log_name
from exclave.rules.checkpoints import VerifiedCheckpoint, verify_checkpoint, verify_cosigned_by
from exclave.rules.subtree import subtree_proof, verify_subtree
from exclave.rules.tree import consistency_proof, leaf_hash, root_of
from exclave.serve.host_cosigners import MirrorDuty
from exclave.serve.host_duties import prefix_of, read_views
from exclave.serve.site_contract import ANYBODY, Asked, HostedState
from exclave.serve.site_usage import FolderUsage
from exclave.sites.arriving import ArrivingSite
from exclave.sites.recording import RecordingSite
from support.custody import actor
from support.hosted import ENTRIES, Hosted

WITNESS, MIRROR = actor("host-witness"), actor("host-mirror")
TICKET = 2
CERTIFICATE = "ab" * 32


class Mirrored(Hosted):
    """The host of a small state runs a mirror, and a witness beside it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.logs = HostedLogs({self.state.state: (self.site, self.view)})
        self.root = root
        self.reopen()
        self.entries = list(ENTRIES)

    def reopen(self) -> None:
        """The host's process begins anew."""
        witness = Witness(WitnessStore(self.root / "w"), WITNESS.card, WITNESS.pair, self.logs.writer)
        self.mirror = Mirror(self.logs, witness, WITNESS.card, WitnessStore(self.root / "m"), MIRROR.card, MIRROR.pair)

    @property
    def origin(self) -> str:
        return f"exclave/{self.state.state}/{self.state.register}/1"

    @property
    def now(self):  # type: ignore[no-untyped-def]
        return self.state.time

    def grow(self, count: int, publish: bool = False) -> VerifiedCheckpoint:
        """The log at home grows; the host gets the entries only with ``publish``."""
        while count:
            part = [f"entry {len(self.entries) + i}\n".encode() for i in range(min(count, 128))]
            self.state.append(*part, publish_to=None if publish else ())
            self.entries += part
            count -= len(part)
        return self.at(len(self.entries))

    def at(self, size: int) -> VerifiedCheckpoint:
        return verify_checkpoint(self.head(self.entries[:size]), self.origin, self.state.epochs[0].by.card)

    def asked(self, head: VerifiedCheckpoint, old: int = 0) -> bytes:
        leaves = [leaf_hash(entry) for entry in self.entries[: head.size]]
        return AddCheckpoint(old, consistency_proof(leaves, old), head.note, head.checkpoint).encode()

    def upload(self, start: int, end: int, ticket: bytes = b"", packages: int = 99) -> bytes:
        rest = b"".join(p.encode() for p in list(cut(self.entries[:end], start))[:packages])
        return AddEntries(self.origin, start, end, ticket, rest).encode()

    def cosigned(self, answer: WitnessAnswer, head: VerifiedCheckpoint) -> None:
        """The answer carries the mirror's cosignatures on ``head``."""
        assert answer.status == 200, answer.body
        note = ParsedNote(head.checkpoint.encode(), parse_signatures(answer.body))
        verify_cosigned_by(note, head.checkpoint, MIRROR.card)


def cut(entries: Sequence[bytes], start: int) -> list[EntryPackage]:
    """The canonical packages from ``start`` to the end, each with its proof."""
    leaves = [leaf_hash(entry) for entry in entries]
    found = []
    while start < len(entries):
        first = start - start % TILE_WIDTH
        end = min(len(entries), first + TILE_WIDTH)
        found.append(EntryPackage(start, tuple(entries[start:end]), subtree_proof(leaves, first, end)))
        start = end
    return found


@pytest.fixture
def mirrored(tmp_path: Path) -> Mirrored:
    return Mirrored(tmp_path)


def info(answer: WitnessAnswer) -> list[str]:
    assert answer.content_type == INFO_TYPE, answer.body
    return answer.body.decode().split("\n")


def test_what_was_published_here_is_cosigned_when_asked(mirrored: Mirrored) -> None:
    """A writer asks as it asks a witness, once its entries lie here: the mirror's cosignature says so."""
    head = mirrored.grow(5, publish=True)
    mirrored.cosigned(mirrored.mirror.add_held(mirrored.asked(head), mirrored.now), head)
    later = mirrored.grow(300, publish=True)
    mirrored.cosigned(mirrored.mirror.add_held(mirrored.asked(later, 8), mirrored.now), later)


def test_what_is_not_here_is_not_cosigned(mirrored: Mirrored) -> None:
    """A head whose entries have not come, or of which one bundle is lost or other bytes, gets no cosignature."""
    head = mirrored.grow(5)
    assert mirrored.mirror.add_held(mirrored.asked(head), mirrored.now).status == 503
    head = mirrored.grow(300, publish=True)
    place = mirrored.folder / bundle_key(mirrored.prefix, 0, TILE_WIDTH)
    right = place.read_bytes()
    place.chmod(0o644)
    place.write_bytes(right[:-2] + b"x\n")
    assert mirrored.mirror.add_held(mirrored.asked(head), mirrored.now).status == 503
    place.unlink()
    assert mirrored.mirror.add_held(mirrored.asked(head), mirrored.now).status == 503
    place.write_bytes(right)
    mirrored.cosigned(mirrored.mirror.add_held(mirrored.asked(head), mirrored.now), head)


def test_a_new_head_is_cosigned_by_itself(mirrored: Mirrored) -> None:
    """When a head was replaced, the mirror's own record shows it cosigned: what monitors read."""
    head = mirrored.grow(5, publish=True)
    mirrored.mirror.note_head(mirrored.origin, mirrored.now)
    shown = mirrored.mirror.latest(log_name(mirrored.origin))
    assert shown is not None
    verify_cosigned_by(verify_checkpoint(shown, mirrored.origin, mirrored.state.epochs[0].by.card).note,
                       head.checkpoint, MIRROR.card)  # fmt: skip


def test_entries_are_uploaded_package_by_package(mirrored: Mirrored) -> None:
    """C2SP tlog-mirror from the first question to the cosignature: 600 entries, two requests, a restart between."""
    head = mirrored.grow(600)
    first = mirrored.mirror.add_entries(mirrored.upload(0, 0), mirrored.now)
    assert (first.status, info(first)[:2]) == (409, ["3", "3"])  # what lies here, since nothing else is pending
    assert mirrored.mirror.add_checkpoint(mirrored.asked(head), mirrored.now).status == 200
    size, start, ticket, _ = info(mirrored.mirror.add_entries(mirrored.upload(0, 0), mirrored.now))
    assert (int(size), int(start)) == (603, 3)
    part = mirrored.mirror.add_entries(mirrored.upload(3, 603, packages=1), mirrored.now)
    assert part.status == 202
    assert info(part)[:2] == ["603", "256"]
    mirrored.reopen()
    again = mirrored.mirror.add_entries(mirrored.upload(256, 603), mirrored.now)
    assert again.status == 409  # what was not committed is asked for again
    assert info(again)[:2] == ["603", "3"]
    done = mirrored.mirror.add_entries(mirrored.upload(3, 603, base64.b64decode(ticket)), mirrored.now)
    mirrored.cosigned(done, head)
    tree = mirrored.view.log(mirrored.view.find(mirrored.state.register, mirrored.state.epochs[0].note.epoch))
    assert [entry for _, entry in tree.tree(tree.head()).entries()] == mirrored.entries
    mirrored.cosigned(mirrored.mirror.add_entries(mirrored.upload(603, 603), mirrored.now), head)  # refreshed


def test_a_former_pending_head_is_known_by_its_ticket(mirrored: Mirrored) -> None:
    """An upload that began before the pending head moved on is finished with the mirror's own ticket, no forged one."""
    first = mirrored.grow(50)
    mirrored.mirror.add_checkpoint(mirrored.asked(first), mirrored.now)
    ticket = base64.b64decode(info(mirrored.mirror.add_entries(mirrored.upload(0, 0), mirrored.now))[TICKET])
    later = mirrored.grow(10)
    mirrored.mirror.add_checkpoint(mirrored.asked(later, 53), mirrored.now)
    assert mirrored.mirror.add_entries(mirrored.upload(3, 53), mirrored.now).status == 409
    forged = mirrored.head(mirrored.entries[:53])  # the writer's, but this mirror never took it
    assert mirrored.mirror.add_entries(mirrored.upload(3, 53, forged), mirrored.now).status == 409
    mirrored.cosigned(mirrored.mirror.add_entries(mirrored.upload(3, 53, ticket), mirrored.now), first)


def test_forged_entries_are_not_stored(mirrored: Mirrored) -> None:
    """One other entry in a package: 422, and nothing of it lies at the site."""
    head = mirrored.grow(20)
    mirrored.mirror.add_checkpoint(mirrored.asked(head), mirrored.now)
    before = {stat.key for stat in mirrored.site.list("")}
    [package] = cut(mirrored.entries, 3)
    wrong = EntryPackage(3, (*package.entries[:-1], b"forged\n"), package.proof)
    body = AddEntries(mirrored.origin, 3, 23, b"", wrong.encode()).encode()
    assert mirrored.mirror.add_entries(body, mirrored.now).status == 422
    assert {stat.key for stat in mirrored.site.list("")} == before


def test_what_was_planted_under_a_bundles_name_gives_way(mirrored: Mirrored) -> None:
    """A thief occupies the name of the next bundle: what the writer's head proves takes its place."""
    head = mirrored.grow(20)
    mirrored.mirror.add_checkpoint(mirrored.asked(head), mirrored.now)
    mirrored.site.put_same(bundle_key(mirrored.prefix, 0, 23), encode_bundle([b"planted\n"] * 23))
    mirrored.cosigned(mirrored.mirror.add_entries(mirrored.upload(3, 23), mirrored.now), head)


def test_asking_again_reads_no_entries(mirrored: Mirrored) -> None:
    """What was proven once is not read again, however large the log is: to ask ever again costs a host little."""
    head = mirrored.grow(700, publish=True)
    read = RecordingSite(mirrored.site, keep_calls=True)
    mirrored.view.site = read
    mirrored.cosigned(mirrored.mirror.add_held(mirrored.asked(head), mirrored.now), head)
    assert len([call for call in read.calls if "tile/entries/" in call.name]) >= 3
    read.forget()
    mirrored.cosigned(mirrored.mirror.add_held(mirrored.asked(head, 703), mirrored.now), head)
    assert {call.name for call in read.calls} == {mirrored.head_key}
    for start in (703, 703, 703):
        read.forget()
        mirrored.cosigned(mirrored.mirror.add_entries(mirrored.upload(start, 703), mirrored.now), head)
        assert not [call for call in read.calls if "tile/entries/" in call.name]
        assert len(read.calls) < 10


def test_a_log_that_was_never_here(mirrored: Mirrored) -> None:
    """Without any head the first question is answered as by a mirror of an empty log: size 0, next entry 0."""
    (mirrored.folder / mirrored.head_key).unlink()
    answer = mirrored.mirror.add_entries(mirrored.upload(0, 0), mirrored.now)
    assert (answer.status, info(answer)) == (409, ["0", "0", "", ""])


class Counted:
    """The mirror as a gateway has it: within the state's quota."""

    def __init__(self, mirrored: Mirrored, quota_bytes: int) -> None:
        folder = str(mirrored.folder)
        site = ArrivingSite(folder)
        config = HostedConfig("first", mirrored.state.state, folder, ("a.pem",), quota_bytes)
        self.usage = FolderUsage(folder, site, config, 0)
        self.usage._count()
        place = HostedState(
            Label("first"), mirrored.state.state, folder, site, config, self.usage, frozenset({CERTIFICATE})
        )
        views = read_views((place,), lambda: mirrored.now)
        mirrored.logs = views.logs
        mirrored.reopen()
        duty = MirrorDuty(mirrored.mirror, partial(prefix_of, views), lambda: mirrored.now)
        self.post = lambda body, who=CERTIFICATE, **headers: duty.answer(
            place, Asked("POST", "add-entries", {}, {k.replace("_", "-"): v for k, v in headers.items()}, body, who)
        )
        self.folder = mirrored.folder

    def counted(self) -> tuple[int, int]:
        sizes = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file() and ".tmp" not in path.parts]
        return sum(sizes), len(sizes)


def test_uploads_are_counted_as_they_come(mirrored: Mirrored) -> None:
    """Bytes and objects that a mirror stores are in the state's count at once; questions start no recount."""
    host = Counted(mirrored, 1 << 30)
    head = mirrored.grow(600)
    mirrored.mirror.add_checkpoint(mirrored.asked(head), mirrored.now)
    assert host.post(mirrored.upload(0, 0)).status == 409
    assert host.post(mirrored.upload(3, 603)).status == 200
    assert (host.usage.bytes_used, host.usage.objects_used) == host.counted()
    for body in (mirrored.upload(603, 603), mirrored.upload(0, 0), mirrored.upload(600, 603)):
        host.post(body)
        assert not host.usage.counting
    assert (host.usage.bytes_used, host.usage.objects_used) == host.counted()


@pytest.mark.parametrize("who", [ANYBODY, "cd" * 32])
def test_only_the_state_uploads(mirrored: Mirrored, who: str) -> None:
    """Whoever read a head and its entries elsewhere cannot bring them here before the packs that they speak of: this
    site would look complete to the next backup, and never get what it missed."""
    host = Counted(mirrored, 1 << 30)
    shown = mirrored.site.read_head(mirrored.head_key)
    head = mirrored.grow(50)
    mirrored.mirror.add_checkpoint(mirrored.asked(head), mirrored.now)
    before = host.counted()
    for body in (mirrored.upload(3, 53), mirrored.upload(53, 53)):
        assert host.post(body, who).status == 401
    assert mirrored.site.read_head(mirrored.head_key) == shown
    assert host.counted() == before
    assert host.post(mirrored.upload(3, 53)).status == 200


def test_uploads_end_at_the_quota(mirrored: Mirrored) -> None:
    """507, not a byte over the quota, and what lay there stays."""
    host = Counted(mirrored, 1 << 30)
    bytes_used = host.usage.bytes_used
    host = Counted(mirrored, bytes_used + 2000)
    head = mirrored.grow(600)
    mirrored.mirror.add_checkpoint(mirrored.asked(head), mirrored.now)
    assert host.post(mirrored.upload(3, 603)).status == 507
    assert host.counted()[0] <= bytes_used + 2000
    assert (host.usage.bytes_used, host.usage.objects_used) == host.counted()


def test_packed_uploads(mirrored: Mirrored) -> None:
    """gzip is taken, as C2SP tlog-mirror demands: whole, alone, and no larger unpacked than a request may be."""
    host = Counted(mirrored, 1 << 30)
    head = mirrored.grow(50)
    mirrored.mirror.add_checkpoint(mirrored.asked(head), mirrored.now)
    body = mirrored.upload(3, 53)
    packed = gzip.compress(body)
    for wrong in (packed[:-1], packed + b"x", packed + packed, body, gzip.compress(bytes(MAX_BODY_BYTES + 1))):
        assert host.post(wrong, content_encoding="gzip").status == 400
    assert host.post(packed, content_encoding="br").status == 415
    answer = host.post(packed, content_encoding="gzip")
    assert answer.status == 200
    assert ("Accept-Encoding", "gzip") in answer.headers


@pytest.mark.parametrize("body", [b"", b"\0\1", b"\0\3abc" + bytes(18), b"\xff" * 40])
def test_nonsense_is_refused(mirrored: Mirrored, body: bytes) -> None:
    """Whatever comes instead of a request is answered with 400 or 404."""
    assert mirrored.mirror.add_entries(body, mirrored.now).status in (400, 404)
    assert mirrored.mirror.add_held(body, mirrored.now).status == 400


def test_an_ended_epoch_is_not_mirrored(mirrored: Mirrored) -> None:
    """After a warrant, neither the witness nor the mirror signs for the former writer."""
    head = mirrored.grow(5, publish=True)
    mirrored.mirror.add_checkpoint(mirrored.asked(head), mirrored.now)
    mirrored.state.new_epoch()
    for answer in (
        mirrored.mirror.add_checkpoint(mirrored.asked(head, 8), mirrored.now),
        mirrored.mirror.add_entries(mirrored.upload(8, 8), mirrored.now),
        mirrored.mirror.add_held(mirrored.asked(head), mirrored.now),
    ):
        assert (answer.status, answer.body[:8]) == (403, b"fenced: ")


def test_a_mirror_is_not_its_own_witness(mirrored: Mirrored, tmp_path: Path) -> None:
    """Two cosigners with one name would be taken for one."""
    witness = Witness(WitnessStore(tmp_path / "x"), WITNESS.card, WITNESS.pair, mirrored.logs.writer)
    with pytest.raises(NotAuthorised):
        Mirror(mirrored.logs, witness, WITNESS.card, WitnessStore(tmp_path / "y"), WITNESS.card, WITNESS.pair)


@given(st.integers(1, 40), st.data())
@settings(max_examples=150, deadline=None)
def test_proofs_of_subtrees(size: int, data: st.DataObject) -> None:
    """Each subtree of each small tree is proven, and no other hash or changed proof is."""
    leaves = [Digest(sha256(bytes([number]))) for number in range(size)]
    height = data.draw(st.integers(0, 6))
    start = data.draw(st.integers(0, (size - 1) >> height)) << height
    end = data.draw(st.integers(start + 1, min(size, start + (1 << height))))
    proof = subtree_proof(leaves, start, end)
    part, root = root_of(leaves[start:end]), root_of(leaves)
    verify_subtree(part, start, end, size, root, proof)
    wrong = Digest(sha256(b"wrong"))
    for hash_, steps in ((wrong, proof), (part, (*proof, wrong)), (part, proof[:-1] if proof else (wrong,))):
        with pytest.raises(CorruptObject):
            verify_subtree(hash_, start, end, size, root, steps)


@given(st.binary(max_size=300))
def test_what_parses_encodes_to_the_same(data: bytes) -> None:
    """A request to a mirror has one form."""
    try:
        request = parse_add_entries(data)
    except MalformedError:
        return
    assert request.encode() == data


def test_a_long_log_is_read_in_parts(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request reads more than so much of a log: others wait for a turn at the disk. Who asks again gets to the end,
    and then nothing was passed over."""
    monkeypatch.setattr(ledger_mirror, "PROVEN_AT_ONCE", 2)
    head = mirrored.grow(5 * TILE_WIDTH, publish=True)
    read = RecordingSite(mirrored.site, keep_calls=True)
    mirrored.view.site = read
    said = []
    for _ in range(3):
        read.forget()
        said.append(mirrored.mirror.add_held(mirrored.asked(head), mirrored.now))
        assert len([call for call in read.calls if "tile/entries/" in call.name]) <= 2
    assert [answer.status for answer in said[:2]] == [503, 503]
    mirrored.cosigned(said[2], head)
    mirrored.reopen()
    spoilt = mirrored.folder / bundle_key(mirrored.prefix, 3, TILE_WIDTH)
    spoilt.chmod(0o600)
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"?")
    assert {mirrored.mirror.add_held(mirrored.asked(head), mirrored.now).status for _ in range(5)} == {503}

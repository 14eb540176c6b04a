"""A small state whose versions commit to records: documents and rows that never were anywhere but in their tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from exclave.crypto.keyed import content_hash
from exclave.formats.charter import CharterWitness
from exclave.formats.entry import Entry, Kind
from exclave.formats.leaf import VersionLeaf
from exclave.formats.manifest import VERSION, Leaf, Record
from exclave.formats.record import Opening
from exclave.ids import Digest, Instant, Label, sha256
from exclave.ids import Sequence as Number
from exclave.keys.file import KeyKind
from exclave.ledger.publish import publish
from exclave.operations.prove import Evidence, WantedRow, gather_evidence
from exclave.registers.digest import TableDigest, dataset_digest
from exclave.registers.rows import FormerRows, RowRecords, TableHasher
from exclave.rules.checkpoints import cosign
from exclave.rules.records import RecordsKey, VersionTree
from exclave.vault.records import DocumentBook
from exclave.verify.history import RegisterHistory, read_history
from exclave.verify.state import read_state
from support.custody import actor, any_of
from support.small_state import SmallState

ID_KEY = bytes(range(32))
NAME = "land"
DOCS, DEEDS = Label("docs"), Label("deeds")


def leaves(documents: Mapping[bytes, bytes], width: int = 4) -> list[Leaf]:
    """``documents`` (path → content) as leaves of a manifest, ``width`` records each, a folder in the first."""
    records = [Record(Entry(b"", int(Kind.FOLDER), 0o755, 0, 0, 0))]
    for path, content in sorted(documents.items()):
        records.append(Record(Entry(path, int(Kind.FILE), 0o644, 0, 0, 0, len(content)), (), content_hash(content)))
    return [Leaf(VERSION, (), (), tuple(records[at : at + width])) for at in range(0, len(records), width)]


def read_table(rows: Sequence[tuple[int, str]], former: FormerRows) -> Digest | None:
    """The SQLite table ``deed`` with these rows, digested as a capture does; the root of its records."""
    header = msgspec.msgpack.encode([("id", "INTEGER"), ("owner", "TEXT")])
    hasher = TableHasher("deed", header, former, kind="sqlite", parts=("deed",))
    hasher.add([msgspec.msgpack.encode(row) for row in rows])
    done = hasher.done()
    table = TableDigest(("deed",), done.rows, done.sha256, done)
    return dataset_digest("sqlite", [table], exact=True, former=former).records


class ProvingState(SmallState):
    """Use: ``commit`` documents and rows as a version, then ``document`` or ``row`` for a proof's file."""

    key = RecordsKey(ID_KEY, NAME)

    def __init__(self, folder: Path, *, sites: Iterable[str] = ("home", "lux"), name: str | None = None) -> None:
        super().__init__(folder, sites=sites, register_name=name)
        self.committed: dict[int, tuple[Mapping[bytes, bytes], Sequence[tuple[int, str]]]] = {}

    def name_witnesses(self, needed: int, *names: str) -> None:
        """A new charter that asks for ``needed`` of these witnesses."""
        cards = {Label(name): actor(name, KeyKind.WITNESS).card for name in sorted(names)}
        for card in cards.values():
            self.put_card(card)
        witnesses = tuple(CharterWitness(label, card.digest) for label, card in cards.items())
        self.next_charter(lambda charter: replace(charter, witnesses=witnesses, policy=any_of(needed, *sorted(names))))

    def cosign(self, *names: str) -> None:
        """These witnesses vouch for the head as it is now, at every site."""
        log = self.open_log()
        assert log.checkpoint is not None
        head = log.checkpoint
        for name in names:
            by = actor(name, KeyKind.WITNESS)
            head = log.attach(cosign(head.checkpoint, by.name, by.pair, Instant(self.time + 1_000_000)))
        for site in list(self.sites.values())[1:]:
            publish(log.reader, head, site)

    def commit(self, documents: Mapping[bytes, bytes], rows: Sequence[tuple[int, str]] = ()) -> VersionLeaf:
        """The next version, with just these records."""
        self.sequence += 1
        self.time = Instant(self.time + 3_600_000_000)
        self.committed[self.sequence] = documents, rows
        name = sha256(f"manifest {self.sequence}".encode())
        leaf = VersionLeaf(
            self.register, self.epoch.note.epoch, Number(self.sequence), self.time, name, name, 1, 4096,
            self.tree(self.sequence).root,
        )  # fmt: skip
        self.append(leaf.encode())
        return leaf

    def tree(self, sequence: int) -> VersionTree:
        documents, rows = self.committed[sequence]
        roots = {DOCS: DocumentBook(self.key, DOCS, leaves(documents)).root}
        table = read_table(rows, FormerRows(records=RowRecords(self.key, DEEDS)))
        if rows and table is not None:
            roots[DEEDS] = table
        return VersionTree(self.key, sequence, roots)

    def open_document(self, sequence: int, path: bytes) -> Opening:
        book = DocumentBook(self.key, DOCS, leaves(self.committed[sequence][0]))
        return self.tree(sequence).extend(DOCS, book.open(path))

    def open_row(self, sequence: int, wanted: str) -> Opening:
        records = RowRecords(self.key, DEEDS, WantedRow(wanted))
        read_table(self.committed[sequence][1], FormerRows(records=records))
        assert records.opening is not None
        return self.tree(sequence).extend(DEEDS, records.opening)

    def history(self, *, allow_unwitnessed: bool = False) -> RegisterHistory:
        view = read_state(dict(self.sites), self.state)
        return read_history(view, dict(self.sites), self.register, allow_unwitnessed=allow_unwitnessed)

    def evidence(self, sequence: int, *, allow_unwitnessed: bool = False) -> Evidence:
        view = read_state(dict(self.sites), self.state)
        history = read_history(view, dict(self.sites), self.register, allow_unwitnessed=allow_unwitnessed)
        return gather_evidence(view, dict(self.sites), history, history.version(sequence))

    def document(self, sequence: int, path: bytes) -> bytes:
        """A proof of that document."""
        return self.evidence(sequence).proof(self.open_document(sequence, path))

    def row(self, sequence: int, wanted: str) -> bytes:
        """A proof of that row."""
        return self.evidence(sequence).proof(self.open_row(sequence, wanted))

"""Prove: one document or one row of a version, in a file that anybody checks with the state's fingerprint alone.

Two halves: ``gather_evidence`` (what is public: charters, epochs, the version's entry in its cosigned log) and an
``Opening`` (what only whoever may see the record knows: its text, its salt, its way to the version's root). The first
is made once for a version; then each proof is a matter of microseconds, and needs no site.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exclave.errors import CorruptObject, IntegrityError, MalformedError, MissingObject, UnavailableError, UsageError
from exclave.formats.card import Card
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.leaf import VersionLeaf
from exclave.formats.manifest import Leaf, Root
from exclave.formats.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    ParsedNote,
    key_id,
    parse_note,
)
from exclave.formats.paths import ledger_origin, ledger_prefix
from exclave.formats.proof import ParsedProof, TlogProof
from exclave.formats.record import MAX_RECORD_BYTES, Opening, RowRecord, table_name
from exclave.ids import Digest, Fingerprint, Label
from exclave.operations.home import Home
from exclave.operations.records import kept_roots, roots_in
from exclave.registers.contract import DatasetDigest
from exclave.registers.rows import FormerRows, RowRecords
from exclave.rules.checkpoints import VerifiedCheckpoint
from exclave.rules.records import RecordsKey, VersionTree
from exclave.sites.contract import Readable
from exclave.vault.catalogue import catalogue_leaves
from exclave.vault.opener import PackReader
from exclave.vault.records import DocumentBook
from exclave.verify.history import CountedVersion, EpochLog, RegisterHistory
from exclave.verify.logs import ProvenTree, TreeHead
from exclave.verify.proof import prune
from exclave.verify.state import StateView

_NONE_KEPT = "Take a version that was made with `records`, or set it in exclave.toml and make a backup."
ReadRows = Callable[[FormerRows], DatasetDigest]
"""Reads all rows of a database once; given a function from what is looked for to the digest."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything public that a proof of any record of one version holds. Built by ``gather_evidence``."""

    state: Fingerprint
    leaf: VersionLeaf
    charters: tuple[bytes, ...]
    cards: tuple[bytes, ...]
    warrants: tuple[bytes, ...]
    epochs: tuple[bytes, ...]
    cut: tuple[Digest, ...]
    tlog: TlogProof

    def proof(self, opening: Opening) -> bytes:
        """The file. ``UsageError`` for a record that is too long to be shown."""
        if len(opening.record) > MAX_RECORD_BYTES:
            raise UsageError(f"this row is longer than {MAX_RECORD_BYTES} bytes: it cannot be shown in a proof")
        return ParsedProof(
            self.state, self.charters, self.cards, self.warrants, self.epochs, self.leaf.encode(), opening, self.cut,
            self.tlog,
        ).encode()  # fmt: skip


def gather_evidence(
    view: StateView, sources: Mapping[Any, Readable], history: RegisterHistory, version: CountedVersion
) -> Evidence:
    """What is public about ``version`` of ``history``, from whichever of ``sources`` have it unharmed.

    ``UsageError`` if the version commits to no records; ``MissingObject`` if no source shows what a proof needs.
    """
    if version.leaf.records is None:
        raise UsageError(f"version {version.leaf.sequence} commits to no records", hint=_NONE_KEPT)
    chain, cards = view.chain, dict[Digest, Card]()
    charters, before = [], None
    for verified in chain.charters:
        allowed = (*verified.cards, *(before.cards if before else ()))
        charters.append(_pruned(view.charter_notes, verified.digest, allowed, cards))
        before = verified
    epochs, warrants = [], []
    for epoch in view.epoch_chain(history.register).epochs:
        shown = [data for site in view.shown.values() for data in site.epochs.get(history.register, {}).values()]
        epochs.append(_pruned(shown, epoch.digest, [epoch.maker], cards))
        cards[epoch.writer.digest] = epoch.writer
        if epoch.warrant is not None:
            note = view.warrants[epoch.warrant.digest].encode()
            warrants.append(_pruned([note], epoch.warrant.digest, epoch.warrant.charter.cards, cards))
    tlog, cut = _inclusion(view, sources, history, version, cards)
    texts = tuple(cards[digest].encode().encode() for digest in sorted(cards))
    return Evidence(view.state, version.leaf, tuple(charters), texts, tuple(warrants), tuple(epochs), cut, tlog)


def _pruned(notes: Iterable[bytes], digest: Digest, allowed: Iterable[Card], cards: dict[Digest, Card]) -> bytes:
    """One note out of all its copies, with good signatures of ``allowed`` alone; adds the cards that these need."""
    people = {card.digest: card for card in allowed}
    made: ParsedNote | None = None
    for copy in map(parse_note, notes):
        if copy.digest == digest:
            # Each by itself: of one name only a few lines are tried, and a host can put junk before the good ones.
            good, _ = prune(copy, people.values())
            made = good if made is None else made.with_signatures(*good.signatures)
    if made is None:
        raise MissingObject(f"no site shows the note {digest.hex()[:16]}… any more")
    pruned, signers = prune(made, people.values())
    cards |= {signer: people[signer] for signer in signers}
    return pruned.encode()


def _inclusion(
    view: StateView,
    sources: Mapping[Any, Readable],
    history: RegisterHistory,
    version: CountedVersion,
    cards: dict[Digest, Card],
) -> tuple[TlogProof, tuple[Digest, ...]]:
    log = history.epochs[version.epoch - 1]
    head = log.freshest
    if head is None or head.size <= version.index:
        raise MissingObject(f"no site shows a signed head of epoch {version.epoch}'s ledger with this version")
    witnesses = {card.name: card for card in view.witness_cards().values()}
    named = {name for name, _ in head.cosigners}
    cards |= {card.digest: card for name, card in witnesses.items() if name in named}
    path = _from_any(view, sources, log, head, version.index)
    follows = history.epochs[version.epoch].epoch.note.previous if version.epoch < len(history.epochs) else None
    cut: tuple[Digest, ...] = ()
    if follows is not None:
        origin = ledger_origin(view.state, history.register, version.epoch)
        cut = _from_any(view, sources, log, Checkpoint(origin, follows.size, follows.root), version.index)
    return TlogProof(version.index, path, _bare(head, log.epoch.writer, witnesses.values())), cut


def _bare(head: VerifiedCheckpoint, writer: Card, witnesses: Iterable[Card]) -> bytes:
    """The checkpoint with the signatures of its writer and of those witnesses alone that count. A host can put lines
    under any name beside them; a key that counts has signed once."""
    counted = {name for name, _ in head.cosigners}
    keys = {(head.origin, ED25519, writer.ed25519), (head.origin, COSIGNATURE_MLDSA44, writer.mldsa44)}
    for card in witnesses:
        if card.name in counted:
            keys |= {(card.name, COSIGNATURE_ED25519, card.ed25519), (card.name, COSIGNATURE_MLDSA44, card.mldsa44)}
    ids = {(name, key_id(name, kind, public)) for name, kind, public in keys}
    return ParsedNote(head.note.text, tuple(s for s in head.note.signatures if (s.name, s.key_id) in ids)).encode()


def _from_any(
    view: StateView, sources: Mapping[Any, Readable], log: EpochLog, head: TreeHead, index: int
) -> tuple[Digest, ...]:
    prefix = ledger_prefix(view.state, log.epoch.register, log.epoch.number, log.epoch.digest)
    last: Exception | None = None
    for source in sources.values():
        try:
            return ProvenTree(source, prefix, head).inclusion(index)
        except (IntegrityError, UnavailableError) as error:
            last = error
    raise MissingObject(f"no site has the tiles that prove entry {index} of {head.origin}") from last


class WantedRow:
    """Which row is looked for: ``TABLE:COLUMN=VALUE,…``, or ``TABLE:VALUE`` of the first column."""

    def __init__(self, text: str) -> None:
        """``UsageError`` if ``text`` does not say which table and which value."""
        self.text = text
        table, colon, key = text.partition(":")
        if not colon or not table or not key:
            raise UsageError(f"which row? {text!r}", hint="Write TABLE:COLUMN=VALUE, as `public.deed:id=4711`.")
        self._table = table
        pairs = [part.partition("=") for part in key.split(",")]
        self._single = key if not all(equals for _, equals, _ in pairs) else None
        self._cells = {} if self._single is not None else {name: value for name, _, value in pairs}
        self.found = 0

    def _may_be(self, row: bytes) -> bool:
        """Saves decoding nearly all rows: what `COPY` writes as it is must stand in the row."""
        values = [self._single] if self._single is not None else list(self._cells.values())
        return all(
            not value.isprintable() or "\\" in value or value.encode("utf-8", "replace") in row for value in values
        )

    def __call__(self, kind: str, table: str, row: bytes) -> bool:
        """Whether this row is meant; counts those that are."""
        name = table_name(table)
        if self._table not in (name, name.rpartition(".")[2]):
            return False
        if kind == "postgres" and not self._may_be(row):
            return False
        try:
            cells = RowRecord(Label("any"), Label("any"), kind, table, row).cells()
        except MalformedError:
            return False
        values = {column: value for column, _, value in cells}
        if self._single is not None:
            meant = bool(cells) and cells[0][2] == self._single
        else:
            meant = all(column in values and values[column] == value for column, value in self._cells.items())
        self.found += meant
        return meant


class RecordsOf:
    """Opens the records of one version, up to what its ledger entry names."""

    def __init__(
        self,
        key: RecordsKey,
        leaf: VersionLeaf,
        roots: Mapping[Label, Digest],
        leaves: Callable[[Label], Iterator[Leaf]],
    ) -> None:
        """``roots``: of its datasets; ``leaves`` gives those of a dataset of files. ``CorruptObject`` if ``roots`` are
        not the version's."""
        self._key, self._leaf, self._roots, self._leaves = key, leaf, dict(roots), leaves
        self._tree = VersionTree(key, leaf.sequence, self._roots)
        self._books: dict[Label, DocumentBook] = {}
        if not roots or self._tree.root != leaf.records:
            raise CorruptObject(f"what is known here of version {leaf.sequence}'s records is not what its entry names")

    @property
    def datasets(self) -> tuple[Label, ...]:
        """Those that take part."""
        return tuple(self._roots)

    def book(self, dataset: Label) -> DocumentBook:
        """All documents of ``dataset``. Its leaves are read once. ``UsageError`` if it takes no part."""
        self._require(dataset)
        if dataset not in self._books:
            book = DocumentBook(self._key, dataset, self._leaves(dataset))
            if book.root != self._roots[dataset]:
                raise MissingObject(
                    f"the documents of {dataset} that are known here are not those of version {self._leaf.sequence}",
                    hint="At home only the last version's are: take that, or open the version by warrant.",
                )
            self._books[dataset] = book
        return self._books[dataset]

    def document(self, dataset: Label, path: bytes) -> Opening:
        """The document at ``path`` below the dataset's folder. ``MissingObject`` if there is none."""
        return self._tree.extend(dataset, self.book(dataset).open(path))

    def row(self, dataset: Label, wanted: WantedRow, read: ReadRows) -> Opening:
        """The one row that is ``wanted``, out of a database that is just as the version has it.

        ``MissingObject`` if there is none, or the database has other rows; ``UsageError`` if several are meant.
        """
        self._require(dataset)
        rows = RowRecords(self._key, dataset, wanted)
        digest = read(FormerRows(records=rows))
        if digest.records != self._roots[dataset]:
            raise MissingObject(
                f"the database has not just the rows that {dataset} has in version {self._leaf.sequence}",
                hint="Restore that version, start its database, and name it with --copy.",
            )
        if wanted.found > 1:
            raise UsageError(
                f"{wanted.found} rows are like {wanted.text!r}", hint="Name further columns, comma between."
            )
        if rows.opening is None:
            raise MissingObject(f"no row is like {wanted.text!r} in version {self._leaf.sequence}")
        return self._tree.extend(dataset, rows.opening)

    def _require(self, dataset: Label) -> None:
        if dataset not in self._roots:
            raise UsageError(
                f"dataset {dataset} has no records in version {self._leaf.sequence}; it has those of:"
                f" {', '.join(self._roots)}"
            )


def records_at_home(home: Home, name: str, leaf: VersionLeaf) -> RecordsOf:
    """Records of a version of the register ``name``, from what its home keeps: documents of the last version, and rows
    of any whose database is at hand. ``UsageError`` if nothing was kept of this version."""
    config, register = home.config.find_register(name), home.register_id(name)
    _require_records(leaf)
    cache = home.cache(register)
    roots = kept_roots(cache, leaf.records or Digest(b""))
    if not roots:
        raise UsageError(
            f"this home has kept nothing of the records of version {leaf.sequence}",
            hint="Its cache was cleared, or another home made the version: open it by warrant, or make a new backup.",
        )
    key = RecordsKey(home.register_secrets(register).id_key, config.name)
    return RecordsOf(key, leaf, roots, lambda label: catalogue_leaves(cache / f"{label}.catalogue"))


def records_opened(reader: PackReader, root: Root, leaf: VersionLeaf) -> RecordsOf:
    """Records of an opened version (``restore.open_version``): any of its documents; rows from a restored copy."""
    _require_records(leaf)
    datasets = {Label(dataset.label): dataset for dataset in root.datasets}
    key = RecordsKey(root.secrets.id_key, root.name)
    return RecordsOf(key, leaf, roots_in(root), lambda label: reader.leaves(datasets[label]))


def _require_records(leaf: VersionLeaf) -> None:
    if leaf.records is None:
        raise UsageError(f"version {leaf.sequence} commits to no records", hint=_NONE_KEPT)


def write_proof(path: Path, data: bytes) -> None:
    """A new file; ``UsageError`` if it cannot be made. A crash leaves none, or a torn one that no verifier takes."""
    try:
        with open(path, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="Name another file with --out.") from error

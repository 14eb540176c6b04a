"""Proofs for what is published: from the records that the writer's home keeps of its last version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exclave.errors import CorruptObject, MissingObject
from exclave.formats.record import parse_record
from exclave.ids import Label
from exclave.operations.home import Home
from exclave.operations.prove import Evidence, RecordsOf, gather_evidence, records_at_home
from exclave.sites.contract import Readable
from exclave.verify.history import CountedVersion, RegisterHistory
from exclave.verify.proof import verify_document
from exclave.verify.state import StateView


@dataclass(frozen=True, slots=True)
class HomeProver:
    """Shows documents of one dataset of one version."""

    records: RecordsOf
    evidence: Evidence
    dataset: Label

    def prove(self, path: bytes, content: bytes) -> bytes:
        """The proof that the version has ``content`` at ``path``. ``MissingObject`` if it has not."""
        opening = self.records.document(self.dataset, path)
        try:
            verify_document(parse_record(opening.record), [content])
        except CorruptObject as error:
            raise MissingObject("it was changed since that version was taken") from error
        return self.evidence.proof(opening)

    def documents(self) -> Iterable[tuple[bytes, int]]:
        return self.records.book(self.dataset).documents()


@dataclass(frozen=True, slots=True)
class HomeProvers:
    """Opens a ``HomeProver`` once the version is known: what ``publish`` takes."""

    home: Home
    name: str
    dataset: Label

    def __call__(
        self, view: StateView, sites: Mapping[Label, Readable], history: RegisterHistory, version: CountedVersion
    ) -> HomeProver:
        """``UsageError`` if the version commits to no records, or this home kept nothing of them."""
        evidence = gather_evidence(view, sites, history, version)
        return HomeProver(records_at_home(self.home, self.name, version.leaf), evidence, self.dataset)

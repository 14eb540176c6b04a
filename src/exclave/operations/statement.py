"""Statement: looks at all sites, says in public what was found there, signed, and keeps it where citizens find it.

It is made from one look's evidence and nothing else (``rules/statement.py``), so what it claims was found. What stands
in the folder of whoever publishes it is replaced file by file, the note last: a restart finds the former statement or
this one, and the pages of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exclave.durable import replace_file
from exclave.errors import (
    CorruptObject,
    IntegrityError,
    MalformedError,
    MissingObject,
    NotAuthorised,
    OutcomeUnknown,
    UnavailableError,
)
from exclave.formats.note import ParsedNote
from exclave.formats.paths import public_statement_key, public_statement_prefix
from exclave.formats.publicstatement import PublicStatement, parse_public_statement
from exclave.ids import Fingerprint, Instant, Key, Label
from exclave.keys.file import KeyFile
from exclave.operations.home import key_card, make_folder
from exclave.operations.watch import Look, Watch
from exclave.rules.freshness import dated_ahead
from exclave.rules.signatures import sign_text
from exclave.rules.statement import SealedShown, role_of, statement_of
from exclave.sites.contract import Readable, Site, Sources
from exclave.verify.state import StateView
from exclave.verify.statements import read_statement, still_speaks

NOTE_NAME, TEXT_NAME, PAGE_NAME = "statement.note", "statement.txt", "index.html"
MAX_STATEMENT_BYTES = 1 << 20
MAX_OF_A_DAY = 2_000
"""Most names of one day that are looked at."""
MAX_USELESS = 1_000
"""So many objects that are no statement are read of one source, over all days: as many as a host keeps of what nobody
vouches for."""
MAX_USELESS_BYTES = 64 << 20
"""And no more bytes of them."""
_DAY_US = 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement and its note."""

    statement: PublicStatement
    note: bytes


def make_statement(
    look: Look,
    watch: Watch,
    key: KeyFile,
    state: Fingerprint,
    *,
    now: Instant,
    next_by: Instant,
    sample: int,
    sealed: SealedShown,
) -> SignedStatement:
    """What ``look``, which ended at ``now``, found. ``NotAuthorised`` if the charter does not know ``key``."""
    view, charter = watch.view, look.charter
    if look.problem is not None:
        raise look.problem
    if view is None or charter is None:
        raise MissingObject("the state was not read, so nothing can be said of it")
    card = key_card(key)
    role = role_of(charter, (chain.newest.writer for chain in view.epochs.values()), card)
    said = statement_of(
        state, charter, look.judge(now), verified=now, next_by=next_by, role=role, signer=card.name, card=card.digest,
        sample=sample, sealed=sealed,
    )  # fmt: skip
    text = parse_public_statement(said.encode()).encode()
    note = ParsedNote(text, sign_text(text, card.name, key.signing())).encode()
    read_statement(note, view)  # whoever reads it will ask the same
    return SignedStatement(said, note)


def publish_statement(made: SignedStatement, sites: Mapping[Label, Site]) -> dict[Label, str]:
    """Puts it at every site; why it could not be, by site. The sites' ledgers do not need it: one place is enough."""
    failed: dict[Label, str] = {}
    key = public_statement_key(made.statement.state, made.statement.verified, made.note)
    for label, site in sites.items():
        try:
            # Killed before: it is not there, and the next one will be. After: it is, whole.
            site.put_same(key, made.note)
        except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
            failed[label] = error.message
    return failed


def write_statement(made: SignedStatement, folder: Path, text: str, page: str) -> None:
    """The pages, then the note."""
    make_folder(folder)
    for name, data in ((TEXT_NAME, text.encode()), (PAGE_NAME, page.encode()), (NOTE_NAME, made.note)):
        replace_file(folder / name, data, mode=0o644)


def newest_statement(sources: Sources, view: StateView, *, now: Instant, days: int) -> SignedStatement:
    """The newest one of the last ``days`` at any source that somebody whom the charter knows has signed; those of one
    day whose signer it still knows before others, and none that is dated more than an hour ahead of ``now``.

    ``MissingObject`` if there is none. It may still be old, or false: ``verify/statements.py`` tells.
    """
    shelves = [_Shelf(source) for source in sources.values()]
    for back in range(days):
        day = Instant(max(0, now - back * _DAY_US))
        found: list[SignedStatement] = []
        for shelf in shelves:
            try:
                shown = shelf.of_day(public_statement_prefix(view.state, day), view)
                found += (one for one in shown if not dated_ahead(one.statement.verified, now))
            except (UnavailableError, IntegrityError):
                continue  # another source may have it
        if found:
            return max(found, key=lambda one: (still_speaks(one.statement, view), one.statement.verified, one.note))
    raise MissingObject(
        f"no site shows a statement of the last {days} days",
        hint="Ask the state whether it makes any (`exclave statement make --publish`). If it does, somebody holds them"
        " back here: name other sites.",
    )


@dataclass(slots=True)
class _Shelf:
    """One source, and how much of what is no statement is read there still, over all days: a host may show any
    number."""

    source: Readable
    objects: int = MAX_USELESS
    size_bytes: int = MAX_USELESS_BYTES

    def of_day(self, prefix: str, view: StateView) -> Iterator[SignedStatement]:
        if self.objects <= 0 or self.size_bytes <= 0:
            return
        for place, stat in enumerate(self.source.list(prefix)):
            if place >= MAX_OF_A_DAY:
                return
            data = b""
            try:
                data = self.source.get(Key(stat.key), limit=MAX_STATEMENT_BYTES)
                said = read_statement(data, view)
                if public_statement_key(view.state, said.verified, data) != stat.key:
                    raise CorruptObject("a statement has another name than its own")
            except (IntegrityError, MalformedError, NotAuthorised):  # anybody who may write there can have put it
                self.objects -= 1
                self.size_bytes -= len(data)
                if self.objects <= 0 or self.size_bytes <= 0:
                    return
            else:
                yield SignedStatement(said, data)

"""``exclave verify --proof``: what a proof of a single record says, in a citizen's words."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

from exclave.cli.output import counted, print_json, say, table, when
from exclave.formats.proof import MAX_PROOF_BYTES
from exclave.formats.record import FileRecord, RowRecord, table_name
from exclave.ids import Fingerprint, instant_text
from exclave.verify.localfiles import blocks, limited
from exclave.verify.proof import VerifiedProof, verify_document, verify_proof

_PLAIN = re.compile(r"[0-9A-Za-z_.]+")
_EUROPEAN = frozenset("ßÆæØøŒœŁł")
"""Letters without a basic one under an accent that nobody takes for another letter."""


def check_proof(path: Path, record: Path | None, pinned: Fingerprint, *, least_charter: int, json: bool) -> None:
    """``exclave verify --proof``: says what the file proves, and whether ``record`` is the document that it is of."""
    proven = verify_proof(limited(path, MAX_PROOF_BYTES), pinned, least_charter=least_charter)
    if record is not None:
        verify_document(proven.record, blocks(record))
    if json:
        print_json({"ok": True, "document_checked": record is not None, **proof_json(proven)})
        return
    say(sentence(proven))
    if isinstance(proven.record, RowRecord):
        table(("column", "type", "value"), ((c, t, _cell(v)) for c, t, v in proven.record.cells()))
    elif record is not None:
        say(f"{record} is that very document, byte by byte.")
    else:
        say(f"Of the document the proof names {proven.record.size} bytes and BLAKE3 {proven.record.content.hex()}.")
        say("Name your copy after the proof, and it is compared.")
    say(_as_of(proven))


def sentence(proven: VerifiedProof) -> str:
    """What was proven, for a citizen."""
    leaf, what = proven.leaf, record_text(proven.record)
    title = proven.title or proven.record.register
    said = (
        f"PROVEN: {what} stood in the register {title} of {proven.state_name} at {when(leaf.time)}"
        f" (version {leaf.sequence}). Its writer {proven.writer} signed that"
    )
    if proven.cut_off:
        return f"{said}, and the custodians' next epoch confirms it."
    if proven.cosigners:
        names = ", ".join(f"{name} ({when(time)})" for name, time in proven.cosigners)
        return f"{said}, and {counted(len(proven.cosigners), 'witness', 'witnesses')} cosigned: {names}."
    return f"{said}. The state's charter asks for no witness, so nobody else vouches for the time."


def _as_of(proven: VerifiedProof) -> str:
    return (
        f"The proof knows the state's charters up to number {proven.charter} ({when(proven.charter_issued)})."
        " What was decided later it cannot know."
    )


def record_text(record: FileRecord | RowRecord) -> str:
    if isinstance(record, FileRecord):
        path = record.path.decode("utf-8", "backslashreplace")
        return f"the document {path!r}{_spelt(path)} of {record.dataset}"
    table = table_name(record.table)
    # Whoever makes a table gives it any name, also one that reads like the rest of this sentence, or like another one.
    if not _PLAIN.fullmatch(table):
        table = f"{table!r}{_spelt(table)}"
    return f"a row of table {table} of {record.dataset}"


def _spelt(name: str) -> str:
    """The name in ASCII, where a reader could take it for another one; empty for õ and its like.

    Letters of other scripts can look like Latin ones, a letter and its accent can be two characters, and some
    characters are not seen at all.
    """
    return "" if all(map(_is_plain, name)) else f" ({ascii(name)[1:-1]})"


def _is_plain(char: str) -> bool:
    """ASCII, or one of the letters of Latin-1 and Latin Extended-A that are a basic letter with an accent."""
    parts = unicodedata.normalize("NFD", char)
    accented = char <= "\u017f" and len(parts) > 1 and parts[0].isascii()
    return char.isascii() or accented or char in _EUROPEAN


def _cell(value: str | None) -> str:
    """NULL, and a text that only reads like it, are not the same."""
    return "NULL" if value is None else repr(value) if value.strip("'") == "NULL" else value


def proof_json(proven: VerifiedProof) -> dict[str, Any]:
    leaf, record = proven.leaf, proven.record
    shown: dict[str, Any] = {"dataset": record.dataset}
    if isinstance(record, FileRecord):
        path = record.path.decode("utf-8", "backslashreplace")
        shown |= {"document": path, "size": record.size, "blake3": record.content.hex()}
    else:
        shown |= {"table": table_name(record.table), "row": [list(cell) for cell in record.cells()]}
    return {
        "state": proven.state, "state_name": proven.state_name, "register": leaf.register, "title": proven.title,
        "name": record.register, "version": leaf.sequence, "time": instant_text(leaf.time), "epoch": leaf.epoch,
        "writer": proven.writer, "signed": instant_text(proven.signed),
        "cosigners": {name: instant_text(time) for name, time in proven.cosigners}, "cut_off": proven.cut_off,
        "witnesses_needed": proven.witnesses_needed, "charter": proven.charter,
        "charter_issued": instant_text(proven.charter_issued), "record": shown,
    }  # fmt: skip

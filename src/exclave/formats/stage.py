"""The stage: what a writer has decided to append next. Page: ``docs/spec/ledger.md``.

::

    exclave/stage/v1
    log <origin>
    size <leaves of the tree that this is appended to>
    root <base64 of that tree's root>
    entry <base64>                                            (1 to 128)

Signed by the writer, because it lies at a site that is not trusted and the writer finishes what it finds there.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import MalformedError
from exclave.formats.checkpoint import check_origin
from exclave.formats.lines import LineReader
from exclave.formats.tile import MAX_ENTRY_BYTES, check_entry
from exclave.ids import Digest, b64, parse_b64, parse_count

HEADER = "exclave/stage/v1"
MAX_STAGE_ENTRIES = 128
MAX_STAGE_BYTES = 1 << 20
"""Of the whole signed note."""


@dataclass(frozen=True, slots=True)
class Stage:
    """``entries`` to be appended to the tree of ``size`` leaves with ``root`` of log ``origin``."""

    origin: str
    size: int
    root: Digest
    entries: tuple[bytes, ...]

    def encode(self) -> str:
        lines = "".join(f"entry {b64(entry)}\n" for entry in self.entries)
        return f"{HEADER}\nlog {self.origin}\nsize {self.size}\nroot {b64(self.root)}\n{lines}"


def parse_stage(text: str) -> Stage:
    """Strict inverse of ``Stage.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="stage", limit=MAX_STAGE_BYTES)
    lines.exactly(HEADER)
    origin = check_origin(lines.field("log"))
    size = parse_count(lines.field("size"))
    root = Digest(parse_b64(lines.field("root"), length=32))
    entries: list[bytes] = []
    while lines.peek() == "entry" and len(entries) < MAX_STAGE_ENTRIES:
        entries.append(check_entry(parse_b64(lines.field("entry"), limit=MAX_ENTRY_BYTES)))
    lines.end()
    stage = Stage(origin, size, root, tuple(entries))
    if not entries or stage.encode() != text:
        raise MalformedError("a stage is empty or not in its one canonical form")
    return stage

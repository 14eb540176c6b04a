"""What the operator of a site says after he has taken a state's objects away from it. Page: ``docs/spec/exit.md``.

A statement, as a note that he signs::

    exclave/exit/v1
    state <fingerprint>
    site <label>
    charter <n> <sha256 of its text>        the charter that leaves the site out
    begun <instant>                         when the list of what lay there was made
    time <instant>                          when nothing of it was found any more, but for what is left
    objects <n>                             taken away
    bytes <n>
    root <sha256 of the list>
    left <n> none | left <n> <instant>      objects that the store still locks, and until when, as far as it says
    operator <label> <card sha256>          who signs

The list that ``root`` binds, kept by the operator::

    exclave/exit-list/v1
    state <fingerprint>
    site <label>
    charter <n> <sha256 of its text>
    begun <instant>
    object <size> <key>                     0 or more, sorted by key, all of that state

The fact in the ledger of each register that lay there, of kind ``site-left``, has two lines: ``site <label>``, and
``statement <sha256 of the note>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from exclave.errors import MalformedError
from exclave.formats.lines import LineReader, LineStream
from exclave.ids import (
    Digest,
    Fingerprint,
    Instant,
    Key,
    Label,
    instant_text,
    parse_count,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    parse_key,
    parse_label,
    parse_positive,
)

HEADER = "exclave/exit/v1"
LIST_HEADER = "exclave/exit-list/v1"
KIND = Label("site-left")
MAX_STATEMENT_CHARS = 4 << 10
MAX_STATEMENT_BYTES = 32 << 10
"""Of the signed note."""
MAX_LINE_BYTES = 400
"""Of the list."""
MAX_CHARTERS = 99_999_999


@dataclass(frozen=True, slots=True)
class ExitStatement:
    """A statement whose form is right; who signed it is not checked yet."""

    state: Fingerprint
    site: Label
    charter: int
    charter_digest: Digest
    begun: Instant
    time: Instant
    objects: int
    bytes: int
    root: Digest
    left: int
    until: Instant | None
    operator: Label
    card: Digest

    def encode(self) -> str:
        until = "none" if self.until is None else instant_text(self.until)
        return (
            f"{HEADER}\nstate {self.state}\nsite {self.site}\ncharter {self.charter} {self.charter_digest.hex()}\n"
            f"begun {instant_text(self.begun)}\ntime {instant_text(self.time)}\nobjects {self.objects}\n"
            f"bytes {self.bytes}\nroot {self.root.hex()}\nleft {self.left} {until}\n"
            f"operator {self.operator} {self.card.hex()}\n"
        )


def parse_exit(text: str) -> ExitStatement:
    """Strict inverse of ``ExitStatement.encode``. Raises ``MalformedError``."""
    lines = LineReader(text, what="statement of exit", limit=MAX_STATEMENT_CHARS)
    lines.exactly(HEADER)
    state, site = parse_fingerprint(lines.field("state")), parse_label(lines.field("site"))
    number, digest = lines.fields("charter", 2)
    begun, time = parse_instant(lines.field("begun")), parse_instant(lines.field("time"))
    objects, size = parse_count(lines.field("objects")), parse_count(lines.field("bytes"))
    root = parse_digest(lines.field("root"))
    left, until = lines.fields("left", 2)
    operator, card = lines.fields("operator", 2)
    lines.end()
    made = ExitStatement(
        state, site, parse_positive(number, limit=MAX_CHARTERS), parse_digest(digest), begun, time, objects, size, root,
        parse_count(left), None if until == "none" else parse_instant(until), parse_label(operator), parse_digest(card),
    )  # fmt: skip
    if made.time < made.begun or (made.left == 0 and made.until is not None):
        raise MalformedError("statement of exit: it ends before it begins, or nothing is left until a time")
    if made.encode() != text:
        raise MalformedError("a statement of exit is not in its one canonical form")
    return made


@dataclass(frozen=True, slots=True)
class ExitHead:
    """The beginning of a list: whose objects, at which site, because of which charter, and since when."""

    state: Fingerprint
    site: Label
    charter: int
    charter_digest: Digest
    begun: Instant

    def encode(self) -> str:
        return (
            f"{LIST_HEADER}\nstate {self.state}\nsite {self.site}\ncharter {self.charter} {self.charter_digest.hex()}\n"
            f"begun {instant_text(self.begun)}\n"
        )


def object_line(key: Key, size_bytes: int) -> bytes:
    """One line of a list."""
    return f"object {size_bytes} {key}\n".encode()


class ExitList:
    """A list as it is read: its head at once, its objects one by one, since it may be longer than memory.

    Every method raises ``MalformedError`` naming the line.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._lines = LineStream(file, what="list of an exit", limit=MAX_LINE_BYTES)
        lines = self._lines
        lines.exactly(LIST_HEADER)
        (state,), (site,) = lines.fields("state", 1), lines.fields("site", 1)
        number, digest = lines.fields("charter", 2)
        (begun,) = lines.fields("begun", 1)
        self.head = ExitHead(
            parse_fingerprint(state), parse_label(site), parse_positive(number, limit=MAX_CHARTERS),
            parse_digest(digest), parse_instant(begun),
        )  # fmt: skip

    @property
    def root(self) -> Digest:
        """SHA-256 of what was read; of the whole list, once its last object was."""
        return self._lines.digest

    def objects(self) -> Iterator[tuple[Key, int]]:
        """Name and size of each object, sorted by name."""
        before = ""
        while self._lines.more():
            size, key = self._lines.fields("object", 2)
            found = self._lines.value(parse_key, key), self._lines.value(parse_count, size)
            if found[0] <= before:
                raise self._lines.fail("objects must be sorted and different")
            if not found[0].startswith(f"{self.head.state}/"):
                raise self._lines.fail("an object belongs to another state than the list")
            before = found[0]
            yield found


def exit_facts(site: Label, statement: Digest) -> tuple[str, str]:
    """What the fact says."""
    return f"site {site}", f"statement {statement.hex()}"


def parse_exit_facts(say: tuple[str, ...]) -> tuple[Label, Digest]:
    """The site and the digest of the statement's note. Raises ``MalformedError``."""
    if len(say) != 2 or not say[0].startswith("site ") or not say[1].startswith("statement "):
        raise MalformedError("a fact about a site that was left has the lines site and statement")
    return parse_label(say[0].removeprefix("site ")), parse_digest(say[1].removeprefix("statement "))

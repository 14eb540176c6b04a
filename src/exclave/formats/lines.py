"""The strict line grammar that every signed text of Exclave uses.

A text is UTF-8 without control characters other than the newline that ends every line. A line is a keyword, one
space, and its fields, separated by one space; the last field may hold spaces where the format says so.
Each format re-encodes what it parsed and compares, so there is exactly one spelling of every value.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from exclave.errors import MalformedError
from exclave.ids import Digest

MAX_LINE = 8192
Value = TypeVar("Value")


def text_of(data: bytes, limit: int, what: str) -> str:
    """``data`` as text; ``what`` names it. ``MalformedError`` if it has more than ``limit`` bytes or is not UTF-8."""
    if len(data) > limit:
        raise MalformedError(f"{what} is longer than {limit} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{what} is not UTF-8 text") from error


class LineReader:
    """Walks the lines of a text from the top; every method raises ``MalformedError`` naming the line."""

    def __init__(self, text: str, *, what: str, limit: int) -> None:
        """``what`` names the format in messages; ``limit`` is the largest accepted text, in characters."""
        if len(text) > limit:
            raise MalformedError(f"{what}: longer than {limit} characters")
        if not text.endswith("\n"):
            raise MalformedError(f"{what}: does not end with a newline")
        self.what = what
        self._lines = text[:-1].split("\n")
        self._at = 0
        if len(text) <= MAX_LINE and "".join(self._lines).isprintable():
            return  # as good as always: no line needs a look of its own
        for number, line in enumerate(self._lines, 1):
            if len(line) > MAX_LINE or _controlled(line):
                raise MalformedError(f"{what}: line {number} is too long or holds control characters")

    def fail(self, problem: str) -> MalformedError:
        """The error to raise for the line read last."""
        return MalformedError(f"{self.what}: line {self._at}: {problem}")

    def exactly(self, line: str) -> None:
        """The next line is ``line``."""
        if self._at >= len(self._lines) or self._lines[self._at] != line:
            self._at += 1
            raise self.fail(f"expected {line!r}")
        self._at += 1

    def peek(self) -> str:
        """Keyword of the next line, or an empty string at the end."""
        return self._lines[self._at].split(" ", 1)[0] if self._at < len(self._lines) else ""

    def fields(self, keyword: str, count: int, *, rest: bool = False) -> list[str]:
        """The ``count`` fields of the next line, after ``keyword``; with ``rest``, the last one may hold spaces."""
        line = self._lines[self._at] if self._at < len(self._lines) else ""
        self._at += 1
        parts = line.split(" ", count) if rest else line.split(" ")
        # Split at each space, ASCII has no other white space that a line may hold.
        lax = (rest or not line.isascii()) and any(part != part.strip() for part in parts)
        if parts[0] != keyword or len(parts) != count + 1 or "" in parts or lax:
            raise self.fail(f"expected {keyword!r} with {count} field(s)")
        return parts[1:]

    def field(self, keyword: str) -> str:
        """The single field of the next line."""
        return self.fields(keyword, 1)[0]

    def end(self) -> None:
        """Nothing follows."""
        if self._at != len(self._lines):
            self._at += 1
            raise self.fail("unexpected further line")


class LineStream:
    """The same grammar for files that are too long to hold: ASCII, line by line, with the digest of what was read.

    Every method raises ``MalformedError`` naming the line.
    """

    def __init__(self, file: BinaryIO, *, what: str, limit: int) -> None:
        """``limit``: bytes of the longest accepted line, its newline included."""
        self.what = what
        self._file, self._limit = file, limit
        self._hash = hashlib.sha256()
        self._at = 0
        self._next: bytes | None = None

    @property
    def digest(self) -> Digest:
        """SHA-256 of the lines read so far."""
        return Digest(self._hash.digest())

    def fail(self, problem: str) -> MalformedError:
        """The error to raise for the line read last."""
        return MalformedError(f"{self.what}: line {self._at}: {problem}", line=self._at)

    def more(self) -> bool:
        """Whether another line follows."""
        if self._next is None:
            self._next = self._file.readline(self._limit + 1)
        return self._next != b""

    def exactly(self, line: str) -> None:
        """The next line is ``line``."""
        if self._line() != line:
            raise self.fail(f"expected {line!r}")

    def fields(self, keyword: str, count: int) -> list[str]:
        """The ``count`` fields of the next line, after ``keyword``."""
        first, *fields = self._line().split(" ")
        if first != keyword or len(fields) != count or "" in fields:
            raise self.fail(f"expected {keyword!r} with {count} field(s)")
        return fields

    def value(self, parse: Callable[[str], Value], text: str) -> Value:
        """What ``parse`` makes of a field; its error names the line too."""
        try:
            return parse(text)
        except MalformedError as error:
            raise self.fail(error.message) from error

    def _line(self) -> str:
        if not self.more():
            self._at += 1
            raise self.fail("it ends too early")
        data, self._next = self._next or b"", None
        self._at += 1
        if len(data) > self._limit or not data.endswith(b"\n"):
            raise self.fail("the line is too long, or has no newline at its end")
        self._hash.update(data)
        text = data[:-1].decode("latin-1")
        if not text.isascii() or not text.isprintable():
            raise self.fail("the line holds other than printable ASCII characters")
        return text


def plain_text(value: str, *, limit: int = 500) -> str:
    """``value`` if it can stand as the last field of a line (names, reasons), else ``MalformedError``."""
    if not value or len(value) > limit or value != value.strip() or "\n" in value:
        raise MalformedError(f"expected 1 to {limit} characters on one line, not {value[:60]!r}")
    if _controlled(value):
        raise MalformedError("a text holds control characters")
    return value


def _controlled(line: str) -> bool:
    """Whether ``line`` holds control or format characters, surrogates or line separators."""
    # None of these is printable, so most lines need no second look.
    return not line.isprintable() and any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in line)

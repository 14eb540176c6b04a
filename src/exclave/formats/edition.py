"""What is published of a public register: editions and bundles. Page: ``docs/spec/edition.md``.

An *edition* is the list of everything that was published up to one version::

    exclave/edition/v1
    state <fingerprint>
    register <id>
    sequence <n>
    time <instant>
    previous none | <sha256 of the edition before>
    name <free text>
    bundle <sha256> <bytes> <files>                            (1 to 100000)

A *bundle* holds files with their proofs: a line, the table's length (4 bytes, big-endian), the table (MessagePack), and
one zstd frame with each file's bytes followed by its proof. A file without a digest was removed from the register.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final

import msgspec
import zstandard
from msgspec import Meta

from exclave.errors import CorruptObject, MalformedError
from exclave.formats.fact import Fact
from exclave.formats.lines import LineReader, plain_text, text_of
from exclave.ids import (
    Digest,
    Fingerprint,
    Instant,
    Label,
    RegisterId,
    Sequence,
    instant_text,
    parse_digest,
    parse_fingerprint,
    parse_instant,
    parse_positive,
    parse_register_id,
)

HEADER: Final = "exclave/edition/v1"
KIND: Final = Label("published")
"""Of the fact that binds an edition to its register's ledger."""
MAX_BUNDLES: Final = 100_000
MAX_EDITION_BYTES: Final = 16 << 20
BUNDLE_HEADER: Final = b"exclave/bundle/v1\n"
MAX_TABLE_BYTES: Final = 8 << 20
MAX_FILES: Final = 20_000
"""Files of one bundle."""
MAX_CONTENT_BYTES: Final = 48 << 20
"""Files and proofs of one bundle, unpacked."""
MAX_FILE_BYTES: Final = 32 << 20
MAX_PROOF_BYTES: Final = 1 << 20
MAX_PATH_BYTES: Final = 1000
_PREAMBLE: Final = len(BUNDLE_HEADER) + 4
_SAY_EDITION = re.compile(r"edition ([0-9a-f]{64})\Z")
_SAY_VERSION = re.compile(r"version ([1-9][0-9]{0,15})\Z")


@dataclass(frozen=True, slots=True)
class BundleLine:
    """One bundle as an edition lists it."""

    name: Digest
    size_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class Edition:
    """Everything published of ``register`` up to its version ``sequence``; later bundles win over earlier ones."""

    state: Fingerprint
    register: RegisterId
    sequence: Sequence
    time: Instant
    """The moment whose state that version holds."""
    previous: Digest | None
    name: str
    """The register's public name."""
    bundles: tuple[BundleLine, ...]

    def encode(self) -> bytes:
        previous = "none" if self.previous is None else self.previous.hex()
        head = (
            f"{HEADER}\nstate {self.state}\nregister {self.register}\nsequence {self.sequence}\n"
            f"time {instant_text(self.time)}\nprevious {previous}\nname {plain_text(self.name, limit=200)}\n"
        )
        lines = "".join(f"bundle {b.name.hex()} {b.size_bytes} {b.files}\n" for b in self.bundles)
        return (head + lines).encode()


def parse_edition(data: bytes) -> Edition:
    """Strict inverse of ``Edition.encode``. Raises ``MalformedError``."""
    lines = LineReader(text_of(data, MAX_EDITION_BYTES, "an edition"), what="edition", limit=MAX_EDITION_BYTES)
    lines.exactly(HEADER)
    state = parse_fingerprint(lines.field("state"))
    register = parse_register_id(lines.field("register"))
    sequence = Sequence(parse_positive(lines.field("sequence"), limit=2**53 - 1))
    time = parse_instant(lines.field("time"))
    named = lines.field("previous")
    previous = None if named == "none" else parse_digest(named)
    name = plain_text(lines.fields("name", 1, rest=True)[0], limit=200)
    bundles: list[BundleLine] = []
    while lines.peek() == "bundle" and len(bundles) < MAX_BUNDLES:
        digest, size, files = lines.fields("bundle", 3)
        bundles.append(
            BundleLine(
                parse_digest(digest), parse_positive(size, limit=64 << 20), parse_positive(files, limit=MAX_FILES)
            )
        )
    lines.end()
    edition = Edition(state, register, sequence, time, previous, name, tuple(bundles))
    if not bundles or len({b.name for b in bundles}) != len(bundles) or edition.encode() != data:
        raise MalformedError("an edition is not in its one canonical form")
    return edition


def published_lines(sequence: int, edition: Digest) -> tuple[str, str]:
    """The ``say`` lines of the fact that binds ``edition`` (the SHA-256 of its text) to the ledger."""
    return f"version {sequence}", f"edition {edition.hex()}"


def parse_published(fact: Fact) -> tuple[Sequence, Digest]:
    """Version and edition that a fact of kind ``published`` names. Raises ``MalformedError``."""
    if fact.kind != KIND or len(fact.say) != 2:
        raise MalformedError("a fact about a publication names a version and an edition")
    version, edition = _SAY_VERSION.match(fact.say[0]), _SAY_EDITION.match(fact.say[1])
    if version is None or edition is None:
        raise MalformedError("a fact about a publication is not in its one form")
    return Sequence(parse_positive(version[1], limit=2**53 - 1)), parse_digest(edition[1])


class BundleFile(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One file of a bundle's table."""

    path: str
    digest: bytes
    """SHA-256 of its bytes; empty if the file is no longer in the register."""
    size: Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
    proof_size: Annotated[int, Meta(ge=0, le=MAX_PROOF_BYTES)]


class _Table(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    sequence: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    time: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    files: Annotated[tuple[BundleFile, ...], Meta(min_length=1, max_length=MAX_FILES)]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle says of itself, and its packed content."""

    sequence: Sequence
    """The version that holds these files, and that their proofs speak of."""
    time: Instant
    """The moment whose state it is."""
    files: tuple[BundleFile, ...]
    """In the order of their paths."""
    packed: bytes

    def encode(self) -> bytes:
        table = msgspec.msgpack.encode(_Table(self.sequence, self.time, self.files))
        return BUNDLE_HEADER + len(table).to_bytes(4, "big") + table + self.packed

    def contents(self) -> Iterator[tuple[BundleFile, bytes, bytes]]:
        """Each file with its bytes and its proof. ``CorruptObject`` if they are not what the table says.

        Memory: the whole content, at most 48 MiB.
        """
        wanted = sum(f.size + f.proof_size for f in self.files)
        try:
            # What a frame says of its own length is allocated whatever limit is given, so it must be right first.
            said = zstandard.frame_content_size(self.packed)
            if said != wanted:
                raise CorruptObject("a bundle's content has another length than its table says")
            data = zstandard.ZstdDecompressor().decompress(self.packed, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CorruptObject("a bundle's content cannot be unpacked") from error
        if len(data) != wanted:
            raise CorruptObject("a bundle's content has another length than its table says")
        at = 0
        for file in self.files:
            content = data[at : at + file.size]
            proof = data[at + file.size : at + file.size + file.proof_size]
            at += file.size + file.proof_size
            if file.digest and hashlib.sha256(content).digest() != file.digest:
                raise CorruptObject(f"a bundle holds other bytes of {file.path!r} than its table says")
            yield file, content, proof


def make_bundle(sequence: Sequence, time: Instant, files: Iterable[tuple[str, bytes | None, bytes]]) -> Bundle:
    """A bundle of (path, bytes or None for a removed file, proof), ordered by path; the caller keeps to the limits."""
    table: list[BundleFile] = []
    pieces: list[bytes] = []
    for path, content, proof in sorted(files, key=lambda file: file[0].encode()):
        digest = b"" if content is None else hashlib.sha256(content).digest()
        table.append(BundleFile(path, digest, len(content or b""), len(proof)))
        pieces += [content or b"", proof]
    # A long window: proofs of one version have most of their bytes in common.
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(6, window_log=25, enable_ldm=True)
    )
    return Bundle(sequence, time, tuple(table), packer.compress(b"".join(pieces)))


def parse_bundle(data: bytes) -> Bundle:
    """Strict inverse of ``Bundle.encode``; the content is not unpacked. Raises ``MalformedError``."""
    end = table_end(data)
    if len(data) <= end:
        raise MalformedError("a bundle ends before its content")
    table = _parse_table(data[_PREAMBLE:end])
    return Bundle(Sequence(table.sequence), Instant(table.time), table.files, data[end:])


def table_end(start: bytes) -> int:
    """Where the content of a bundle begins, from its first 22 bytes. Raises ``MalformedError``."""
    if len(start) < _PREAMBLE or not start.startswith(BUNDLE_HEADER):
        raise MalformedError("this is no bundle of published files")
    length = int.from_bytes(start[len(BUNDLE_HEADER) : _PREAMBLE], "big")
    if not 1 <= length <= MAX_TABLE_BYTES:
        raise MalformedError(f"a bundle's table has at most {MAX_TABLE_BYTES} bytes")
    return _PREAMBLE + length


def _parse_table(data: bytes) -> _Table:
    try:
        table = msgspec.msgpack.decode(data, type=_Table)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise MalformedError(f"a bundle's table is not one: {error}") from error
    if msgspec.msgpack.encode(table) != data:
        raise MalformedError("a bundle's table is not in its one canonical form")
    paths = [file.path.encode() for file in table.files]
    if any(a >= b for a, b in pairwise(paths)):
        raise MalformedError("a bundle's files are not in order, or one stands there twice")
    for file in table.files:
        if len(file.digest) not in (0, 32) or not publishable(file.path):
            raise MalformedError(f"a bundle's table has a line that cannot be: {file.path[:80]!r}")
        if not file.digest and (file.size or file.proof_size):
            raise MalformedError("a removed file has no bytes and no proof")
    if sum(file.size + file.proof_size for file in table.files) > MAX_CONTENT_BYTES:
        raise MalformedError(f"a bundle's content has at most {MAX_CONTENT_BYTES} bytes")
    return table


def publishable(path: str) -> bool:
    """Whether a file can be published under ``path``: relative, ``/`` between components, none of them ``.`` or ``..``,
    no control, format or unassigned characters, at most 1000 bytes of UTF-8."""
    if not 0 < len(path) <= MAX_PATH_BYTES or any(part in ("", ".", "..") for part in path.split("/")):
        return False
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp") for c in path):
        return False
    return len(path.encode()) <= MAX_PATH_BYTES

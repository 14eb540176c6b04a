"""What the writer notices while it reads: the counts of ``formats/signals.py``, at next to no cost.

Everything is seen in passing: former records come along in walk order anyway, content is in memory when a file is read,
and only files that were read are looked at. Without a former catalogue nothing is looked at.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from fnmatch import translate
from re import compile as pattern
from typing import Protocol

from exclave.formats.entry import Entry, Kind
from exclave.formats.manifest import Record
from exclave.formats.signals import EXAMPLES, MAX_EXAMPLE_BYTES, Signals
from exclave.ids import Instant

OLD_DAYS = 30
SAMPLE_BYTES = 4096
MOST_LOOKS = 4096
"""Of files of one dataset; after that only every ``THINNING``-th is looked at, and counts for so many."""
THINNING = 16
_DAY_NS = 86400 * 1_000_000_000
_GONE_KEPT = 4096
_DENSE = 240
"""A kibibyte of noise holds about 251 of the 256 values, one of text or tables far fewer."""
_CHI_MOST = 330.0
"""Chi-squared of 255 degrees of freedom is below this for noise in 99.9 % of samples."""
_CONTROL = bytes(b for b in range(32) if b not in b"\t\n\v\f\r\x1b")
_PLAIN = bytes(b for b in range(256) if b not in _CONTROL)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_OLE = (b"\xd0\xcf\x11\xe0",)
_HEADS: dict[bytes, tuple[bytes, ...]] = {
    b"pdf": (b"%PDF-",), b"zip": _ZIP, b"docx": _ZIP, b"xlsx": _ZIP, b"pptx": _ZIP, b"odt": _ZIP, b"ods": _ZIP,
    b"odp": _ZIP, b"asice": _ZIP, b"asics": _ZIP, b"bdoc": _ZIP, b"edoc": _ZIP, b"jar": _ZIP, b"epub": _ZIP,
    b"doc": _OLE, b"xls": _OLE, b"ppt": _OLE, b"jpg": (b"\xff\xd8\xff",), b"jpeg": (b"\xff\xd8\xff",),
    b"png": (b"\x89PNG\r\n",), b"gif": (b"GIF8",), b"tif": (b"II", b"MM"), b"tiff": (b"II", b"MM"), b"bmp": (b"BM",),
    b"rtf": (b"{\\rtf",), b"gz": (b"\x1f\x8b",), b"xz": (b"\xfd7zXZ",), b"bz2": (b"BZh",), b"7z": (b"7z\xbc\xaf",),
    b"zst": (b"\x28\xb5\x2f\xfd",), b"sqlite": (b"SQLite format 3\0",), b"p7s": (b"0", b"-----"),
}  # fmt: skip
"""Ending of a name → how such a file begins."""
_ENDS = {_ZIP: b"PK\x05\x06", _HEADS[b"pdf"]: b"%%EOF"}
"""What must stand in its last ``SAMPLE_BYTES``: programs that encrypt only the rest of a file leave its beginning."""
_TEXTS = frozenset(
    b"txt csv tsv json xml xsd html htm svg md sql log ini yaml yml toml eml tex css js py sh conf".split()
)
_NOISY = frozenset(
    {
        *_HEADS,
        *b"mp3 mp4 mov avi mkv ogg webm jp2 heic webp gpg pgp p7m p12 pfx age enc woff2 br brotli lz4".split(),
        *b"whl jmod apk deb rpm iso img pak crx xpi msi cab".split(),
    }
)
"""Endings whose files look like noise, or may."""
_PARTED = frozenset({b"sqlite", b"doc", b"xls", b"ppt", b"tif", b"tiff", b"bmp"})
"""Of ``_HEADS``, those that are not compressed throughout."""


def ending_of(path: bytes) -> bytes:
    """Lower-case ending of a name, without its dot; empty if it has none."""
    name = path.rpartition(b"/")[2]
    stem, dot, ending = name.rpartition(b".")
    return ending.lower() if dot and stem else b""


def is_mismatch(ending: bytes, head: bytes, tail: bytes) -> bool:
    """Whether content with this beginning and end is not what ``ending`` promises; others promise nothing."""
    heads = _HEADS.get(ending)
    if heads is not None:
        return not head.startswith(heads) or _ENDS.get(heads, b"") not in tail
    if ending not in _TEXTS or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return False
    return any(len(part.translate(None, _PLAIN)) * 25 > len(part) for part in (head, tail))


def is_noise(sample: bytes) -> bool:
    """Whether ``sample`` (1 KiB or more) cannot be told from random bytes by how often each value occurs."""
    if len(sample) < 1024 or len(set(sample[:1024])) < _DENSE:
        return False
    expected = len(sample) / 256
    counts = Counter(sample)
    return sum(n * n for n in counts.values()) / expected - len(sample) < _CHI_MOST


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a file's content; ``weight``: for how many files it stands."""

    mismatch: bool
    random: bool
    weight: int = 1


class Seen(Protocol):
    """A file as it is now."""

    @property
    def entry(self) -> Entry: ...
    @property
    def hash(self) -> bytes: ...


class Watch:
    """Watches one dataset of one version. Use: given to ``VersionWriter.add_dataset``; all calls from its thread."""

    def __init__(self, now: Instant, *, immutable: tuple[str, ...] = ()) -> None:
        """``immutable``: patterns of paths that must never change once they are there (``*`` goes over ``/``)."""
        self._old_ns = now * 1000 - OLD_DAYS * _DAY_NS
        self._immutable = pattern(b"|".join(translate(p).encode() for p in immutable)) if immutable else None
        self.compared = False
        """Set by the writer: a former catalogue is at hand."""
        self._numbers: Counter[str] = Counter()
        self._examples: dict[str, list[bytes]] = {}
        self._gone: deque[bytes] = deque()
        self._gone_set: set[bytes] = set()
        self._endings: Counter[bytes] = Counter()
        self._looks = 0

    def wants(self) -> bool:
        """Whether the file that is read now is to be looked at. Ask once for each."""
        if not self.compared:
            return False
        self._looks += 1
        return self._looks <= MOST_LOOKS or self._looks % THINNING == 0

    def look(self, path: bytes, head: bytes, middle: bytes, tail: bytes, former: Record | None) -> Look:
        """``head``, ``middle``, ``tail``: up to ``SAMPLE_BYTES`` of the content each."""
        ending = ending_of(path)
        explained = ending in _NOISY and ending not in _PARTED
        random = former is not None and not explained and (is_noise(middle) or is_noise(tail))
        weight = 1 if self._looks <= MOST_LOOKS else THINNING
        return Look(bool(head) and is_mismatch(ending, head, tail), random, weight)

    def passed(self, former: Record) -> None:
        """A former entry that is not there any more."""
        if former.entry.kind != Kind.FILE:
            return
        path = former.entry.path
        self._numbers["gone"] += 1
        self._gone.append(path)
        self._gone_set.add(path)
        if len(self._gone) > _GONE_KEPT:
            self._gone_set.discard(self._gone.popleft())
        self._check_sealed(path)

    def read(self, former: Record | None, record: Seen, look: Look | None) -> None:
        """A file that was read: ``record`` as it is now, ``former`` what stood under its path."""
        if former is None or former.entry.kind != Kind.FILE:
            self._numbers["new"] += 1
            self._note_suffix(record.entry.path)
            if look is not None and look.mismatch:
                self._count("mismatch", record.entry.path, look.weight)
            return
        path = record.entry.path
        if former.hash == record.hash:
            self._numbers["touched"] += 1
            return
        self._numbers["changed"] += 1
        self._check_sealed(path)
        if former.entry.mtime_ns < self._old_ns:
            self._count("old", path)
        if former.entry.mtime_ns == record.entry.mtime_ns:
            self._count("silent", path)
        if look is not None and look.mismatch:
            self._count("mismatch", path, look.weight)
        if look is not None and look.random:
            self._count("random", path, look.weight)

    def _note_suffix(self, path: bytes) -> None:
        stem, dot, ending = path.rpartition(b".")
        if dot and stem in self._gone_set:
            self._count("suffix", path)
            self._endings[ending] += 1

    def _check_sealed(self, path: bytes) -> None:
        if self._immutable is not None and self._immutable.match(path):
            self._count("sealed", path)

    def _count(self, name: str, path: bytes, weight: int = 1) -> None:
        self._numbers[name] += weight
        kept = self._examples.setdefault(name, [])
        if len(kept) < EXAMPLES and len(path) <= MAX_EXAMPLE_BYTES:
            kept.append(path)

    def signals(self, *, files: int, read: int, new: int, stored: int, dense: int) -> Signals:
        """What was seen; the numbers are the writer's: files, and bytes as in ``Signals``."""
        common, n = self._endings.most_common(1), self._numbers
        return Signals(
            self.compared,
            files=files, new=n["new"], changed=n["changed"], touched=n["touched"], gone=n["gone"], old=n["old"],
            silent=n["silent"], mismatch=n["mismatch"], random=n["random"], suffix=n["suffix"], sealed=n["sealed"],
            read_bytes=read, new_bytes=new, stored_bytes=stored, dense_bytes=dense,
            ending=common[0][0][:40].decode("utf-8", "replace") if common else "",
            examples=tuple((name, path) for name in sorted(self._examples) for path in self._examples[name]),
        )  # fmt: skip

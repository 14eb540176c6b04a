"""A folder of documents as a bag (BagIt 1.0, RFC 8493): files as they are, and lists that any archive can check.

A bag's payload is plain files. What else a version knows of them (links, modes, owners, names that are no text) stands
in the tag file ``exclave/entries.jsonl``, one line for each entry.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from exclave.errors import TargetNotEmpty, UnavailableError
from exclave.formats.entry import Entry, FileSink, Kind
from exclave.ids import Instant, instant_text

ESCAPED: Final = "exclave-bytes="
"""How the name of a payload file begins that stands for one that cannot be in a bag; base 32 of the name follows."""
HASHED: Final = "exclave-sha256="
"""How a name begins that would be too long so; the SHA-256 of the name follows."""
_MOST_BYTES: Final = 255
"""Of a name in a file system."""
_ALGORITHMS: Final = ("sha256", "sha512")
_BLOCK: Final = 1 << 20
_FOLD: Final = 3900
"""Most characters of one value in bag-info.txt."""


def payload_name(path: bytes) -> str:
    """Where an entry's content lies below ``data/``.

    Names that are no UTF-8, those with a line end or a percent sign, on whose encoding readers of bags differ, and
    those with a space at the end, which they drop, are written otherwise; so are names that look as if they had been,
    so that no two names become one.
    """
    return "/".join(map(_component, path.split(b"/")))


def _component(name: bytes) -> str:
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text == text.rstrip() != "" and not any(c in "%\r\n" for c in text) and not text.startswith((ESCAPED, HASHED)):
        return text
    escaped = ESCAPED + base64.b32encode(name).decode("ascii").rstrip("=").lower()
    return escaped if len(escaped) <= _MOST_BYTES else HASHED + hashlib.sha256(name).hexdigest()


class BagSink:
    """Takes a version's entries (``formats.entry.Sink``) into a new bag in ``root``; ``finish`` completes it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._data = root / "data"
        self._spool = root / ".entries"
        self._lock = threading.Lock()
        self._sums: dict[bytes, tuple[str, str]] = {}
        """Of each file by its path; some 300 bytes for each."""
        self._open: set[_Piecewise] = set()
        self._placed: list[Entry] = []
        self._marked: deque[list[Entry]] = deque()
        self._listed: list[Entry] = []
        """Entries that the next barrier lists: a link's file is whole by then."""
        self.files = self.bytes = self.renamed = 0
        try:
            self._data.mkdir(parents=True, mode=0o700)
        except FileExistsError as error:
            raise TargetNotEmpty(f"{root} is there already") from error
        except OSError as error:
            raise _unwritable(root, error) from error
        self._list = open(self._spool, "w", encoding="utf-8")

    def place(self, entry: Entry) -> None:
        if entry.kind == Kind.FOLDER and entry.path:
            try:
                (self._data / payload_name(entry.path)).mkdir(mode=0o700)
            except OSError as error:
                raise _unwritable(self._data, error) from error
        self._placed.append(entry)

    def begin(self, entry: Entry) -> FileSink:
        file = _Piecewise(self, entry, self._path(entry.path))
        with self._lock:
            self._open.add(file)
        return file

    def write_whole(self, entry: Entry, data: bytes | memoryview) -> None:
        try:
            with open(self._path(entry.path), "xb") as file:
                file.write(data)
        except OSError as error:
            raise _unwritable(self._data, error) from error
        self.settled(entry, (hashlib.sha256(data).hexdigest(), hashlib.sha512(data).hexdigest()))

    def settled(self, entry: Entry, sums: tuple[str, str], file: _Piecewise | None = None) -> None:
        """A file is whole."""
        with self._lock:
            if file is not None:
                self._open.discard(file)
            self._sums[entry.path] = sums
            self._listed.append(entry)

    def mark(self) -> None:
        self._marked.append(self._placed)
        self._placed = []

    def barrier(self) -> None:
        with self._lock:
            self._listed.extend(self._marked.popleft())
            entries, self._listed = self._listed, []
        for entry in entries:
            self._note(entry)

    def close(self) -> None:
        self.mark()
        self.barrier()
        self._list.close()

    def abandon(self) -> None:
        while self._open:
            self._open.pop().close()
        self._list.close()

    def _path(self, path: bytes) -> Path:
        return self._data / payload_name(path)

    def _note(self, entry: Entry) -> None:
        name = payload_name(entry.path)
        plain = name.encode("utf-8") == entry.path
        told: dict[str, Any] = {"path": entry.path.decode("utf-8", "replace"), "kind": Kind(entry.kind).name.lower()}
        if not plain:
            told["path_base64"] = base64.b64encode(entry.path).decode("ascii")
            self.renamed += entry.kind in (Kind.FILE, Kind.HARDLINK)
        if entry.kind in (Kind.FILE, Kind.HARDLINK):
            told["payload"] = f"data/{name}"
        told |= {"mode": f"{entry.mode:04o}", "uid": entry.uid, "gid": entry.gid, "mtime_ns": entry.mtime_ns}
        if entry.kind == Kind.FILE:
            told["size"] = entry.size
            self.files, self.bytes = self.files + 1, self.bytes + entry.size
        if entry.target:
            told["target_base64"] = base64.b64encode(entry.target).decode("ascii")
            if entry.kind == Kind.HARDLINK:
                self._copy_link(entry)
        if entry.xattrs:
            told["xattrs"] = [[base64.b64encode(part).decode("ascii") for part in pair] for pair in entry.xattrs]
        if entry.device:
            told["device"] = [os.major(entry.device), os.minor(entry.device)]
        self._list.write(json.dumps(told, ensure_ascii=False) + "\n")

    def _copy_link(self, entry: Entry) -> None:
        """A further name of a file is a file of its own in a bag; the disk holds it once."""
        sums = self._sums.get(entry.target)
        if sums is None:
            return  # its first name is no plain file: the list says so
        try:
            os.link(self._path(entry.target), self._path(entry.path), follow_symlinks=False)
            self.bytes += os.stat(self._path(entry.path)).st_size
        except OSError as error:
            raise _unwritable(self._data, error) from error
        self.files += 1
        self._sums[entry.path] = sums

    def finish(self, info: tuple[tuple[str, str], ...], checkpoint: str, exported: Instant) -> None:
        """Writes the lists and the tag files. A restart finds a bag under a name that nobody takes for one."""
        tags = self._root / "exclave"
        tags.mkdir(mode=0o700)
        os.replace(self._spool, tags / "entries.jsonl")
        (tags / "checkpoint").write_text(checkpoint, encoding="utf-8")
        (self._root / "bagit.txt").write_text("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n")
        lines = [
            *((f"Exclave-{name}", value) for name, value in info),
            ("Bagging-Date", instant_text(exported)[:10]),
            ("Bag-Software-Agent", "Exclave"),
            ("Payload-Oxum", f"{self.bytes}.{self.files}"),
        ]
        text = "".join(f"{name}: {_one_line(value)}\n" for name, value in lines)
        (self._root / "bag-info.txt").write_text(text, encoding="utf-8")
        ordered = sorted(self._sums)
        for at, algorithm in enumerate(_ALGORITHMS):
            with open(self._root / f"manifest-{algorithm}.txt", "w", encoding="utf-8") as manifest:
                manifest.writelines(f"{self._sums[path][at]}  data/{payload_name(path)}\n" for path in ordered)
        listed = {path.relative_to(self._root).as_posix(): _sums(path) for path in self._tag_files()}
        for at, algorithm in enumerate(_ALGORITHMS):
            with open(self._root / f"tagmanifest-{algorithm}.txt", "w", encoding="utf-8") as manifest:
                manifest.writelines(f"{sums[at]}  {name}\n" for name, sums in sorted(listed.items()))

    def _tag_files(self) -> Iterator[Path]:
        names = ["bagit.txt", "bag-info.txt", "exclave/entries.jsonl", "exclave/checkpoint"]
        yield from (self._root / name for name in (*names, *(f"manifest-{a}.txt" for a in _ALGORITHMS)))


class _Piecewise:
    """A file that comes in pieces, in any order: it is read once more for its digests."""

    def __init__(self, bag: BagSink, entry: Entry, path: Path) -> None:
        self._bag, self._entry, self._path = bag, entry, path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, offset: int, data: memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._fd, view, offset)
            except OSError as error:
                raise _unwritable(self._path, error) from error
            view, offset = view[done:], offset + done

    def finish(self) -> None:
        try:
            os.ftruncate(self._fd, self._entry.size)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        finally:
            self.close()
        self._bag.settled(self._entry, _sums(self._path), self)

    def close(self) -> None:
        os.close(self._fd)


def _sums(path: Path) -> tuple[str, str]:
    """SHA-256 and SHA-512 of a file."""
    first, second = hashlib.sha256(), hashlib.sha512()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            first.update(block)
            second.update(block)
    return first.hexdigest(), second.hexdigest()


def _one_line(value: str) -> str:
    return " ".join(value.split())[:_FOLD]


def _unwritable(path: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"cannot write {str(path)!r}: {error.strerror}",
        hint="Give the target space and write permission, and export again.",
    )

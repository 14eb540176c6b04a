"""The folder of a public register: what of it can be published, what of that is not as it was published before."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Final, Protocol

from exclave.errors import MissingObject, SourceUnavailable
from exclave.formats.edition import MAX_FILE_BYTES, publishable
from exclave.ids import Digest, Instant, Label, sha256

_AGAIN: Final = "Run `exclave backup` and then this command again; nothing was published."


class Prover(Protocol):
    """Proofs that files are in one version of a register."""

    def prove(self, path: bytes, content: bytes) -> bytes:
        """The proof that the version holds ``content`` at ``path`` of the published dataset.

        ``MissingObject`` if it does not: the file was changed or made after the version was taken.
        """

    def documents(self) -> Iterable[tuple[bytes, int]]:
        """Path and size of every document that the version has in the published dataset."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the files are read from: a folder, and the dataset that it is."""

    folder: str
    dataset: Label
    skip: frozenset[str] = frozenset()
    """Relative paths that the dataset leaves out, with everything below them."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What cannot be published, by reason."""

    paths: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str, why: str) -> None:
        self.paths.setdefault(why, []).append(path)

    def told(self) -> tuple[str, ...]:
        """Reasons, how often each, and the first three paths."""
        return tuple(
            f"{len(paths)} × {why}: {', '.join(paths[:3])}{', …' if len(paths) > 3 else ''}"
            for why, paths in sorted(self.paths.items())
        )


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a publication would make public, for somebody to look at before."""

    title: str
    """The register's public name."""
    sequence: int
    time: Instant
    sites: tuple[Label, ...]
    paths: Mapping[str, Digest]
    """Everything in the folder that can be published, and its SHA-256."""
    new: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    left_out: tuple[str, ...]
    lost: tuple[str, ...] = ()
    """What was published before and cannot be read any more, if it would go on without it."""


def look(
    source: Source, known: Mapping[str, Digest], *, title: str, sequence: int, time: Instant, sites: tuple[Label, ...],
    lost: tuple[str, ...] = (),
) -> Outlook:  # fmt: skip
    """The folder as it is, against what is ``known`` to be public. ``SourceUnavailable`` if it cannot be read."""
    left_out = LeftOut()
    paths = {path: sha256(_read(source.folder, path)[0]) for path in walk(source, left_out.add)}
    return Outlook(
        title, sequence, time, sites, paths, tuple(path for path in paths if path not in known),
        tuple(path for path, digest in paths.items() if known.get(path, digest) != digest),
        tuple(path for path in known if path not in paths), left_out.told(), lost,
    )  # fmt: skip


@dataclass(slots=True)
class Changes:
    """What of a folder is not as it was published."""

    source: Source
    known: dict[str, Digest]
    prover: Prover
    agreed: Mapping[str, Digest] | None
    """If somebody looked at the folder before: all that it held then."""
    progress: Callable[[str, int], None]
    files: int = 0
    removed: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)

    def found(self) -> Iterator[tuple[str, bytes | None, bytes]]:
        """(path, bytes, proof) of each new or changed file, then (path, None, nothing) of each that is gone."""
        paths = list(walk(self.source, self.left_out.add))
        seen = set(paths)
        self._require_all(seen)
        leaders: dict[tuple[int, int], str] = {}
        for number, path in enumerate(paths):
            content, inode = _read(self.source.folder, path)
            leader = path if inode is None else leaders.setdefault(inode, path)
            if number % 256 == 0:
                self.progress(path, number)
            digest = sha256(content)
            if self.known.get(path) == digest:
                continue
            if self.agreed is not None and self.agreed.get(path) != digest:
                raise SourceUnavailable(f"{path} was changed while you looked at what would be published", hint=_AGAIN)
            try:
                proof = self.prover.prove(os.fsencode(leader), content)
            except MissingObject as error:
                raise SourceUnavailable(
                    f"{path} is not what the newest version holds: {error.message}",
                    hint=_AGAIN,
                ) from error
            self.files += 1
            yield path, content, proof
        for path in sorted(set(self.known) - seen):
            self.removed += 1
            yield path, None, b""

    def _require_all(self, seen: Set[str]) -> None:
        """What the version has is in the folder: a folder that went away would take a whole gazette out of force."""
        for name, size in self.prover.documents():
            path = os.fsdecode(name)
            if path not in seen and size <= MAX_FILE_BYTES and _speakable(path) and publishable(path):
                raise SourceUnavailable(
                    f"{path} is in the newest version, and no file in {self.source.folder} any more", hint=_AGAIN
                )


def walk(source: Source, leave_out: Callable[[str, str], None], below: str = "") -> Iterator[str]:
    """Paths of the plain files in the folder, ordered; no link is followed. ``SourceUnavailable`` if unreadable."""
    folder = os.path.join(source.folder, below)
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceUnavailable(f"cannot read {folder}: {error.strerror}") from error
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if path in source.skip:
            continue
        if not _speakable(path) or not publishable(path):
            leave_out(path.encode("utf-8", "replace").decode(), "a name that cannot be published")
        elif entry.is_symlink():
            leave_out(path, "a symbolic link")
        elif entry.is_dir(follow_symlinks=False):
            yield from walk(source, leave_out, path)
        elif not entry.is_file(follow_symlinks=False):
            leave_out(path, "no plain file")
        elif entry.stat(follow_symlinks=False).st_size > MAX_FILE_BYTES:
            leave_out(path, f"a file of more than {MAX_FILE_BYTES >> 20} MiB")
        else:
            yield path


def _speakable(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read(folder: str, path: str) -> tuple[bytes, tuple[int, int] | None]:
    """A file's bytes, and its device and inode if it has several names: a version has its content under the first."""
    try:
        fd = os.open(os.path.join(folder, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise SourceUnavailable(f"{path} is no plain file any more")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SourceUnavailable(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise SourceUnavailable(f"{path} grew while it was read", hint="Run `exclave backup` and this command again.")
    return data, (found.st_dev, found.st_ino) if found.st_nlink > 1 else None

"""A folder's site whose objects arrive piece by piece: what a server needs that never has an object in memory.

An object arrives in a temporary file and is hashed on the way; it gets its name only if its bytes come to the SHA-256
that was told. A large one that breaks off stays for a day under ``.tmp/upload-DIGEST``, so that it can go on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from exclave.errors import AlreadyExists, CorruptObject, HeadMoved, MissingObject, SiteUnavailable
from exclave.errors import OutcomeUnknown as Unknown
from exclave.ids import Digest, Key
from exclave.sites.directory import DirectorySite
from exclave.sites.plainfiles import digest_whole, plain_file, set_direct, split_key, sweep

PIECE_BYTES = 1 << 20
"""What ``Arrival.write`` takes at once; a broken upload goes on at a multiple of it."""
RESUMABLE_BYTES = 4 << 20
"""Objects of this size and larger can go on where they broke off."""
MOST_UPLOADS = 16
"""Broken uploads kept at a site; beyond it the oldest goes."""
_UPLOAD_LIFE_S = 24 * 3600
_UPLOAD = re.compile(r"upload-[0-9a-f]{64}\Z")
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_UNIT_BYTES = 4096
_TEMP_FOLDER = ".tmp"


class PieceWriter:
    """Writes pieces into an open file, past the page cache where they are large, and hashes them on the way."""

    def __init__(self, fd: int, offset: int = 0) -> None:
        """``offset``: where the first piece goes; what lies before it is hashed now. Raises ``OSError``."""
        self._fd, self._at = fd, offset
        self._hasher = hashlib.sha256()
        at = 0
        while at < offset:
            piece = os.pread(fd, min(PIECE_BYTES, offset - at), at)
            if not piece:
                raise OSError(errno.EIO, "an upload became shorter while it was read")
            self._hasher.update(piece)
            at += len(piece)
        self._direct: bool | None = None
        """None: not tried yet."""

    def write(self, piece: memoryview) -> None:
        """The next bytes: ``PIECE_BYTES``, or what is left to the end. Raises ``OSError``."""
        self._hasher.update(piece)
        if self._direct is None:
            self._direct = len(piece) >= PIECE_BYTES and set_direct(self._fd, on=True)
        if self._direct and len(piece) % _UNIT_BYTES:
            self._direct = set_direct(self._fd, on=False) and False
        rest, at = piece, self._at
        while rest:
            try:
                done = os.pwrite(self._fd, rest, at)
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._direct = set_direct(self._fd, on=False) and False  # this file system wants it otherwise
                continue
            rest, at = rest[done:], at + done
        self._at = at

    def digest(self) -> bytes:
        """SHA-256 of all that is in the file so far."""
        return self._hasher.digest()


@dataclass(slots=True)
class Arrival:
    """An object on its way in. One thread writes it."""

    size_bytes: int
    digest: Digest
    """What its bytes must come to."""
    offset: int
    """Bytes that are there."""
    name: str
    """In ``.tmp``."""
    temps: int = field(repr=False)
    fd: int = field(repr=False)

    @property
    def resumable(self) -> bool:
        return self.name.startswith("upload-")

    def check(self, found: bytes) -> None:
        """The bytes are the ones that were told, and on the disk. ``CorruptObject`` if they are others.

        ``found``: SHA-256 of what was written, by whoever wrote it.
        """
        if self.offset != self.size_bytes or found != self.digest:
            raise CorruptObject("the bytes do not come to the SHA-256 that was told for them")
        os.fchmod(self.fd, 0o444)
        os.fsync(self.fd)


class ArrivingSite(DirectorySite):
    """A ``DirectorySite`` that also takes objects piece by piece and gives open files."""

    # Reading

    @contextmanager
    def opened(self, key: Key) -> Iterator[tuple[int, int]]:
        """An open file and its size in bytes. Fails as ``get`` does."""
        parts, name = split_key(key)
        with self._explained(key), self._folder(parts) as folder, plain_file(folder, name, key) as found:
            yield found

    # Arriving

    def uploaded(self, digest: Digest) -> int:
        """Bytes of a broken upload that are kept, 0 if there is none."""
        with self._explained(Key("upload")), self._made_folder([_TEMP_FOLDER]) as temps:
            try:
                found = os.stat(_upload_name(digest), dir_fd=temps, follow_symlinks=False)
            except FileNotFoundError:
                return 0
        return _kept_bytes(found)

    @contextmanager
    def arriving(self, key: Key, size_bytes: int, digest: Digest, offset: int = 0) -> Iterator[Arrival]:
        """Opens an upload, or goes on with one that has ``offset`` bytes. ``HeadMoved`` if it has not.

        Whatever ends the block, the temporary name is gone afterwards, unless a large upload broke off: killed during
        it, or left by an error before the end, a restart finds ``upload-DIGEST`` with some of the bytes. They may be
        wrong after a power failure; then ``check`` finds it, and the next upload begins anew.
        """
        with self._explained(key, writing=True), self._made_folder([_TEMP_FOLDER]) as temps:
            arrival = self._begin(temps, size_bytes, digest, offset)
            try:
                yield arrival
            finally:
                whole = arrival.offset == size_bytes or not arrival.resumable or arrival.offset < PIECE_BYTES
                if whole:
                    with suppress(OSError):
                        os.unlink(arrival.name, dir_fd=temps)
                os.close(arrival.fd)

    def _begin(self, temps: int, size_bytes: int, digest: Digest, offset: int) -> Arrival:
        if size_bytes >= RESUMABLE_BYTES:
            fd = _open_upload(temps, _upload_name(digest))
            if fd is not None:
                _clear_uploads(temps, os.fstat(fd).st_mtime, _upload_name(digest))
                try:
                    _go_on(fd, offset)
                except BaseException:
                    if not _kept_bytes(os.fstat(fd)):
                        os.unlink(_upload_name(digest), dir_fd=temps)
                    os.close(fd)
                    raise
                return Arrival(size_bytes, digest, offset, _upload_name(digest), temps, fd)
        if offset:
            raise HeadMoved("another connection has this upload", offset=0)
        name = os.urandom(16).hex()
        fd = os.open(name, _OPEN | os.O_EXCL, 0o600, dir_fd=temps)
        if not self._swept.is_set():
            self._swept.set()
            sweep(temps, os.fstat(fd).st_mtime)
        return Arrival(size_bytes, digest, 0, name, temps, fd)

    # Naming. Killed before the link or rename: no object, or the old one, and a stray file in .tmp. After it: the whole
    # object, or what was there before if the power failed before the folder's fsync.

    def name_new(self, key: Key, arrival: Arrival) -> None:
        """Durably gives a checked arrival its name; ``AlreadyExists`` if that is taken."""
        if not self._named(key, arrival):
            raise AlreadyExists(f"{key} is already here", key=key)

    def name_same(self, key: Key, arrival: Arrival) -> bool:
        """As ``put_same``; False if the same bytes were there already."""
        try:
            if self._named(key, arrival):
                return True
        except Unknown as error:
            raise SiteUnavailable(error.message, key=key) from error
        if not self.holds(key, arrival.digest, arrival.size_bytes):
            raise SiteUnavailable(f"{key} vanished meanwhile", key=key)
        return False

    def name_in_place_of(self, key: Key, arrival: Arrival, spoilt: Digest | None) -> None:
        """As ``replace_spoilt``."""
        parts, name = split_key(key)
        try:
            with (
                self._explained(key, writing=True),
                self._made_folder(parts) as folder,
                self._locked(arrival.temps, key),
            ):
                found = self._digest_there(folder, name, key)
                if found == arrival.digest:
                    return self._settle(folder, key)
                if found != spoilt:
                    raise HeadMoved(f"{key} is no longer what it was when it was read", key=key)
                with self._fate(key, "replacing"):
                    os.rename(arrival.name, name, src_dir_fd=arrival.temps, dst_dir_fd=folder)
                self._settle(folder, key)
        except Unknown as error:
            raise SiteUnavailable(error.message, key=key) from error

    def holds(self, key: Key, digest: Digest, size_bytes: int) -> bool:
        """The object is here with these bytes, and on the disk whoever put it; False if there is none.
        ``CorruptObject`` if it has others."""
        parts, name = split_key(key)
        try:
            with self._explained(key), self._folder(parts) as folder, plain_file(folder, name, key) as (fd, size):
                if size != size_bytes or digest_whole(folder, name, size_bytes, key).digest != digest:
                    raise CorruptObject(f"{key} is here with other bytes", key=key)
                os.fsync(fd)
                os.fsync(folder)
        except MissingObject:
            return False
        return True

    def _named(self, key: Key, arrival: Arrival) -> bool:
        parts, name = split_key(key)
        with self._explained(key, writing=True), self._made_folder(parts) as folder:
            if arrival.resumable:
                # From here on nobody goes on with it: a file that has an object's name too must never be written to.
                os.rename(
                    arrival.name, temp := os.urandom(16).hex(), src_dir_fd=arrival.temps, dst_dir_fd=arrival.temps
                )
                arrival.name = temp
            placed = self._link(arrival.temps, arrival.name, folder, name, key)
            if placed:
                self._settle(folder, key)
        return placed


def _upload_name(digest: Digest) -> str:
    return f"upload-{digest.hex()}"


def _kept_bytes(found: os.stat_result) -> int:
    """What of an upload's file counts: whole pieces; nothing of a file that is an object too, or no file."""
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        return 0
    return found.st_size - found.st_size % PIECE_BYTES


def _open_upload(temps: int, name: str) -> int | None:
    """The locked file of an upload; None if another connection has it, or something else has its name."""
    try:
        fd = os.open(name, _OPEN, 0o600, dir_fd=temps)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine, there = os.fstat(fd), os.stat(name, dir_fd=temps, follow_symlinks=False)
        if mine.st_ino == there.st_ino and mine.st_nlink == 1 and stat.S_ISREG(mine.st_mode):
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _clear_uploads(temps: int, now_s: float, mine: str) -> None:
    """Removes broken uploads of yesterday, and the oldest beyond ``MOST_UPLOADS``, unless they are under way."""
    with os.scandir(temps) as entries:
        names = [entry.name for entry in entries if _UPLOAD.match(entry.name) and entry.name != mine]
    aged: list[tuple[float, str]] = []
    for name in names:
        with suppress(OSError):
            aged.append((os.stat(name, dir_fd=temps, follow_symlinks=False).st_mtime, name))
    aged.sort()
    for number, (written_s, name) in enumerate(aged):
        if written_s >= now_s - _UPLOAD_LIFE_S and len(aged) - number < MOST_UPLOADS:
            break
        fd = _open_upload(temps, name)
        if fd is not None:
            with suppress(OSError):
                os.unlink(name, dir_fd=temps)
            os.close(fd)


def _go_on(fd: int, offset: int) -> None:
    """Keeps the first ``offset`` bytes of an upload's file and drops the rest. ``HeadMoved`` if it has others."""
    found = _kept_bytes(os.fstat(fd))
    if offset and offset != found:
        raise HeadMoved(f"{found} bytes of this upload are here, not {offset}", offset=found)
    os.ftruncate(fd, offset)

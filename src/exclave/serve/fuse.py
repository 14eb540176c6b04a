"""A mounted register as a file system of the kernel: FUSE's calls to ``MountedRegister``, and its answers back.

Read-only, without set-id programs and devices. Everything is unchangeable, so the kernel may keep what it was told for
an hour. ``mfusepy`` is loaded when something is mounted, as it needs the system's libfuse.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from exclave.errors import ExclaveError, ServiceFailed, TargetNotEmpty, UsageError
from exclave.operations.mount import Attributes, MountedRegister
from exclave.vault.reading import OpenFile

FORM: Final = b"fuse.exclave"
"""What the kernel's table of mounts says of ours."""
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")
"""How the table writes spaces and backslashes of a path."""
_KEPT_S: Final = 3600
_FILL_PLUS: Final = 2
"""``FUSE_FILL_DIR_PLUS``: an entry of a listing comes with all its attributes, so nobody asks for them again."""
_THREADS: Final = 16
"""Calls that are answered at the same time: most of a call is waiting for a chunk."""
_BLOCK: Final = 128 << 10
Value = TypeVar("Value")
_HINT: Final = "Install libfuse 3 (Debian: apt install fuse3) and `pip install 'exclave[mount]'`, and mount again."


def serve_mount(
    register: MountedRegister, folder: Path, *, allow_other: bool, ready: Callable[[], None], quiet: bool = True
) -> None:
    """Shows ``register`` in ``folder`` until it is unmounted, or until SIGINT, SIGTERM or SIGHUP; then unmounts it.

    ``ready`` is called once it can be used. ``allow_other`` lets other users in, as far as the modes of what they meet
    allow. ``UsageError`` if libfuse is missing, ``ServiceFailed`` if the kernel refuses.
    """
    # Left to itself it takes version 2 where a system has both.
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        import mfusepy  # noqa: PLC0415 - an extra, and it looks for the system's library when it is loaded
    except (ImportError, OSError) as error:
        raise UsageError(f"mounting needs libfuse and mfusepy: {error}", hint=_HINT) from error
    if mfusepy.fuse_version_major != 3:
        raise UsageError("mounting needs libfuse 3, and version 2 was found first", hint=_HINT)
    logging.getLogger(mfusepy.__name__).setLevel(logging.CRITICAL if quiet else logging.DEBUG)

    class Fuse(mfusepy.FUSE):  # type: ignore[misc]
        """Attributes straight into the kernel's structure, in listings too: the library asks for each name again."""

        def readdir_fuse_3(self, path: bytes, buf: Any, filler: Any, offset: int, _: Any, flags: int) -> int:
            stat, plus = mfusepy.c_stat(), _FILL_PLUS if flags & 1 else 0
            for name, found in self.operations.listing(path):
                if found is not None:
                    _fill(stat, found)
                if filler(buf, name, stat, 0, plus if found is not None else 0) != 0:
                    return -errno.ENOMEM
            return 0

        def fgetattr(self, path: bytes, buf: Any, _: Any) -> int:
            ctypes.memset(buf, 0, ctypes.sizeof(mfusepy.c_stat))
            _fill(buf.contents, self.operations.attributes(path.strip(b"/")))
            return 0

    options: dict[str, Any] = {"allow_other": True, "default_permissions": True} if allow_other else {}
    if mfusepy.fuse_version_minor >= 12:  # earlier ones do not know it, later ones complain about their own default
        options |= {"max_threads": _THREADS, "max_idle_threads": _THREADS}
    calls = _Calls(register, ready)
    try:
        Fuse(
            calls, os.fspath(folder), foreground=True, ro=True, nosuid=True, nodev=True, use_ino=True,
            kernel_cache=True, entry_timeout=_KEPT_S, attr_timeout=_KEPT_S, negative_timeout=_KEPT_S, fsname="exclave",
            subtype="exclave", **options,
        )  # fmt: skip
    except RuntimeError as error:
        if calls.shown:
            return  # libfuse says so of a mount that a signal ended
        hint = "The line above says why. A user other than root needs /dev/fuse and fusermount3 (apt install fuse3)"
        hint += ", and for --allow-other `user_allow_other` in /etc/fuse.conf." if allow_other else "."
        raise ServiceFailed(f"{folder} could not be mounted", hint=hint) from error


def prepare_folder(folder: Path) -> None:
    """Makes ``folder`` ready: new or empty. What a mount that was killed left there is taken down first.

    ``TargetNotEmpty`` if something is in it or mounted there.
    """
    try:
        folder.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTCONN or not _is_ours(folder):
            raise UsageError(f"{folder} cannot be used: {error.strerror}") from error
        unmount(folder)
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
        if os.path.ismount(folder) or any(folder.iterdir()):
            raise TargetNotEmpty(f"{folder} is not an empty folder, or something is mounted there")
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}") from error


def unmount(folder: Path) -> None:
    """Takes a mount down, at once for new comers even if somebody still reads there."""
    argv = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    try:
        done = subprocess.run([*argv, "--", str(folder)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ServiceFailed(f"{argv[0]} is missing: {error.strerror}", hint=_HINT) from error
    if done.returncode != 0:
        raise ServiceFailed(f"{folder} cannot be unmounted: {done.stderr.strip()}")


def _is_ours(folder: Path) -> bool:
    """Whether the kernel's table says that a mount of Exclave is there."""
    place = os.path.abspath(os.fsencode(folder))
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            head, _, tail = line.partition(b" - ")
            point = _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), head.split()[4])
            if point == place and tail.split()[0] == FORM:
                return True
    return False


def _fill(stat: Any, found: Attributes) -> None:
    """``found`` as a ``struct stat``."""
    stat.st_mode, stat.st_ino, stat.st_nlink = found.mode, found.inode, found.links
    stat.st_uid, stat.st_gid, stat.st_rdev = found.uid, found.gid, found.device
    stat.st_size, stat.st_blocks, stat.st_blksize = found.size, -(-found.size // 512), _BLOCK
    seconds, rest = divmod(found.mtime_ns, 10**9)
    for moment in (stat.st_atimespec, stat.st_mtimespec, stat.st_ctimespec):
        moment.tv_sec, moment.tv_nsec = seconds, rest


class _Calls:
    """What libfuse calls, from several threads. Each method raises ``OSError`` for what did not work."""

    use_ns = True

    def __init__(self, register: MountedRegister, ready: Callable[[], None]) -> None:
        self._register, self._ready = register, ready
        self.shown = False
        """Whether the kernel accepted the mount."""
        self._files: dict[int, OpenFile] = {}
        self._number = 0
        self._lock = threading.Lock()

    def init(self, _: str) -> None:
        self.shown = True
        self._ready()

    def listing(self, path: bytes) -> Iterator[tuple[bytes, Attributes | None]]:
        yield b".", None
        yield b"..", None
        with _Told(self._register, path):
            yield from self._register.names(path.strip(b"/"))

    def readdir(self, path: str, handle: int) -> None:
        """Only its name is used: it tells the library that there are listings."""

    def getattr(self, path: str, handle: int | None = None) -> None:
        """Only its name is used, as of ``readdir``."""

    def attributes(self, path: bytes) -> Attributes:
        with _Told(self._register, path):
            return _there(self._register.attributes(path))

    def readlink(self, path: str) -> str:
        inner = _inner(path)
        with _Told(self._register, inner):
            return os.fsdecode(_there(self._register.target(inner)))

    def open(self, path: str, flags: int) -> int:
        inner = _inner(path)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        with _Told(self._register, inner):
            file = _there(self._register.open(inner))
        with self._lock:
            self._number += 1
            self._files[self._number] = file
            return self._number

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        file = self._files[handle]
        with _Told(self._register, _inner(path)):
            return file.read(offset, size)

    def release(self, path: str, handle: int) -> None:
        with self._lock:
            self._files.pop(handle, None)

    def listxattr(self, path: str) -> list[str]:
        inner = _inner(path)
        with _Told(self._register, inner):
            return [os.fsdecode(name) for name, _ in _there(self._register.xattrs(inner))]

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        inner = _inner(path)
        with _Told(self._register, inner):
            found = dict(_there(self._register.xattrs(inner)))
        if os.fsencode(name) not in found:
            # "Not here" makes programs ask no more for labels and capabilities of each file.
            why = errno.ENOTSUP if name.startswith("security.") else errno.ENODATA
            raise OSError(why, os.strerror(why))
        return found[os.fsencode(name)]

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_namemax": 255}


class _Told:
    """Around a call: what is wrong becomes EIO for the caller and a line in the log, never wrong data."""

    __slots__ = ("_path", "_register")

    def __init__(self, register: MountedRegister, path: bytes) -> None:
        self._register, self._path = register, path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        known = error if isinstance(error, ExclaveError) else None
        self._register.note_faults(known, self._path)
        if known is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from known


def _inner(path: str | None) -> bytes:
    return os.fsencode(path or "").strip(b"/")


def _there(value: Value | None) -> Value:
    if value is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return value

"""Files that only their owner may read: written once, durably, and read with suspicion. Rules: docs/spec/keys.md."""

from __future__ import annotations

import errno
import os
import stat

from exclave.durable import sync_folder
from exclave.errors import AlreadyExists, KeyFileExposed, UsageError


def create_private(path: str, data: bytes) -> None:
    """Writes a new file that only its owner can read, durably.

    ``AlreadyExists`` if there is a file: nothing is ever overwritten. ``UsageError`` if it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise AlreadyExists(f"{path} is there already; key files are never overwritten") from error
    except OSError as error:
        raise UsageError(f"cannot create the key file {path}: {error.strerror}") from error
    # After a crash from here on, a restart finds an empty or cut file that its reader refuses as malformed. Nothing is
    # lost by it: nobody was shown its public keys yet. The user deletes it and creates the key again.
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(os.path.dirname(path) or ".")
    except OSError as error:
        os.unlink(path)
        raise UsageError(f"cannot write the key file {path}: {error.strerror}") from error


def read_private(path: str, limit: int) -> bytes:
    """Up to ``limit`` + 1 bytes of it.

    ``KeyFileExposed`` if others could read or change it, ``UsageError`` if there is no plain file.
    """
    # O_NONBLOCK: a named pipe put there must not make us wait.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags)
    except OSError as error:
        what = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be opened: {error.strerror}"
        raise UsageError(f"the key file {path} {what}") from error
    try:
        # Of the open file, not of the name: nobody can swap it in between.
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"the key file {path} is not a plain file")
        if status.st_uid not in (os.geteuid(), 0):
            raise KeyFileExposed(f"the key file {path} belongs to another user", hint="Think about who wrote it.")
        if status.st_mode & 0o077:
            raise KeyFileExposed(f"the key file {path} can be read or changed by other users")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(limit + 1)
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)

"""Between a client and a host's files: TLS on one side, pieces of files on the other.

Whoever decides about a request moves small things himself (``read_into``, ``write``). The bytes of large objects go
from the client into a file and back in pieces (``fill`` then ``store``, ``load`` then ``send``), and need not pass
through the process that decides: ``site_carried_pipe.py`` offers the same over another one.
"""

from __future__ import annotations

import mmap
import os
import socket
import ssl
from contextlib import suppress
from typing import Protocol

from exclave.sites.arriving import PIECE_BYTES, PieceWriter
from exclave.sites.tls_pipe import TlsPipe

_OWN_MEMORY = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE


class Pipe(Protocol):
    """One client's connection. One thread uses it; ``wake`` may be called by any. Deadlines are on the monotonic clock.

    What concerns the client raises ``OSError`` or ``ValueError`` as ``TlsPipe`` does; ``use``, ``store``, ``load`` and
    ``digest`` raise the disk's ``OSError``, or ``ConnectionError`` if the process that holds the client is gone.
    """

    def shake_hands(self, deadline: float) -> bytes | None:
        """DER of the client's certificate, or None."""

    def read_into(self, view: memoryview, deadline: float) -> int:
        """As many bytes as are there, at least one; 0 at the end."""

    def write(self, data: bytes | memoryview, deadline: float) -> None: ...

    def fill(self, length: int, before: bytes, deadline: float) -> None:
        """The piece is ``before`` and the client's next bytes, ``length`` in all, at most ``PIECE_BYTES``."""

    def send(self, length: int, deadline: float) -> None:
        """The client gets the piece's first bytes."""

    def use(self, fd: int, offset: int = 0) -> None:
        """The file of the pieces to come, until ``release``. ``offset``: where ``store`` begins; what lies before it is
        hashed now."""

    def store(self, length: int) -> None:
        """The piece's first bytes go to the file, and are hashed."""

    def digest(self) -> bytes:
        """SHA-256 of the file up to where ``store`` came."""

    def load(self, at: int, length: int) -> int:
        """The piece is what the file has at ``at``; how many bytes that were, at most ``length``."""

    def release(self) -> None:
        """Lets go of the file, which whoever opened it closes, and of the piece."""

    def end_writing(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class OwnPipe:
    """A ``Pipe`` in the process that has the client's socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._tls = TlsPipe(sock, context)
        self._piece: mmap.mmap | None = None
        self._fd = -1
        self._writer: PieceWriter | None = None

    def shake_hands(self, deadline: float) -> bytes | None:
        self._tls.shake_hands(deadline)
        return self._tls.certificate()

    def read_into(self, view: memoryview, deadline: float) -> int:
        return self._tls.read_into(view, deadline)

    def write(self, data: bytes | memoryview, deadline: float) -> None:
        self._tls.write(data, deadline)

    def fill(self, length: int, before: bytes, deadline: float) -> None:
        view = self._view()[:length]
        at = len(before)
        view[:at] = before
        while at < length:
            count = self._tls.read_into(view[at:], deadline)
            if not count:
                raise ConnectionResetError("the body ended early")
            at += count

    def send(self, length: int, deadline: float) -> None:
        self._tls.write(self._view()[:length], deadline)

    def use(self, fd: int, offset: int = 0) -> None:
        self._fd = fd
        self._writer = PieceWriter(fd, offset)

    def store(self, length: int) -> None:
        self._writing().write(self._view()[:length])

    def digest(self) -> bytes:
        return self._writing().digest()

    def load(self, at: int, length: int) -> int:
        return os.preadv(self._fd, (self._view()[:length],), at)

    def release(self) -> None:
        self._fd, self._writer = -1, None
        self._forget_piece()

    def end_writing(self) -> None:
        self._tls.end_writing()

    def wake(self) -> None:
        self._tls.wake()

    def close(self) -> None:
        self._tls.close()
        self._forget_piece()

    def _writing(self) -> PieceWriter:
        if self._writer is None:
            raise OSError("no file is in use")
        return self._writer

    def _view(self) -> memoryview:
        """At the begin of a page, as direct writes want it. In memory only while an object is carried."""
        if self._piece is None:
            self._piece = mmap.mmap(-1, PIECE_BYTES, flags=_OWN_MEMORY)
        return memoryview(self._piece)

    def _forget_piece(self) -> None:
        piece, self._piece = self._piece, None
        if piece is not None:
            with suppress(BufferError):  # a view that a failure still holds; the memory goes with it
                piece.close()

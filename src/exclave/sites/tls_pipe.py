"""A TLS connection over a socket, in large steps: for both ends of the gateway.

The standard library's own TLS socket asks the system twice for each record of 16 KiB it reads and once for each it
writes, and each time hands the interpreter's lock around. Here the records of a step pass through memory: half the
processor time and twice the rate (bench/gateway.py). Every call ends by its deadline, on the monotonic clock.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress

STEP_BYTES = 128 << 10


class TlsPipe:
    """One connection. One thread uses it; ``wake`` may be called by any. All calls raise ``OSError`` alone: also
    ``TimeoutError`` and ``ssl.SSLError``."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: str | None = None) -> None:
        """``server``: the name to check the other side's certificate for; None: this side is the server."""
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server is None, server_hostname=server)
        self._step = bytearray(STEP_BYTES)
        self._view = memoryview(self._step)

    def shake_hands(self, deadline: float) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(deadline)
                if not self._receive(deadline):
                    raise ConnectionResetError("the connection ended in the handshake") from None
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush(deadline)  # the alert that says why
                raise
            else:
                self._flush(deadline)
                return

    def certificate(self) -> bytes | None:
        """DER of the other side's, or None."""
        return self._tls.getpeercert(binary_form=True)

    def read_into(self, view: memoryview, deadline: float) -> int:
        """As many bytes as are there, at least one; 0 at the end, however it came: lengths tell whether all came."""
        while True:
            try:
                return int(self._tls.read(len(view), view))
            except ssl.SSLWantReadError:
                self._flush(deadline)
                if not self._receive(deadline):
                    self._in.write_eof()
            except ssl.SSLEOFError:
                return 0

    def write(self, data: bytes | memoryview, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            step = rest[:STEP_BYTES]
            while step:
                step = step[self._tls.write(step) :]
            rest = rest[STEP_BYTES:]
            self._flush(deadline)

    @property
    def has_more(self) -> bool:
        """Something came that nobody has read, or the other side has ended the connection."""
        return bool(self._tls.pending() or self._in.pending or select.select([self._sock], [], [], 0)[0])

    def end_writing(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def wake(self) -> None:
        """Ends both ways; a thread that waits finds the end."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()

    def _receive(self, deadline: float) -> int:
        self._sock.settimeout(_left_s(deadline))
        count = self._sock.recv_into(self._view)
        self._in.write(self._view[:count])
        return count

    def _flush(self, deadline: float) -> None:
        if self._out.pending:
            self._sock.settimeout(_left_s(deadline))
            self._sock.sendall(self._out.read())


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s

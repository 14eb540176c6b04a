"""A process of the gateway that carries bytes: TLS with clients, pieces into and out of files that it is handed open.

    python -m exclave.serve.site_carrier CONTROL

It knows no folder, no name and no state: what happens to a connection, ``site_carried_pipe.py`` asks for act by act
over a socket pair of that connection. ``CONTROL`` is a socket on which connections come; it ends with the process that
started this one, and so does this one. What is under way in it when it dies is a connection that broke off.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
import time
from contextlib import suppress
from threading import Thread
from typing import Final

from exclave.serve.site_carrying import MESSAGE_BYTES, RECEIVE_BYTES, Act, Asked, End, Told, receive
from exclave.serve.site_pipe import OwnPipe
from exclave.serve.site_tls import TlsFiles

READY: Final = b"ready"
SWITCH_S: Final = 0.001
"""How long a thread may keep the interpreter while others wait: a head's update must not wait behind a pack's loop."""
_LAST_S: Final = 5.0
"""So long connections may take at the end: what was answered is sent."""


def main() -> None:
    """Carries until the process that started it is gone."""
    # The whole group gets the signal that ends a service, or the one of Ctrl-C; what runs is to finish first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_S)
    context = TlsFiles.decode(sys.stdin.buffer.read()).context()
    control = socket.socket(fileno=int(sys.argv[1]))
    control.sendall(READY)
    carrying: list[Thread] = []
    while True:
        message, fds, _, _ = socket.recv_fds(control, 16, 2)
        if not message:
            break
        carrying = [thread for thread in carrying if thread.is_alive()]
        carrying += _begun(fds, context)
    deadline = time.monotonic() + _LAST_S
    for thread in carrying:
        thread.join(max(0.0, deadline - time.monotonic()))
    os._exit(0)  # whoever still waits for a client does not hold it up


def _begun(fds: list[int], context: ssl.SSLContext) -> list[Thread]:
    """A connection came: its socket pair and the client's socket; the thread that carries it, if there is one."""
    if len(fds) != 2:  # none was left: the other side finds the pair closed
        for fd in fds:
            os.close(fd)
        return []
    asking, client = socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])
    try:
        thread = Thread(target=_carry, args=(asking, client, context), daemon=True)
        thread.start()
    except RuntimeError:  # no thread left
        asking.close()
        client.close()
        return []
    return [thread]


def _carry(asking: socket.socket, client: socket.socket, context: ssl.SSLContext) -> None:
    try:
        pipe = OwnPipe(client, context)
    except (OSError, ValueError):
        asking.close()
        client.close()
        return
    carried = Carried(pipe)
    message = memoryview(bytearray(RECEIVE_BYTES))
    try:
        with suppress(OSError, ValueError):
            while True:
                length, fds = receive(asking, message)
                if not length:
                    return
                told = carried.act(Asked.parse(message[:length]), fds)
                if told is not None:
                    asking.sendall(told.encode())
    finally:
        carried.close()
        asking.close()


class Carried:
    """One connection as this process has it."""

    def __init__(self, pipe: OwnPipe) -> None:
        self._pipe = pipe
        self._fd = -1
        self._small = memoryview(bytearray(MESSAGE_BYTES))
        self._lost: Told | None = None
        """Why nothing more can be written."""

    def act(self, asked: Asked, fds: list[int]) -> Told | None:
        """Does what is asked; every failure is told, that of a ``WRITE`` with the next act."""
        if asked.act is not Act.USE or self._lost is not None:  # nobody uses it
            for fd in fds:
                os.close(fd)
        if asked.act is not Act.WRITE:
            return self._lost or self._told(asked, fds)
        if self._lost is None:
            told = self._told(asked, fds)
            self._lost = told if told.end is not End.DONE else None
        return None

    def _told(self, asked: Asked, fds: list[int]) -> Told:
        try:
            return self._act(asked, fds)
        except TimeoutError:
            return Told(End.LATE)
        except (ssl.SSLError, ValueError, ConnectionError) as error:
            return Told(End.LOST, 0, str(error).encode()[:200])
        except OSError as error:
            return Told(End.FAILED, error.errno or 0, (error.strerror or str(error)).encode()[:200])

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self._pipe.close()
        self._let_go()

    def _act(self, asked: Asked, fds: list[int]) -> Told:
        pipe, deadline, done = self._pipe, time.monotonic() + asked.within_s, 0
        match asked.act:
            case Act.SHAKE_HANDS:
                return Told(End.DONE, 0, pipe.shake_hands(deadline) or b"")
            case Act.READ:
                done = pipe.read_into(self._small[: asked.length], deadline)
                return Told(End.DONE, done, self._small[:done])
            case Act.WRITE:
                pipe.write(asked.data, deadline)
            case Act.FILL:
                pipe.fill(asked.length, bytes(asked.data), deadline)
            case Act.SEND:
                pipe.send(asked.length, deadline)
            case Act.USE:
                self._let_go()
                self._fd = fds[0] if fds else -1
                pipe.use(self._fd, asked.at)
            case Act.STORE:
                pipe.store(asked.length)
            case Act.DIGEST:
                return Told(End.DONE, 0, pipe.digest())
            case Act.LOAD:
                done = pipe.load(asked.at, asked.length)
            case Act.RELEASE:
                pipe.release()
                self._let_go()
            case Act.END_WRITING:
                pipe.end_writing()
        return Told(End.DONE, done)

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


if __name__ == "__main__":
    main()

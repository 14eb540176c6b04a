"""What the process that decides and one that carries bytes say to each other: one message asks, one answers.

Both are this program, on one machine and of one version, over a socket pair that keeps messages apart. A message has at
most ``MESSAGE_BYTES`` after its head, and a file comes beside it. ``WRITE`` alone is not answered: if it fails, the
next act is told so.
"""

from __future__ import annotations

import array
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

MESSAGE_BYTES: Final = 64 << 10
"""Of a message's bytes: what a socket of common settings takes whole."""
_ASKED = struct.Struct("!cQQd")
_TOLD = struct.Struct("!cq")
RECEIVE_BYTES: Final = MESSAGE_BYTES + _ASKED.size + 1
_ONE_FILE = socket.CMSG_SPACE(array.array("i").itemsize)


class Act(Enum):
    """The methods of ``Pipe`` that reach the other process."""

    SHAKE_HANDS = b"h"
    READ = b"r"
    WRITE = b"w"
    FILL = b"f"
    SEND = b"s"
    USE = b"u"
    STORE = b"p"
    DIGEST = b"d"
    LOAD = b"l"
    RELEASE = b"c"
    END_WRITING = b"e"


class End(Enum):
    """How an act ended."""

    DONE = b"+"
    LATE = b"t"
    LOST = b"n"
    """The client's connection is of no more use."""
    FAILED = b"e"
    """The disk's error, with its number."""


@dataclass(frozen=True, slots=True)
class Asked:
    act: Act
    length: int = 0
    at: int = 0
    within_s: float = 0.0
    data: bytes | memoryview = b""

    def encode(self) -> bytes:
        return _ASKED.pack(self.act.value, self.length, self.at, self.within_s) + self.data

    @classmethod
    def parse(cls, message: memoryview) -> Asked:
        """``ValueError`` for what is no message."""
        try:
            act, length, at, within_s = _ASKED.unpack_from(message)
        except struct.error as error:
            raise ValueError("a message is too short") from error
        return cls(Act(act), length, at, within_s, message[_ASKED.size :])


@dataclass(frozen=True, slots=True)
class Told:
    end: End
    number: int = 0
    data: bytes | memoryview = b""

    def encode(self) -> bytes:
        return _TOLD.pack(self.end.value, self.number) + self.data

    @classmethod
    def parse(cls, message: memoryview) -> Told:
        """``ValueError`` for what is no message."""
        try:
            end, number = _TOLD.unpack_from(message)
        except struct.error as error:
            raise ValueError("a message is too short") from error
        return cls(End(end), number, message[_TOLD.size :])


def receive(sock: socket.socket, into: memoryview) -> tuple[int, list[int]]:
    """The next message's length, 0 at the end, and the file that came beside it, if one did."""
    length, beside, _, _ = sock.recvmsg_into((into,), _ONE_FILE)
    fds = array.array("i")
    for level, kind, data in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return length, list(fds)

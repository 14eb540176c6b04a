"""A host's link that is as bad as told, made in user space, since many kernels lack ``netem``.

A process holds two TAP devices, the host's end and the switch's, and hands each frame from one to the other: later, at
most so many bytes a second, some of them never, or none at all. It is told at a Unix socket, which is
the same one in every namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

_TUNSETIFF, _TAP, _NO_PI = 0x400454CA, 0x0002, 0x1000
_FRAME_BYTES = 2048
_ROOM_BYTES = 256 * 1024
"""What waits for the line in one direction; more is dropped, as on any."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the line does to each direction."""

    delay_s: float = 0.0
    loss: float = 0.0
    """The part of the frames that never arrive, from 0 to 1."""
    bytes_per_s: int = 0
    """0: as many as come."""
    cut: bool = False


@dataclass(slots=True)
class _Direction:
    source: int
    target: int
    free_at: float = 0.0
    """When the line has passed on all that was taken."""
    flying: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, now: float, shape: Shape, chance: random.Random) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = os.read(self.source, _FRAME_BYTES)
                if shape.cut or chance.random() < shape.loss:
                    continue
                self.free_at = max(self.free_at, now)
                if shape.bytes_per_s:
                    if (self.free_at - now) * shape.bytes_per_s > _ROOM_BYTES:
                        continue
                    self.free_at += len(frame) / shape.bytes_per_s
                self.flying.append((self.free_at + shape.delay_s, frame))

    def deliver(self, now: float, cut: bool) -> None:
        while self.flying and (cut or self.flying[0][0] <= now):
            _, frame = self.flying.popleft()
            if not cut:
                with contextlib.suppress(OSError):  # the far end is full or down: lost
                    os.write(self.target, frame)


@dataclass(frozen=True, slots=True)
class Link:
    """The process, as whoever shapes the line sees it, in whatever namespace."""

    control: Path

    def shape(self, shape: Shape) -> None:
        """From now on; returns when it is so. What is on its way arrives as before, unless the line is cut."""
        with socket.socket(socket.AF_UNIX) as told:
            told.connect(str(self.control))
            told.sendall(json.dumps(asdict(shape)).encode() + b"\n")
            assert told.recv(10) == b"done\n", "the link's process ended"


@contextlib.contextmanager
def link_between(near: str, far: str) -> Iterator[Link]:
    """Two new devices with these names, in the caller's namespace, to be moved to their places; whole at first."""
    with TemporaryDirectory(prefix="link-") as folder:
        control = Path(folder) / "control"
        argv = [sys.executable, str(Path(__file__)), near, far, str(control)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n", "no TAP devices could be made (this test needs root)"
                yield Link(control)
            finally:
                process.kill()


def _tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _TAP | _NO_PI))
    return fd


def _relay(near: str, far: str, control: str) -> None:
    """Until it is killed."""
    ends = [_tap(near), _tap(far)]
    directions = [_Direction(ends[0], ends[1]), _Direction(ends[1], ends[0])]
    shape, chance = Shape(), random.Random(1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(control)
        server.listen()
        print("ready", flush=True)
        while True:
            dues = [direction.flying[0][0] for direction in directions if direction.flying]
            wait = max(0.0, min(dues) - time.monotonic()) if dues else None
            ready, _, _ = select.select([*ends, server], [], [], wait)
            if server in ready:
                told, _ = server.accept()
                with told:
                    shape = Shape(**json.loads(told.recv(4096)))
                    told.sendall(b"done\n")
            now = time.monotonic()
            for direction in directions:
                direction.take(now, shape, chance)
                direction.deliver(now, shape.cut)


if __name__ == "__main__":
    _relay(*sys.argv[1:4])

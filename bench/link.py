"""Backup and restore over a link of 40 ms and 1 Gbit/s to an S3 engine (SeaweedFS) on its far side. Needs root.

Two network namespaces, joined by nothing but this link: a process that holds the two ends of it as TUN devices and
hands each packet over 20 ms after the wire of 1 Gbit/s has passed it on, first come first served, with room for 16 MB
(what `netem` does, which many kernels lack). The kernel's own TCP runs on both sides with segments of 1,448 bytes; it
hands them over in trains of up to 64 kB, as it does to a network card. What plain TCP brings over the link, four
connections, is measured in the same run, in both directions.

    python bench/link.py relay NEAR FAR      the link itself: two device names, which the caller moves to their places
    python bench/link.py sink PORT           \\ the plain TCP measure:
    python bench/link.py send ADDRESS PORT   /  bytes over all connections until the last is acknowledged
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

DELAY_S = 0.020  # one way
RATE = 125_000_000  # bytes per second
ROOM = 16_000_000  # bytes waiting for the wire; more are dropped
NEAR, FAR = "10.77.7.1", "10.77.7.2"
TCP_BYTES = 600_000_000
TCP_CONNECTIONS = 4
TCP_PORT = 7777
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TUN, _NO_PI, _VNET_HEADER = 0x0001, 0x1000, 0x4000
_OFFLOADS = 0x01 | 0x02 | 0x04  # checksums and segmentation of TCP over IPv4 and IPv6
_HEADER_BYTES = 10


class LinkImpossible(Exception):
    """This machine cannot make the link; the message says why."""


# The link


@dataclass(slots=True)
class _Direction:
    """One direction: packets on the wire, each with the time at which it arrives."""

    source: int
    target: int
    free_at: float = 0.0
    flying: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = os.read(self.source, 70_000)
                self.free_at = max(self.free_at, now)
                if (self.free_at - now) * RATE < ROOM:
                    self.free_at += (len(packet) - _HEADER_BYTES) / RATE
                    self.flying.append((self.free_at + DELAY_S, packet))

    def deliver(self, now: float) -> None:
        while self.flying and self.flying[0][0] <= now:
            with contextlib.suppress(OSError):  # the far end is full or gone: lost, as on any wire
                os.write(self.target, self.flying[0][1])
            self.flying.popleft()


def relay(near: str, far: str) -> None:
    """Until it is ended."""
    ends = [_tun(near), _tun(far)]
    print("ready", flush=True)
    directions = [_Direction(ends[0], ends[1]), _Direction(ends[1], ends[0])]
    while True:
        dues = [direction.flying[0][0] for direction in directions if direction.flying]
        wait = max(0.0, min(dues) - time.monotonic()) if dues else 1.0
        select.select(ends, [], [], wait)
        now = time.monotonic()
        for direction in directions:
            direction.take(now)
            direction.deliver(now)


def _tun(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _TUN | _NO_PI | _VNET_HEADER))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    return fd


# Plain TCP


def sink(port: int) -> None:
    """Takes TCP_CONNECTIONS connections, reads each to its end, and answers it with one byte."""
    with socket.create_server(("", port), backlog=64) as server:
        print("ready", flush=True)
        threads = []
        for _ in range(TCP_CONNECTIONS):
            connection, _ = server.accept()
            threads.append(threading.Thread(target=_drain, args=(connection,)))
            threads[-1].start()
        for thread in threads:
            thread.join()


def _drain(connection: socket.socket) -> None:
    buffer = bytearray(1 << 20)
    with connection:
        while connection.recv_into(buffer):
            pass
        connection.sendall(b".")


def send(address: str, port: int) -> None:
    """Prints the rate in MB/s, from the first connection to the last answer."""
    started = time.monotonic()
    threads = [threading.Thread(target=_pour, args=(address, port)) for _ in range(TCP_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(TCP_BYTES / 1e6 / (time.monotonic() - started)), flush=True)


def _pour(address: str, port: int) -> None:
    piece = bytes(1 << 20)
    with socket.create_connection((address, port)) as connection:
        for _ in range(TCP_BYTES // TCP_CONNECTIONS // len(piece)):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


# Both sides


@dataclass(frozen=True, slots=True)
class Link:
    """The two namespaces."""

    near: str
    far: str

    def inside(self, where: str) -> tuple[str, ...]:
        """What enters a namespace."""
        return ("ip", "netns", "exec", where)

    def raw_rates(self) -> tuple[float, float]:
        """MB/s of plain TCP: to the far side, and from it."""
        return self._rate(self.near, self.far, FAR), self._rate(self.far, self.near, NEAR)

    def _rate(self, source: str, target: str, address: str) -> float:
        with _running([*self.inside(target), sys.executable, __file__, "sink", str(TCP_PORT)]):
            done = subprocess.run(
                [*self.inside(source), sys.executable, __file__, "send", address, str(TCP_PORT)],
                capture_output=True, text=True, check=True, timeout=120,
            )  # fmt: skip
        return float(json.loads(done.stdout))


@contextlib.contextmanager
def made_link() -> Iterator[Link]:
    """The link while the block runs. Raises LinkImpossible."""
    if os.geteuid() != 0:
        raise LinkImpossible("network namespaces need root")
    if not Path("/dev/net/tun").exists():
        raise LinkImpossible("there is no /dev/net/tun")
    tag = f"exb{os.getpid()}"
    link = Link(f"{tag}-near", f"{tag}-far")
    try:
        with _running([sys.executable, __file__, "relay", f"{tag}n", f"{tag}f"]):
            for netns, device, address in ((link.near, f"{tag}n", NEAR), (link.far, f"{tag}f", FAR)):
                _ip("netns", "add", netns)
                _ip("link", "set", device, "netns", netns)
                _ip("-n", netns, "link", "set", "lo", "up")
                _ip("-n", netns, "address", "add", f"{address}/24", "dev", device)
                _ip("-n", netns, "link", "set", device, "up", "txqueuelen", "4000")
            yield link
    finally:
        for netns in (link.near, link.far):
            subprocess.run(["ip", "netns", "del", netns], capture_output=True, check=False)


@contextlib.contextmanager
def _running(argv: list[str]) -> Iterator[None]:
    """A program of this file, from the moment it says that it is ready until the block ends."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # PIPE was asked for
            if process.stdout.readline().strip() != "ready":
                _, said = process.communicate(timeout=10)
                raise LinkImpossible(f"{argv[-3:]}: {said.strip().splitlines()[-1:]}")
            yield
        finally:
            process.kill()


def _ip(*arguments: str) -> None:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise LinkImpossible(f"ip (Debian package iproute2) cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise LinkImpossible(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def main() -> int:
    """The programs of the link."""
    programs: dict[str, Callable[[], None]] = {
        "relay": lambda: relay(sys.argv[2], sys.argv[3]),
        "sink": lambda: sink(int(sys.argv[2])),
        "send": lambda: send(sys.argv[2], int(sys.argv[3])),
    }
    if len(sys.argv) > 1 and sys.argv[1] in programs:
        programs[sys.argv[1]]()
        return 0
    with made_link() as link:
        there, back = link.raw_rates()
        print(f"plain TCP over the link: {there:.1f} MB/s there, {back:.1f} MB/s back")
    return 0


if __name__ == "__main__":
    sys.exit(main())

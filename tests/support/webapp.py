"""Starts a register's web application as its own process and asks it over real HTTP."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Reply:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class WebApp:
    """A running application."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, path: str, *, method: str = "GET", accept: str = "*/*") -> Reply:
        """Sends ``path`` exactly as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            connection.putheader("Accept", accept)
            connection.endheaders()
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextmanager
def running_app(program: Path, *options: str) -> Iterator[WebApp]:
    """Runs ``program`` apart from this package (``-I``: nothing but the standard library and site-packages)."""
    command = [sys.executable, "-I", str(program), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            prefix = "listening on http://127.0.0.1:"
            assert line.startswith(prefix), line
            yield WebApp(process, int(line.removeprefix(prefix)))
        finally:
            process.kill()

"""The page of the protocol and its OpenAPI document say what the gateway does."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exclave.serve.site_message import MAX_HEAD_BYTES, MAX_HEADERS
from exclave.serve.site_objects import MAX_PAGE
from exclave.sites.arriving import MOST_UPLOADS, PIECE_BYTES, RESUMABLE_BYTES
from exclave.sites.contract import MAX_HEAD_BYTES as MAX_POINTER_BYTES
from exclave.sites.contract import MAX_OBJECT_BYTES
from support.fault_table import FaultTable
from support.gateway import NORTH, Running, host_place, running_gateway

SPEC = Path(__file__).parents[2] / "docs" / "spec"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with running_gateway(host_place(tmp_path)) as running:
        yield running


def test_exchange_of_the_page(gateway: Running) -> None:
    """The exchange that the page shows is what is sent and what comes back, byte for byte."""
    block = re.search(r"```http\n(.*?)```", (SPEC / "gateway.md").read_text(), re.DOTALL)
    assert block is not None
    folder = gateway.place.folder
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "north.pem", folder / "north.key")
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
    turns = re.findall(r"((?:^> ?.*\n)+)((?:^< ?.*\n)+)", block[1], re.MULTILINE)
    assert len(turns) == 4
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        for asked, shown in turns:
            expected = _bytes(shown)
            sock.sendall(_bytes(asked))
            found = b""
            while len(found) < len(expected) and (piece := sock.recv(65536)):
                found += piece
            assert found == expected
        assert sock.recv(1) == b""


def _bytes(block: str) -> bytes:
    """Lines of a head end in CRLF, those of a text in LF; a last line of a body that is no text ends in nothing."""
    lines = [line[2:] for line in block.splitlines()]
    end = lines.index("")
    body = "\n".join(lines[end + 1 :])
    length = re.search(r"Content-Length: (\d+)", block)
    if length is not None and len(body) + 1 == int(length[1]):
        body += "\n"
    return ("\r\n".join(lines[:end]) + "\r\n\r\n" + body).encode()


def test_limits_of_the_page() -> None:
    """Each number of the code stands in the page."""
    text = (SPEC / "gateway.md").read_text().replace(" ", "")
    heads, objects = (MAX_HEAD_BYTES, MAX_HEADERS, MAX_PAGE), (MAX_POINTER_BYTES, MAX_OBJECT_BYTES)
    for number in (*heads, *objects, MOST_UPLOADS, PIECE_BYTES, RESUMABLE_BYTES):
        assert str(number) in text, number


@pytest.mark.slow
def test_schemathesis(gateway: Running, fault_table: FaultTable) -> None:
    """What the document says of each request holds for whatever schemathesis thinks of."""
    folder = gateway.place.folder
    document = json.loads((SPEC / "gateway-openapi.json").read_bytes())
    for path in document["paths"].values():  # of a state that is kept here, so that more is reached
        for operation in path.values():
            next(p for p in operation["parameters"] if p["name"] == "fingerprint")["schema"] = {"enum": [NORTH]}
    (folder / "api.json").write_text(json.dumps(document))
    (folder / "both.pem").write_bytes((folder / "north.pem").read_bytes() + (folder / "north.key").read_bytes())
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", "api.json",
            "--url", f"https://localhost:{gateway.port}", "--tls-verify", "ca.pem", "--request-cert", "both.pem",
            "--checks", CHECKS, "--max-examples", "25", "--seed", "7", "--phases", "coverage,fuzzing",
            "--suppress-health-check", "all", "--no-color", "--generation-database", "none",
        ],
        cwd=folder, env={**os.environ, "HOME": str(folder)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "Tested:" in done.stdout or "API ops" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    tried = sum(gateway.counts.now().answers.values())
    assert tried > 100
    fault_table.suite("gateway", "fuzzed protocol", tried)

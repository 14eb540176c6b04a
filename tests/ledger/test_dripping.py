"""Witnesses and timestamp authorities that send a byte now and then: no backup waits for them for ever."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from exclave.errors import SiteUnavailable
from exclave.formats.timestamp import Authority
from exclave.ids import Label
from exclave.ledger import timestamp_client, witness_client
from exclave.ledger.timestamp_client import ask_timestamp
from exclave.ledger.witness_client import WitnessClient
from exclave.sites.in_time import in_time
from exclave.sites.memory import MemorySite
from support.ledger import WITNESSES, fill, open_log, reader_of

HEADER = b"HTTP/1.1 200 OK\r\nX-Drip: "
BODY = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10000\r\n\r\n"


@pytest.fixture(params=[HEADER, BODY], ids=["in a header", "in the answer"])
def dripping(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its address. It begins an answer, and sends one more byte each tenth of a second until the test is over."""
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                taken, _ = server.accept()
                threading.Thread(target=drip, args=(taken,), daemon=True).start()

    def drip(taken: socket.socket) -> None:
        with contextlib.suppress(OSError), taken:
            taken.sendall(request.param)
            while not over.wait(0.1):
                taken.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def test_a_dripping_witness_is_given_up(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte begins the socket's timeout anew; the whole request has one too, and the client can be closed."""
    monkeypatch.setattr(witness_client, "TOTAL_SECONDS", 0.5)
    source = MemorySite()
    fill(open_log(source), 3)
    reader = reader_of(source)
    asking = WitnessClient(dripping, WITNESSES[0].card)
    with pytest.raises(SiteUnavailable, match="too slowly"):
        asking.cosign(reader.tree(reader.head()))
    asking.close()


def test_a_dripping_timestamp_authority_is_given_up(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and what it began to send is not looked at."""
    monkeypatch.setattr(timestamp_client, "TOTAL_SECONDS", 0.5)
    with pytest.raises(SiteUnavailable, match="too slowly"):
        ask_timestamp(Authority(Label("tsa"), None, f"{dripping}/ts", b"root"), b"message")


def test_what_was_raised_is_raised() -> None:
    """An answer in time is the answer, and so is its failure."""
    assert in_time(60, lambda: 7, "somebody") == 7
    with pytest.raises(ZeroDivisionError):
        in_time(60, lambda: 1 // 0, "somebody")

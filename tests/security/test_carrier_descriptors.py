"""A client who goes away at the wrong moment costs a carrier no descriptor, and one who never stops no place."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import cast

import pytest

from exclave.serve.site_carrier import Carried
from exclave.serve.site_carrying import Act, Asked, End
from exclave.serve.site_connection import Connection
from exclave.serve.site_pipe import OwnPipe, Pipe


def test_a_file_for_a_client_who_is_gone_is_closed(tmp_path: Path) -> None:
    """The answer's head cannot be written any more; the file that comes next is not kept open."""
    ours, theirs = socket.socketpair()
    theirs.close()
    carried = Carried(OwnPipe(ours, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))
    (tmp_path / "object").write_bytes(b"x")
    fd = os.open(tmp_path / "object", os.O_RDONLY)
    assert carried.act(Asked(Act.WRITE, within_s=10, data=b"HTTP/1.1 200 OK"), []) is None
    told = carried.act(Asked(Act.USE), [fd])
    assert told is not None
    assert told.end is End.LOST
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    carried.close()


class Talking:
    """A pipe whose client always has another request ready, even after it was woken."""

    def read_into(self, view: memoryview, deadline: float) -> int:
        request = b"HEAD /v1/x HTTP/1.1\r\nHost: h\r\n\r\n"
        view[: len(request)] = request
        return len(request)

    def wake(self) -> None:
        """As over TCP: what had come can still be read."""


def test_a_connection_that_must_go_takes_no_further_request() -> None:
    """Its place is given away: it does not stay beside those that are counted."""
    connection = Connection(cast(Pipe, Talking()), "192.0.2.1")
    assert connection.next_head() is not None
    connection.end()
    assert connection.next_head() is None

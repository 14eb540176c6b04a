"""Heads of HTTP/1.1 messages as the gateway takes them: a strict part of RFC 9112, and nothing besides.

One spelling for each request: origin form, no percent-encoding, each header once, a body only with Content-Length. What
two programs could read in two ways is refused, so nothing can be hidden between a proxy and this server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from exclave.serve.site_contract import Answer

MAX_HEAD_BYTES: Final = 8 << 10
MAX_HEADERS: Final = 50
END: Final = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (\S{1,2048}) HTTP/1\.([0-9])\Z")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,80}):[ \t]*([\x20-\x7e\t]*?)[ \t]*\Z")
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*\Z")
_QUERY = re.compile(r"[a-z]{1,20}=[A-Za-z0-9._~/-]*(&[a-z]{1,20}=[A-Za-z0-9._~/-]*)*\Z")
_LENGTH = re.compile(r"(0|[1-9][0-9]{0,14})\Z")
_REASON = {int(status): status.phrase for status in HTTPStatus}


class BadRequest(Exception):
    """A request that is refused by its head alone."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name."""
    length: int
    """Of the body, in bytes."""

    @property
    def keep(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"

    @property
    def waits(self) -> bool:
        """The client sends the body only after a 100."""
        return self.headers.get("expect", "").lower() == "100-continue"


def parse_head(data: bytes) -> Head:
    """``data``: all up to the empty line, without it. ``BadRequest``."""
    first, *lines = data.split(b"\r\n")
    found = _REQUEST_LINE.match(first)
    if found is None:
        raise _bad("the request line is not in the form of HTTP/1.1")
    if found[3] != b"1":
        raise BadRequest(505, "version", "only HTTP/1.1 is spoken here")
    if len(lines) > MAX_HEADERS:
        raise BadRequest(431, "head-too-long", f"at most {MAX_HEADERS} headers are taken")
    headers: dict[str, str] = {}
    for line in lines:
        one = _HEADER.match(line)
        if one is None:
            raise _bad("a header is not in the form of HTTP/1.1")
        name = one[1].decode().lower()
        if name in headers:
            raise _bad(f"the header {name} stands twice")
        headers[name] = one[2].decode()
    if not headers.get("host"):
        raise _bad("the header host is missing")
    path, query = _target(found[2])
    return Head(found[1].decode(), path, query, headers, _body_length(headers))


def _target(target: bytes) -> tuple[str, dict[str, str]]:
    path, mark, text = target.decode("latin-1").partition("?")
    if not _PATH.match(path) or (mark and not _QUERY.match(text)):
        raise _bad("the path or query has a character that none of this server's has")
    query: dict[str, str] = {}
    for pair in text.split("&") if text else ():
        name, _, value = pair.partition("=")
        if name in query:
            raise _bad(f"the parameter {name} stands twice")
        query[name] = value
    return path, query


def _body_length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise BadRequest(411, "length-required", "a body needs Content-Length, and no Transfer-Encoding")
    text = headers.get("content-length", "0")
    if not _LENGTH.match(text):
        raise _bad("Content-Length is not a number")
    if headers.get("expect", "100-continue").lower() != "100-continue":
        raise BadRequest(417, "expectation", "only 100-continue can be expected")
    return int(text)


def _bad(message: str) -> BadRequest:
    return BadRequest(400, "bad-request", message)


def encode_head(status: int, length: int, headers: Mapping[str, str], *, keep: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASON.get(status, 'Unknown')}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Cache-Control: no-store", "X-Content-Type-Options: nosniff"]
    if not keep:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1", "replace") + END


def told(status: int, code: str, message: str, **headers: str) -> Answer:
    """An answer that says why not; ``message`` may quote what a client sent, so only its plain characters are kept."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in message)[:300]
    body = json.dumps({"code": code, "message": plain}).encode() + b"\n"
    named = tuple((name.replace("_", "-").title(), value) for name, value in headers.items())
    return Answer(status, body, "application/json", (("Exclave-Code", code), *named))

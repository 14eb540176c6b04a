"""A stand-in for Google Cloud Storage, written from the description of its XML API: nothing that stands in for it and
honours conditions can be had as a package.

It shows that our requests are those that the API asks for (generations, conditions, ranges, pages), and not that Google
keeps its promises: for that, probe a real bucket.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PAGE = 100


@dataclass
class Bucket:
    """One bucket: names, with bytes and generation."""

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    generation: int = 1_700_000_000_000_000
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, data: bytes, expected: str | None) -> int | None:
        """The new generation; None if the one there is not ``expected`` ("0": none is)."""
        with self.lock:
            there = self.objects[name][1] if name in self.objects else 0
            if expected is not None and str(there) != expected:
                return None
            self.generation += 1
            self.objects[name] = (data, self.generation)
            return self.generation

    def page(self, prefix: str, delimiter: str, after: str) -> str:
        """A listing, as XML."""
        contents, folders, last = [], list[str](), ""
        for name in sorted(self.objects):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix) or name <= after:
                continue
            if len(contents) + len(folders) == _PAGE:
                return _listing(contents, folders, last)
            last = name
            if delimiter and delimiter in rest:
                folder = prefix + rest.partition(delimiter)[0] + delimiter
                folders += [folder] if folder not in folders else []
                continue
            data, _ = self.objects[name]
            contents.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size>"
                "<LastModified>2026-11-27T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{hashlib.md5(data).hexdigest()}&quot;</ETag></Contents>"
            )
        return _listing(contents, folders, "")


def _listing(contents: list[str], folders: list[str], more: str) -> str:
    common = "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders)
    following = f"<NextContinuationToken>{escape(more)}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>'
        f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{''.join(contents)}{common}{following}</ListBucketResult>"
    )


def _handler(bucket: Bucket) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            made = bucket.put(self.name(), data, self.headers.get("x-goog-if-generation-match"))
            if made is None:
                self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            else:
                self.answer(200, b"", generation=made, tag=data)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if "list-type" in asked:
                after = asked.get("continuation-token", "")
                told = bucket.page(asked.get("prefix", ""), asked.get("delimiter", ""), after)
                self.answer(200, told.encode())
                return
            found = bucket.objects.get(self.name())
            if found is None:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            data, generation = found
            wanted = self.headers.get("Range")
            if wanted is None:
                self.answer(200, data, generation=generation, tag=data)
                return
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            if int(first) >= len(data):
                self.answer(416, b"<Error><Code>InvalidRange</Code></Error>")
                return
            end = min(int(last), len(data) - 1)
            self.answer(
                206, data[int(first) : end + 1], generation=generation, tag=data,
                content_range=f"bytes {first}-{end}/{len(data)}",
            )  # fmt: skip

        do_HEAD = do_GET

        def name(self) -> str:
            return unquote(urlsplit(self.path).path).split("/", 2)[2]

        def answer(
            self, status: int, body: bytes, *, generation: int = 0, tag: bytes | None = None, content_range: str = ""
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", formatdate(usegmt=True))
            if tag is not None:
                self.send_header("ETag", f'"{hashlib.md5(tag).hexdigest()}"')
                self.send_header("x-goog-generation", str(generation))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def standing_in() -> Iterator[str]:
    """The address of one with an empty bucket of any name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(Bucket()))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

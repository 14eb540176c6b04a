"""The gazette on the web: a single file without dependencies that serves a folder of acts.

Run as ``python app.py --port N --data FOLDER``. It needs Python 3.11 or newer and nothing else.

- ``/`` the newest acts · ``/search?q=kalapüük`` by title · ``/health``
- ``/act/2019/0123`` the text in force · ``/act/2019/0123/v1`` an earlier one

Browsers get pages, all others JSON. It reads below FOLDER only and follows no symbolic link, but for the act's own
``latest``, whose target must be the name of a version.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import html
import json
import os
import re
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

NAME = "State Gazette"
TAGLINE = "Every act of the state, in every version"
ACCENT = "#1f4e79"
FAILURES: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError)
"""What a missing, unreadable or damaged file raises."""

# ---- From here to the next such line, the three registers' applications are the same.

CONCURRENT_REQUESTS = 64
CLIENT_TIMEOUT_S = 5.0
STOP_WITHIN_S = 10.0
MAX_SEARCH_CHARACTERS = 100

SECURITY_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
    ("Vary", "Accept"),
)

STYLE = """
:root { --accent: ACCENT; --link: ACCENT; --ink: #1d2530; --soft: #5b6675; --line: #dde3ea; --paper: #fff;
  --back: #f4f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --link: #9cc4ff; --ink: #e6eaf0; --soft: #a3aebc; --line: #333d4a; --paper: #1b222c; --back: #12171e }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 1rem/1.55 system-ui, "Noto Sans", sans-serif }
header { background: var(--accent); color: #fff; padding: 1.4rem 0 1.2rem; border-bottom: 4px solid #0003 }
header > *, main, footer { max-width: 60rem; margin: 0 auto }
header > * { padding: 0 1rem }
header a { color: #fff; text-decoration: none; font: 600 1.6rem/1.2 Georgia, "Noto Serif", serif; display: block }
header p { margin: .3rem auto 0; opacity: .85 }
main { padding: 1.2rem 1rem 2rem }
h1 { font: 600 1.45rem/1.3 Georgia, "Noto Serif", serif; margin: .4rem 0 1rem }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .6rem }
a { color: var(--link) }
form { display: flex; gap: .5rem; margin: 0 0 1.2rem }
input { flex: 1; min-width: 0; font: inherit; padding: .65rem .8rem; border: 1px solid var(--line);
  border-radius: .5rem; background: var(--paper); color: inherit }
button { font: inherit; font-weight: 600; padding: .65rem 1.1rem; border: 0; border-radius: .5rem; color: #fff;
  background: var(--accent); cursor: pointer }
input:focus-visible, button:focus-visible, a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 0 0 1.4rem }
.figures div, .card { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem 1rem }
.figures dt { color: var(--soft); font-size: .85rem }
.figures dd { margin: 0; font-size: 1.35rem; font-weight: 650; font-variant-numeric: tabular-nums }
.card { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th { text-align: start; color: var(--soft); font-weight: 500; font-size: .85rem }
th, td { padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 }
td:first-child { white-space: nowrap }
td.number, th.number { text-align: end; font-variant-numeric: tabular-nums; white-space: nowrap; padding-right: 0 }
.soft { color: var(--soft) }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.65 }
footer { padding: 0 1rem 2rem; color: var(--soft); font-size: .85rem }
""".replace("ACCENT", ACCENT)


class Refused(Exception):
    """A request that gets another answer than it hoped for; the message is meant for who asked."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in both forms: ``value`` for machines as JSON, ``page`` (escaped HTML) for people."""

    value: dict[str, object]
    title: str
    page: str


class Application(Protocol):
    """What a register's own part provides."""

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        """Answers a decoded path and query, or raises ``Refused`` or one of ``FAILURES``."""


def safe(value: object) -> str:
    """The value as text that is safe anywhere in a page."""
    return html.escape(str(value))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells that are escaped already. A column whose name ends in ``#`` holds numbers."""
    numeric = [column.endswith("#") for column in columns]

    def cells(tag: str, texts: Sequence[str]) -> str:
        pairs = zip(texts, numeric, strict=True)
        return "".join(f"<{tag}{' class=number' if right else ''}>{text}</{tag}>" for text, right in pairs)

    head = cells("th", [safe(column.rstrip("#")) for column in columns])
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class=card><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def figures(pairs: Sequence[tuple[str, object]]) -> str:
    """A row of large figures."""
    return f"<dl class=figures>{''.join(f'<div><dt>{safe(k)}</dt><dd>{safe(v)}</dd></div>' for k, v in pairs)}</dl>"


def search_form(hint: str, value: str = "") -> str:
    return (
        f'<form action="/search" role=search><input name=q type=search required maxlength={MAX_SEARCH_CHARACTERS} '
        f'aria-label="{safe(hint)}" placeholder="{safe(hint)}" value="{safe(value)}"><button>Search</button></form>'
    )


def search_words(query: dict[str, str]) -> str:
    """The search's ``q``, stripped; ``Refused`` if it is missing, empty or too long."""
    text = query.get("q", "").strip()
    if not text or len(text) > MAX_SEARCH_CHARACTERS or "\0" in text:
        raise Refused(HTTPStatus.BAD_REQUEST, f"search for 1 to {MAX_SEARCH_CHARACTERS} characters: /search?q=…")
    return text


def whole_page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang=en><head><meta charset="utf-8">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f'<title>{safe(title)}</title><link rel=stylesheet href="/style.css"></head><body>'
        f'<header><a href="/">{safe(NAME)}</a><p>{safe(TAGLINE)}</p></header><main>{body}</main>'
        "<footer>Invented data of a demonstration: no person, place or company here is real.</footer></body></html>"
    )


def parse_target(target: str) -> tuple[str, dict[str, str]]:
    """Path and query of a request line, percent-decoded; ``Refused`` if they are not UTF-8 or too many."""
    try:
        parts = urlsplit(target)
        pairs = parse_qsl(parts.query, keep_blank_values=True, errors="strict", max_num_fields=8)
        return unquote(parts.path, errors="strict"), dict(pairs)
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "this address cannot be understood") from error


class Handler(BaseHTTPRequestHandler):
    """HTTP around an ``Application``: GET and HEAD, JSON or a page as the client prefers, JSON for every failure."""

    server: Server
    server_version = "register"
    sys_version = ""
    timeout = CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        try:
            path, query = parse_target(self.path)
            if path == "/style.css":
                self._send(HTTPStatus.OK, "text/css; charset=utf-8", STYLE)
                return
            answer = self.server.application.answer(path, query)
        except Refused as refused:
            self._send_failure(refused.status, refused.message)
        except FAILURES as error:
            self.log_error("%s: %s", type(error).__name__, error)
            self._send_failure(HTTPStatus.SERVICE_UNAVAILABLE, "the register cannot answer this now")
        except Exception as error:  # noqa: BLE001  the entry point: a fault of ours must not show its insides
            self.log_error("%s: %s", type(error).__name__, error)
            self._send_failure(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault in the register's application")
        else:
            if "text/html" in self.headers.get("Accept", ""):
                self._send(HTTPStatus.OK, "text/html; charset=utf-8", whole_page(answer.title, answer.page))
            else:
                self._send_json(HTTPStatus.OK, answer.value)

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses by itself (bad request lines, unknown methods), in our form."""
        del explain
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here"
        self.close_connection = True
        self._send_failure(status, message or status.phrase)

    def _send_failure(self, status: HTTPStatus, message: str) -> None:
        self._send_json(status, {"error": message, "status": status.value})

    def _send_json(self, status: HTTPStatus, value: dict[str, object]) -> None:
        self._send(status, "application/json; charset=utf-8", json.dumps(value, ensure_ascii=False, indent=1) + "\n")

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode("utf-8", "replace")
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            for name, content in SECURITY_HEADERS:
                self.send_header(name, content)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client went away: nobody to tell

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Silent: what citizens look up is nobody's business, and a full pipe must not stop the service."""


class Server(ThreadingHTTPServer):
    """A bounded number of requests at a time; closing waits for those under way."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, port: int, application: Application) -> None:
        self.application = application
        self._slots = threading.BoundedSemaphore(CONCURRENT_REQUESTS)
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's own: that asks the DNS for our name, which hangs where there is no DNS.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        self._slots.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke: one line instead of a traceback."""
        print(f"connection ended by {sys.exc_info()[1]!r}", file=sys.stderr)


def parse_port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 (any free one) to 65535")
    return int(text)


def serve(application: Application, port: int) -> int:
    """Serves on 127.0.0.1 until SIGTERM or SIGINT, then finishes what is under way; returns the exit status."""
    try:
        server = Server(port, application)
    except OSError as error:
        print(f"cannot listen on port {port}: {error}", file=sys.stderr)
        return 1

    def stop(_number: int, _frame: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()  # it waits for this thread's loop to end
        deadline = threading.Timer(STOP_WITHIN_S, os._exit, (0,))  # for clients that trickle without end
        deadline.daemon = True
        deadline.start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    with server:
        server.serve_forever(poll_interval=0.1)
    return 0


# ---- Up to here, the three registers' applications are the same.

ACT_PATH = re.compile(r"/act/([0-9]{4})/([0-9]{4,6})(?:/v([1-9][0-9]{0,3}))?")
ACT_NAME = re.compile(r"[0-9]{4}/[0-9]{4,6}")
LATEST = re.compile(r"v([1-9][0-9]{0,3})\.txt")
MAX_FILE_BYTES = 64 << 20
SHOWN = 50
SEARCH_HINT = "Search in titles, e.g. kalapüügi or Archives"


@dataclass(frozen=True, slots=True)
class Index:
    """The acts as index.jsonl lists them, and which state of that file it was."""

    stamp: tuple[int, int]
    acts: tuple[dict[str, Any], ...]


class Gazette:
    """The folder of acts."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._index = Index((0, 0), ())

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        if path == "/":
            return self._front()
        if path == "/health":
            return self._health()
        if path == "/search":
            return self._search(search_words(query))
        if match := ACT_PATH.fullmatch(path):
            year, number, version = match.groups()
            return self._act(year, number, int(version) if version else None)
        if path.startswith("/act/"):
            raise Refused(HTTPStatus.BAD_REQUEST, "an act is asked for as /act/2019/0123 or /act/2019/0123/v1")
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _front(self) -> Answer:
        acts = self._acts()
        newest = sorted(acts, key=lambda act: (act["date"], act["act"]), reverse=True)[:12]
        value: dict[str, object] = {"acts": len(acts), "date": newest[0]["date"] if newest else None, "newest": newest}
        shown = figures((("Acts", f"{len(acts):,}"), ("State of", value["date"] or "–")))
        return Answer(value, NAME, f"{search_form(SEARCH_HINT)}{shown}<h2>Newest</h2>{act_table(newest)}")

    def _search(self, text: str) -> Answer:
        wanted = text.casefold()
        found = [act for act in self._acts() if wanted in act["title"].casefold() or wanted == act["act"]]
        value: dict[str, object] = {"query": text, "count": len(found), "acts": found[:SHOWN]}
        page = f"{search_form(SEARCH_HINT, text)}<h1>{len(found)} found</h1>{act_table(found[:SHOWN])}"
        return Answer(value, f"Search · {NAME}", page)

    def _act(self, year: str, number: str, version: int | None) -> Answer:
        value = self._read_act(year, number, version)
        count, title = int(value["versions"]), safe(value["title"])
        links = " · ".join(f'<a href="/act/{year}/{number}/v{one}">v{one}</a>' for one in range(1, count + 1))
        about = f"{safe(value['act'])} · version {value['version']} of {count} · {safe(value['date'])} · "
        signed = f"signed by {safe(value['signed_by'])}"
        page = (
            f"<h1 dir=auto>{title}</h1><p class=soft>{about}{signed}<br>Versions: {links}</p>"
            f"<div class='card text' dir=auto>{safe(value['text'])}</div>"
            f"<p class=soft>SHA-256 of this text: <small class=text>{safe(value['sha256'])}</small></p>"
        )
        return Answer(value, f"{value['title']} · {NAME}", page)

    def _health(self) -> Answer:
        """Reads the index and, whole, the first and the last act in force that it names."""
        acts = self._acts()
        if not acts:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the gazette holds no act")
        for act in (acts[0], acts[-1]):
            year, number = act["act"].split("/")
            try:
                self._read_act(year, number, None)
            except Refused as refused:
                message = f"the act {act['act']} cannot be read: {refused.message}"
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, message) from refused
        value: dict[str, object] = {"status": "ok", "acts": len(acts)}
        return Answer(value, f"Health · {NAME}", f"<h1>In good health</h1>{figures((('Acts', len(acts)),))}")

    def _acts(self) -> tuple[dict[str, Any], ...]:
        """The index, read again whenever the file is another one."""
        with open_folder(self._folder, ()) as folder:
            status = os.stat("index.jsonl", dir_fd=folder, follow_symlinks=False)
            stamp = (status.st_mtime_ns, status.st_size)
            if self._index.stamp != stamp:
                lines = [json.loads(line) for line in read_file(folder, "index.jsonl").splitlines()]
                if not all(ACT_NAME.fullmatch(line["act"]) and isinstance(line["title"], str) for line in lines):
                    raise ValueError("index.jsonl is damaged")
                self._index = Index(stamp, tuple(lines))
        return self._index.acts

    def _read_act(self, year: str, number: str, version: int | None) -> dict[str, Any]:
        """One version of an act with its text, checked against the digest on record; None asks for the newest."""
        try:
            with open_folder(self._folder, ("acts", year, number)) as folder:
                if version is None:
                    match = LATEST.fullmatch(os.readlink("latest", dir_fd=folder))
                    if not match:
                        raise ValueError(f"the newest version of {year}/{number} is not named as a version")
                    version = int(match[1])
                record = json.loads(read_file(folder, "act.json"))
                text = read_file(folder, f"v{version}.txt")
        except FileNotFoundError as error:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no such act or version: {year}/{number}") from error
        known = {one["version"]: one for one in record["versions"]}
        if version not in known:
            raise Refused(HTTPStatus.NOT_FOUND, f"the act {year}/{number} has no version {version} on record")
        digest = hashlib.sha256(text).hexdigest()
        if digest != known[version]["sha256"]:
            raise ValueError(f"the text of {year}/{number} version {version} is not the one on record")
        return {
            "act": f"{year}/{number}",
            "title": record["title"],
            "language": record["language"],
            "signed_by": record["signed_by"],
            "version": version,
            "versions": len(known),
            "date": known[version]["date"],
            "sha256": digest,
            "text": text.decode(),
        }


def act_table(acts: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            f'<a href="/act/{safe(act["act"])}">{safe(act["act"])}</a>',
            f"<bdi>{safe(act['title'])}</bdi>",
            f"v{safe(act['version'])}",
            safe(act["date"]),
        )
        for act in acts
    ]
    return table(("Act", "Title", "Version", "Date#"), rows)


@contextmanager
def open_folder(root: str, names: Sequence[str]) -> Iterator[int]:
    """A descriptor of the folder ``names`` below ``root``; a link on the way counts as missing.

    Each step is opened from the one before it, so that nobody can slip a link in between check and use.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            inner = open_below(descriptor, name, os.O_DIRECTORY)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def open_below(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise FileNotFoundError(errno.ENOENT, "a link or not of the kind expected", name) from error
        raise


def read_file(folder: int, name: str) -> bytes:
    """A regular file's bytes; links, FIFOs and the like count as missing."""
    descriptor = open_below(folder, name, os.O_NONBLOCK)
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", name)
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"{name} is larger than any act")
        return stream.read()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Serves the gazette on 127.0.0.1.")
    parser.add_argument("--port", type=parse_port, required=True, help="0: any free one, said on standard output")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the folder of acts")
    options = parser.parse_args(arguments)
    return serve(Gazette(options.data), options.port)


if __name__ == "__main__":
    sys.exit(main())

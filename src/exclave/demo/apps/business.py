"""The business register on the web: a single file without dependencies that serves an SQLite database.

Run as ``python app.py --port N --db FILE``. It needs Python 3.11 or newer and nothing else.

- ``/`` figures · ``/search?q=Meretuul`` by name or code · ``/health``
- ``/company/10000017`` a company with its board and newest filings

Browsers get pages, all others JSON. It never writes, and sees each moment whole while others write.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

NAME = "Business Register"
TAGLINE = "Companies, who runs them, and what they filed"
ACCENT = "#6b3a5b"
FAILURES: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
"""What a file that is missing, locked or damaged raises."""

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

COMPANY_PATH = re.compile(r"/company/([1-9][0-9]{7})")
SHOWN = 50
BUSY_S = 5.0
SEARCH_HINT = "Name or registry code, e.g. Meretuul or 10000017"

COMPANY = """
SELECT code, name, form, address, founded, capital_cents, filing_count, fees_cents FROM company WHERE code = ?
"""
BOARD = "SELECT name, role, since FROM board_member WHERE company_code = ? ORDER BY id"
FILINGS = """
SELECT id, kind, filed_at, fee_cents, summary FROM filing WHERE company_code = ?
ORDER BY filed_at DESC, id DESC LIMIT 20
"""
SEARCH = """
SELECT code, name, address, filing_count FROM company WHERE code = CAST(:text AS INTEGER) OR name LIKE :like ESCAPE '\\'
ORDER BY name, code LIMIT :limit
"""
NEWEST = """
SELECT f.id, f.kind, f.filed_at, c.code, c.name FROM filing f JOIN company c ON c.code = f.company_code
ORDER BY f.id DESC LIMIT 12
"""
Row = tuple[Any, ...]


class Business:
    """The database file."""

    def __init__(self, path: str) -> None:
        self._uri = f"{Path(os.path.abspath(path)).as_uri()}?mode=rw"

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        if path == "/":
            return self._front()
        if path == "/health":
            return self._health()
        if path == "/search":
            return self._search(search_words(query))
        if match := COMPANY_PATH.fullmatch(path):
            return self._company(int(match[1]))
        if path.startswith("/company/"):
            raise Refused(HTTPStatus.BAD_REQUEST, "a company is asked for as /company/10000017")
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _front(self) -> Answer:
        with self._reading() as database:
            totals = dict(database.execute("SELECT name, value FROM total"))
            newest = database.execute(NEWEST).fetchall()
        value: dict[str, object] = {"companies": totals.get("companies"), "filings": totals.get("filings")}
        shown = figures(
            (
                ("Companies", f"{totals.get('companies', 0):,}"),
                ("Filings", f"{totals.get('filings', 0):,}"),
                ("Fees, €", f"{totals.get('fees_cents', 0) // 100:,}"),
            )
        )
        rows = [
            (safe(number), safe(kind), f'<a href="/company/{code}">{safe(name)}</a>', safe(moment(filed_at)))
            for number, kind, filed_at, code, name in newest
        ]
        listed = table(("Filing", "Kind", "Company", "Filed (UTC)#"), rows)
        return Answer(value, NAME, f"{search_form(SEARCH_HINT)}{shown}<h2>Newest filings</h2>{listed}")

    def _search(self, text: str) -> Answer:
        pattern = "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"
        number = text if re.fullmatch(r"[0-9]{1,18}", text) else "-1"
        with self._reading() as database:
            rows = database.execute(SEARCH, {"text": number, "like": pattern, "limit": SHOWN + 1}).fetchall()
        companies = [
            {"code": code, "name": name, "address": address, "filing_count": filings}
            for code, name, address, filings in rows[:SHOWN]
        ]
        value: dict[str, object] = {"query": text, "more": len(rows) > SHOWN, "companies": companies}
        cells = [
            (f'<a href="/company/{code}">{code}</a>', safe(name), safe(address), safe(filings))
            for code, name, address, filings in rows[:SHOWN]
        ]
        found = f"{len(companies)}{' or more' if value['more'] else ''} found"
        listed = table(("Code", "Name", "Address", "Filings#"), cells)
        return Answer(value, f"Search · {NAME}", f"{search_form(SEARCH_HINT, text)}<h1>{found}</h1>{listed}")

    def _company(self, wanted: int) -> Answer:
        with self._reading() as database:
            found = database.execute(COMPANY, (wanted,)).fetchone()
            if found is None:
                raise Refused(HTTPStatus.NOT_FOUND, f"there is no company {wanted}")
            board = database.execute(BOARD, (wanted,)).fetchall()
            filings = database.execute(FILINGS, (wanted,)).fetchall()
        code, name, form, address, founded, capital, filing_count, fees = found
        value: dict[str, object] = {
            "code": code,
            "name": name,
            "form": form,
            "address": address,
            "founded": founded,
            "capital_eur": euros(capital),
            "filing_count": filing_count,
            "fees_eur": euros(fees),
            "board": [{"name": who, "role": role, "since": since} for who, role, since in board],
            "newest_filings": [
                {"id": number, "kind": kind, "filed_at": moment(at), "fee_eur": euros(fee), "summary": summary}
                for number, kind, at, fee, summary in filings
            ],
        }
        return Answer(value, f"{name} · {NAME}", company_page(value, capital, board, filings))

    def _health(self) -> Answer:
        """Reads the totals and counts the newest filing's company, whose own total must agree."""
        with self._reading() as database:
            totals = dict(database.execute("SELECT name, value FROM total"))
            newest = database.execute("SELECT company_code FROM filing ORDER BY id DESC LIMIT 1").fetchone()
            if newest is None or not totals.get("companies"):
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the register holds no company that ever filed")
            (counted,) = database.execute("SELECT count(*) FROM filing WHERE company_code = ?", newest).fetchone()
            company = database.execute(COMPANY, newest).fetchone()
        if company is None or company[6] != counted:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "the register's tables do not agree with each other")
        value: dict[str, object] = {"status": "ok", "companies": totals["companies"], "filings": totals.get("filings")}
        return Answer(value, f"Health · {NAME}", f"<h1>In good health</h1>{figures(tuple(totals.items()))}")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction that sees one moment; ``mode=rw`` is for sharing the WAL, not for writing."""
        with closing(sqlite3.connect(self._uri, uri=True, isolation_level=None, timeout=BUSY_S)) as database:
            database.execute("PRAGMA query_only = ON")
            database.execute("BEGIN")
            yield database


def euros(cents: int) -> str:
    """Cents as ``1234.50``."""
    return f"{cents // 100}.{cents % 100:02d}"


def moment(microseconds: int) -> str:
    """Microseconds since 1970 as ``2025-12-31 13:05:07``, UTC."""
    return f"{datetime.fromtimestamp(microseconds // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}"


def company_page(value: dict[str, object], capital: int, board: Sequence[Row], filings: Sequence[Row]) -> str:
    board_rows = [(f"<bdi>{safe(name)}</bdi>", safe(role), safe(since)) for name, role, since in board]
    filing_rows = [(safe(moment(at)), safe(kind), safe(summary), euros(fee)) for _, kind, at, fee, summary in filings]
    return (
        f"<h1>{safe(value['name'])}</h1><p class=soft>{safe(value['code'])} · {safe(value['address'])} · "
        f"founded {safe(value['founded'])}</p>"
        + figures((("Capital, €", f"{capital // 100:,}"), ("Filings", value["filing_count"])))
        + f"<h2>Board</h2>{table(('Name', 'Role', 'Since#'), board_rows)}"
        + f"<h2>Newest filings</h2>{table(('Filed (UTC)', 'Kind', 'Summary', 'Fee, €#'), filing_rows)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description="Serves the business register on 127.0.0.1.")
    parser.add_argument("--port", type=parse_port, required=True, help="0: any free one, said on standard output")
    parser.add_argument("--db", required=True, metavar="FILE", help="the SQLite database")
    options = parser.parse_args(arguments)
    return serve(Business(options.db), options.port)


if __name__ == "__main__":
    sys.exit(main())

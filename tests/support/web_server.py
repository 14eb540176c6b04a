"""Plain web servers for one test: nginx over a site's folder, and one of our own that answers as it is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from support.login_nginx import _await_port, free_ports, server_certificate

_NGINX = """daemon off; master_process off; pid {own}/nginx.pid; error_log {own}/error.log info; {user}
events {{}}
http {{
    access_log off; client_body_temp_path {own}/b; proxy_temp_path {own}/p;
    fastcgi_temp_path {own}/f; uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;
    server {{
        listen 127.0.0.1:{port} ssl; server_name localhost;
        ssl_certificate {own}/server.pem; ssl_certificate_key {own}/server.key;
        location /embassy/ {{ alias {served}/; autoindex {autoindex}; autoindex_format json; }}
    }}
}}
"""

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving_folder(served: Path, own: Path, *, autoindex: bool = True) -> Iterator[str]:
    """The ``web:`` address of ``served`` behind nginx with TLS; ``own``: nginx's own files."""
    own.mkdir(parents=True)
    server_certificate(own)
    (port,) = free_ports(1)
    user = "user root;" if os.geteuid() == 0 else ""
    text = _NGINX.format(own=own, served=served, port=port, user=user, autoindex="on" if autoindex else "off")
    (own / "nginx.conf").write_text(text)
    process = subprocess.Popen(["nginx", "-p", str(own), "-c", f"{own}/nginx.conf"], stderr=subprocess.PIPE)
    try:
        _await_port(process, port)
        yield f"web:https://localhost:{port}/embassy?authorities={own}/server.pem"
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The ``web:`` address of a server that answers every GET and HEAD by ``answer``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"web:http://127.0.0.1:{server.server_address[1]}/site"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def reply(status: int, body: bytes = b"", *, length: int | None = None, **headers: str) -> Answer:
    """Always the same answer; ``length``: what it says of the body's length."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.close_connection = True
        try:
            handler.wfile.write(body)
        except OSError:
            return  # The client has read enough.

    return answer

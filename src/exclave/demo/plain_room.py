"""A reading room's pages as plain files, for a machine without nginx: no search, no limits, one machine's loopback."""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

_PATH: Final = re.compile(r"(?:/[0-9A-Za-z_-][0-9A-Za-z._-]*)*/?\Z")
_TYPES: Final = {".txt": "text/plain; charset=utf-8", ".css": "text/css", ".json": "application/json"}


def find(folder: Path, path: str) -> Path | None:
    """The file that a reading room answers ``path`` with; None if there is none."""
    if not _PATH.match(path) or ".." in path:
        return None
    name = path.strip("/")
    for root in ("permanent", "current", "status"):
        for candidate in (name, f"{name}.html", f"{name}/index.html".strip("/")):
            if candidate and (found := folder / root / candidate).is_file():
                return found
    return None


def main(arguments: list[str]) -> int:
    """``FOLDER PORT``: serves until the process is ended."""
    folder = Path(arguments[0])

    class Reader(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = find(folder, self.path)
            data = found.read_bytes() if found is not None else b"there is no such page\n"
            self.send_response(404 if found is None else 200)
            kind = "text/plain" if found is None else _TYPES.get(found.suffix, "application/octet-stream")
            self.send_header("Content-Type", "text/html; charset=utf-8" if found and found.suffix == ".html" else kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """What citizens look up is nobody's business."""

    ThreadingHTTPServer(("127.0.0.1", int(arguments[1])), Reader).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The pages of a reading room, as HTML. Everything that comes from a register is escaped by the template engine.

No script, no cookie, nothing from anybody else. What changes with time (how old the copy is) stands in a page of its
own, ``/status``, which the others frame: so all others keep their bytes, and any cache may hold them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from exclave.ids import Fingerprint, Instant, RegisterId, instant_text
from exclave.serve.reading_acts import Block, direction, shown
from exclave.serve.reading_search import CLOSE, MAX_BEGINNINGS, OPEN, Found, Query
from exclave.serve.reading_store import ActRow, PartRow, TextRow

PER_PAGE: Final = 200
MAX_SHOWN_CHARS: Final = 2_000_000
"""Longer texts are cut on their page, which says so; the original document has all."""
VERIFY: Final = "exclave verify ACT.txt --proof ACT.proof --fingerprint FINGERPRINT"
PAGE_CSP: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-src 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
STATUS_CSP: Final = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'self'"
DOCUMENT_CSP: Final = "sandbox; default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
_MARK = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")


@cache
def asset(name: str) -> bytes:
    return files("exclave.serve").joinpath("pages", "reading", name).read_bytes()


def style_name() -> str:
    """The style's name has its digest: caches may keep it for ever."""
    return f"style-{hashlib.sha256(asset('style.css')).hexdigest()[:12]}.css"


@dataclass(frozen=True, slots=True)
class Room:
    """What every page says of the register and its state."""

    name: str
    state_name: str
    fingerprint: Fingerprint
    register: RegisterId
    origin: str
    """``https://gazette.example``: of the addresses in the feed and the site map."""
    style: str = field(default_factory=style_name)


class Pages:
    """Renders for one room."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._templates = _environment()

    def front(self, newest: Sequence[ActRow], groups: Sequence[tuple[str, int]], counts: tuple[int, int]) -> bytes:
        return self._page("front.html", newest=newest, groups=groups, acts_count=counts[0], texts_count=counts[1])

    def groups(self, groups: Sequence[tuple[str, int]]) -> bytes:
        return self._page("groups.html", groups=groups)

    def group(self, group: str, acts: Sequence[ActRow], page: int, pages: int) -> bytes:
        return self._page("group.html", group=group, acts=acts, page=page, pages=pages)

    def act(
        self, act: ActRow, text: TextRow, blocks: Sequence[Block], parts: Sequence[PartRow], texts: Sequence[TextRow],
        *, shortened: bool = False,
    ) -> bytes:  # fmt: skip
        """The act as it is in force, with all its texts."""
        return self._act(act, text, blocks, parts, texts, fixed=False, shortened=shortened)

    def text(self, act: ActRow, text: TextRow, blocks: Sequence[Block], *, shortened: bool = False) -> bytes:
        """One text under its permanent address: nothing on this page will be otherwise later."""
        return self._act(act, text, blocks, (), (), fixed=True, shortened=shortened)

    def _act(
        self, act: ActRow, text: TextRow, blocks: Sequence[Block], parts: Sequence[PartRow], texts: Sequence[TextRow],
        *, fixed: bool, shortened: bool,
    ) -> bytes:  # fmt: skip
        return self._page(
            "act.html", act=act, text=text, blocks=blocks, parts=parts, texts=texts, fixed=fixed, shortened=shortened,
            direction=direction(act.language), address=text_address(text),
        )  # fmt: skip

    def versions(self, versions: Sequence[tuple[int, int]]) -> bytes:
        return self._page("versions.html", versions=versions)

    def version(
        self, sequence: int, time: int, texts: Sequence[tuple[TextRow, str, str]], total: int, page: int, pages: int
    ) -> bytes:
        return self._page(
            "version.html", sequence=sequence, time=time, texts=texts, total=total, page=page, pages=pages
        )

    def check(self) -> bytes:
        return self._page("check.html", command=VERIFY)

    def message(self, heading: str, sentence: str) -> bytes:
        return self._page("message.html", heading=heading, sentence=sentence)

    def status(self, level: str, headline: str, detail: str) -> bytes:
        return self._page("status.html", level=level, headline=headline, detail=detail)

    def search(self, query: Query | None, text: str, found: Found | None, page: int, message: str = "") -> bytes:
        """Results, or a ``message`` for the reader."""
        suggestion = ""
        if query is not None and found is not None and not found.hits and "*" not in text and '"' not in text:
            words = query.text.split()
            suggestion = " ".join(f"{_stem(word)}*" for word in words) if len(words) <= MAX_BEGINNINGS else ""
        return self._page(
            "search.html", query=shown(text), found=found, page=page, message=message, suggestion=suggestion
        )

    def _page(self, name: str, **values: Any) -> bytes:
        return self._templates.get_template(name).render(room=self.room, **values).encode()

    # For machines

    def feed(self, texts: Sequence[tuple[int, TextRow, str, str]], time: Instant) -> bytes:
        """Atom: (time of the version, text, title, language) of each new text, the newest first."""
        room = self.room
        entries = "".join(
            f"<entry><id>{escape(room.origin + text_address(text))}</id>"
            f'<title type="text">{escape(title)}</title><updated>{_seconds(when)}</updated>'
            f"<link href={quoteattr(room.origin + text_address(text))}/>"
            f'<link rel="related" type="application/octet-stream" title="proof" '
            f"href={quoteattr(room.origin + text_address(text) + '.proof')}/>"
            f'<content type="text" xml:lang={quoteattr(language)}>{escape(text.act)}, text {text.version}</content>'
            "</entry>"
            for when, text, title, language in texts
        )
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">'
            f"<id>urn:exclave:{room.fingerprint}:{room.register}</id><title>{escape(room.name)}</title>"
            f"<author><name>{escape(room.state_name)}</name></author><updated>{_seconds(time)}</updated>"
            f'<link rel="self" href={quoteattr(room.origin + "/feed.atom")}/>'
            f"<link href={quoteattr(room.origin + '/')}/>"
            f"{entries}</feed>\n"
        ).encode()

    def latest(self, sequence: int, time: Instant, digest: bytes, counts: tuple[int, int]) -> bytes:
        """``latest.json``: see docs/spec/reading-room.md."""
        room = self.room
        value = {
            "format": "exclave/latest/v1", "state": room.fingerprint, "register": room.register, "name": room.name,
            "version": sequence, "time": instant_text(time), "edition": digest.hex(), "acts": counts[0],
            "texts": counts[1],
        }  # fmt: skip
        return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()

    def sitemap(self, addresses: Sequence[tuple[str, str]]) -> bytes:
        """(path, day or nothing) of pages."""
        urls = "".join(
            f"<url><loc>{escape(self.room.origin + path)}</loc>{f'<lastmod>{day}</lastmod>' if day else ''}</url>\n"
            for path, day in addresses
        )
        head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        return f"{head}{urls}</urlset>\n".encode()

    def sitemap_index(self, count: int) -> bytes:
        maps = "".join(
            f"<sitemap><loc>{self.room.origin}/sitemap/{n}.xml</loc></sitemap>\n" for n in range(1, count + 1)
        )
        head = '<?xml version="1.0" encoding="utf-8"?>\n<sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        return f"{head}{maps}</sitemapindex>\n".encode()

    def opensearch(self) -> bytes:
        template = quoteattr(self.room.origin + "/search?q={searchTerms}")
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            '<OpenSearchDescription xmlns="http://a9.com/-/spec/opensearch/1.1/">'
            f"<ShortName>{escape(self.room.name[:16])}</ShortName><Description>{escape(self.room.name)}</Description>"
            f'<Url type="text/html" template={template}/></OpenSearchDescription>\n'
        ).encode()


def text_address(text: TextRow) -> str:
    """The permanent path of a text."""
    return f"/v/{text.sequence}/act/{text.act}/v{text.version}"


def _stem(word: str) -> str:
    bare = word.strip("*.,;:()")
    return bare[: max(3, len(bare) - 2)] if len(bare) > 4 else bare


def _seconds(time: int) -> str:
    return instant_text(Instant(time))[:19] + "Z"


def moment(time: int) -> str:
    """``27 Nov 2026, 00:45 UTC``."""
    at = datetime.fromtimestamp(time // 1_000_000, UTC)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def _day(text: str) -> str:
    found = date.fromisoformat(text)
    return f"{found.day} {found:%B} {found.year}"


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def _marked(text: str) -> Markup:
    """What was found, marked; everything else escaped."""
    found: list[Markup] = []
    at = 0
    for match in _MARK.finditer(text):
        found += [Markup.escape(text[at : match.start()]), Markup("<mark>%s</mark>") % match[1]]
        at = match.end()
    found.append(Markup.escape(text[at:].replace(OPEN, "").replace(CLOSE, "")))
    return Markup("").join(found)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("exclave.serve", "pages/reading"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters |= {
        "day": _day, "moment": moment, "size": _size, "marked": _marked, "visible": shown,
        "number": lambda value: f"{value:,}".replace(",", "\u202f"), "urlencode": lambda text: quote(text, safe=""),
    }  # fmt: skip
    return made

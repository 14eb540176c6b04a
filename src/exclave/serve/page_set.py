"""The pages that citizens see: texts in their language, templates, and the headers that fence a page in.

Templates, style, script and one catalogue of texts for each language lie in ``pages/``. Everything that is put into a
page is escaped by the template engine. Nothing is loaded from anybody else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from exclave.errors import ExclaveError, NotAuthorised, UnavailableError, UsageError
from exclave.formats.relying import RelyingService
from exclave.identity.contract import StoredPasskey
from exclave.identity.login import Offer

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), publickey-credentials-get=(self), "
    "publickey-credentials-create=(self)",
    # Not no-referrer: browsers would then send "Origin: null" with a form, and the origin is what tells ours.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
ASSETS = {"login.css": "text/css", "login.js": "text/javascript", "icon.svg": "image/svg+xml"}
_EXPIRED = frozenset({"interaction", "challenge", "session"})
_REQUEST = frozenset({"header", "origin", "request"})
_PLAIN = frozenset({"no_card", "passkey_limit", "passkey_known"})
_TAG = re.compile(r"([a-z]{2,3})(?:-[a-z0-9]{1,8})*(?:;q=([01](?:\.[0-9]{1,3})?))?\Z")
_MAX_TAGS = 20


@dataclass(frozen=True, slots=True)
class PageText:
    """Which page, for whom."""

    language: str
    exile: bool = False
    """This place is the embassy and its pages say so."""
    address: str = ""
    """Of the page itself, with its query: where another language is chosen; empty where a page cannot be repeated."""


def kind_of(error: ExclaveError) -> str:
    """Which of the few texts for citizens an error gets: what was wrong with a card stays in the operator's log.

    Whatever was found wrong with an answer has a ``reason``. Without one, the OpenID provider knows the log-in no
    longer, or something failed here.
    """
    reason = str(error.facts.get("reason", ""))
    if isinstance(error, UnavailableError):
        return "unavailable"
    if not reason:
        return "expired" if type(error) is NotAuthorised else "unavailable"
    if reason in _EXPIRED:
        return "expired"
    if reason in _REQUEST:
        return "request"
    return {"no-certificate": "no_card", "passkey-limit": "passkey_limit", "passkey-twice": "passkey_known"}.get(
        reason, "refused"
    )


def status_of(error: ExclaveError) -> int:
    """503 where it is ours; 400 for what is not in the format; 403 for what is not accepted."""
    if kind_of(error) == "unavailable":
        return 503
    return error.http_status if isinstance(error, UsageError) else 403


class Pages:
    """Renders. Safe from several threads."""

    def __init__(self, state_name: Mapping[str, str], languages: tuple[str, ...], login: str, own: str) -> None:
        """``languages``: the default first; ``login``, ``own``: paths of the log-in and of the page of passkeys."""
        self._state = state_name
        self._languages = languages
        self._login = login
        self._own = own
        self._templates = Environment(
            loader=PackageLoader("exclave.serve", "pages"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, auto_reload=False,
        )  # fmt: skip

    def language(self, asked: Iterable[str], accept: str) -> str:
        """The first of ``asked`` (tags, the strongest wish first) that is offered, else the browser's best."""
        for tag in (*(tag.lower() for tag in asked), *_accepted(accept)):
            if (short := tag.partition("-")[0]) in self._languages:
                return short
        return self._languages[0]

    def text(self, kind: str, language: str) -> str:
        """The sentence of an error, for a page's script."""
        texts = catalogue(language)
        return texts[kind if kind in _PLAIN and kind in texts else f"{kind}_text"]

    def choose(self, page: PageText, offer: Offer, card_href: str, *, own_page: bool) -> str:
        """Ways to log in."""
        texts = catalogue(page.language)
        name = texts["my_passkeys"] if own_page else service_name(offer.interaction.client, page.language)
        return self._render(
            "choose.html", page, service=name, interaction=offer.interaction.id, web_eid=offer.web_eid,
            passkey=offer.passkey, tls_card=offer.tls_card, card_href=card_href, own_page=own_page,
        )  # fmt: skip

    def error(self, page: PageText, kind: str, *, again: str = "") -> str:
        """What happened, in words for a citizen. ``kind``: see ``kind_of``; ``again``: where to try once more."""
        heading = "refused_heading" if kind in _PLAIN else f"{kind}_heading"
        return self._message(page, catalogue(page.language)[heading], self.text(kind, page.language), again=again)

    def leaving(self, page: PageText, onward: str) -> str:
        """On the way to ``onward``. A page and no redirect: a form's answer may not redirect to another site under a
        strict ``form-action``."""
        texts = catalogue(page.language)
        return self._message(page, texts["leaving_heading"], texts["leaving_text"], onward=onward, alert=False)

    def logged_out(self, page: PageText) -> str:
        texts = catalogue(page.language)
        return self._message(page, texts["logged_out_heading"], texts["logged_out_text"], alert=False)

    def passkeys(
        self, page: PageText, name: str, passkeys: tuple[StoredPasskey, ...], interaction: str, *,
        may_add: bool, done: str,
    ) -> str:  # fmt: skip
        """One person's own. ``interaction``: ``own_id`` of the browser; ``done``: ``added``, ``removed`` or empty."""
        rows = [{"id": _b64url(one.credential), "short": _short(one.credential)} for one in passkeys]
        return self._render(
            "passkeys.html", page, name=name, passkeys=rows, may_add=may_add, added=done == "added",
            removed=done == "removed", interaction=interaction,
        )  # fmt: skip

    def _message(
        self, page: PageText, heading: str, text: str, *, onward: str = "", again: str = "", alert: bool = True
    ) -> str:
        return self._render(
            "message.html", page, heading=heading, text=text, onward=onward, again=again, alert=alert
        )  # fmt: skip

    def _render(self, template: str, page: PageText, **values: object) -> str:
        state = self._state.get(page.language) or self._state.get("en") or next(iter(self._state.values()), "")
        joiner = "&" if "?" in page.address else "?"
        languages = [
            {"code": code, "name": catalogue(code)["language"], "href": f"{page.address}{joiner}lang={code}"}
            for code in (self._languages if page.address and len(self._languages) > 1 else ())
        ]
        return self._templates.get_template(template).render(
            t=catalogue(page.language), language=page.language, state=state, languages=languages, exile=page.exile,
            path=self._login, own=self._own, assets=f"{self._login}/assets", **values,
        )  # fmt: skip


def service_name(client: RelyingService, language: str) -> str:
    """What the relying service is called in ``language``, else in whatever it has."""
    return client.name.get(language) or client.name.get("en") or next(iter(client.name.values()), client.client_id)


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """All texts of a language; a missing one is found by the tests."""
    return msgspec.json.decode(asset(f"{language}.json"), type=dict[str, str])


@cache
def asset(name: str) -> bytes:
    """A file of ``pages/``; ``name`` is never a caller's."""
    return files("exclave.serve").joinpath("pages", name).read_bytes()


def _accepted(header: str) -> list[str]:
    """The languages of Accept-Language (RFC 9110, section 12.5.4), the most wanted first; what is malformed is left."""
    found = []
    for place, part in enumerate(header.lower().replace(" ", "").split(",")[:_MAX_TAGS]):
        match = _TAG.match(part)
        if match and float(match[2] or 1) > 0:
            found.append((-float(match[2] or 1), place, match[1]))
    return [tag for _, _, tag in sorted(found)]


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _short(credential: bytes) -> str:
    """Tells a person's passkeys apart on the page."""
    return hashlib.sha256(credential).hexdigest()[:6]

"""Logging out (OpenID Connect RP-Initiated Logout 1.0): the session ends here and at every service it reached.

With an ID token of the session that this browser has, at once; otherwise the person is asked first, so that no foreign
page can log anybody out. A browser is sent on only to an address that the client registered for it.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from exclave.errors import MalformedError
from exclave.formats.relying import RelyingService
from exclave.identity.op import sessions
from exclave.identity.op.authorization import MAX_STATE
from exclave.identity.op.authorize import Hint, read_hint
from exclave.identity.op.codes import SESSION, Session
from exclave.identity.op.pages import ask_logout, logged_out
from exclave.identity.op.refusal import Untrusted
from exclave.identity.op.settings import LogoutNotice, OpParts
from exclave.identity.op.tokens import logout_token
from exclave.identity.op.wire import (
    MAX_QUERY_BYTES,
    Call,
    Reply,
    b64url,
    browser_of,
    form_of,
    hashed,
    page_reply,
    parse_parameters,
    redirect,
    with_parameters,
)
from exclave.ids import Instant

PATH = "/oidc/logout"
_ASKED = ("id_token_hint", "client_id", "post_logout_redirect_uri", "state", "ui_locales")


def logout(parts: OpParts, call: Call, now: Instant) -> Reply:
    """The endpoint's answer. Raises ``Untrusted`` for an address or a hint that is not to be trusted."""
    try:
        asked = form_of(call) if call.method == "POST" else parse_parameters(call.query, limit=MAX_QUERY_BYTES)
    except MalformedError as error:
        raise Untrusted("request") from error
    if call.method == "POST" and "confirm" not in asked:
        # A form of another site comes without the Lax cookie; the browser brings it with the GET that follows.
        return redirect(with_parameters(PATH, {name: asked[name] for name in _ASKED if name in asked}))
    hint = read_hint(parts, asked["id_token_hint"]) if "id_token_hint" in asked else None
    if "id_token_hint" in asked and (hint is None or asked.get("client_id", hint.aud) != hint.aud):
        raise Untrusted("hint")
    target = _target(parts, asked, hint)
    browser = browser_of(call.cookies, parts.settings.cookie_name)
    session = sessions.current(parts, browser, now)
    if session is not None:
        given = asked.get("confirm", "").encode("utf-8")
        confirmed = call.method == "POST" and hmac.compare_digest(given, _proof(browser, session).encode("ascii"))
        known = hint is not None and hint.sid == session.sid and hint.sub == session.who.subject
        if not confirmed and not known:
            kept = {name: asked[name] for name in _ASKED if name in asked}
            page = ask_logout(
                parts.settings.languages, asked.get("ui_locales", ""), PATH, kept, _proof(browser, session)
            )
            return page_reply(200, page, form_to=_form_to(target))
        end(parts, browser, session, now)
    if target:
        return redirect(target)
    return page_reply(200, logged_out(parts.settings.languages, asked.get("ui_locales", "")))


def end(parts: OpParts, browser: str, session: Session, now: Instant) -> None:
    """The session is over; its services are told by the back channel."""
    if parts.tickets.take(SESSION, hashed(browser), now=now) is None:
        return
    for client_id in session.clients:
        client = parts.store.service(client_id)
        if client is not None and client.enabled and client.backchannel_logout_uri:
            token = logout_token(parts, client, session.who.subject, session.sid, now)
            parts.logouts.offer(LogoutNotice(client.backchannel_logout_uri, token))


def _target(parts: OpParts, asked: dict[str, str], hint: Hint | None) -> str:
    """Where the browser goes afterwards; empty: nowhere. ``Untrusted`` for an address that is not registered."""
    uri = asked.get("post_logout_redirect_uri", "")
    if not uri:
        return ""
    client: RelyingService | None = parts.store.service(hint.aud if hint is not None else asked.get("client_id", ""))
    if client is None or not client.enabled or uri not in client.post_logout_redirect_uris:
        raise Untrusted("redirect")
    state = asked.get("state", "")
    return with_parameters(uri, {"state": state[:MAX_STATE]}) if state else uri


def _form_to(target: str) -> str:
    """Where the form may lead: here, and on to the registered ``target``, since browsers apply a page's policy to
    redirects too."""
    where = urlsplit(target)
    return f"'self' {where.scheme}://{where.netloc}" if where.netloc else "'self'"


def _proof(browser: str, session: Session) -> str:
    """What only a page shown to this browser knows: another site can post a form here, but not this word in it."""
    return b64url(hashed(f"logout\n{browser}\n{session.sid}"))

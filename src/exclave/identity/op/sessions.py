"""A browser in which a person logged in: for half an hour at most, so that logging out reaches every service.

A session lies under the hash of the browser's cookie. Two log-ins that end in one browser at the same moment may leave
one of their clients out of the session; such a client is not told of the logout and goes by its own time limit.
"""

from __future__ import annotations

from exclave.formats.relying import RelyingService
from exclave.identity.op.authorization import AuthorizationRequest, meets
from exclave.identity.op.codes import SESSION, Session, Who, encode, parse_session
from exclave.identity.op.settings import OpParts
from exclave.identity.op.wire import b64url, hashed
from exclave.ids import Instant

MAX_CLIENTS = 50


def current(parts: OpParts, browser: str, now: Instant) -> Session | None:
    """The session of ``browser`` (its cookie's value), if there is one."""
    data = parts.tickets.get(SESSION, hashed(browser), now=now) if browser else None
    return None if data is None else parse_session(data)


def opened(parts: OpParts, browser: str, who: Who, client: RelyingService, now: Instant) -> str:
    """The name (``sid``) of the session in which ``who`` now logged in to ``client``.

    The one of the same person goes on under its name, so that its services hear of one logout; another person's is
    replaced. Where nobody would be told of its end and nothing be answered from it, it is a name and is not kept.
    """
    if not client.backchannel_logout_uri and not parts.settings.single_sign_on:
        return b64url(parts.randomness(16))
    before = current(parts, browser, now)
    if before is not None and before.who.subject == who.subject:
        clients = (*(c for c in before.clients if c != client.client_id), client.client_id)[-MAX_CLIENTS:]
        session = Session(before.sid, who, clients)
    else:
        session = Session(b64url(parts.randomness(16)), who, (client.client_id,))
    keep(parts, browser, session)
    return session.sid


def keep(parts: OpParts, browser: str, session: Session) -> None:
    """It ends with the time of its last log-in and not with its last use."""
    expires = Instant(session.who.time + parts.settings.session_s * 1_000_000)
    parts.tickets.put(SESSION, hashed(browser), encode(session), expires)


def suffices(session: Session, request: AuthorizationRequest, subject: str, now: Instant) -> bool:
    """Whether the log-in of ``session`` answers ``request`` without asking the person again."""
    who = session.who
    fresh = request.max_age_s is None or now - who.time <= request.max_age_s * 1_000_000
    right = not subject or subject == who.subject
    return (
        fresh and right and request.prompt != "login"
        and meets(who.acr, request.acr) and not set(request.methods).isdisjoint(who.amr)
    )  # fmt: skip

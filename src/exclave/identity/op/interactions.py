"""Log-ins that OpenID requests wait for: ``contract.Interactions``.

An interaction belongs to the browser that began it: whoever lures somebody else to its address cannot have that person
end it (RFC 9700, section 4.7), and cannot end it himself in the other's browser.
"""

from __future__ import annotations

from dataclasses import dataclass

from exclave.errors import NotAuthorised, UnavailableError
from exclave.formats.relying import RelyingService
from exclave.identity.contract import Authentication, Interaction
from exclave.identity.op import sessions
from exclave.identity.op.authorization import AuthorizationRequest, meets
from exclave.identity.op.codes import CODE, INTERACTION, Code, Waiting, Who, encode, parse_waiting
from exclave.identity.op.refusal import REDIRECTED
from exclave.identity.op.settings import OpParts
from exclave.identity.op.wire import b64url, hashed, with_parameters
from exclave.ids import Instant

SKEW_S = 60
"""How much the clocks of two machines of one place may differ."""
_HINT = "Go back to the service and log in again."


@dataclass(frozen=True, slots=True)
class OpInteractions:
    """``contract.Interactions``. ``NotAuthorised`` from ``complete`` and ``cancel`` where nobody can be sent anywhere:
    the interaction is gone or another browser's, or its client was disabled meanwhile."""

    parts: OpParts

    def find(self, interaction: str, browser: str) -> Interaction | None:
        data = self.parts.tickets.get(INTERACTION, _bound(interaction, browser), now=self.parts.clock())
        try:
            waiting, client = self._known(data)
        except NotAuthorised:
            return None
        request = waiting.request
        return Interaction(interaction, client, request.acr, frozenset(request.methods), request.ui_locales)

    def complete(self, interaction: str, browser: str, done: Authentication) -> str:
        parts = self.parts
        now = parts.clock()
        if not parts.authority().decides:
            raise UnavailableError("this place does not log anybody in now", reason="authority")
        waiting, client = self._known(parts.tickets.take(INTERACTION, _bound(interaction, browser), now=now))
        request = waiting.request
        if error := _unmet(waiting, done, now):
            return answer_url(parts, request, {"error": error})
        who = Who.of(done)
        return granted(parts, request, who, sessions.opened(parts, browser, who, client, now), now)

    def cancel(self, interaction: str, browser: str, error: str) -> str:
        now = self.parts.clock()
        waiting, _ = self._known(self.parts.tickets.take(INTERACTION, _bound(interaction, browser), now=now))
        code = error if error in REDIRECTED else "server_error"
        return answer_url(self.parts, waiting.request, {"error": code})

    def _known(self, data: bytes | None) -> tuple[Waiting, RelyingService]:
        """What waits, and its client as it is registered at this moment."""
        if data is None:
            raise NotAuthorised(
                "this log-in has expired, or it was begun in another browser", hint=_HINT, reason="interaction"
            )
        waiting = parse_waiting(data)
        client = self.parts.store.service(waiting.request.client_id)
        if client is None or not client.enabled or waiting.request.redirect_uri not in client.redirect_uris:
            raise NotAuthorised("this service may no longer ask for a log-in", hint=_HINT, reason="client")
        return waiting, client


def _bound(interaction: str, browser: str) -> bytes:
    """Where it lies: of another browser, the same name leads nowhere, so nobody else can see, end or spoil it. Neither
    text holds a zero byte when it was made here."""
    return hashed(f"{interaction}\0{browser}")


def begin(parts: OpParts, request: AuthorizationRequest, browser: str, subject: str, now: Instant) -> str:
    """The address of the log-in page for ``request``, which waits there for ``browser``."""
    name = b64url(parts.randomness(24))
    expires = Instant(now + parts.settings.interaction_s * 1_000_000)
    parts.tickets.put(INTERACTION, _bound(name, browser), encode(Waiting(request, subject, now)), expires)
    return with_parameters(parts.settings.login_path, {"i": name})


def granted(parts: OpParts, request: AuthorizationRequest, who: Who, sid: str, now: Instant) -> str:
    """Where to send the browser of a person who logged in: with a code that lasts seconds."""
    name = b64url(parts.randomness(32))
    epoch = parts.authority().epoch
    code = Code(
        request.client_id, request.redirect_uri, request.challenge, request.nonce, request.state, who, sid, epoch
    )
    parts.tickets.put(CODE, hashed(name), encode(code), Instant(now + parts.settings.code_s * 1_000_000))
    return answer_url(parts, request, {"code": name})


def answer_url(parts: OpParts, request: AuthorizationRequest, parameters: dict[str, str]) -> str:
    """The redirect URI with the answer, the state, and who answers (RFC 9207: a client that talks to two providers
    cannot take one's answer for the other's)."""
    state = {"state": request.state} if request.state else {}
    return with_parameters(request.redirect_uri, {**parameters, **state, "iss": parts.settings.issuer})


def _unmet(waiting: Waiting, done: Authentication, now: Instant) -> str:
    """The error of a log-in that is not what the request asked for; empty if it is."""
    request = waiting.request
    if not meets(done.acr, request.acr) or set(request.methods).isdisjoint(done.amr):
        return "unmet_authentication_requirements"
    if waiting.subject and waiting.subject != done.person.subject:
        return "login_required"
    skew = SKEW_S * 1_000_000
    return "" if waiting.begun - skew <= done.time <= now + skew else "login_required"

"""The provider's endpoints as functions of a request and a time: what they answer in every case, also when it fails.

Whether this place decides is asked before anything else. A place that does not (an embassy in standby, a home that
comes back) gives no code and no token; a home that comes back does not even publish keys until it has merged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from exclave.errors import ExclaveError
from exclave.identity.op import authorize, discovery, logout, pages, par, token, userinfo
from exclave.identity.op.keys import published
from exclave.identity.op.refusal import Refusal, Untrusted
from exclave.identity.op.settings import OpParts
from exclave.identity.op.wire import Call, Reply, json_reply, page_reply
from exclave.ids import Instant

_log = logging.getLogger("exclave.oidc")
"""Says what was refused, in words of ours: nothing that came with the request, nobody's name."""
RETRY_S = 60
_OPEN = (("access-control-allow-origin", "*"), ("x-content-type-options", "nosniff"))
_RETRY = ("retry-after", str(RETRY_S))
DISCOVERY_AGE_S = 3600
JWKS_AGE_S = 300
"""TARA's guidance for relying services: ask again after 5 minutes to 24 hours, and at an unknown kid."""

Endpoint = Callable[[OpParts, Call, Instant], Reply]


@dataclass(frozen=True, slots=True)
class Provider:
    """One method for each endpoint; none raises. ``language`` is what the browser prefers, for pages."""

    parts: OpParts

    def authorize(self, call: Call, language: str = "") -> Reply:
        return self._shown("authorize", authorize.authorize, call, language)

    def logout(self, call: Call, language: str = "") -> Reply:
        return self._shown("logout", logout.logout, call, language)

    def token(self, call: Call) -> Reply:
        return self._told("token", token.token, call)

    def push(self, call: Call) -> Reply:
        return self._told("par", par.push, call)

    def profile(self, call: Call) -> Reply:
        return self._told("profile", userinfo.profile, call)

    def discovery(self) -> Reply:
        if not self.parts.authority().answers:
            return _closed()
        return _public(discovery.document(self.parts.settings), DISCOVERY_AGE_S)

    def jwks(self) -> Reply:
        if not self.parts.authority().answers:
            return _closed()
        try:
            return _public(published(self.parts), JWKS_AGE_S)
        except ExclaveError:
            return _closed()

    def _told(self, name: str, endpoint: Endpoint, call: Call) -> Reply:
        """As a client reads it: JSON."""
        if not self.parts.authority().decides:
            return _closed()
        try:
            return endpoint(self.parts, call, self.parts.clock())
        except Refusal as refusal:
            _log.warning("%s refused: %s, %s", name, refusal.error, refusal.description)
            return refusal.reply()
        except ExclaveError as error:
            _log.error("%s failed: %s", name, error.code)
            return _closed()

    def _shown(self, name: str, endpoint: Endpoint, call: Call, language: str) -> Reply:
        """As a person reads it: a page."""
        languages = self.parts.settings.languages
        if not self.parts.authority().decides:
            return page_reply(503, pages.unavailable(languages, language), _RETRY)
        try:
            return endpoint(self.parts, call, self.parts.clock())
        except Untrusted as refusal:
            _log.warning("%s refused: not to be trusted, %s", name, refusal.why)
            return page_reply(400, pages.refused(languages, language, refusal.why))
        except ExclaveError as error:
            _log.error("%s failed: %s", name, error.code)
            return page_reply(503, pages.unavailable(languages, language), _RETRY)


def _closed() -> Reply:
    return json_reply(
        503, {"error": "temporarily_unavailable", "error_description": "this place does not serve this now"}, _RETRY
    )


def _public(body: bytes, age_s: int) -> Reply:
    headers = (("content-type", "application/json"), ("cache-control", f"public, max-age={age_s}"), *_OPEN)
    return Reply(200, headers, body)

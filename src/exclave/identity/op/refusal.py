"""How the provider says no (RFC 6749, sections 4.1.2.1 and 5.2; OpenID Connect Core, section 3.1.2.6)."""

from __future__ import annotations

from exclave.identity.op.wire import Reply, json_reply

REDIRECTED = frozenset({
    "invalid_request", "unauthorized_client", "access_denied", "unsupported_response_type", "invalid_scope",
    "server_error", "temporarily_unavailable", "login_required", "interaction_required", "consent_required",
    "account_selection_required", "request_not_supported", "request_uri_not_supported", "registration_not_supported",
    "unmet_authentication_requirements",
})  # fmt: skip
"""What may be told to a client by way of the browser."""


class Refusal(Exception):
    """A protocol error on its way to the answer; it never leaves this package.

    ``error`` is the registered code, ``description`` (ASCII without quotes and backslashes, section 5.2) is for the
    developer of the relying service, never for the person, and holds nothing of the request.
    """

    def __init__(self, error: str, description: str, *, status: int = 400, challenge: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status
        self.challenge = challenge
        """WWW-Authenticate, if it asks for another authentication."""

    def reply(self) -> Reply:
        """As an endpoint for clients answers."""
        more = (("www-authenticate", self.challenge),) if self.challenge else ()
        return json_reply(self.status, {"error": self.error, "error_description": self.description}, *more)


class Untrusted(Exception):
    """The client or its redirect URI is not to be trusted, so the error is shown on a page and nobody is redirected."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

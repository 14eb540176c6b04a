"""The authorization request (OpenID Connect Core, section 3.1.2): what of it is accepted, decided without any I/O.

The order matters (RFC 6749, section 4.1.2.1): first the client and the redirect URI, whose faults go on a page; only
then may any fault be told to that redirect URI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from exclave.errors import MalformedError
from exclave.formats.relying import RelyingService
from exclave.identity.op.refusal import Refusal, Untrusted
from exclave.identity.op.settings import OpSettings

ACR_LEVELS = ("low", "substantial", "high")
"""Rising, as in Regulation (EU) 910/2014."""
METHODS = frozenset({"idcard", "passkey"})
_METHOD_SCOPES = frozenset({"idcard", "passkey", "mid", "smartid", "eidas", "eidasonly"})
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_PRINTABLE = re.compile(r"[\x20-\x7e]*\Z")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,100}( [\x21\x23-\x5b\x5d-\x7e]{1,100}){0,31}\Z")
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,3}\Z")
_AGE = re.compile(r"(0|[1-9][0-9]{0,8})\Z")
MAX_STATE = 2048
MAX_NONCE = 1024
MAX_LOCALES = 10
SECRETS = ("client_secret", "client_assertion", "code_verifier", "access_token", "refresh_token")


class AuthorizationRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A request that was accepted."""

    client_id: str
    redirect_uri: str
    scopes: tuple[str, ...]
    state: str
    nonce: str
    challenge: str
    """S256 code challenge (RFC 7636), or empty: the client did without."""
    acr: str
    methods: tuple[str, ...]
    ui_locales: tuple[str, ...]
    prompt: str
    """``none``, ``login`` or empty."""
    max_age_s: int | None
    hint: str
    """``id_token_hint`` as it came, not yet verified; or empty."""


def trusted_redirect(parameters: Mapping[str, str], client: RelyingService | None) -> str:
    """The redirect URI, once it is one that the client registered, character by character (RFC 9700, section 2.1).

    Raises ``Untrusted`` otherwise, and for a client that is unknown or was disabled.
    """
    if client is None or not client.enabled:
        raise Untrusted("client")
    uri = parameters.get("redirect_uri", "")
    if uri not in client.redirect_uris:
        raise Untrusted("redirect")
    return uri


def refuse_secrets(parameters: Mapping[str, str]) -> None:
    """Raises ``Untrusted`` for a secret that stands in an address: by now it also stands in logs and histories."""
    if any(name in parameters for name in SECRETS):
        raise Untrusted("secret")


def accept(
    parameters: Mapping[str, str], client: RelyingService, settings: OpSettings, *, pushed: bool
) -> AuthorizationRequest:
    """The request, or ``Refusal``; the caller has established ``trusted_redirect``.

    ``pushed``: it came by PAR (RFC 9126), so it may be that of a client for which that is required.
    """
    for name in ("request", "request_uri", "registration"):
        if name in parameters:
            raise Refusal(f"{name}_not_supported", f"the parameter {name} is not supported")
    if client.require_par and not pushed:
        raise Refusal("invalid_request", "this client must push its requests (RFC 9126)")
    if "response_type" not in parameters:
        raise Refusal("invalid_request", "response_type is missing")
    if parameters["response_type"] != "code":
        raise Refusal("unsupported_response_type", "only response_type=code is supported")
    if parameters.get("response_mode", "query") != "query":
        raise Refusal("invalid_request", "only response_mode=query is supported")
    scopes = _scopes(parameters, client)
    return AuthorizationRequest(
        client_id=client.client_id,
        redirect_uri=parameters["redirect_uri"],
        scopes=scopes,
        state=_printable(parameters, "state", MAX_STATE),
        nonce=_printable(parameters, "nonce", MAX_NONCE),
        challenge=_challenge(parameters, client),
        acr=_acr(parameters, client),
        methods=_methods(scopes),
        ui_locales=_locales(parameters, settings),
        prompt=_prompt(parameters),
        max_age_s=_max_age(parameters),
        hint=parameters.get("id_token_hint", ""),
    )


def safe_state(parameters: Mapping[str, str]) -> str:
    """The state to send back with an error: empty if it is not one that would be accepted."""
    try:
        return _printable(parameters, "state", MAX_STATE)
    except Refusal:
        return ""


def _printable(parameters: Mapping[str, str], name: str, limit: int) -> str:
    value = parameters.get(name, "")
    if len(value) > limit or not _PRINTABLE.match(value):
        raise Refusal("invalid_request", f"{name} has more than {limit} characters, or others than printable ASCII")
    return value


def _scopes(parameters: Mapping[str, str], client: RelyingService) -> tuple[str, ...]:
    """Those that this provider knows or the client registered; others are ignored (OpenID Connect Core, 3.1.2.1)."""
    text = parameters.get("scope", "")
    if not _SCOPE.match(text):
        raise Refusal("invalid_scope", "scope is missing or is not a list of scopes")
    asked = tuple(dict.fromkeys(text.split(" ")))
    if "openid" not in asked:
        raise Refusal("invalid_scope", "the scope openid is missing")
    return tuple(s for s in asked if s == "openid" or s in client.scopes or s in _METHOD_SCOPES)


def _methods(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """TARA's scopes choose the means of authentication; none named: all. Mobile-ID, Smart-ID and eIDAS need services
    of others, which are not served here, and a request for these alone is told so."""
    named = _METHOD_SCOPES.intersection(scopes)
    if not named:
        return tuple(sorted(METHODS))
    if not named & METHODS:
        raise Refusal("temporarily_unavailable", "none of the means of authentication that scope names is served now")
    return tuple(sorted(named & METHODS))


def _challenge(parameters: Mapping[str, str], client: RelyingService) -> str:
    challenge, method = parameters.get("code_challenge", ""), parameters.get("code_challenge_method", "")
    if not challenge and not method:
        if client.require_pkce or "none" in client.auth_methods:
            raise Refusal("invalid_request", "this client must use PKCE with S256 (RFC 7636)")
        return ""
    if method != "S256":
        raise Refusal("invalid_request", "code_challenge_method must be S256")
    if not _CHALLENGE.match(challenge):
        raise Refusal("invalid_request", "code_challenge must be the base64url of a SHA-256 digest")
    return challenge


def _acr(parameters: Mapping[str, str], client: RelyingService) -> str:
    """The least level that ``acr_values`` accepts; a value that is not a level is ignored beside one that is."""
    text = parameters.get("acr_values", "")
    if not text:
        return client.acr
    asked = [level for level in ACR_LEVELS if level in text.split(" ")]
    if not asked:
        raise Refusal("invalid_request", "acr_values names none of low, substantial, high")
    return asked[0]


def _locales(parameters: Mapping[str, str], settings: OpSettings) -> tuple[str, ...]:
    """Preferences that the pages can meet; others are ignored, as OpenID Connect Core, section 3.1.2.1, wants."""
    asked = parameters.get("ui_locales", "").split(" ")[:MAX_LOCALES]
    wanted = (locale.split("-")[0].lower() for locale in asked if _LOCALE.match(locale))
    return tuple(dict.fromkeys(locale for locale in wanted if locale in settings.languages))


def _prompt(parameters: Mapping[str, str]) -> str:
    """``consent`` and ``select_account`` ask for pages that a state's log-in service has no use for: a card names one
    person, and what is told of him or her is fixed; so they mean that the person is asked anew."""
    asked = set(parameters.get("prompt", "").split(" ")) - {""}
    if not asked:
        return ""
    if not asked <= {"none", "login", "consent", "select_account"} or ("none" in asked and len(asked) > 1):
        raise Refusal("invalid_request", "prompt is none alone, or some of login, consent, select_account")
    return "none" if asked == {"none"} else "login"


def _max_age(parameters: Mapping[str, str]) -> int | None:
    text = parameters.get("max_age", "")
    if not text:
        return None
    if not _AGE.match(text):
        raise Refusal("invalid_request", "max_age must be a number of seconds")
    return int(text)


def meets(reached: str, wanted: str) -> bool:
    """Whether the level ``reached`` is at least ``wanted``. ``MalformedError`` for what is no level."""
    if reached not in ACR_LEVELS or wanted not in ACR_LEVELS:
        raise MalformedError("a level of assurance is low, substantial or high")
    return ACR_LEVELS.index(reached) >= ACR_LEVELS.index(wanted)

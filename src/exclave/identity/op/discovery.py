"""What relying services read to configure themselves (OpenID Connect Discovery 1.0, section 3; RFC 8414)."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from exclave.crypto.jose import VERIFIED
from exclave.identity.op.authorization import ACR_LEVELS
from exclave.identity.op.keys import ALGORITHMS
from exclave.identity.op.settings import OpSettings

METHODS_OF_CLIENTS = ("client_secret_basic", "client_secret_post", "private_key_jwt", "none")


@lru_cache(maxsize=8)
def document(settings: OpSettings) -> bytes:
    """The provider's metadata, JSON. It is the same at every place: the names move and do not change."""
    url = settings.url
    return msgspec.json.encode({
        "issuer": settings.issuer,
        "authorization_endpoint": url("/oidc/authorize"),
        "token_endpoint": url("/oidc/token"),
        "userinfo_endpoint": url("/oidc/profile"),
        "jwks_uri": url("/oidc/jwks"),
        "pushed_authorization_request_endpoint": url("/oidc/par"),
        "end_session_endpoint": url("/oidc/logout"),
        "scopes_supported": ["openid", "idcard", "passkey"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code"],
        "subject_types_supported": ["public"],
        "acr_values_supported": list(ACR_LEVELS),
        "id_token_signing_alg_values_supported": list(ALGORITHMS),
        "token_endpoint_auth_methods_supported": list(METHODS_OF_CLIENTS),
        "token_endpoint_auth_signing_alg_values_supported": list(VERIFIED),
        "code_challenge_methods_supported": ["S256"],
        "claims_supported": [
            "sub", "iss", "aud", "exp", "iat", "nbf", "jti", "auth_time", "acr", "amr", "nonce", "state", "at_hash",
            "sid", "profile_attributes", "given_name", "family_name", "date_of_birth",
        ],
        "claim_types_supported": ["normal"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "ui_locales_supported": list(settings.languages),
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "authorization_response_iss_parameter_supported": True,
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
    })  # fmt: skip

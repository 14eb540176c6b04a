"""A citizen, a relying service and a status client, on and on, through the crisis: each configured once.

The relying service is Authlib's client; the citizen has a card in software and a browser in a few lines; the status
client asks by OCSP as Web eID's libraries do: with a nonce, and believing nothing older than two minutes. Each try is
a line of JSON in a file: kind, when it began and ended, tries, whether it worked, and what was wrong before it did.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import httpx2
from authlib.integrations.httpx_client import OAuth2Client
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import ocsp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

FRESH = timedelta(minutes=2)
SKEW = timedelta(minutes=15)
"""As the official Web eID libraries are set: how old an answer may be, how wrong a clock."""
PAUSE_S = 0.5
RETRY_S = 1.0
PATIENCE_S = 240.0
"""So long a citizen goes on trying to log in, once a second."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a relying service and a status client are configured with, once."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    aia: str
    folder: Path
    """``card.pem``, ``card.key`` and ``issuer.pem``."""


class Failed(Exception):
    """A try did not work; the text says at which step."""


class Citizen:
    """Logs in to the relying service with his card."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.card = x509.load_pem_x509_certificate((settings.folder / "card.pem").read_bytes())
        self.issuer = x509.load_pem_x509_certificate((settings.folder / "issuer.pem").read_bytes())
        key = serialization.load_pem_private_key((settings.folder / "card.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._keys: KeySet | None = None

    def log_in(self) -> str:
        """One whole log-in: authorization, card, code, tokens, ID token checked. Who it was. ``Failed``."""
        settings = self._settings
        with httpx.Client(trust_env=False, timeout=5) as browser, relying_client(settings) as service:
            nonce = os.urandom(16).hex()
            url, state = service.create_authorization_url(f"{settings.issuer}/oidc/authorize", nonce=nonce)
            back = self._authenticate(browser, url)
            answer = {k: v[0] for k, v in parse_qs(urlsplit(back).query).items()}
            if answer.get("state") != state or "code" not in answer:
                raise Failed(f"the log-in was not granted: {answer.get('error', 'no code')}")
            try:
                tokens = service.fetch_token(f"{settings.issuer}/oidc/token", code=answer["code"])
            except service.oauth_error_class as error:
                raise Failed(f"token: {error}") from error
            return self._check(browser, str(tokens["id_token"]), nonce)

    def _authenticate(self, browser: httpx.Client, url: str) -> str:
        """What a browser, its Web eID extension and a card do."""
        page = browser.get(url)
        if page.status_code not in (302, 303):
            raise Failed(f"authorization: status {page.status_code}")
        interaction = parse_qs(urlsplit(page.headers["location"]).query)["i"][0]
        origin = self._settings.issuer
        headers = {"origin": origin}
        asked = browser.post(f"{origin}/login/web-eid/challenge", json={"i": interaction}, headers=headers)
        if asked.status_code != 200:
            raise Failed(f"challenge: status {asked.status_code}")
        token = self._token(origin, asked.json()["nonce"])
        done = browser.post(f"{origin}/login/web-eid", json={"i": interaction, "token": token}, headers=headers)
        if done.status_code != 200:
            raise Failed(f"card: {done.json().get('error', done.status_code)}")
        return str(done.json()["location"])

    def _token(self, origin: str, nonce: str) -> dict[str, str]:
        """``web-eid:1.0``, signed with ES384."""
        digest = hashlib.sha384(origin.encode()).digest() + hashlib.sha384(nonce.encode()).digest()
        r, s = decode_dss_signature(self._key.sign(digest, ec.ECDSA(hashes.SHA384())))
        return {
            "unverifiedCertificate": _b64(self.card.public_bytes(serialization.Encoding.DER)), "algorithm": "ES384",
            "signature": _b64(r.to_bytes(48, "big") + s.to_bytes(48, "big")), "format": "web-eid:1.0",
            "appVersion": "demo",
        }  # fmt: skip

    def _check(self, browser: httpx.Client, token: str, nonce: str) -> str:
        """As relying services do: the key set is kept, and asked for again at a key that is not in it."""
        kid = json.loads(base64.urlsafe_b64decode(token.split(".", maxsplit=1)[0] + "=="))["kid"]
        if self._keys is None or kid not in [key.kid for key in self._keys.keys]:
            self._keys = KeySet.import_key_set(browser.get(f"{self._settings.issuer}/oidc/jwks").json())
        claims = jwt.decode(token, self._keys, algorithms=["RS256", "ES256"]).claims
        wanted = {"iss": self._settings.issuer, "aud": self._settings.client_id, "nonce": nonce}
        if any(claims.get(name) != value for name, value in wanted.items()) or claims["exp"] < time.time():
            raise Failed("the ID token is not the one that was asked for")
        return str(claims["sub"])

    def status(self) -> str:
        """``good``, ``revoked`` or ``unknown``, from an answer that Web eID's rules accept. ``Failed``."""
        nonce = os.urandom(32)
        builder = ocsp.OCSPRequestBuilder().add_certificate(self.card, self.issuer, hashes.SHA1())  # noqa: S303
        asked = builder.add_extension(x509.OCSPNonce(nonce), critical=False).build()
        said = httpx.post(
            self._settings.aia, content=asked.public_bytes(serialization.Encoding.DER), trust_env=False, timeout=5,
            headers={"content-type": "application/ocsp-request"},
        )  # fmt: skip
        if said.status_code != 200:
            raise Failed(f"certificate status: HTTP {said.status_code}")
        answer = ocsp.load_der_ocsp_response(said.content)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Failed(f"certificate status: {answer.response_status.name}")
        self._check_answer(answer, nonce)
        return answer.certificate_status.name.lower()

    def _check_answer(self, answer: ocsp.OCSPResponse, nonce: bytes) -> None:
        signer = answer.certificates[0]
        signer.verify_directly_issued_by(self.issuer)
        public = signer.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert answer.signature_hash_algorithm is not None
        public.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(answer.signature_hash_algorithm))
        if answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce != nonce:
            raise Failed("certificate status: the answer repeats another nonce")
        now = datetime.now(UTC)
        if not now - FRESH <= answer.this_update_utc <= now + SKEW:
            raise Failed(f"certificate status: known as of {answer.this_update_utc:%H:%M:%S}, which is too old")


_TROUBLE = (Failed, httpx.HTTPError, httpx2.HTTPError, JoseError, InvalidSignature, OSError, KeyError, ValueError)


def relying_client(settings: Settings) -> Any:
    """Authlib's client, over httpx2."""
    return OAuth2Client(
        settings.client_id, settings.client_secret, scope="openid", redirect_uri=settings.redirect_uri,
        trust_env=False, timeout=5,
    )  # fmt: skip


def patiently(what: Callable[[], str], stop: Callable[[], bool]) -> dict[str, Any]:
    """Tries ``what`` once a second, as people and libraries do, until it works, patience ends or the crisis does."""
    began, wrong, tries = time.time(), "", 0
    while True:
        tries += 1
        try:
            result = what()
        except _TROUBLE as error:
            wrong = wrong or f"{type(error).__name__}: {error}"[:200]
            if time.time() - began > PATIENCE_S or stop():
                return {"began": began, "ended": time.time(), "tries": tries, "ok": False, "result": "", "wrong": wrong}
            time.sleep(RETRY_S)
        else:
            return {"began": began, "ended": time.time(), "tries": tries, "ok": True, "result": result, "wrong": wrong}


def main(arguments: list[str]) -> int:
    """``SETTINGS OUTPUT STOP``: goes on until the file STOP is there."""
    read = json.loads(Path(arguments[0]).read_text())
    citizen = Citizen(Settings(**{**read, "folder": Path(read["folder"])}))
    stop = Path(arguments[2])
    with open(arguments[1], "a", encoding="utf-8") as out:
        while not stop.exists():
            for kind, what in (("login", citizen.log_in), ("status", citizen.status)):
                out.write(json.dumps({"kind": kind, **patiently(what, stop.exists)}) + "\n")
                out.flush()
            time.sleep(PAUSE_S)
    return 0


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

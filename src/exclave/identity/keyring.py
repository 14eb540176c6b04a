"""Which of a place's keys signs what: OCSP answers, CRLs and tokens. Implements ``contract.Delegates``.

Page: docs/spec/keyring.md. A key signs for an issuer only with a certificate that the journal holds for this place.
"""

from __future__ import annotations

from collections.abc import Iterable

from exclave.crypto.delegate import read_validity
from exclave.crypto.jwk import kids_of, public_jwks, thumbprint
from exclave.crypto.signer import Signer
from exclave.errors import MalformedError, UnavailableError
from exclave.formats.keyring import KeyRecord, KeyUse
from exclave.identity.contract import StatusStore
from exclave.identity.key_folder import KeyFolder
from exclave.ids import Digest, Instant, Label
from exclave.rules.ladder import Window, choose

_Choice = tuple[Window, KeyRecord, bytes]
_TokenKeys = tuple[frozenset[str], tuple[tuple[str, KeyRecord], ...]]


class Keyring:
    """Safe to call from several threads; what the store says is read again when its generation changes."""

    def __init__(self, keys: KeyFolder, store: StatusStore, place: Label) -> None:
        self._keys, self._store, self._place = keys, store, place
        self._certificates: dict[tuple[KeyUse, Digest], tuple[int, list[_Choice]]] = {}
        self._tokens: tuple[int, _TokenKeys] = (-1, (frozenset(), ()))

    def ocsp(self, issuer: Digest, *, now: Instant) -> tuple[Signer, bytes] | None:
        """See ``Delegates.ocsp``; of several certificates the one that ``rules.ladder.choose`` takes."""
        return self._chosen(KeyUse.OCSP, issuer, now)

    def crl(self, issuer: Digest, *, now: Instant) -> tuple[Signer, bytes] | None:
        """See ``Delegates.crl``."""
        return self._chosen(KeyUse.CRL, issuer, now)

    def token(self, algorithm: str) -> tuple[str, Signer]:
        """See ``Delegates.token``. Of several keys the first by name that the journal publishes for this place, so a
        new key waits until relying services can know it; if none is published, the first.

        ``UnavailableError`` if none is here.
        """
        published, own = self._token_keys()
        found = [(kid, record) for kid, record in own if record.algorithm == algorithm]
        if not found:
            raise UnavailableError(
                f"this place has no {algorithm} key to sign tokens with", hint="Run exclave identity csr."
            )
        kid, record = next(((kid, record) for kid, record in found if kid in published), found[0])
        return kid, self._keys.signer(record)

    def jwks(self) -> bytes:
        """The public halves of this place's token keys (JWK set, JSON)."""
        return token_jwks(self._keys.records())

    def _token_keys(self) -> _TokenKeys:
        """What the journal publishes for this place, and what is here, by name."""
        generation = self._store.generation()
        if self._tokens[0] != generation:
            try:
                kids = frozenset(kids_of(self._store.place_keys().get(self._place, b'{"keys":[]}')).values())
            except MalformedError:
                kids = frozenset()  # the check of the kit tells; here it would only stop what works
            own = self._own_tokens()
            if not kids <= {kid for kid, _ in own}:
                self._keys.reload()
                own = self._own_tokens()
            self._tokens = (generation, (kids, own))
        return self._tokens[1]

    def _own_tokens(self) -> tuple[tuple[str, KeyRecord], ...]:
        return tuple((thumbprint(r.public_der), r) for r in self._keys.records() if r.use is KeyUse.TOKEN)

    def _chosen(self, use: KeyUse, issuer: Digest, now: Instant) -> tuple[Signer, bytes] | None:
        generation = self._store.generation()
        held = self._certificates.get((use, issuer))
        if held is None or held[0] != generation:
            held = (generation, self._choices(use, issuer))
            self._certificates[use, issuer] = held
        at = choose([window for window, _, _ in held[1]], now=now)
        if at is None:
            return None
        _, record, certificate = held[1][at]
        return self._keys.signer(record), certificate

    def _choices(self, use: KeyUse, issuer: Digest) -> list[_Choice]:
        """Certificates of the journal whose key is in the folder."""
        ders = list(self._store.responders(issuer, self._place))
        if use is KeyUse.CRL:  # a CRL is signed with the CA's own key and certificate
            ders += [der for info in self._store.issuers() if info.id == issuer for der in info.certificates]
        found: list[_Choice] = []
        for der in ders:
            try:
                validity = read_validity(der)
            except MalformedError:
                continue  # of a kind of key that nobody here has
            record = self._keys.find(validity.public_der, use, issuer)
            if record is None and use is KeyUse.OCSP:
                self._keys.reload()  # another process may have made the key since this one began
                record = self._keys.find(validity.public_der, use, issuer)
            if record is not None:
                found.append((Window(validity.begin, validity.end), record, der))
        return found


def token_jwks(records: Iterable[KeyRecord]) -> bytes:
    """The public halves of the token keys among them: what ``PlaceKeys`` of the journal holds."""
    return public_jwks(record.public_der for record in records if record.use is KeyUse.TOKEN)

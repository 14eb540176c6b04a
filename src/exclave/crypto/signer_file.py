"""A ``Signer`` whose private key is in this process's memory, read from PEM (PKCS#8, RFC 5958 and RFC 7468).

The file that holds it is ``keys/service_key.py``'s affair. RSA keys have 2048 to 4096 bits and the exponent 65537.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from exclave.crypto.signer import Algorithm
from exclave.errors import MalformedError, NotAuthorised

MAX_PEM_BYTES = 16 << 10
DEFAULT_RSA_BITS = 3072
RSA_BITS = (2048, 3072, 4096)
_PLAIN, _SEALED = b"-----BEGIN PRIVATE KEY-----\n", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
_CURVES: dict[Algorithm, tuple[type[ec.EllipticCurve], hashes.HashAlgorithm]] = {
    Algorithm.ES256: (ec.SECP256R1, hashes.SHA256()),
    Algorithm.ES384: (ec.SECP384R1, hashes.SHA384()),
    Algorithm.ES512: (ec.SECP521R1, hashes.SHA512()),
}
_Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class FileSigner:
    """Signs with a private key in memory. Safe to call from several threads."""

    __slots__ = ("_algorithm", "_key", "_public_der")

    def __init__(self, key: _Private) -> None:
        """``MalformedError`` for a key of another kind or size than those above."""
        self._algorithm = algorithm_of(key.public_key())
        self._key = key
        self._public_der = _spki(key.public_key())

    @property
    def algorithm(self) -> Algorithm:
        return self._algorithm

    @property
    def public_der(self) -> bytes:
        return self._public_der

    def sign(self, message: bytes) -> bytes:
        """See ``Signer.sign``."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return self._key.sign(message, ec.ECDSA(_CURVES[self._algorithm][1]))

    def __repr__(self) -> str:
        return f"FileSigner({self._algorithm})"


def algorithm_of(public: object) -> Algorithm:
    """How the owner of that public key signs. ``MalformedError`` for a key that we do not sign with."""
    if isinstance(public, ec.EllipticCurvePublicKey):
        for algorithm, (curve, _) in _CURVES.items():
            if isinstance(public.curve, curve):
                return algorithm
        raise MalformedError(f"keys on the curve {public.curve.name} are not used here; take P-256, P-384 or P-521")
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size not in RSA_BITS or public.public_numbers().e != 65537:
            raise MalformedError("an RSA key must have 2048, 3072 or 4096 bits and the exponent 65537")
        return Algorithm.RS256
    raise MalformedError("the key is neither ECDSA (P-256, P-384, P-521) nor RSA")


def public_key_algorithm(public_der: bytes) -> Algorithm:
    """The same for a SubjectPublicKeyInfo."""
    try:
        return algorithm_of(serialization.load_der_public_key(public_der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"not a public key: {error}") from error


def make_private_key(algorithm: Algorithm, *, rsa_bits: int = DEFAULT_RSA_BITS) -> _Private:
    """A new one, random."""
    if algorithm is Algorithm.RS256:
        return rsa.generate_private_key(65537, rsa_bits)
    return ec.generate_private_key(_CURVES[algorithm][0]())


def encode_private_key(key: _Private, passphrase: bytes | None = None) -> bytes:
    """PEM PKCS#8; with a passphrase, sealed under it (PBES2, RFC 8018)."""
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def is_sealed(pem: bytes) -> bool:
    """Whether that PEM text needs a passphrase."""
    return pem.startswith(_SEALED)


def parse_private_key(pem: bytes, passphrase: bytes | None = None) -> FileSigner:
    """The signer that the text of a key file makes.

    ``MalformedError`` for other content, never quoting it; ``NotAuthorised`` for a wrong or missing passphrase. One
    that is not needed is ignored.
    """
    if len(pem) > MAX_PEM_BYTES or not pem.startswith((_PLAIN, _SEALED)):
        raise MalformedError("not a private key in PEM form (PKCS#8)")
    if is_sealed(pem) and not passphrase:
        raise NotAuthorised("the private key needs a passphrase", hint="Give the passphrase it was sealed with.")
    try:
        key = serialization.load_pem_private_key(pem, passphrase if is_sealed(pem) else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if is_sealed(pem):
            # Bad padding is how PBES2 shows a wrong passphrase; it cannot be told from damage.
            raise NotAuthorised("the passphrase does not open the private key, or the file was changed") from None
        raise MalformedError("the private key cannot be read") from None  # its cause could quote the secret
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise MalformedError("the key is neither ECDSA (P-256, P-384, P-521) nor RSA")
    return FileSigner(key)


def _spki(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.DER, form)

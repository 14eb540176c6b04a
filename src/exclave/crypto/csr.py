"""Certificate requests (PKCS#10, RFC 2986) for OCSP responders, signed by any ``Signer``.

pyca/cryptography builds requests for its own keys only, so this one is put together with asn1crypto.
"""

from __future__ import annotations

import base64

from asn1crypto import algos, core, csr, keys, x509  # type: ignore[import-untyped]

from exclave.crypto.signer import Algorithm, Signer

_SIGNED_AS = {
    Algorithm.ES256: "sha256_ecdsa",
    Algorithm.ES384: "sha384_ecdsa",
    Algorithm.ES512: "sha512_ecdsa",
    Algorithm.RS256: "sha256_rsa",
}


def responder_request(signer: Signer, common_name: str, organization: str, country: str) -> bytes:
    """A request (PEM) for a certificate that lets ``signer`` sign OCSP answers (RFC 6960, section 4.2.2.2).

    It asks for what the certificate must have: key usage digitalSignature (critical), extended key usage OCSPSigning
    (critical), id-pkix-ocsp-nocheck. ``country``: two letters, or empty. ``UnavailableError`` if a token is gone.
    """
    names = {"country_name": country, "organization_name": organization, "common_name": common_name}
    wanted = x509.Extensions([
        {"extn_id": "key_usage", "critical": True, "extn_value": x509.KeyUsage({"digital_signature"})},
        {"extn_id": "extended_key_usage", "critical": True, "extn_value": x509.ExtKeyUsageSyntax(["ocsp_signing"])},
        {"extn_id": "ocsp_no_check", "critical": False, "extn_value": core.Null()},
    ])  # fmt: skip
    info = csr.CertificationRequestInfo({
        "version": "v1",
        "subject": x509.Name.build({name: value for name, value in names.items() if value}),
        "subject_pk_info": keys.PublicKeyInfo.load(signer.public_der),
        "attributes": [{"type": "extension_request", "values": [wanted]}],
    })  # fmt: skip
    algorithm = algos.SignedDigestAlgorithm({"algorithm": _SIGNED_AS[signer.algorithm]})
    if signer.algorithm is Algorithm.RS256:
        algorithm["parameters"] = core.Null()  # RFC 4055, section 5; absent for ECDSA (RFC 5758, section 3.2)
    request = csr.CertificationRequest({
        "certification_request_info": info,
        "signature_algorithm": algorithm,
        "signature": signer.sign(info.dump()),
    })  # fmt: skip
    return pem(request.dump(), "CERTIFICATE REQUEST")


def pem(der: bytes, kind: str) -> bytes:
    """RFC 7468, lines of 64."""
    body = base64.b64encode(der).decode("ascii")
    lines = "".join(f"{body[at : at + 64]}\n" for at in range(0, len(body), 64))
    return f"-----BEGIN {kind}-----\n{lines}-----END {kind}-----\n".encode()

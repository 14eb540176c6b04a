"""What an embassy has accepted is carried home and entered there, where the authority is; from there it travels on.

The embassy's ``accept`` writes a folder of public things; home checks them once more, since the folder came by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exclave.crypto.delegate import certificates_in, pem_text, read_validity, verify_delegate
from exclave.crypto.jwk import kids_of
from exclave.errors import ExclaveError, UsageError
from exclave.formats.journal import Body, PlaceKeys, Responder
from exclave.ids import Instant, Label
from exclave.operations.home import make_folder, read_limited, write_private
from exclave.operations.identity_kit import SLACK_DAYS, Accepted, AcceptedRow
from exclave.operations.identity_place import IdentityPlace
from exclave.rules.ladder import DAY_S, LASTS_DAYS, Window

CERTIFICATES = "responders.pem"
TOKEN_KEYS = "token-keys.json"  # noqa: S105 - public keys
_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Carried:
    """What home entered of an embassy's kit."""

    place: Label
    rows: tuple[AcceptedRow, ...]
    keys: bool
    """Whether its public token keys were entered."""
    entries: int


def write_carried(folder: Path, accepted: Accepted, jwks: bytes) -> None:
    """Certificates that were accepted (PEM), and the public token keys."""
    make_folder(folder)
    if accepted.bodies:
        write_private(folder / CERTIFICATES, b"".join(pem_text(body.certificate) for body in accepted.bodies))
    write_private(folder / TOKEN_KEYS, jwks)


def enter_carried(place: IdentityPlace, embassy: Label, folder: Path, *, now: Instant) -> Carried:
    """Enters an embassy's kit at the place that decides; a wrong certificate is told of and left out.

    ``NotAuthorised`` elsewhere, ``UsageError`` if the folder holds neither certificates nor keys.
    """
    if embassy == place.label:
        raise UsageError("a place enters its own certificates with `exclave identity accept`")
    bodies: list[Body] = []
    rows: list[AcceptedRow] = []
    certificates, keys = folder / CERTIFICATES, folder / TOKEN_KEYS
    if not certificates.exists() and not keys.exists():
        raise UsageError(
            f"{folder} holds no kit: neither {CERTIFICATES} nor {TOKEN_KEYS}",
            hint="Name the folder that `exclave identity accept --out` wrote at the embassy.",
        )
    trusted = {der: info for info in place.store.issuers() for der in info.certificates}
    for der in certificates_in(read_limited(certificates, _LIMIT)) if certificates.exists() else ():
        row, body = _judge(place, embassy, der, list(trusted), now)
        rows.append(row)
        if body is not None:
            bodies.append(body)
    jwks = read_limited(keys, _LIMIT).strip() if keys.exists() else b""
    changed = bool(jwks) and place.store.place_keys().get(embassy) != jwks
    if changed:
        kids_of(jwks)
        bodies.append(PlaceKeys(embassy, jwks))
    if bodies:
        place.writer.enter(bodies)
    return Carried(embassy, tuple(rows), changed, len(bodies))


def _judge(
    place: IdentityPlace, embassy: Label, der: bytes, trusted: list[bytes], now: Instant
) -> tuple[AcceptedRow, Responder | None]:
    subject, window = "?", None
    try:
        validity = read_validity(der)
        subject, window = validity.subject, Window(validity.begin, validity.end)
        verified = verify_delegate(der, trusted, longest_s=(LASTS_DAYS + SLACK_DAYS) * DAY_S)
    except ExclaveError as error:
        return AcceptedRow(subject, "", window, "refused", error.message), None
    label = next(info.label for info in place.store.issuers() if info.id == verified.issuer)
    if validity.end < now:
        return AcceptedRow(subject, label, window, "refused", "it has ended"), None
    if der in place.store.responders(verified.issuer, embassy):
        return AcceptedRow(subject, label, window, "known"), None
    return AcceptedRow(subject, label, window, "accepted"), Responder(verified.issuer, embassy, der)

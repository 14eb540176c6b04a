"""A status store that holds what a test put in, for the parts of the exile kit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exclave.crypto.crl import issuer_id
from exclave.demo.pki import IssuingCa
from exclave.formats.journal import PlaceKeys, Responder
from exclave.identity.contract import IssuerInfo
from exclave.ids import Digest, Instant, Label, parse_label


def info_of(ca: IssuingCa, label: str, *, as_of: Instant, live: bool = True, next_update: int = 0) -> IssuerInfo:
    """The CA as the journal knows it."""
    return IssuerInfo(issuer_id(ca.der), parse_label(label), (ca.der,), live, as_of, Instant(next_update), True)


@dataclass
class KitStore:
    """As much of ``contract.StatusStore`` as the kit asks for."""

    infos: tuple[IssuerInfo, ...]
    bodies: list[Responder] = field(default_factory=list)
    keys: dict[Label, bytes] = field(default_factory=dict)
    number: int = 0

    def enter(self, bodies: Iterable[Responder | PlaceKeys]) -> None:
        for body in bodies:
            if isinstance(body, PlaceKeys):
                self.keys[Label(body.place)] = body.jwks
            else:
                self.bodies.append(body)
        self.number += 1

    def generation(self) -> int:
        return self.number

    def issuers(self) -> tuple[IssuerInfo, ...]:
        return self.infos

    def responders(self, issuer: Digest, place: Label) -> tuple[bytes, ...]:
        return tuple(b.certificate for b in self.bodies if (b.issuer, b.place) == (issuer, place))

    def place_keys(self) -> Mapping[Label, bytes]:
        return self.keys

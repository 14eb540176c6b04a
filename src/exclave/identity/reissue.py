"""Which former certificates get a successor, and under which number. Page: ``docs/spec/reissue.md``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum

from exclave.crypto.reissue import Former, read_numbers, verify_former
from exclave.errors import CorruptObject, MalformedError, NotAuthorised
from exclave.identity.contract import IssuerInfo, StatusStore
from exclave.identity.status_log import Held, Revoked, Serial, Unknown
from exclave.ids import Digest, Label

EXILE_SERIALS = 0x45
"""First byte of every serial that is made here; home keeps its own out of this range."""


class Refusal(StrEnum):
    """Why a former certificate gets no successor."""

    MISSING = "missing"
    """It is not at hand."""
    FOREIGN = "foreign"
    """No known issuer signed it, or it is a CA's, or its key is weak."""
    STOPPED = "stopped"
    """It is revoked or held."""
    TAINTED = "tainted"
    """Another certificate of the same key is revoked or held."""
    NEVER_ISSUED = "never-issued"
    """It is known what its issuer issued, and this is not among it: forged with a stolen CA key."""
    SUCCESSOR_STOPPED = "successor-stopped"
    """Its successor was made before, and is revoked or held."""
    ENDS = "ends"
    """It could not be valid at all."""


def serial_prefix(place: Label) -> bytes:
    """The first four bytes of every serial that ``place`` makes."""
    return bytes((EXILE_SERIALS,)) + hashlib.sha256(f"exclave/serial/v1\n{place}".encode()).digest()[:3]


def serial_for(place: Label, warrant: Digest, former: Digest) -> int:
    """The new certificate's number: the same each time, and unforeseeable before the warrant, which holds a nonce."""
    tail = hashlib.sha256(b"exclave/reissue/v1\n" + warrant + former).digest()[:16]
    return int.from_bytes(serial_prefix(place) + tail, "big")


def issued_in_full(issuer: IssuerInfo) -> bool:
    """Whether what the journal does not know was never issued. Of an issuer that is known from CRLs alone the journal
    may hold what was issued abroad, and nothing of what was issued before."""
    return issuer.live and issuer.issued_known


class Issuers:
    """The known issuers, for looking a former certificate up and for judging it."""

    def __init__(self, store: StatusStore) -> None:
        self._store = store
        self._infos: dict[Digest, IssuerInfo] = {info.id: info for info in store.issuers()}
        self._certificates = tuple(der for info in self._infos.values() for der in info.certificates)

    def knows(self, issuer: Digest) -> bool:
        return issuer in self._infos

    def tainted(self, certificates: Iterable[bytes]) -> frozenset[Digest]:
        """Keys (SHA-256 of SubjectPublicKeyInfo) of those ``certificates`` that are revoked or held.

        Only of those that a known issuer signed: a planted certificate with somebody else's key taints nothing.
        """
        found: set[Digest] = set()
        for data in certificates:
            try:
                _, serial, spki = read_numbers(data)
                if spki not in found and any(self._is_stopped(issuer, serial) for issuer in self._infos):
                    former = verify_former(data, self._certificates)
                    if self._is_stopped(former.issuer, former.serial):
                        found.add(spki)
            except (MalformedError, NotAuthorised, CorruptObject):
                continue
        return frozenset(found)

    def judge(self, data: bytes, tainted: frozenset[Digest]) -> Former | Refusal:
        """The verified former certificate, if its key may be certified again now."""
        try:
            former = verify_former(data, self._certificates)
        except (MalformedError, NotAuthorised, CorruptObject):
            return Refusal.FOREIGN
        status = self._store.status(former.issuer, Serial(former.serial))
        if isinstance(status, Revoked | Held):
            return Refusal.STOPPED
        if former.spki_sha256 in tainted:
            return Refusal.TAINTED
        if isinstance(status, Unknown) and issued_in_full(self._infos[former.issuer]):
            return Refusal.NEVER_ISSUED
        return former

    def _is_stopped(self, issuer: Digest, serial: int) -> bool:
        return isinstance(self._store.status(issuer, Serial(serial)), Revoked | Held)

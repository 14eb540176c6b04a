"""A place that answers for the two issuers of the look-alike PKI, in memory, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from exclave import ids
from exclave.crypto.crl import issuer_id
from exclave.crypto.signer import Signer
from exclave.demo.pki import Card, IssuingCa, Key, Pki, make_pki
from exclave.formats.journal import Entry, Head
from exclave.identity.contract import Authority, IdentityState, IssuerInfo
from exclave.identity.responder import Responder
from exclave.identity.status_log import CertificateStatus, Held, Reason, Revoked, Serial, StatusLog, Stop, Unknown
from exclave.ids import Digest, Instant, Label
from support.soft_signer import SoftSigner

NOW = Instant(1_790_000_000_000_000)
DAY = 86_400_000_000


class LogStore:
    """The reading side of a ``StatusStore``, over values of ``StatusLog``."""

    def __init__(self) -> None:
        self.logs: dict[Digest, StatusLog] = {}
        self.infos: dict[Digest, IssuerInfo] = {}
        self.version = 0
        self.asked = 0

    def add(self, label: str, certificate: bytes, log: StatusLog, *, live: bool = True) -> None:
        """An issuer, or its log as it is from now on."""
        self.version += 1
        self.logs[log.issuer] = log
        self.infos[log.issuer] = IssuerInfo(
            log.issuer, Label(label), (certificate,), live, log.as_of, log.next_update or Instant(0),
            log.issued is not None,
        )  # fmt: skip

    def stop(self, issuer: Digest, serial: int, stop: Stop) -> None:
        """Revokes or holds it."""
        log = self.logs[issuer]
        self.logs[issuer] = replace(log, stopped={**log.stopped, Serial(serial): stop})
        self.version += 1

    def generation(self) -> int:
        return self.version

    def head(self) -> Head:
        return Head()

    def apply(self, entries: Iterable[tuple[Entry, Head]]) -> None:
        raise NotImplementedError

    def issuers(self) -> tuple[IssuerInfo, ...]:
        return tuple(self.infos.values())

    def status(self, issuer: Digest, serial: Serial) -> CertificateStatus:
        self.asked += 1
        log = self.logs.get(issuer)
        return Unknown() if log is None else log.status(serial)

    def stopped(self, issuer: Digest) -> Iterator[tuple[Serial, Stop]]:
        yield from sorted(self.logs[issuer].stopped.items())


class FixedDelegates:
    """One key for each issuer."""

    def __init__(self) -> None:
        self.ocsp_keys: dict[Digest, tuple[Signer, bytes]] = {}
        self.crl_keys: dict[Digest, tuple[Signer, bytes]] = {}

    def ocsp(self, issuer: Digest, *, now: Instant) -> tuple[Signer, bytes] | None:
        return self.ocsp_keys.get(issuer)

    def crl(self, issuer: Digest, *, now: Instant) -> tuple[Signer, bytes] | None:
        return self.crl_keys.get(issuer)


@dataclass
class Place:
    """Everything that a responder is made of. ``first`` is known as its decisions arrive, ``second`` too until a test
    makes it otherwise."""

    now: Instant
    pki: Pki
    store: LogStore
    delegates: FixedDelegates
    authority: Authority
    good: Card
    revoked: Card
    held: Card
    other: Card
    """Of the second issuer."""
    ticking: bool = False
    """Its clock is the real one, for clients that have no other."""

    @property
    def first(self) -> Digest:
        return issuer_id(self.pki.first.der)

    @property
    def second(self) -> Digest:
        return issuer_id(self.pki.second.der)

    def responder(self, **options: object) -> Responder:
        return Responder(self.store, self.delegates, lambda: self.authority, self.clock, **options)  # type: ignore[arg-type]

    def clock(self) -> Instant:
        return ids.now() if self.ticking else self.now

    def become(self, state: IdentityState, *, as_of: Instant | None = None, epoch: int = 1) -> None:
        self.authority = Authority(state, Label("embassy"), epoch, self.now if as_of is None else as_of)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def delegate(ca: IssuingCa, *, begin: Instant, days: int = 45, key: Key | None = None) -> tuple[SoftSigner, bytes]:
    """A new responder's key and certificate."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    return SoftSigner(key), der(ca.responder(key, "DEMO OCSP RESPONDER 202611", begin=begin, days=days))


def make_place(now: Instant = NOW, *, key: Key | None = None, state: IdentityState = IdentityState.EXILE) -> Place:
    """Cards: good, revoked (keyCompromise, a day ago), held (an hour ago), and a good one of the second issuer."""
    pki = make_pki(now)
    good, revoked, held, other = pki.first.card(), pki.first.card(), pki.first.card(), pki.second.card()
    store, delegates = LogStore(), FixedDelegates()
    place = Place(now, pki, store, delegates, Authority(state, Label("embassy"), 1, now), good, revoked, held, other)
    stopped: dict[Serial, Stop] = {
        Serial(revoked.serial): Revoked(Instant(now - DAY), Reason.KEY_COMPROMISE),
        Serial(held.serial): Held(Instant(now - DAY // 24)),
    }
    for ca, label, stops in ((pki.first, "esteid-2018", stopped), (pki.second, "esteid-2025", {})):
        issuer = issuer_id(ca.der)
        store.add(label, ca.der, StatusLog(issuer, now, frozenset(map(Serial, ca.issued)), stops))
        delegates.ocsp_keys[issuer] = delegate(ca, begin=Instant(now - DAY), key=key)
    return place


def request_for(card: Card, ca: IssuingCa, *, nonce: bytes | None = b"n" * 32, sha1: bool = True) -> bytes:
    """A request as common clients write it."""
    digest = hashes.SHA1() if sha1 else hashes.SHA256()
    builder = ocsp.OCSPRequestBuilder().add_certificate(card.certificate, ca.certificate, digest)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(serialization.Encoding.DER)

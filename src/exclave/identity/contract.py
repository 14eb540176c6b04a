"""What the parts of the identity services ask of each other: who has the authority, what is known, who may log in.

Values and protocols only; each part has a file of its own beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from exclave.crypto.signer import Signer
from exclave.formats.journal import Entry, Head
from exclave.formats.relying import RelyingService
from exclave.identity.status_log import CertificateStatus, Serial, Stop
from exclave.ids import Digest, Instant, Label
from exclave.rules.exile import IdentityState as IdentityState  # noqa: PLC0414 - a value of Authority, imported from here

Clock = Callable[[], Instant]
"""The wall clock, passed in."""

# Who has the authority


@dataclass(frozen=True, slots=True)
class Authority:
    """What a place may say at this moment."""

    state: IdentityState
    place: Label
    epoch: int
    as_of: Instant
    """STANDBY: every decision made before this moment is known here. HOME and EXILE: irrelevant, it is now."""
    why: str = ""
    """For people: why nothing is answered, if so."""

    @property
    def decides(self) -> bool:
        """It may revoke, issue tokens and log people in."""
        return self.state in (IdentityState.HOME, IdentityState.EXILE)

    @property
    def answers(self) -> bool:
        """It may tell the status of certificates."""
        return self.state is not IdentityState.RETURNING


AuthorityNow = Callable[[], Authority]
"""Asked for at each request; cheap, never blocks."""


# What is known


@dataclass(frozen=True, slots=True)
class IssuerInfo:
    """An issuing CA as the store knows it."""

    id: Digest
    """``crypto.crl.issuer_id``."""
    label: Label
    certificates: tuple[bytes, ...]
    """DER; the first is the one that answers are made for, others are cross-certificates of the same name and key."""
    live: bool
    as_of: Instant
    """The last ``Confirmed``; 0: never."""
    next_update: Instant
    issued_known: bool
    """Whether what it issued is known, so that ``Good`` may be said."""


class StatusStore(Protocol):
    """The journal's entries, folded into what the services ask for. A cache: it can be rebuilt from the journal.

    Safe to call from several threads; several processes may read and one may apply. ``generation`` changes with
    every applied batch, and seeing it does not cost a query on the rows.
    """

    def generation(self) -> int: ...

    def head(self) -> Head:
        """The last applied entry."""

    def apply(self, entries: Iterable[tuple[Entry, Head]]) -> None:
        """Folds in entries that follow ``head()``, each with the head after it; one transaction. What a power failure
        takes is applied again from the journal. ``CorruptObject`` if they do not follow."""

    def issuers(self) -> tuple[IssuerInfo, ...]: ...

    def status(self, issuer: Digest, serial: Serial) -> CertificateStatus:
        """``Unknown`` for an unknown issuer or a serial that was never issued."""

    def stopped(self, issuer: Digest) -> Iterator[tuple[Serial, Stop]]:
        """All revoked and held ones by serial, without holding them all."""

    def responders(self, issuer: Digest, place: Label) -> tuple[bytes, ...]:
        """DER certificates that let ``place`` answer for ``issuer``."""

    def service(self, client_id: str) -> RelyingService | None: ...

    def services(self) -> tuple[RelyingService, ...]: ...

    def settings(self) -> bytes | None:
        """``identity.toml`` as it was entered last."""

    def place_keys(self) -> Mapping[Label, bytes]:
        """JWK sets (JSON) by place."""

    def passkey(self, credential: bytes) -> StoredPasskey | None: ...

    def passkeys_of(self, subject: str) -> tuple[StoredPasskey, ...]: ...

    def extensions(self) -> tuple[bytes, ...]:
        """Encoded notes of extension lists that were not ended; whether they have expired is for the reader to say."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class StoredPasskey:
    """See ``formats.journal.Passkey``."""

    credential: bytes
    public_key: bytes
    person: bytes
    user_handle: bytes


class JournalWriter(Protocol):
    """Where decisions are entered. ``NotAuthorised`` unless this place decides."""

    def enter(self, bodies: Iterable[object], *, warrant: bytes = b"") -> Head:
        """Appends entries (``formats.journal`` bodies), durably, and applies them to the store before it returns."""


# What lives for minutes


class Tickets(Protocol):
    """Small values that expire: challenges, pushed requests, codes, sessions. Never replicated.

    ``kind`` is a short word, ``key`` a random name or the hash of one. Safe from several threads and, with
    PostgreSQL, several machines.
    """

    def put(self, kind: str, key: bytes, value: bytes, expires: Instant) -> None:
        """Stores or replaces."""

    def add(self, kind: str, key: bytes, value: bytes, expires: Instant, *, now: Instant) -> bool:
        """Stores it if there is none that has not expired; False if there is: a replay."""

    def get(self, kind: str, key: bytes, *, now: Instant) -> bytes | None: ...

    def take(self, kind: str, key: bytes, *, now: Instant) -> bytes | None:
        """Reads and removes it; exactly one of several racers gets it."""

    def sweep(self, *, now: Instant) -> int:
        """Removes what has expired; how many."""

    def close(self) -> None: ...


# Who logs in


@dataclass(frozen=True, slots=True)
class Person:
    """A natural person as a certificate or an enrolled passkey tells."""

    subject: str
    """Country and national code, as in TARA's ``sub``: ``EE38001085718``."""
    given_name: str
    family_name: str
    date_of_birth: str
    """``1980-01-08``, or empty if it is not known."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """A person was authenticated."""

    person: Person
    amr: tuple[str, ...]
    """As TARA defines them: ``idcard`` for Web eID and TLS client certificates; ``passkey`` is ours."""
    acr: str
    """``low``, ``substantial`` or ``high``."""
    time: Instant
    extended: bool = False
    """The certificate had expired and an extension list in force names its key."""
    card: tuple[bytes, bytes] | None = None
    """The card's certificate: its issuer's id and its serial as the journal writes it; None: it was no card."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """A log-in that an OpenID request waits for."""

    id: str
    client: RelyingService
    acr: str
    """The least level that will do."""
    methods: frozenset[str] = field(default_factory=lambda: frozenset({"idcard", "passkey"}))
    """What the request allows (scopes such as TARA's ``idcard``)."""
    ui_locales: tuple[str, ...] = ()


class Interactions(Protocol):
    """The OpenID provider as the log-in pages see it."""

    def find(self, interaction: str, browser: str) -> Interaction | None:
        """The waiting log-in, if this browser (the value of its cookie) began it and it has not expired."""

    def complete(self, interaction: str, browser: str, done: Authentication) -> str:
        """Ends it; the URL to send the browser to (with code and state)."""

    def cancel(self, interaction: str, browser: str, error: str) -> str:
        """The person gave up (``access_denied``) or could not be served; the URL to send the browser to."""


# Who signs


class Delegates(Protocol):
    """The signing keys of this place."""

    def ocsp(self, issuer: Digest, *, now: Instant) -> tuple[Signer, bytes] | None:
        """The key and the DER certificate to sign OCSP answers of ``issuer`` with at ``now``, or None."""

    def crl(self, issuer: Digest, *, now: Instant) -> tuple[Signer, bytes] | None:
        """The same for CRLs: the CA's own key and certificate where they are in custody."""

    def token(self, algorithm: str) -> tuple[str, Signer]:
        """(kid, key) to sign tokens with; ``algorithm``: ``RS256`` or ``ES256``."""

"""The exile kit: keys that an embassy makes in peace, and the certificates that home's CA gives for them.

Runbook: docs/runbooks/identity-kit.md. ``request_kit`` makes the keys and writes the requests; home's CA answers them;
``accept_certificates`` checks what came back and gives what is to be entered into the journal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from exclave.crypto.csr import responder_request
from exclave.crypto.delegate import certificates_in, read_validity, verify_delegate
from exclave.crypto.proof import prove
from exclave.crypto.signer import Algorithm
from exclave.errors import ExclaveError, MalformedError, NotAuthorised, TargetNotEmpty, UsageError
from exclave.formats.journal import PlaceKeys, Responder
from exclave.formats.keyring import KeyRecord, KeyUse, Stored
from exclave.identity.contract import IssuerInfo, StatusStore
from exclave.identity.key_folder import KeyFolder
from exclave.identity.keyring import token_jwks
from exclave.ids import Instant, Label, parse_country, sha256
from exclave.rules.ladder import DAY_S, LASTS_DAYS, OVERLAP_DAYS, RUNGS, Window, next_begin, plan

_HOME = Label("home")
MAX_NAME = 64
"""RFC 5280, appendix A.1: ub-common-name, ub-organization-name."""
SLACK_DAYS = 1
"""A CA may round a window up to so much more than was asked for."""
TOKEN_ALGORITHMS = (Algorithm.ES256, Algorithm.RS256)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KitWishes:
    """What the requests ask for."""

    country: str
    """Of the state, ISO 3166-1."""
    organization: str
    """Who operates the embassy, as it shall stand in the certificates."""
    algorithm: Algorithm = Algorithm.ES256
    """Of the responders' keys. RS256 where a relying service knows nothing else."""
    stored: Stored = Stored.FILE
    rungs: int = RUNGS
    lasts_days: int = LASTS_DAYS
    overlap_days: int = OVERLAP_DAYS


@dataclass(frozen=True, slots=True)
class Request:
    """One certificate that is asked for."""

    file: str
    issuer: Label
    name: str
    """Common name."""
    key: KeyRecord
    window: Window


@dataclass(frozen=True, slots=True)
class Requested:
    """What ``request_kit`` made."""

    folder: Path
    requests: tuple[Request, ...]
    place_keys: PlaceKeys
    """To be entered into the journal, so that home publishes them."""


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """What became of one certificate."""

    subject: str
    issuer: str
    """The issuing CA's label, or empty."""
    window: Window | None
    state: str
    """``accepted``, ``known`` (it is in the journal already) or ``refused``."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is to be entered, and what was not taken."""

    bodies: tuple[Responder, ...]
    rows: tuple[AcceptedRow, ...]

    @property
    def refused(self) -> bool:
        """Some certificate was."""
        return any(row.state == "refused" for row in self.rows)


def request_kit(
    keys: KeyFolder, store: StatusStore, place: Label, folder: Path, wishes: KitWishes, *, now: Instant, say: Say
) -> Requested:
    """Makes the keys and writes requests, a manifest for home's CA and the token keys into the new ``folder``.

    For each issuing CA a ladder that begins where the one in the journal ends. (1) keys · (2) requests · (3) files.
    ``TargetNotEmpty`` if the folder holds anything, ``UsageError`` for wishes that cannot be, ``UnavailableError`` if
    a token is away. Run again after a failure: keys that were made are used again.
    """
    _require_empty(folder)
    parse_country(wishes.country)
    if not 1 <= len(wishes.organization) <= MAX_NAME or not wishes.organization.isprintable():
        raise UsageError(f"an organization's name has 1 to {MAX_NAME} printable characters")
    issuers = store.issuers()
    if not issuers:
        raise UsageError("the journal names no issuing CA yet", hint="Enter the CAs at home, then wait for the feed.")
    for algorithm in TOKEN_ALGORITHMS:
        if not any(r.use is KeyUse.TOKEN and r.algorithm == algorithm for r in keys.records()):
            add_token_key(keys, algorithm, wishes.stored, now=now)
    requests, texts = [], {}
    for info in issuers:
        windows = plan(
            next_begin(windows_of(keys, store, info, place), now=now, overlap_days=wishes.overlap_days),
            rungs=wishes.rungs, lasts_days=wishes.lasts_days, overlap_days=wishes.overlap_days,
        )  # fmt: skip
        for window, month in zip(windows, _months(windows), strict=True):
            key = _responder_key(keys, info, window, wishes)  # (1)
            name = f"{info.label.upper()} {place.upper()} OCSP RESPONDER {month}"
            if len(name) > MAX_NAME:
                raise UsageError(f"the name {name!r} has more than {MAX_NAME} characters; use shorter labels")
            request = Request(f"{key.name}.csr", info.label, name, key, window)
            pem = responder_request(keys.signer(key), name, wishes.organization, wishes.country)  # (2)
            requests.append(request)
            texts[request.file] = pem
        say(f"{info.label}: {len(windows)} requests, {_day(windows[0].begin)} to {_day(windows[-1].end)}")
    jwks = token_jwks(keys.records())
    texts["manifest.txt"] = manifest(place, requests, wishes).encode()
    texts["token-keys.json"] = jwks + b"\n"
    _write(folder, texts)  # (3)
    return Requested(folder, tuple(requests), PlaceKeys(place, jwks))


def add_token_key(keys: KeyFolder, algorithm: Algorithm, stored: Stored, *, now: Instant) -> KeyRecord:
    """A further key to sign tokens with. It waits until the one before it is taken out of the folder: publish it first
    (``PlaceKeys``), and wait for a day, since relying services may keep a key set for so long."""
    return keys.make(f"token-{algorithm.lower()}-{_day(now).replace('-', '')}", KeyUse.TOKEN, None, algorithm, stored)


def accept_certificates(
    keys: KeyFolder, store: StatusStore, place: Label, files: Iterable[bytes], *, now: Instant,
    longest_days: int = LASTS_DAYS + SLACK_DAYS,
) -> Accepted:  # fmt: skip
    """Checks certificates (PEM or DER, several in a file) that home's CA issued; each is told of, wrong ones too.

    (1) the issuer is one of the journal's, and really signed it; uses, nocheck, window · (2) it has not ended · (3) its
    key is here, for that issuer · (4) the key works. ``MalformedError`` for a file that holds no certificate.
    """
    issuers = store.issuers()
    labels = {info.id: info.label for info in issuers}
    trusted = [der for info in issuers for der in info.certificates]
    bodies: list[Responder] = []
    rows: list[AcceptedRow] = []
    for der in dict.fromkeys(der for data in files for der in certificates_in(data)):
        subject, label, window = "?", "", None
        try:
            validity = read_validity(der)
            subject, window = validity.subject, Window(validity.begin, validity.end)
            verified = verify_delegate(der, trusted, longest_s=longest_days * DAY_S)  # (1)
            label = labels[verified.issuer]
            if validity.end < now:  # (2)
                raise NotAuthorised("it has ended")
            record = keys.find(validity.public_der, KeyUse.OCSP, verified.issuer)  # (3)
            if record is None:
                raise NotAuthorised(f"its key is none that {place} made for {label}")
            prove(keys.signer(record))  # (4)
        except ExclaveError as error:
            rows.append(AcceptedRow(subject, label, window, "refused", error.message))
            continue
        known = der in store.responders(verified.issuer, place)
        rows.append(AcceptedRow(subject, label, window, "known" if known else "accepted"))
        if not known:
            bodies.append(Responder(verified.issuer, place, der))
    return Accepted(tuple(bodies), tuple(rows))


def windows_of(keys: KeyFolder, store: StatusStore, info: IssuerInfo, place: Label) -> list[Window]:
    """The validity of every certificate of the journal that lets ``place`` answer for that issuer with a key that is
    here: one that was taken away (somebody saw it) is asked for again."""
    found: list[Window] = []
    for der in store.responders(info.id, place):
        with contextlib.suppress(MalformedError):  # none that anybody here could use
            validity = read_validity(der)
            if keys.find(validity.public_der, KeyUse.OCSP, info.id) is not None:
                found.append(Window(validity.begin, validity.end))
    return found


def manifest(place: Label, requests: Sequence[Request], wishes: KitWishes) -> str:
    """For the people at home's CA: what each certificate must have. Plain text, made to be printed and ticked off."""
    where = "home" if place == _HOME else f"the embassy {place}"
    head = f"""Certificates for the OCSP responder of {where}

There are {len(requests)} requests (PKCS#10, PEM) beside this text. Each certificate must be issued by the very CA that
is named with it, since relying parties refuse a responder of any other CA, and must have:

  key usage (critical)            digitalSignature
  extended key usage (critical)   OCSPSigning (1.3.6.1.5.5.7.3.9), nothing else
  id-pkix-ocsp-nocheck            1.3.6.1.5.5.7.48.1.5, NULL
  subject                         as requested
  notBefore, notAfter             as below; at most {wishes.lasts_days + SLACK_DAYS} days, since it cannot be revoked

Compare the SHA-256 of the key (of its SubjectPublicKeyInfo) with what {where}
reads to you over another channel.
"""
    parts = [
        f"""
{number:3}. {request.file}
     CA           {request.issuer}
     common name  {request.name}
     notBefore    {_second(request.window.begin)}
     notAfter     {_second(request.window.end)}
     key SHA-256  {sha256(request.key.public_der).hex()}
"""
        for number, request in enumerate(requests, 1)
    ]
    return head + "".join(parts)


def _responder_key(keys: KeyFolder, info: IssuerInfo, window: Window, wishes: KitWishes) -> KeyRecord:
    name = f"ocsp-{info.label}-{_day(window.begin).replace('-', '')}"
    for record in keys.records():
        if record.name == name:  # an earlier run was interrupted, or its answer was lost
            if record.issuer != info.id or record.use is not KeyUse.OCSP:
                raise UsageError(
                    f"the key {name} is there already, for another CA or use than {info.label}'s answers",
                    hint="Two CAs have that label, or the file is of another journal. If no certificate in use names"
                    f" it, move {name}.key and {name}.pem out of identity-keys/ and run this again.",
                )
            return record
    return keys.make(name, KeyUse.OCSP, info.id, wishes.algorithm, wishes.stored)


def _months(windows: Sequence[Window]) -> list[str]:
    """``202612``, as responders' names have it; where two begin in one month, the second is ``202612-2``."""
    found: list[str] = []
    for window in windows:
        month = _day(window.begin)[:7].replace("-", "")
        count = sum(other.partition("-")[0] == month for other in found)
        found.append(month if not count else f"{month}-{count + 1}")
    return found


def _day(instant: Instant) -> str:
    return f"{datetime.fromtimestamp(instant // 1_000_000, UTC):%Y-%m-%d}"


def _second(instant: Instant) -> str:
    return f"{datetime.fromtimestamp(instant // 1_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _require_empty(folder: Path) -> None:
    try:
        if folder.exists() and any(folder.iterdir()):
            raise TargetNotEmpty(f"{folder} is not empty")
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}") from error


def _write(folder: Path, texts: dict[str, bytes]) -> None:
    """Public things, which a new run makes again; so no care is taken of a crash."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in texts.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write into {folder}: {error.strerror}") from error

"""Gathers what ``rules.kit.check_kit`` judges: the kit, weekly, in peace. Nothing is changed by it.

Whatever cannot be read is told as such and does not keep the rest from being looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from exclave.crypto.delegate import Validity, read_validity
from exclave.crypto.jwk import MAX_JWKS_BYTES, kids_of, thumbprint
from exclave.crypto.proof import prove
from exclave.crypto.tls_certificate import MAX_CHAIN_BYTES, MAX_KEY_BYTES, read_tls
from exclave.errors import ExclaveError, MalformedError
from exclave.formats.dnsplan import DnsPlan
from exclave.formats.keyring import KeyUse
from exclave.identity.contract import Clock, IssuerInfo, StatusStore
from exclave.identity.key_folder import KeyFolder
from exclave.ids import Instant, Label
from exclave.keys.private_file import read_private
from exclave.rules.kit import (
    ClockSeen,
    Gathered,
    KitReport,
    LadderSeen,
    LogSeen,
    NameSeen,
    TlsSeen,
    TokensSeen,
    UpdateSeen,
    check_kit,
)
from exclave.rules.ladder import Window
from exclave.runners.dns import first_server, load_tsig_key, look_up
from exclave.runners.published import fetch

__all__ = ["KitPlaces", "KitReport", "check_kit", "gather_kit"]
MAX_ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class KitPlaces:
    """Where to look. What is empty is told as missing."""

    embassies: tuple[Label, ...]
    """Whose ladders to look at; the place itself is one of them, unless it is home."""
    jwks_url: str = ""
    """Home's key set, as relying services fetch it."""
    ca_file: str | None = None
    """Roots to trust for it instead of the system's."""
    issuer_hosts: tuple[str, ...] = ()
    """Of the log-in service; they need TLS certificates here."""
    status_hosts: tuple[str, ...] = ()
    """Of OCSP (AIA) and CRL addresses."""
    resolvers: tuple[str, ...] = ()
    """``192.0.2.1:53``; several, in several networks."""
    tls_chain: Path | None = None
    tls_key: Path | None = None
    """None: only the certificate is looked at."""
    names: DnsPlan | None = None
    names_folder: Path = Path()
    """Where the plan's key file is."""
    known: frozenset[Label] | None = None
    """Places that there are; None: not known."""


@dataclass(frozen=True, slots=True)
class _Home:
    """What home's key set holds, or why that is not known; and home's clock."""

    kids: frozenset[str] | None
    problem: str
    clock: ClockSeen


def gather_kit(
    keys: KeyFolder, store: StatusStore, place: Label, places: KitPlaces, *, now: Instant, clock: Clock, decides: bool
) -> Gathered:
    """Asks the journal's store, the keys, home, name servers and files. Takes a few time-outs at the longest, since
    servers are asked side by side. Never raises for what is wrong with the kit."""
    with ThreadPoolExecutor(MAX_ASKED_AT_ONCE) as pool:
        fetched = pool.submit(_fetch, places, clock)
        update = pool.submit(_update, places)
        hosts = (*places.issuer_hosts, *places.status_hosts)
        asked = [pool.submit(_name, host, resolver) for host in hosts for resolver in places.resolvers]
        problem, infos, journal = _journal(store, place)
        proofs = {record.name: _proof(keys, record.name) for record in keys.records()}
        home = fetched.result()
        return Gathered(
            place=place, now=now, decides=decides, store_problem=problem,
            ladders=tuple(
                _ladder(keys, store, info, embassy, proofs, now=now, here=embassy == place)
                for embassy in places.embassies for info in infos
            ),
            logs=tuple(LogSeen(i.label, i.live, i.as_of, i.next_update, i.issued_known) for i in infos),
            tokens=replace(_tokens(keys, proofs, journal, home), strange=_strange(store, places)),
            names=tuple(future.result() for future in asked),
            tls=tuple(_tls(places, host) for host in places.issuer_hosts),
            update=update.result(),
            clocks=(home.clock,) if places.jwks_url else (),
        )  # fmt: skip


def _journal(store: StatusStore, place: Label) -> tuple[str, Sequence[IssuerInfo], frozenset[str]]:
    """(why it cannot be read, issuers, thumbprints of this place's token keys)"""
    try:
        jwks = store.place_keys().get(place, b'{"keys":[]}')
        return "", store.issuers(), frozenset(kids_of(jwks).values())
    except ExclaveError as error:
        return error.message, (), frozenset()


def _ladder(
    keys: KeyFolder, store: StatusStore, info: IssuerInfo, embassy: Label, proofs: dict[str, str], *, now: Instant,
    here: bool,
) -> LadderSeen:  # fmt: skip
    windows: list[Window] = []
    unusable: list[str] = []
    try:
        ders = store.responders(info.id, embassy)
    except ExclaveError as error:
        return LadderSeen(embassy, info.label, (), (error.message,))
    for der in ders:
        try:
            seen = read_validity(der)
        except MalformedError as error:
            unusable.append(error.message)
            continue
        if seen.end < now:
            continue
        why = _why_unusable(keys, info, seen, proofs) if here else ""
        if why:
            unusable.append(why)
        else:
            windows.append(Window(seen.begin, seen.end))
    return LadderSeen(embassy, info.label, tuple(windows), tuple(unusable))


def _why_unusable(keys: KeyFolder, info: IssuerInfo, seen: Validity, proofs: dict[str, str]) -> str:
    record = keys.find(seen.public_der, KeyUse.OCSP, info.id)
    return f"the key of {seen.subject} is not here" if record is None else proofs[record.name]


def _proof(keys: KeyFolder, name: str) -> str:
    """Why that key does not work; empty if it does."""
    try:
        prove(next(keys.signer(record) for record in keys.records() if record.name == name))
    except ExclaveError as error:
        return f"{name}: {error.message}"
    return ""


def _tokens(keys: KeyFolder, proofs: dict[str, str], journal: frozenset[str], home: _Home) -> TokensSeen:
    own = [record for record in keys.records() if record.use is KeyUse.TOKEN]
    unusable = tuple(proofs[record.name] for record in own if proofs[record.name])
    return TokensSeen(frozenset(thumbprint(r.public_der) for r in own), unusable, journal, home.kids, home.problem)


def _strange(store: StatusStore, places: KitPlaces) -> tuple[str, ...]:
    try:
        named = sorted(store.place_keys())
    except ExclaveError:  # told as the store's problem
        return ()
    return tuple(place for place in named if places.known is not None and place not in places.known)


def _fetch(places: KitPlaces, clock: Clock) -> _Home:
    url = places.jwks_url
    if not url:
        return _Home(None, "the address of home's key set is not configured", ClockSeen(""))
    try:
        published = fetch(url, limit=MAX_JWKS_BYTES, ca_file=places.ca_file)
    except ExclaveError as error:
        return _Home(None, error.message, ClockSeen(url, problem=error.message))
    seen = ClockSeen(url, problem="it tells no time")
    if published.date is not None:
        seen = ClockSeen(url, (published.date - clock()) / 1_000_000)
    try:
        return _Home(frozenset(kids_of(published.body).values()), "", seen)
    except MalformedError as error:
        return _Home(None, error.message, seen)


def _name(host: str, resolver: str) -> NameSeen:
    try:
        found = look_up(host, resolver)
    except ExclaveError as error:
        return NameSeen(host, resolver, (), 0, error.message)
    return NameSeen(host, resolver, found.addresses, found.ttl_s)


def _tls(places: KitPlaces, host: str) -> TlsSeen:
    if places.tls_chain is None:
        return TlsSeen(host, "no certificate is configured")
    try:
        with places.tls_chain.open("rb") as file:
            chain = file.read(MAX_CHAIN_BYTES + 1)
        key = None if places.tls_key is None else read_private(str(places.tls_key), MAX_KEY_BYTES)
        facts = read_tls(chain, key)
    except OSError as error:
        return TlsSeen(host, f"{places.tls_chain} cannot be read: {error.strerror}")
    except ExclaveError as error:
        return TlsSeen(host, error.message)
    return TlsSeen(host, "", facts.covers(host), facts.key_matches, facts.begin, facts.end)


def _update(places: KitPlaces) -> UpdateSeen:
    """A signed update that changes nothing."""
    if places.names is None:
        return UpdateSeen()
    try:
        key = load_tsig_key(str(places.names_folder / places.names.key_file))
        return UpdateSeen(first_server(places.names, key))
    except ExclaveError as error:
        return UpdateSeen(problem=error.message)

"""What operators write in files, entered into the identity journal: settings, issuers, relying services.

Only what differs from what the journal says is entered, so doing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exclave.crypto.crl import issuer_id
from exclave.crypto.delegate import certificates_in
from exclave.errors import ConfigError, MalformedError, UsageError
from exclave.formats.identityconfig import SourceRef, parse_identity_config
from exclave.formats.journal import Body, Issuer, PlaceKeys, Service, ServiceGone, Settings
from exclave.formats.keyring import KeyUse
from exclave.formats.relying import MAX_SERVICE_BYTES, encode_service, parse_service
from exclave.identity.feeding.source import Source, SourceKind
from exclave.ids import Label
from exclave.operations.home import read_limited
from exclave.operations.identity_place import CONFIG_NAME, IdentityPlace

SERVICES = "services"
_LIMIT = 256 << 10


@dataclass(frozen=True, slots=True)
class EnteredFiles:
    """What was entered."""

    entries: int
    settings: bool
    issuers: tuple[str, ...]
    services: tuple[str, ...]
    gone: tuple[str, ...]
    """Relying services whose file is no longer there."""
    keys: bool
    """Whether this place's public token keys were entered."""


def enter_files(place: IdentityPlace) -> EnteredFiles:
    """Enters what ``identity.toml``, ``services/*.json``, the sources' certificates and this place's token keys say.

    ``NotAuthorised`` unless this place decides; ``ConfigError`` for a file that is wrong, and nothing is entered then.
    """
    settings = list(_settings(place))
    issuers = list(_issuers(place))
    services, gone = list(_services(place)), list(_gone(place))
    keys = list(_keys(place))
    bodies: list[Body] = [*settings, *issuers, *services, *gone, *keys]
    if bodies:
        place.writer.enter(bodies)
    return EnteredFiles(
        len(bodies), bool(settings), tuple(i.label for i in issuers), tuple(s.client_id for s in services),
        tuple(g.client_id for g in gone), bool(keys),
    )  # fmt: skip


def _settings(place: IdentityPlace) -> Iterator[Settings]:
    path = place.folder / CONFIG_NAME
    if not path.exists():
        return
    data = read_limited(path, _LIMIT)
    parse_identity_config(data)
    if data != place.store.settings():
        yield Settings(data)


def _issuers(place: IdentityPlace) -> Iterator[Issuer]:
    known = {(info.label, der, info.live) for info in place.store.issuers() for der in info.certificates}
    for source in place.config.source:
        der = source_certificate(place.folder, source)
        live = source.kind not in ("crl", "delta-crl")
        if (source.issuer, der, live) not in known:
            known.add((source.issuer, der, live))  # type: ignore[arg-type]
            yield Issuer(source.issuer, der, live)


def source_certificate(folder: Path, source: SourceRef) -> bytes:
    """DER of the CA's certificate. ``ConfigError`` if the file is no certificate."""
    path = folder / source.certificate
    try:
        found = certificates_in(read_limited(path, _LIMIT))
        for der in found:
            issuer_id(der)
    except MalformedError as error:
        raise ConfigError(f"{path} is no certificate: {error.message}") from error
    if len(found) != 1:
        raise ConfigError(f"{path} holds {len(found)} certificates instead of the CA's one")
    return found[0]


def sources_of(place: IdentityPlace) -> tuple[Source, ...]:
    """What home follows. ``ConfigError`` for a file that is no certificate. A pushing CA is no source: it comes."""
    found = []
    for ref in place.config.source:
        if ref.kind == "push":
            continue
        der = source_certificate(place.folder, ref)
        path = str(place.folder / ref.path) if ref.path else ""
        found.append(Source(SourceKind(ref.kind), Label(ref.issuer), issuer_id(der), der, path, ref.url))
    return tuple(found)


def _service_files(place: IdentityPlace) -> dict[str, bytes]:
    """By client id: the one JSON form."""
    found: dict[str, bytes] = {}
    for path in sorted((place.folder / SERVICES).glob("*.json")):
        try:
            service = parse_service(read_limited(path, MAX_SERVICE_BYTES).strip())
        except MalformedError as error:
            raise ConfigError(f"{path}: {error.message}") from error
        if service.client_id in found:
            raise ConfigError(f"two files in {path.parent} are of the service {service.client_id}")
        found[service.client_id] = encode_service(service)
    return found


def _services(place: IdentityPlace) -> Iterator[Service]:
    known = {service.client_id: encode_service(service) for service in place.store.services()}
    for client_id, data in _service_files(place).items():
        if known.get(client_id) != data:
            yield Service(client_id, data)


def _gone(place: IdentityPlace) -> Iterator[ServiceGone]:
    if not (place.folder / SERVICES).is_dir():
        return  # no files at all say nothing about who is gone
    there = _service_files(place)
    for service in place.store.services():
        if service.client_id not in there:
            yield ServiceGone(service.client_id)


def _keys(place: IdentityPlace) -> Iterator[PlaceKeys]:
    if not any(record.use is KeyUse.TOKEN for record in place.keys.records()):
        return
    own = place.keyring.jwks()
    if place.store.place_keys().get(place.label) != own:
        yield PlaceKeys(place.label, own)


def save_service(place: IdentityPlace, data: bytes) -> Path:
    """Writes a new relying service's file. ``UsageError`` if there is one of that name."""
    service = parse_service(data)
    path = place.folder / SERVICES / f"{service.client_id}.json"
    if path.exists():
        raise UsageError(f"{path} is there already", hint="Edit it, then run `exclave identity enter`.")
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.write_bytes(data + b"\n")
    return path

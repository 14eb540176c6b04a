"""What operators write in files, entered into the identity journal: settings, issuers, relying services.

Only what was changed here since the last time is entered, so doing it again changes nothing, and files that lay at home
all through an exile do not undo what was decided abroad: a secret that was replaced there stays replaced. What was
entered from the files of this place stands in ``state/entered.json``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exclave.crypto.certificates import require_ca
from exclave.crypto.crl import issuer_id
from exclave.crypto.delegate import certificates_in
from exclave.errors import ConfigError, ExclaveError, MalformedError, UsageError
from exclave.formats.identityconfig import SourceRef, parse_identity_config
from exclave.formats.journal import Body, Issuer, PlaceKeys, Service, ServiceGone, Settings
from exclave.formats.keyring import KeyUse
from exclave.formats.relying import MAX_SERVICE_BYTES, encode_service, parse_service
from exclave.identity.feeding.fetch import files_at, open_file
from exclave.identity.feeding.source import Source, SourceKind
from exclave.ids import Label, sha256
from exclave.operations.home import read_limited, write_private
from exclave.operations.identity_place import CONFIG_NAME, PLACE_NAME, IdentityPlace

SERVICES = "services"
ENTERED = "entered.json"
_LIMIT = 256 << 10
_KEPT = "Nothing was entered."


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
    elsewhere: tuple[str, ...]
    """Files as they were entered here once, of which the journal says something else by now: another place changed it,
    and that counts. To change it here, edit the file."""
    unread: tuple[str, ...] = ()
    """Sources whose file cannot be read yet, with the reason; nothing is known of those CAs' certificates before."""
    lacking: tuple[str, ...] = ()
    """What was never said, neither here nor in the journal: without it nothing is served."""


class FromFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``state/entered.json``: SHA-256, in hex, of what was entered last from each file of this place."""

    settings: str = ""
    services: dict[str, str] = {}
    """By client id."""


def enter_files(place: IdentityPlace) -> EnteredFiles:
    """Enters what ``identity.toml``, ``services/*.json``, the sources' certificates and this place's token keys say.

    ``NotAuthorised`` unless this place decides; ``ConfigError`` for a file that is wrong, and nothing is entered then.
    """
    before, files = _read_entered(place), _service_files(place)
    config = _settings_file(place)
    settings = (
        [Settings(config)] if config is not None and _is_new(config, before.settings, place.store.settings()) else []
    )
    issuers = list(_issuers(place))
    services, gone = list(_services(place, files, before)), list(_gone(place, files, before))
    keys = list(_keys(place))
    bodies: list[Body] = [*settings, *issuers, *services, *gone, *keys]
    if bodies:
        place.writer.enter(bodies)
    elsewhere = [*_elsewhere(place, config, files)]
    # A restart before this finds nothing that differs from the journal, and writes it then.
    _write_entered(place, config, files)
    return EnteredFiles(
        len(bodies), bool(settings), tuple(i.label for i in issuers), tuple(s.client_id for s in services),
        tuple(g.client_id for g in gone), bool(keys), tuple(elsewhere), tuple(_unread(place)), tuple(_lacking(place)),
    )  # fmt: skip


def _is_new(data: bytes, entered: str, journal: bytes | None) -> bool:
    """Whether ``data`` was changed here since it was entered here, and the journal does not say it already."""
    return data != journal and sha256(data).hex() != entered


def _settings_file(place: IdentityPlace) -> bytes | None:
    path = place.folder / CONFIG_NAME
    if not path.exists():
        return None
    data = read_limited(path, _LIMIT)
    parse_identity_config(data)
    return data


def _unread(place: IdentityPlace) -> Iterator[str]:
    """A source at an address is asked by the process that serves."""
    for source in place.config.source:
        if not source.path:
            continue
        try:
            for path in files_at(str(place.folder / source.path)):
                os.close(open_file(path))
        except ExclaveError as error:
            yield f"{source.issuer}: {error.message}"


def _lacking(place: IdentityPlace) -> Iterator[str]:
    if place.store.settings() is None:
        yield f"settings: write {place.folder / CONFIG_NAME}"
    if place.is_home and not place.store.issuers():
        yield f"an issuing CA: write a [[source]] into {place.folder / PLACE_NAME}"


def _elsewhere(place: IdentityPlace, config: bytes | None, files: dict[str, bytes]) -> Iterator[str]:
    if config is not None and config != place.store.settings():
        yield CONFIG_NAME
    for client_id, data in files.items():
        known = place.store.service(client_id)
        if known is None or encode_service(known) != data:
            yield f"{SERVICES}: {client_id}"


def _read_entered(place: IdentityPlace) -> FromFiles:
    path = place.folder / "state" / ENTERED
    try:
        return msgspec.json.decode(path.read_bytes(), type=FromFiles)
    except FileNotFoundError:
        return FromFiles()
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise MalformedError(f"{path} is damaged", hint="Remove it, and all files count as new.") from error


def _write_entered(place: IdentityPlace, config: bytes | None, files: dict[str, bytes]) -> None:
    made = FromFiles(
        sha256(config).hex() if config is not None else "",
        {client_id: sha256(data).hex() for client_id, data in sorted(files.items())},
    )
    if made != _read_entered(place):
        write_private(place.folder / "state" / ENTERED, msgspec.json.encode(made) + b"\n")


def _issuers(place: IdentityPlace) -> Iterator[Issuer]:
    known = {(str(info.label), der, info.live) for info in place.store.issuers() for der in info.certificates}
    owners = {str(info.label): info.id for info in place.store.issuers()}
    for source in place.config.source:
        der = source_certificate(place.folder, source)
        live = source.kind not in ("crl", "delta-crl")
        if (source.issuer, der, live) in known:
            continue
        _require_issuer(place.folder / source.certificate, der)
        if owners.setdefault(source.issuer, issuer_id(der)) != issuer_id(der):
            raise ConfigError(
                f"{PLACE_NAME}: another CA than that of {source.certificate} is called {source.issuer!r} already",
                hint=f"Choose another label for this [[source]]; a CA's new key is a new CA. {_KEPT}",
            )
        known.add((source.issuer, der, live))
        yield Issuer(source.issuer, der, live)


def _require_issuer(path: Path, der: bytes) -> None:
    """What was entered before this was asked stays as it is."""
    try:
        require_ca(der)
    except MalformedError as error:
        hint = f"Name the issuing CA's own certificate in this [[source]] of {PLACE_NAME}. {_KEPT}"
        raise ConfigError(f"{path} is not the certificate of an issuing CA: {error.message}", hint=hint) from error


def source_certificate(folder: Path, source: SourceRef) -> bytes:
    """DER of the CA's certificate. ``ConfigError`` if the file is not there, or no certificate."""
    path = folder / source.certificate
    hint = f"Put the CA's certificate there, or correct the [[source]] {source.issuer} of {PLACE_NAME}. {_KEPT}"
    try:
        found = certificates_in(read_limited(path, _LIMIT))
        for der in found:
            issuer_id(der)
    except MalformedError as error:
        raise ConfigError(f"{path} is no certificate: {error.message}", hint=hint) from error
    except UsageError as error:
        raise ConfigError(f"the CA's certificate is missing: {error.message}", hint=hint) from error
    if len(found) != 1:
        raise ConfigError(f"{path} holds {len(found)} certificates instead of the CA's one", hint=hint)
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
            raise ConfigError(f"{path}: {error.message}", hint=f"Correct {path.name}. {_KEPT}") from error
        if service.client_id in found:
            raise ConfigError(
                f"two files in {path.parent} are of the service {service.client_id}", hint=f"Remove one. {_KEPT}"
            )
        found[service.client_id] = encode_service(service)
    return found


def _services(place: IdentityPlace, files: dict[str, bytes], before: FromFiles) -> Iterator[Service]:
    known = {service.client_id: encode_service(service) for service in place.store.services()}
    for client_id, data in files.items():
        if _is_new(data, before.services.get(client_id, ""), known.get(client_id)):
            yield Service(client_id, data)


def _gone(place: IdentityPlace, files: dict[str, bytes], before: FromFiles) -> Iterator[ServiceGone]:
    """Services that came from a file of this place which is gone; those of another place's files stay."""
    if not (place.folder / SERVICES).is_dir():
        return  # no files at all say nothing about who is gone
    for service in place.store.services():
        if service.client_id in before.services and service.client_id not in files:
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

"""The exile kit of one place, looked at from its own folder: what would be missing if home were lost now."""

from __future__ import annotations

from dataclasses import replace

from exclave.errors import UnavailableError
from exclave.formats.dnsplan import MAX_PLAN_BYTES, DnsPlan, parse_dns_plan
from exclave.formats.identityconfig import IdentityConfig
from exclave.identity.contract import IdentityState
from exclave.ids import Label
from exclave.operations.home import read_limited
from exclave.operations.identity_arrival import arrival_problem
from exclave.operations.identity_check import KitPlaces, gather_kit
from exclave.operations.identity_moved import NAMES_FILE
from exclave.operations.identity_place import IdentityPlace
from exclave.rules.kit import KitReport, check_kit
from exclave.runners.dns import system_resolvers


def check_place(place: IdentityPlace) -> KitReport:
    """Asks the journal, the keys, home and name servers. Raises nothing for what is wrong with the kit."""
    settings: IdentityConfig | None
    try:
        settings = place.settings()
    except UnavailableError:
        settings = None
    embassies = tuple(Label(e.place) for e in place.config.embassy) if place.is_home else (place.label,)
    plan, config = names_plan(place), place.config
    places = KitPlaces(
        embassies,
        jwks_url=config.home_jwks or (f"{settings.issuer}/oidc/jwks" if settings is not None else ""),
        issuer_hosts=(settings.host,) if settings is not None and not _is_local(settings.host) else (),
        status_hosts=settings.aia_hosts if settings is not None else (),
        resolvers=(plan.resolvers if plan is not None else ()) or system_resolvers(),
        tls_chain=place.folder / config.tls_certificate if config.tls_certificate else None,
        tls_key=place.folder / config.tls_key if config.tls_key else None,
        names=plan, names_folder=place.folder, known=place.places(),
    )  # fmt: skip
    decides = place.authority().decides
    seen = gather_kit(
        place.keys, place.store, place.label, places, now=place.clock(), clock=place.clock, decides=decides
    )
    awaited = place.authority().state is IdentityState.STANDBY
    return check_kit(replace(seen, arrival=arrival_problem(place) if awaited else None))


def _is_local(host: str) -> bool:
    """No name that moves: everything is on one machine."""
    return host in ("localhost", "127.0.0.1", "::1")


def names_plan(place: IdentityPlace) -> DnsPlan | None:
    """``names.toml`` of the place, or None. ``ConfigError`` if it is wrong."""
    path = place.folder / NAMES_FILE
    return parse_dns_plan(read_limited(path, MAX_PLAN_BYTES)) if path.exists() else None

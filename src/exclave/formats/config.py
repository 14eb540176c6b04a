"""``exclave.toml``: what a home says of itself, its custodians, sites and registers. Page: ``docs/spec/config.md``.

Unknown keys are errors, so that a misspelt rule is never silently without effect. A charter is drafted from this
file; what is in force is the signed charter, never this file.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from exclave.errors import ConfigError, MalformedError
from exclave.formats.limits import parse_limits, parse_zone
from exclave.formats.policy import NOBODY, WitnessGroup, WitnessPolicy, check_policy
from exclave.formats.timestamp import ANY, parse_authority_url, parse_policy
from exclave.formats.toml import read_toml
from exclave.formats.watchconfig import WatchConfig, check_watch
from exclave.ids import Label, parse_country, parse_day, parse_label

MAX_CONFIG_BYTES = 4 << 20
MAX_SCRUB_DAYS = 3650


class StateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[state]``"""

    name: str
    home: str
    """Country of the home."""
    threshold: int
    """Custodians who must agree: M of N."""
    quorum: str = NOBODY
    """The witness or group of witnesses that must have cosigned before a version counts."""
    alarm_days: tuple[int, ...] = (90, 30, 7)
    """So many days before a lease or a legal basis ends, ``status`` and ``site list`` say so."""


class CustodianConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[custodian]]``"""

    name: str
    country: str
    card: str
    """File with his key card, relative to the home folder."""


class SiteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[site]]``"""

    name: str
    url: str
    country: str
    operator: str
    can_run: bool = False
    limit: tuple[str, ...] = ()
    """How fast bulk objects may go to and from it, by hour (``formats/limits.py``)."""
    limit_zone: str = "UTC"
    """Whose clocks the hours of ``limit`` go by."""
    lease_until: str = ""
    """The day, 2030-12-31, at whose beginning (UTC) its host is bound no longer; empty: no end is known. Public."""
    scrub_days: int = 0
    """Within so many days ``exclave scrub`` reads all of it; ``status`` tells if it does not. 0: not promised."""


class WitnessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[witness]]``"""

    name: str
    url: str
    card: str


class GroupConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[witness_group]]``"""

    name: str
    needed: int
    """So many of the members."""
    members: tuple[str, ...]
    """Witnesses, or groups that stand before this one."""


class TimestampConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[timestamp]]``: an authority of RFC 3161."""

    name: str
    url: str
    root: str
    """File with the root certificate (PEM or DER) that its certificates lead to, relative to the home folder."""
    policy: str = ANY
    """The only policy whose tokens count, as an object identifier."""
    every_s: int = 86400
    """A backup asks for a token if the last one is so old. 0: never; only `exclave timestamp` does."""


class DatasetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[register.dataset]]``"""

    name: str
    kind: Literal["files", "postgres", "sqlite", "identity"]
    options: dict[str, str | int] = {}
    append_only: tuple[str, ...] = ()
    """Tables whose rows are never altered or deleted once they are there."""
    immutable: tuple[str, ...] = ()
    """Patterns of paths that never change once they are there."""
    records: bool | None = None
    """Whether each document or row can be proven by itself; None: as the register says."""


class QueryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[register.service.query]``"""

    path: str
    expect: str


class ServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[register.service]]``"""

    name: str
    kind: Literal["process", "postgres", "identity"] = "process"
    dataset: str = ""
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    port: int = 0
    probe: str = ""
    query: QueryConfig | None = None


class PlacementConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[register.placement]``"""

    copies: int = 2
    countries: int = 2
    outside_home: int = 1
    administrators: int = 1


class DeletionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[register.deletion]``"""

    delay_s: int = 30 * 86400
    """How long an order to delete waits, in public."""
    objections: int = 1
    """How many custodians stop it."""


class RegisterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[register]]``"""

    name: str
    owner: str
    register_class: str = msgspec.field(name="class")
    legal_basis: dict[str, str]
    """Site → the law or treaty that lets the register lie there; a site that is not named here never gets it."""
    rpo_s: int
    rto_s: int
    retention_days: int
    """Every version is kept for so long; then ``keep_daily_days`` and so on."""
    legal_basis_until: dict[str, str] = {}
    """Site → the day at whose beginning (UTC) its legal basis ends; of all others no end is known. Public."""
    keep_daily_days: int = 0
    keep_monthly_months: int = 0
    keep_yearly_years: int = 0
    legal_hold: str = ""
    """Why nothing of it may be deleted now, whatever a warrant says."""
    deletion: DeletionConfig = DeletionConfig()
    public: bool = False
    title: str = ""
    """Shown to the public if ``public``."""
    records: bool | None = None
    """Whether versions commit to each document and row by itself; None: those of public registers do."""
    depends: tuple[str, ...] = ()
    placement: PlacementConfig = PlacementConfig()
    dataset: tuple[DatasetConfig, ...] = ()
    service: tuple[ServiceConfig, ...] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    state: StateConfig
    custodian: tuple[CustodianConfig, ...] = ()
    site: tuple[SiteConfig, ...] = ()
    witness: tuple[WitnessConfig, ...] = ()
    witness_group: tuple[GroupConfig, ...] = ()
    timestamp: tuple[TimestampConfig, ...] = ()
    register: tuple[RegisterConfig, ...] = ()
    watch: WatchConfig = WatchConfig()

    def policy(self) -> WitnessPolicy:
        """Whose cosignatures a version needs."""
        groups = tuple(
            WitnessGroup(Label(g.name), g.needed, tuple(sorted(Label(name) for name in g.members)))
            for g in self.witness_group
        )
        return WitnessPolicy(groups, None if self.state.quorum == NOBODY else Label(self.state.quorum))

    def find_register(self, name: str) -> RegisterConfig:
        """The register called ``name``; ``ConfigError`` listing the known ones."""
        for register in self.register:
            if register.name == name:
                return register
        known = ", ".join(r.name for r in self.register) or "none"
        raise ConfigError(f"there is no register {name!r} in exclave.toml; it has: {known}")


def parse_config(data: bytes) -> Config:
    """Strict; every reference between the parts is checked. Raises ``ConfigError`` saying where."""
    config = read_toml(data, Config, name="exclave.toml", limit=MAX_CONFIG_BYTES)
    try:
        _check(config)
    except MalformedError as error:
        raise ConfigError(f"exclave.toml: {error.message}") from error
    return config


def _unique(names: list[str], what: str) -> None:
    for name in names:
        parse_label(name)
        if names.count(name) > 1:
            raise ConfigError(f"exclave.toml: two {what}s are called {name!r}")


def _check(config: Config) -> None:
    parse_country(config.state.home)
    _unique([c.name for c in config.custodian], "custodian")
    _unique([s.name for s in config.site], "site")
    _unique([w.name for w in config.witness], "witness")
    _unique([r.name for r in config.register], "register")
    for country in (*(c.country for c in config.custodian), *(s.country for s in config.site)):
        parse_country(country)
    if not config.state.alarm_days or min(config.state.alarm_days) < 1:
        raise ConfigError("exclave.toml: state.alarm_days must be one or more numbers of days, each at least 1")
    for site in config.site:
        parse_limits(site.limit)
        if site.lease_until:
            parse_day(site.lease_until)
        parse_zone(site.limit_zone)
        if not 0 <= site.scrub_days <= MAX_SCRUB_DAYS:
            raise ConfigError(f"exclave.toml: site {site.name}: scrub_days must be 0 to {MAX_SCRUB_DAYS}")
    if not 1 <= config.state.threshold <= max(len(config.custodian), 1):
        raise ConfigError(
            f"exclave.toml: a threshold of {config.state.threshold} cannot be reached by"
            f" {len(config.custodian)} {'custodian' if len(config.custodian) == 1 else 'custodians'}",
            hint="Lower state.threshold or name more custodians.",
        )
    _unique([t.name for t in config.timestamp], "timestamp authority")
    for authority in config.timestamp:
        parse_authority_url(authority.url)
        if authority.policy != ANY:
            parse_policy(authority.policy)
        if authority.every_s < 0:
            raise ConfigError(f"exclave.toml: timestamp {authority.name}: every_s cannot be negative")
    for group in config.witness_group:
        parse_label(group.name)
    check_policy(config.policy(), [Label(w.name) for w in config.witness])
    for register in config.register:
        _check_register(config, register)
    _check_cycles(config)
    check_watch(config.watch)


def _check_register(config: Config, register: RegisterConfig) -> None:
    where = f"exclave.toml: register {register.name}"
    parse_label(register.register_class)
    sites = {site.name: site for site in config.site}
    _unique([d.name for d in register.dataset], "dataset")
    _unique([s.name for s in register.service], "service")
    for site in register.legal_basis:
        if site not in sites:
            raise ConfigError(f"{where}: legal_basis names the unknown site {site!r}")
    for site, day in register.legal_basis_until.items():
        if site not in register.legal_basis:
            raise ConfigError(f"{where}: legal_basis_until names {site!r}, where it has no legal_basis")
        parse_day(day)
    for other in register.depends:
        if other == register.name or other not in {r.name for r in config.register}:
            raise ConfigError(f"{where}: depends on {other!r}, which is not another register")
    for dataset in register.dataset:
        if (dataset.append_only and dataset.kind not in ("postgres", "sqlite")) or (
            dataset.immutable and dataset.kind not in ("files", "identity")
        ):
            raise ConfigError(f"{where}: dataset {dataset.name}: append_only is for databases, immutable for files")
    for service in register.service:
        if service.dataset and service.dataset not in {d.name for d in register.dataset}:
            raise ConfigError(f"{where}: service {service.name} works on the unknown dataset {service.dataset!r}")
    rule, at = register.placement, [sites[name] for name in register.legal_basis]
    abroad = [site for site in at if site.country != config.state.home]
    asked = (rule.copies, rule.countries, rule.outside_home, rule.administrators)
    given = (len(at), len({s.country for s in at}), len(abroad), len({s.operator for s in at}))
    if any(need > have for need, have in zip(asked, given, strict=True)):
        raise ConfigError(
            f"{where}: the placement asks for {rule.copies} copies in {rule.countries} countries, {rule.outside_home}"
            f" of them abroad, by {rule.administrators} administrators; the sites with a legal basis give {given[0]},"
            f" {given[1]}, {given[2]} and {given[3]}"
        )
    if min(register.rpo_s, register.rto_s, rule.copies, rule.administrators) < 1:
        raise ConfigError(f"{where}: rpo_s, rto_s, placement.copies and placement.administrators must be at least 1")
    kept = (register.retention_days, register.keep_daily_days, register.keep_monthly_months, register.keep_yearly_years)
    if min(kept) < 0:
        raise ConfigError(f"{where}: retention_days and keep_… cannot be negative")
    if min(register.deletion.delay_s, register.deletion.objections) < 1:
        raise ConfigError(f"{where}: deletion.delay_s and deletion.objections must be at least 1")


def _check_cycles(config: Config) -> None:
    depends = {r.name: set(r.depends) for r in config.register}
    while depends:
        free = [name for name, needs in depends.items() if not needs]
        if not free:
            raise ConfigError(
                f"exclave.toml: these registers depend on each other in a circle: {', '.join(sorted(depends))}"
            )
        for name in free:
            del depends[name]
        for needs in depends.values():
            needs.difference_update(free)

"""``names.toml``: which names follow the state's services, and how. Page: ``docs/spec/names.md``.

Unknown keys are errors. Names are written absolute, lower case, without the last dot.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from exclave.errors import ConfigError, MalformedError
from exclave.formats.toml import read_toml
from exclave.ids import Label, parse_b64, parse_label

MAX_PLAN_BYTES = 256 << 10
MAX_RECORDS = 200
MAX_VALUES = 20
MAX_KEY_FILE_BYTES = 512
HOME = Label("home")
"""The place whose values are ``home``; no embassy may be called so."""
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*\Z")
_TXT = re.compile(r"[\x20-\x7e]{1,255}\Z")
_ADDRESS = re.compile(r"(\[[0-9a-f:.]+\]|[0-9.]+)(:[1-9][0-9]{0,4})?\Z")
_KEY_LINE = re.compile(r"(hmac-sha256|hmac-sha512):([a-z0-9._-]{1,253}):([A-Za-z0-9+/=]+)\n?\Z")

RecordType = Literal["A", "AAAA", "CNAME", "TXT"]
_SEE = "Correct names.toml as docs/spec/names.md says; nothing was changed."


class RecordPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[record]]``: one name and type."""

    name: str
    type: RecordType
    home: tuple[str, ...]
    """Its values while home serves."""
    embassy: dict[str, tuple[str, ...]]
    """Its values while that embassy serves."""


class DnsPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    zone: str
    servers: tuple[str, ...]
    """Primary name servers that take updates, ``192.0.2.1:53`` or ``[2001:db8::1]:53``; the first that answers is used.
    If there are several, they must be one zone's, behind one database."""
    key_file: str
    """TSIG key, a file of mode 600, relative to the plan."""
    ttl_s: int
    """Of the records, in peace and moved: so long a resolver goes on with the old value. 5 to 86,400."""
    resolvers: tuple[str, ...] = ()
    """Asked whether the world sees the change; secondaries of the zone and resolvers that citizens use."""
    timeout_s: float = 5.0
    """For one question; 0.1 to 60."""
    record: tuple[RecordPlan, ...] = ()

    def places(self) -> frozenset[Label]:
        """The embassies that it knows."""
        return frozenset(Label(place) for record in self.record for place in record.embassy)

    def values(self, record: RecordPlan, place: Label) -> tuple[str, ...]:
        """The record's values while ``place`` (an embassy or ``HOME``) serves, sorted. ``ConfigError`` if unknown."""
        if place == HOME:
            return tuple(sorted(record.home))
        if place not in record.embassy:
            raise ConfigError(f"names.toml: {record.name} {record.type} has no values for {place}", hint=_SEE)
        return tuple(sorted(record.embassy[place]))


@dataclass(frozen=True, slots=True)
class TsigKey:
    """What signs updates (RFC 8945)."""

    algorithm: str
    name: str
    secret: bytes = field(repr=False)


def parse_dns_plan(data: bytes) -> DnsPlan:
    """Strict. Raises ``ConfigError`` saying where."""
    plan = read_toml(data, DnsPlan, name="names.toml", limit=MAX_PLAN_BYTES, hint=_SEE)
    try:
        _check(plan)
    except MalformedError as error:
        raise ConfigError(f"names.toml: {error.message}", hint=_SEE) from error
    return plan


def parse_tsig_key(data: bytes) -> TsigKey:
    """``hmac-sha256:name:base64``, as knsupdate's ``-k`` takes it. ``MalformedError``, never quoting the secret."""
    match = _KEY_LINE.match(data[: MAX_KEY_FILE_BYTES + 1].decode("ascii", "replace"))
    if match is None or len(data) > MAX_KEY_FILE_BYTES:
        raise MalformedError("a TSIG key file must hold one line: hmac-sha256:name:base64 (or hmac-sha512)")
    try:
        secret = parse_b64(match[3])
    except MalformedError:
        raise MalformedError("the TSIG key's secret is not base64") from None  # its cause quotes it
    if not 16 <= len(secret) <= 128:
        raise MalformedError("a TSIG key has 16 to 128 bytes")
    return TsigKey(match[1], match[2].removesuffix("."), secret)


def parse_address(text: str) -> tuple[str, int]:
    """(address, port) of ``192.0.2.1``, ``192.0.2.1:53`` or ``[2001:db8::1]:53``. Raises ``MalformedError``.

    No names: in a crisis nothing may depend on resolving one.
    """
    match = _ADDRESS.match(text)
    host = match[1].strip("[]") if match else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise MalformedError(f"{text[:60]!r} is not an address such as 192.0.2.1:53 or [2001:db8::1]:53") from error
    port = int(match[2][1:]) if match and match[2] else 53
    if port > 65535 or str(address) != host:
        raise MalformedError(f"{text[:60]!r} is not an address and port in their usual form")
    return host, port


def _check(plan: DnsPlan) -> None:
    _name(plan.zone)
    if not plan.servers or not plan.record or len(plan.record) > MAX_RECORDS:
        raise MalformedError(f"it must name a server and 1 to {MAX_RECORDS} records")
    for address in (*plan.servers, *plan.resolvers):
        parse_address(address)
    if not 5 <= plan.ttl_s <= 86_400 or not 0.1 <= plan.timeout_s <= 60:
        raise MalformedError("ttl_s must be from 5 to 86400 and timeout_s from 0.1 to 60")
    seen: dict[str, set[str]] = {}
    for record in plan.record:
        _check_record(plan, record)
        types = seen.setdefault(record.name, set())
        if record.type in types or (types and "CNAME" in {*types, record.type}):
            raise MalformedError(f"{record.name} {record.type} stands beside another record that excludes it")
        types.add(record.type)


def _check_record(plan: DnsPlan, record: RecordPlan) -> None:
    _name(record.name)
    if record.name != plan.zone and not record.name.endswith(f".{plan.zone}"):
        raise MalformedError(f"{record.name} is not in the zone {plan.zone}")
    if record.type == "CNAME" and record.name == plan.zone:
        raise MalformedError(f"{record.name} is the zone itself and cannot be a CNAME")
    if record.embassy.keys() != plan.places() or HOME in record.embassy:
        raise MalformedError(f"{record.name} {record.type} must name every embassy, and none may be called {HOME!r}")
    for place, values in (("home", record.home), *record.embassy.items()):
        parse_label(place)
        if not 1 <= len(values) <= MAX_VALUES or len(set(values)) != len(values):
            raise MalformedError(f"{record.name} {record.type} needs 1 to {MAX_VALUES} different values for {place}")
        if record.type == "CNAME" and len(values) != 1:
            raise MalformedError(f"{record.name} can be an alias of one name only")
        for value in values:
            check_value(record.type, value)


def check_value(kind: RecordType, value: str) -> None:
    """One value in its one form. Raises ``MalformedError``."""
    if kind == "CNAME":
        _name(value)
    elif kind == "TXT":
        if not _TXT.match(value):
            raise MalformedError("a TXT value has 1 to 255 printable ASCII characters")
    else:
        try:
            address = ipaddress.IPv4Address(value) if kind == "A" else ipaddress.IPv6Address(value)
        except ValueError as error:
            raise MalformedError(f"{value[:60]!r} is no value of an {kind} record") from error
        if str(address) != value:
            raise MalformedError(f"write {address}, not {value[:60]!r}")


def _name(text: str) -> None:
    if not _NAME.match(text):
        raise MalformedError(f"{text[:80]!r} is not a name in lower case without a dot at its end")

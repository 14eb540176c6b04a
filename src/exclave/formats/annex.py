"""Annexes: what only those may know who recover a register. Page: ``docs/spec/annex.md``.

Strict MessagePack (a map with fixed keys in a fixed order), sealed by HPKE to the register's opening key. The
charter names both the sealed box and the plaintext by SHA-256; ``salt`` keeps the latter from being guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from exclave.errors import MalformedError
from exclave.formats.lines import plain_text
from exclave.ids import Digest, Epoch, RegisterId, parse_country, parse_label, parse_register_id, sha256

MAX_ANNEX_BYTES = 1 << 20
SALT_BYTES = 32
MAX_PARTS = 256
"""Most datasets, services, sites, witnesses or dependencies."""
MAX_ARGUMENTS = 256
MAX_VALUE_CHARS = 16 << 10
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")
_OPTION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}\Z")


class Dataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a register's content. ``options`` belong to its kind."""

    name: str
    kind: Literal["files", "postgres", "sqlite", "identity"]
    options: dict[str, str]


class ReferenceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question whose answer shows that the service works on the right data."""

    path: str
    expect: str
    """JSON text of an object or array; every member of it must be in the answer."""

    def expected(self) -> Any:
        """``expect`` as a Python value (dict or list)."""
        return _json(self.expect)


class AnnexService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One program of a register. Services start in the order of the annex."""

    name: str
    kind: Literal["process", "postgres", "identity"]
    dataset: str
    """Name of the dataset that it works on; empty: none."""
    argv: tuple[str, ...]
    """Program and arguments; empty for a PostgreSQL server, which is started by kind."""
    env: dict[str, str]
    port: int
    """TCP port it listens at, 1 to 65535; 0: none."""
    probe: str
    """HTTP path that answers 200 when it is well; empty: the open port is enough."""
    query: ReferenceQuery | None


class AnnexSite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a site of the charter is reached, and why the register may lie there."""

    label: str
    url: str
    """Without secrets."""
    country: str
    operator: str
    legal_basis: str
    can_run: bool
    """Whether it is an embassy: can start the register's services."""


class AnnexWitness(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    label: str
    url: str


class Annex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sealed part of a register's description. Keys of the maps are sorted by ``encode``."""

    format: Literal["exclave/annex/v1"]
    salt: bytes
    """32 random bytes."""
    name: str
    """The register's label at home."""
    register_class: str = msgspec.field(name="class")
    owner: str
    depends: dict[str, str]
    """Name to register id: what must run first."""
    datasets: tuple[Dataset, ...]
    services: tuple[AnnexService, ...]
    sites: tuple[AnnexSite, ...]
    witnesses: tuple[AnnexWitness, ...]

    def encode(self) -> bytes:
        return _ENCODER.encode(self)

    @property
    def digest(self) -> Digest:
        """SHA-256 of the plaintext bytes."""
        return sha256(self.encode())


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(Annex, strict=True)


def parse_annex(data: bytes) -> Annex:
    """Strict inverse of ``Annex.encode``. Raises ``MalformedError``."""
    if len(data) > MAX_ANNEX_BYTES:
        raise MalformedError(f"an annex is longer than {MAX_ANNEX_BYTES} bytes")
    try:
        annex = _DECODER.decode(data)
        again = annex.encode()
    # ValueError: text with half a surrogate pair; RecursionError: maps within maps.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedError(f"an annex is not what it should be: {error}") from error
    _check(annex)
    if again != data:
        raise MalformedError("an annex is not in its one canonical form")
    return annex


def annex_info(register: RegisterId, epoch: Epoch) -> bytes:
    """HPKE info of an annex sealed to the opening key of ``epoch``."""
    return f"exclave/annex/v1\n{register}\n{epoch}\n".encode()


def _check(annex: Annex) -> None:
    if len(annex.salt) != SALT_BYTES:
        raise MalformedError(f"annex: a salt has {SALT_BYTES} bytes")
    parse_label(annex.name)
    parse_label(annex.register_class)
    plain_text(annex.owner, limit=200)
    _labels(annex.depends, "dependencies")
    for register in annex.depends.values():
        parse_register_id(register)
    _labels([d.name for d in annex.datasets], "datasets")
    for dataset in annex.datasets:
        _values(dataset.options, _OPTION_NAME, "option")
    _labels([s.name for s in annex.services], "services")
    known = {""} | {d.name for d in annex.datasets}
    for service in annex.services:
        _check_service(service, known)
    _labels([s.label for s in annex.sites], "sites")
    for site in annex.sites:
        parse_country(site.country)
        parse_label(site.operator)
        plain_text(site.url)
        plain_text(site.legal_basis)
    _labels([w.label for w in annex.witnesses], "witnesses")
    for witness in annex.witnesses:
        plain_text(witness.url)


def _check_service(service: AnnexService, datasets: set[str]) -> None:
    name = service.name
    if service.dataset not in datasets:
        raise MalformedError(f"annex: service {name} works on an unknown dataset")
    if service.kind == "process" and not (service.argv and service.argv[0]):
        raise MalformedError(f"annex: service {name} has no program")
    if len(service.argv) > MAX_ARGUMENTS or any("\0" in a or len(a) > MAX_VALUE_CHARS for a in service.argv):
        raise MalformedError(f"annex: service {name} has arguments that no program can take")
    _values(service.env, _ENV_NAME, "environment variable")
    if not 0 <= service.port <= 65535:
        raise MalformedError(f"annex: service {name} has no possible port")
    if service.probe:
        _url_path(service.probe)
    if service.query is not None:
        _url_path(service.query.path)
        if not isinstance(_json(service.query.expect), dict | list):
            raise MalformedError(f"annex: the reference answer of {name} must be a JSON object or array")


def _labels(labels: Iterable[str], what: str) -> None:
    found = [parse_label(label) for label in labels]
    if len(found) > MAX_PARTS or len(set(found)) != len(found):
        raise MalformedError(f"annex: {what} must be at most {MAX_PARTS} and have different names")


def _values(values: dict[str, str], names: re.Pattern[str], what: str) -> None:
    if len(values) > MAX_PARTS:
        raise MalformedError(f"annex: more than {MAX_PARTS} of one {what}")
    for name, value in values.items():
        if not names.match(name) or "\0" in value or len(value) > MAX_VALUE_CHARS:
            raise MalformedError(f"annex: impossible {what} {name[:40]!r}")


def _url_path(path: str) -> None:
    if not path.startswith("/") or " " in path or not path.isascii():
        raise MalformedError(f"annex: not a path of a URL: {path[:60]!r}")
    plain_text(path)


def _json(text: str) -> Any:
    if len(text) > MAX_VALUE_CHARS:
        raise MalformedError("annex: a reference answer is too long")
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedError("annex: a reference answer is not JSON") from error

"""``host.toml``: what a host keeps for which states, and how much of itself each may take. Page:
``docs/spec/host-config.md``.
"""

from __future__ import annotations

import re

import msgspec

from exclave.errors import ConfigError, MalformedError
from exclave.formats.toml import read_toml
from exclave.ids import parse_fingerprint, parse_label

MAX_CONFIG_BYTES = 1 << 20
_HINT = "Correct host.toml and run the command again; nothing was changed."
MAX_STATES = 1000
MAX_CERTIFICATES = 100
MAX_PROCESSES = 64
_LISTEN = re.compile(r"(\[[0-9a-f:]+\]|[0-9a-z.-]+):([0-9]{1,5})\Z")
MAX_PORT = 65_535


class HostLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[limits]``: of the whole host."""

    connections: int = 1000
    """Open at the same time, all together."""
    anonymous_connections: int = 200
    """Of them, without a certificate. They never take the place of a state's own."""
    connections_per_address: int = 100
    """Of them, from one network address, without a certificate."""
    handshakes: int = 64
    """Connections whose TLS handshake has not ended; one more, and the oldest of them goes."""
    at_work: int = 16
    """Pieces of work on disk and processor at the same time."""
    processes: int = 0
    """That carry bytes between clients and disk; 0: as many as processors, up to four; 1: the one that decides too."""
    free_bytes: int = 1 << 30
    """What no write may take from the file system of a state's folder."""


class HostDuties(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[duties]``: what the host does besides keeping bytes."""

    memory: str = ""
    """Folder for what it has cosigned and when it last looked; mode 700, on one disk, out of backups. Needed for the
    keys below."""
    witness_key: str = ""
    """Key file of a witness (C2SP tlog-witness); empty: it is none."""
    mirror_key: str = ""
    """Key file of a mirror, another one than the witness's; needs ``witness_key``."""
    page: str = "127.0.0.1:8444"
    """Where the operator's page, ``/health`` and ``/metrics`` are, without TLS; empty: nowhere."""
    erase: str = "asked"
    """``asked``: orders to delete are carried out when somebody asks; ``daily``: by themselves, too; ``never``."""
    scrub_days: int = 30
    """So often all bytes are read and compared with their names; 0: never."""
    access_log: bool = False
    """A line for each answer in ``memory``, without names; at most 144 MiB."""


class HostedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[[state]]``"""

    name: str
    fingerprint: str
    folder: str
    """Existing, absolute or relative to the file's folder; nobody else's."""
    certificates: tuple[str, ...]
    """Files (PEM) with the certificates that speak for the state, relative to the file's folder."""
    quota_bytes: int
    quota_objects: int = 10_000_000
    anonymous_reads: bool = True
    connections: int = 64
    uploads: int = 16
    """Writes under way at the same time."""
    bytes_per_s: int = 0
    """In and out together; 0: as fast as it goes."""
    requests_per_s: int = 2000
    site: str = ""
    """What the state's charter calls this site; needed to carry out orders to delete."""
    others: tuple[str, ...] = ()
    """``NAME=ADDRESS`` of other sites of the state, to be read before anything is erased here."""


class HostConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``host.toml``"""

    name: str
    """The host's own name: on its page and in its metrics."""
    certificate: str
    """File with the chain for the host's name, relative to the file's folder."""
    key: str
    state: tuple[HostedConfig, ...]
    listen: str = "0.0.0.0:8443"
    limits: HostLimits = HostLimits()
    duties: HostDuties = HostDuties()


def parse_host_config(data: bytes) -> HostConfig:
    """Strict. Raises ``ConfigError`` saying where."""
    config = read_toml(data, HostConfig, name="host.toml", limit=MAX_CONFIG_BYTES, hint=_HINT)
    _check(config)
    return config


def _check(config: HostConfig) -> None:
    try:
        parse_label(config.name)
        for state in config.state:
            parse_label(state.name)
            parse_fingerprint(state.fingerprint)
            if state.site:
                parse_label(state.site)
    except MalformedError as error:
        raise _wrong(error.message) from error
    listen_address(config)
    _check_duties(config.duties)
    if not 1 <= len(config.state) <= MAX_STATES:
        raise _wrong(f"it names {len(config.state)} states; 1 to {MAX_STATES} [[state]] are possible")
    for what in ("name", "fingerprint", "folder"):
        values = [getattr(state, what) for state in config.state]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise _wrong(f"two [[state]] have the same {what} {twice[:80]!r}")
    for state in config.state:
        if not 1 <= len(state.certificates) <= MAX_CERTIFICATES:
            raise _wrong(f"state {state.name} needs 1 to {MAX_CERTIFICATES} certificates")
        _positive(f"state {state.name}: ", state, ("quota_bytes", "quota_objects", "connections", "uploads"))
        if state.bytes_per_s < 0 or state.requests_per_s < 1:
            raise _wrong(f"state {state.name}: bytes_per_s is not negative, requests_per_s at least 1")
    names = ("connections", "anonymous_connections", "connections_per_address", "handshakes", "at_work")
    _positive("limits: ", config.limits, names)
    if config.limits.free_bytes < 0 or config.limits.at_work < 2:
        raise _wrong("limits: free_bytes is not negative, at_work at least 2")
    if not 0 <= config.limits.processes <= MAX_PROCESSES:
        raise _wrong(f"limits: processes is 0 to {MAX_PROCESSES}")


def _check_duties(duties: HostDuties) -> None:
    if duties.erase not in ("asked", "daily", "never"):
        raise _wrong(f"duties: erase is asked, daily or never, not {duties.erase[:20]!r}")
    if duties.scrub_days < 0:
        raise _wrong("duties: scrub_days is not negative")
    if duties.mirror_key and not duties.witness_key:
        raise _wrong("duties: a mirror needs a witness_key beside its own")
    if duties.access_log and not duties.memory:
        raise _wrong("duties: access_log needs memory, the folder that it is written to")
    if duties.witness_key and not duties.memory:
        raise _wrong("duties: a witness needs memory, a folder for what it has cosigned")
    page_address(duties)


def listen_address(config: HostConfig) -> tuple[str, int]:
    """Host and port of ``listen``."""
    return _address(config.listen)


def page_address(duties: HostDuties) -> tuple[str, int] | None:
    """Host and port of ``page``; None if there is none."""
    return _address(duties.page) if duties.page else None


def _address(text: str) -> tuple[str, int]:
    found = _LISTEN.match(text)
    if found is None or int(found[2]) > MAX_PORT:
        raise _wrong(f"{text[:60]!r} is not address:port")
    return found[1].strip("[]"), int(found[2])


def _positive(where: str, of: HostLimits | HostedConfig, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(of, name) < 1:
            raise _wrong(f"{where}{name} is at least 1")


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"host.toml: {what}", hint=_HINT)

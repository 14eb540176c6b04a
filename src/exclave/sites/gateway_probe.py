"""Does a gateway refuse to delete? Asked of an object that the probe itself put there, with the writer's certificate.

That it refuses says what nobody can do who has home's credentials. It says nothing of the host's operator, who has the
disks: only a lock that his store keeps against him would.
"""

from __future__ import annotations

from exclave.errors import ExclaveError, SiteUnavailable
from exclave.ids import parse_key
from exclave.sites.gateway import GatewaySite
from exclave.sites.probe import DELETION_REFUSED, Promise, unkept

_DATA = b"Exclave puts this here to see whether it can be deleted.\n"


def try_deletion(gateway: GatewaySite, *, token: str) -> Promise:
    """The promise that a deletion is refused, and that the object is there unchanged afterwards."""
    key = parse_key(f"probe/{token}/{DELETION_REFUSED}/object")
    try:
        gateway.put_same(key, _DATA)
        status = gateway.status_of("DELETE", key)
        there = gateway.stat(key) is not None and gateway.get(key, limit=len(_DATA)) == _DATA
    except SiteUnavailable as error:
        if "role" in error.facts or error.facts.get("permanent"):
            return unkept(DELETION_REFUSED, error)
        raise
    except ExclaveError as error:
        return unkept(DELETION_REFUSED, error)
    if not there:
        return Promise(DELETION_REFUSED, False, f"an object was deleted (HTTP {status})")
    if status < 400:
        return Promise(DELETION_REFUSED, False, f"a deletion was accepted (HTTP {status}), though not done yet")
    return Promise(DELETION_REFUSED, True, f"the gateway refused a deletion ({status})")

"""Does a store's Object Lock hold? What a thief with the writer's keys would try, tried on objects of the probe's own.

Everything lies under ``probe/TOKEN/``. The one thing that touches the whole bucket, suspending its versions, is undone
at once if the store allows it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from exclave.errors import ExclaveError
from exclave.ids import Instant, Key, parse_key, sha256
from exclave.sites.contract import Site
from exclave.sites.locking import Locking, locking_of
from exclave.sites.open_s3 import open_read_s3, read_s3
from exclave.sites.patience import USUAL
from exclave.sites.probe import Promise, unkept
from exclave.sites.s3_versions import NO_ANSWER, open_client

PROBE_LOCK_DAYS = 1
_DATA = b"a thief must neither delete nor alter this\n"
_DAY = timedelta(days=1)


class _Broken(Exception):
    """A promise that was not kept; the text says what was seen instead."""


class LockProbe:
    """Tries the locks of the site at ``url``, an ``s3:`` address with ``lock=``; locks for a day only."""

    def __init__(self, url: str, *, token: str, environment: Mapping[str, str] | None = None) -> None:
        found = read_s3(urlsplit(url), os.environ if environment is None else environment)
        self._place = found.place
        self._token = token
        # As the site itself would do it, but that what the probe leaves is free after a day.
        short = replace(found, lock_days=min(found.lock_days, PROBE_LOCK_DAYS))
        self.site: Site = open_read_s3(short, USUAL)
        self.client: Any = open_client(found.place, found.keys, found.authorities, USUAL.small_timeout_s)

    def run(self) -> Iterator[Promise]:
        """Every promise in turn. Failures of the site are findings, not exceptions."""
        for name in LOCK_PROMISES:
            yield self.one(name)

    def one(self, name: str) -> Promise:
        """One of ``LOCK_PROMISES``."""
        try:
            return Promise(name, True, LOCK_PROMISES[name](_Object(self, name)))
        except _Broken as broken:
            return Promise(name, False, str(broken))
        except ExclaveError as error:
            return unkept(name, error)
        except (ClientError, BotoCoreError, *NO_ANSWER) as error:
            return Promise(name, False, f"{type(error).__name__}: {str(error)[:200]}")


class _Object:
    """One locked object of the probe, and what can be tried on it."""

    def __init__(self, probe: LockProbe, name: str) -> None:
        self.probe = probe
        data = _DATA + name.encode()
        self.data = data
        self.key: Key = parse_key(f"probe/{probe._token}/{name}/{sha256(data).hex()}")
        place = probe._place
        self.at = {"Bucket": place.bucket, "Key": f"{place.prefix}/{self.key}" if place.prefix else self.key}
        probe.site.put_same(self.key, data)
        found = probe.client.list_object_versions(Bucket=place.bucket, Prefix=self.at["Key"]).get("Versions", [])
        self.version = str(found[0]["VersionId"]) if found else ""
        if self.version in ("", "null"):
            raise _Broken("the bucket keeps no versions")

    def locking(self) -> Locking:
        found = locking_of(self.probe.site)
        if found is None:
            raise _Broken("the address has no lock=compliance")
        return found

    def refused(self, call: Callable[[], Any]) -> str:
        """The answer's code, of a call that must be refused; and the object must be what it was afterwards."""
        try:
            answer = call()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
        else:
            errors = answer.get("Errors", ()) if isinstance(answer, Mapping) else ()
            code = str(errors[0].get("Code", "")) if errors else ""
            if not code:
                raise _Broken("was accepted")
        self.require_unharmed()
        return f"refused ({code[:60]})"

    def require_unharmed(self) -> None:
        lock = self.probe.client.head_object(**self.at, VersionId=self.version)
        if lock.get("ObjectLockMode") != "COMPLIANCE":
            raise _Broken("the lock is gone")
        if self.probe.site.get(self.key) != self.data:
            raise _Broken("other bytes came back")


def _set(o: _Object) -> str:
    until = o.locking().locked_until(o.key)
    if until is None or until < o.locking().lock_end():
        raise _Broken("the object is not locked for as long as was asked")
    return "each object is locked by the request that puts it"


def _delete(o: _Object) -> str:
    return o.refused(lambda: o.probe.client.delete_object(**o.at, VersionId=o.version))


def _bypass(o: _Object) -> str:
    return o.refused(lambda: o.probe.client.delete_object(**o.at, VersionId=o.version, BypassGovernanceRetention=True))


def _multi_delete(o: _Object) -> str:
    objects = {"Objects": [{"Key": o.at["Key"], "VersionId": o.version}]}
    return o.refused(lambda: o.probe.client.delete_objects(Bucket=o.at["Bucket"], Delete=objects))


def _shorten(o: _Object) -> str:
    return o.refused(lambda: _retain(o, "COMPLIANCE", timedelta(minutes=5)))


def _downgrade(o: _Object) -> str:
    return o.refused(lambda: _retain(o, "GOVERNANCE", 30 * _DAY))


def _retain(o: _Object, mode: str, how_long: timedelta) -> Any:
    return o.probe.client.put_object_retention(
        **o.at, VersionId=o.version, BypassGovernanceRetention=True,
        Retention={"Mode": mode, "RetainUntilDate": datetime.now(UTC) + how_long},
    )  # fmt: skip


def _extend(o: _Object) -> str:
    later = Instant(o.locking().lock_end() + 86_400_000_000)
    o.locking().extend(o.key, later)
    if (o.locking().locked_until(o.key) or 0) < later:
        raise _Broken("the lock was not extended")
    return "a lock can be made longer"


def _hidden(o: _Object) -> str:
    o.probe.client.put_object(**o.at, Body=b"planted over it")
    o.require_unharmed()
    o.probe.client.delete_object(**o.at)
    o.require_unharmed()
    if o.key not in [item.key for item in o.probe.site.list(o.key.rpartition("/")[0] + "/")]:
        raise _Broken("an object under a delete marker is no longer listed")
    return "what is hidden by a marker or a later version is read and listed still"


def _versions_on(o: _Object) -> str:
    def suspend() -> Any:
        answer = o.probe.client.put_bucket_versioning(
            Bucket=o.at["Bucket"], VersioningConfiguration={"Status": "Suspended"}
        )
        with suppress(ClientError, BotoCoreError):
            o.probe.client.put_bucket_versioning(Bucket=o.at["Bucket"], VersioningConfiguration={"Status": "Enabled"})
        return answer

    return o.refused(suspend)


LOCK_PROMISES: dict[str, Callable[[_Object], str]] = {
    "lock-set": _set,
    "lock-refuses-delete": _delete,
    "lock-refuses-bypass": _bypass,
    "lock-refuses-multi-delete": _multi_delete,
    "lock-refuses-shortening": _shorten,
    "lock-refuses-downgrade": _downgrade,
    "lock-extends": _extend,
    "hidden-is-read": _hidden,
    "versions-stay-on": _versions_on,
}
"""Every promise of a locked bucket and its check, in the order in which they are tried."""

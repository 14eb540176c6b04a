"""Whether an engine honours conditions on writes: asked before anything relies on it.

Some engines call themselves S3 and ignore ``If-None-Match``, and then an object would be replaced unseen; some do so
in versioned buckets alone. The check costs one request for each kind of write and is remembered as long as the
process lives. It leaves one small object, the same for every process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from exclave.errors import AlreadyExists, OutcomeUnknown, SiteUnavailable
from exclave.ids import Key

CHECK_KEY = Key("probe/conditions")
KEEPS_OBJECTS = "keeps objects"
KEEPS_HEADS = "keeps heads"
CANNOT_BE_DELETED_FROM = "cannot be deleted from"
ROLES = (KEEPS_OBJECTS, KEEPS_HEADS, CANNOT_BE_DELETED_FROM)
_MARK = b"Exclave writes this twice to see whether the second write is refused.\n"


class Conditions:
    """What is known of one engine's conditions; safe to share by threads, who may ask twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects = False
        self._heads = False

    def require_objects(self, address: str, create: Callable[[Key, bytes], object]) -> None:
        """Returns if a second ``create`` under one name is refused. ``create`` raises ``AlreadyExists`` then."""
        if self._objects:
            return
        with self._lock:
            # At the first process the first write works. Any later one is refused, and so is the second of this one.
            if not self._objects and not (_refused(create) or _refused(create)):
                raise refusal(address, KEEPS_OBJECTS, "it ignores If-None-Match, so an object could be replaced unseen")
            self._objects = True

    def require_heads(self, address: str, replace_wrongly: Callable[[Key, bytes], object]) -> None:
        """Returns if a replacement that names a wrong tag is refused."""
        if self._heads:
            return
        with self._lock:
            if not self._heads and not _refused(replace_wrongly):
                raise refusal(address, KEEPS_HEADS, "it ignores If-Match, so two writers could undo each other's head")
            self._heads = True


def _refused(write: Callable[[Key, bytes], object]) -> bool:
    try:
        write(CHECK_KEY, _MARK)
    except AlreadyExists:
        return True
    except OutcomeUnknown as error:  # harmless here: the next try asks again
        raise SiteUnavailable(error.message, silent=bool(error.facts.get("silent"))) from error
    return False


def refusal(address: str, role: str, why: str, hint: str = "") -> SiteUnavailable:
    """Why a site is not given ``role``, before anything relies on it. It has the facts ``role`` and ``why``."""
    return SiteUnavailable(
        f"{address} is refused the role \"{role}\": {why}",
        hint=hint or "Run `exclave site probe` on it; the runbook new-site says which buckets an engine can give.",
        permanent=True, role=role, why=why,
    )  # fmt: skip

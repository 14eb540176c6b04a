"""What the answer of an engine that keeps buckets, or the lack of one, means to the caller."""

from __future__ import annotations

import re

from obstore.exceptions import AlreadyExistsError, PreconditionError

from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    ExclaveError,
    MissingObject,
    OutcomeUnknown,
    SiteFull,
    SiteReadOnly,
    SiteUnavailable,
)
from exclave.ids import Key

_STATUS = re.compile(r"status code: ([0-9]{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,60})</Code>")
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity", "TooManyBytes"}
_WRONG_KEY_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "ExpiredToken"}
_NO_BUCKET_CODES = {"NoSuchBucket", "ContainerNotFound"}
_UNREACHED = (
    "Nothing answers there: check the endpoint's host and port in the address, or ask its operator whether it runs."
)
_NOT_DONE = {408, 409, 429, 503}  # the engine says that it did nothing and wants to be asked again


def explain_bucket(
    error: Exception, key: Key, address: str, *, writing: bool, replacing: bool = False
) -> ExclaveError:  # fmt: skip
    """``error``: what obstore raised. It gives the HTTP status and the engine's own code only inside its message.
    ``replacing``: the write named the object that it replaces; then its absence is a condition that failed.
    """
    text = str(error)
    status_text, code_text = _STATUS.search(text), _CODE.search(text)
    status = int(status_text[1]) if status_text else 0
    code = code_text[1] if code_text else ""
    if not status and "but object was only" in text:  # Azure answers a range beyond the end with the end
        status = 416
    conditional = isinstance(error, AlreadyExistsError | PreconditionError)
    failed = (
        status == 412
        or code == "BlobAlreadyExists"
        or (conditional and status in (0, 304))
        or (replacing and status == 404)
    )
    return explain_answer(status, code, cause(text), key, address, writing=writing, condition_failed=failed,
                          sent="kind: Connect" not in text, absent=isinstance(error, FileNotFoundError))  # fmt: skip


def explain_answer(
    status: int, code: str, why: str, key: Key, address: str, *, writing: bool, condition_failed: bool, sent: bool,
    absent: bool = False,
) -> ExclaveError:  # fmt: skip
    """``status``: 0 if there was no answer; ``sent``: whether the request can have reached the engine."""
    said = f"{key} at {address}: HTTP {status} {code}".rstrip()
    if code in _NO_BUCKET_CODES:
        hint = "Correct the bucket's name in the address, or create it; these keys may also not be allowed to see it."
        return SiteUnavailable(f"there is no bucket at {address}", permanent=True, hint=hint)
    if condition_failed and writing:  # a read has no condition: whoever answers so to one lies, or is broken
        return AlreadyExists(f"{key} is already at {address}", key=key)
    if status == 507 or code in _FULL_CODES:
        return SiteFull(said, key=key)
    if status in (401, 403):
        if writing and code not in _WRONG_KEY_CODES:
            return SiteReadOnly(said, key=key)
        hint = "Check the access key, its secret and its rights, and this machine's clock."
        return SiteUnavailable(f"{said} (access refused)", hint=hint, key=key, permanent=True)
    if writing:
        return _explain_failed_write(status, why, said, key, sent=sent)
    if status == 404 or absent:
        return MissingObject(f"{key} is not at {address}", key=key)
    if status == 416:
        return CorruptObject(f"{key} at {address} is too short", key=key)
    if status:
        return SiteUnavailable(said, key=key, permanent=400 <= status < 500 and status not in _NOT_DONE)
    return SiteUnavailable(f"{key} at {address}: {why}", key=key, silent=True, hint="" if sent else _UNREACHED)


def _explain_failed_write(status: int, why: str, said: str, key: Key, *, sent: bool) -> ExclaveError:
    if status in _NOT_DONE:
        return SiteUnavailable(said, key=key)
    if 400 <= status < 500:
        return SiteUnavailable(f"{said}: {why}", key=key, permanent=True)
    if not sent:
        return SiteUnavailable(f"{said}: {why}", key=key, silent=True, hint=_UNREACHED)
    return OutcomeUnknown(f"{said}: {why}", key=key, silent=not status)


def cause(text: str) -> str:
    """The useful part of obstore's message, on one line of plain characters: it may quote what a host sent."""
    line = text.split("\n", 1)[0].rsplit(" - ", 1)[-1]
    return "".join(c for c in line if c.isprintable())[:200]

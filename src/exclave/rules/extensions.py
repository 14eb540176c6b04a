"""Whether an extension list lets a certificate pass that has expired. Page: ``docs/spec/extension.md``.

Asked only of a certificate whose signature was verified, whose status is good, and whose end has passed: a list never
speaks for what is revoked, held or not yet valid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exclave.formats.extension import MAX_LENGTH_S, ExtensionList
from exclave.ids import Digest, Instant, instant_text


@dataclass(frozen=True, slots=True)
class Extended:
    """A list in force accepts it."""

    by: Digest
    """The list's digest."""
    until: Instant
    """The last moment at which this list accepts it."""


@dataclass(frozen=True, slots=True)
class NotExtended:
    """No list does; ``why`` is for the operator's log and names nobody."""

    why: str


def extended(
    lists: Iterable[ExtensionList], *, issuer: Digest, spki_sha256: Digest, serial: int, ended: Instant, now: Instant
) -> Extended | NotExtended:
    """Of several lists that accept the certificate, the one that does so longest.

    ``lists``: those that were not ended, as the status store gives them. ``spki_sha256``: of the certificate's
    SubjectPublicKeyInfo; ``ended``: its notAfter.
    """
    best: Extended | None = None
    why = "no list speaks of it"
    for one in lists:
        if one.issuer != issuer or not _names(one, spki_sha256, serial, ended):
            continue
        last = Instant(min(one.not_after, one.until, ended + MAX_LENGTH_S * 1_000_000))
        if now < one.not_before:
            why = f"the list counts from {instant_text(one.not_before)}"
        elif now > last:
            why = f"the list accepted it until {instant_text(last)}"
        elif best is None or last > best.until:
            best = Extended(one.digest, last)
    return best or NotExtended(why)


def _names(one: ExtensionList, spki_sha256: Digest, serial: int, ended: Instant) -> bool:
    if spki_sha256 in one.keys:
        return True
    if one.rule is None or serial in one.exceptions:
        return False
    return one.rule.first <= ended <= one.rule.last

"""The extension lists of the status store, parsed once for each change of the store."""

from __future__ import annotations

from typing import Protocol

from exclave.errors import MalformedError
from exclave.formats.extension import ExtensionList, parse_extension
from exclave.formats.note import parse_note
from exclave.ids import Digest, Instant
from exclave.rules.extensions import Extended, NotExtended, extended


class _Lists(Protocol):
    def generation(self) -> int: ...

    def extensions(self) -> tuple[bytes, ...]: ...


class Extensions:
    """Whether an expired certificate is accepted all the same. Call it once its signature and status were found good.

    Safe from several threads: two may parse the lists at once, and both get the same.
    """

    def __init__(self, store: _Lists) -> None:
        self._store = store
        self._parsed: tuple[int, tuple[ExtensionList, ...]] = (-1, ())

    def __call__(
        self, *, issuer: Digest, spki_sha256: Digest, serial: int, ended: Instant, now: Instant
    ) -> Extended | NotExtended:
        """See ``rules.extensions.extended``."""
        return extended(
            self._lists(), issuer=issuer, spki_sha256=spki_sha256, serial=serial, ended=ended, now=now
        )  # fmt: skip

    def _lists(self) -> tuple[ExtensionList, ...]:
        # The number is read first: a list that is applied in between is parsed again next time, never missed.
        generation = self._store.generation()
        known, lists = self._parsed
        if known != generation:
            lists = tuple(found for note in self._store.extensions() if (found := _read(note)) is not None)
            self._parsed = (generation, lists)
        return lists


def _read(note: bytes) -> ExtensionList | None:
    """A list that cannot be read accepts nobody; the others go on counting."""
    try:
        return parse_extension(parse_note(note).text)
    except MalformedError:
        return None

"""Where the status of an issuer's certificates comes from, and what one reading of it said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from exclave.identity.status_log import Serial, StatusLog
from exclave.ids import Digest, Instant, Label


class SourceKind(StrEnum):
    """In the order in which they are read: a delta builds on the full list."""

    CRL = "crl"
    DELTA_CRL = "delta-crl"
    INDEX_TXT = "index-txt"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Source:
    """One source of one issuer; either ``path`` or ``url``."""

    kind: SourceKind
    label: Label
    """The issuer's."""
    issuer: Digest
    """``crypto.crl.issuer_id`` of ``certificate``."""
    certificate: bytes = field(repr=False)
    """DER or PEM of the CA's certificate."""
    path: str = ""
    """A file; for CRLs also a folder into which they are dropped."""
    url: str = ""
    """``http`` or ``https``; CRLs only."""
    confirm_every_s: int = 60
    """A source that is followed as it changes says so often that it still says the same."""
    fetch_every_s: int = 60
    """A ``url`` is asked no more often than that."""

    @property
    def live(self) -> bool:
        """It shows each decision when it is made, so what it says is true at the moment of reading."""
        return self.kind in (SourceKind.INDEX_TXT, SourceKind.CSV)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source said at one moment."""

    log: StatusLog
    released: Mapping[Serial, Instant] = field(default_factory=dict)
    """Holds that it says have ended, with the moment: an older hold ends, a newer one does not."""
    whole: bool = True
    """It names every certificate that is stopped; False: only changes (a delta CRL)."""
    confirms: bool = True
    """Nothing that was decided before its time is missing, once it is entered."""
    valid_ends_holds: bool = False
    """A certificate that it held before and now lists as valid is released (``index.txt``)."""

"""A site in a bucket of Google Cloud Storage. Page: ``docs/spec/layout.md``.

A state of an object is named by its generation there. No locks that this product sets: a thief of the service
account's key can delete.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from obstore.store import GCSStore

from exclave.sites.bucket import BucketSite, Dialect
from exclave.sites.bucket_client import NO_RETRIES, client_options, making_client
from exclave.sites.patience import Patience

GOOGLE = "https://storage.googleapis.com"
_DIALECT = Dialect(
    tag=lambda told: told["version"],
    expected=lambda tag: ({"version": tag},),
    wrong="1",
)


@dataclass(frozen=True, slots=True)
class GcsPlace:
    """Where a bucket is, without secrets."""

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""
    endpoint: str

    @property
    def address(self) -> str:
        query = f"?{urlencode({'endpoint': self.endpoint}, safe=':/[]')}" if self.endpoint != GOOGLE else ""
        return f"gs://{self.bucket}/{self.prefix}{query}"


def gcs_site(place: GcsPlace, account: str, authorities: bytes | None, patience: Patience) -> BucketSite:
    """``account``: the JSON of a service account with its key; empty: no signatures, for public buckets."""
    small = _store(place, account, authorities, patience.small_timeout_s)
    large = _store(place, account, authorities, patience.large_timeout_s)
    # Without keys its client would look for some elsewhere before it writes.
    return BucketSite(place.address, small, large, dialect=_DIALECT, writable=bool(account))


def _store(place: GcsPlace, account: str, authorities: bytes | None, timeout_s: float) -> GCSStore:
    with making_client(place.address, quoted=not account):  # the client's words could quote the key
        return GCSStore(
            place.bucket,
            prefix=place.prefix or None,
            config={
                **({"base_url": place.endpoint} if place.endpoint != GOOGLE else {}),
                **({"service_account_key": account} if account else {"skip_signature": True}),
            },
            client_options=client_options(place.endpoint, authorities, timeout_s),
            retry_config=NO_RETRIES,
        )

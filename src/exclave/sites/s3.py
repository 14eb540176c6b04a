"""A site in a bucket of any S3 engine that has conditional writes (If-None-Match and If-Match)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from obstore.store import S3Store

from exclave.errors import ConfigError
from exclave.sites.bucket import BucketSite, Dialect
from exclave.sites.bucket_client import NO_RETRIES, client_options, making_client
from exclave.sites.patience import LARGE_TIMEOUT_S, SMALL_TIMEOUT_S

if TYPE_CHECKING:
    from obstore.store import S3Credential

# Ceph compares what is sent with a tag without quotes, all others with the tag as they gave it.
_DIALECT = Dialect(
    tag=lambda told: told["e_tag"],
    expected=lambda tag: ({"e_tag": tag}, {"e_tag": tag.strip('"')}),
    wrong='"00000000000000000000000000000000"',
)


@dataclass(frozen=True, slots=True)
class S3Keys:
    """What signs the requests."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where a bucket is, without secrets."""

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""
    endpoint: str
    """``https://host[:port]``; ``http://`` only where the operator wrote so."""
    region: str

    @property
    def address(self) -> str:
        query = urlencode({"endpoint": self.endpoint, "region": self.region}, safe=":/[]")
        return f"s3://{self.bucket}/{self.prefix}?{query}"


class S3Site(BucketSite):
    """A site under a prefix of a bucket.

    ``keys`` None means requests without signature, for public buckets. ``authorities`` are PEM certificates to trust
    beside the system's.
    """

    def __init__(
        self,
        place: S3Place,
        keys: S3Keys | None,
        *,
        authorities: bytes | None = None,
        small_timeout_s: float = SMALL_TIMEOUT_S,
        large_timeout_s: float = LARGE_TIMEOUT_S,
        sorted_at_once: int = 10_000,
    ) -> None:
        super().__init__(
            place.address, open_store(place, keys, authorities, small_timeout_s),
            open_store(place, keys, authorities, large_timeout_s), dialect=_DIALECT, sorted_at_once=sorted_at_once,
        )  # fmt: skip


def open_store(
    place: S3Place, keys: S3Keys | None, authorities: bytes | None, timeout_s: float,
    headers: Mapping[str, str] | None = None,
) -> S3Store:  # fmt: skip
    """A client of the bucket. ``headers`` go with each request, and are signed."""

    def credentials() -> S3Credential:
        if keys is None:
            raise ConfigError(f"{place.address} is opened without keys")
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.session_token,
            "expires_at": None,
        }

    with making_client(place.address):
        return S3Store(
            place.bucket,
            prefix=place.prefix or None,
            config={
                "endpoint": place.endpoint,
                "aws_endpoint_url_s3": place.endpoint,
                "region": place.region,
                "conditional_put": "etag",
                "checksum_algorithm": "SHA256",
                "virtual_hosted_style_request": False,
                "skip_signature": keys is None,
            },
            client_options=client_options(place.endpoint, authorities, timeout_s, headers),
            retry_config=NO_RETRIES,
            credential_provider=credentials if keys else None,
        )

"""A site in a container of Azure Blob Storage. Page: ``docs/spec/layout.md``.

Azure has conditional writes of its own and no locks that this product sets: a thief of the account's key can delete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from obstore.store import AzureStore

from exclave.errors import ConfigError
from exclave.sites.bucket import BucketSite, Dialect
from exclave.sites.bucket_client import NO_RETRIES, client_options, making_client
from exclave.sites.patience import Patience

if TYPE_CHECKING:
    from obstore.store import AzureAccessKey

_DIALECT = Dialect(
    tag=lambda told: told["e_tag"],
    expected=lambda tag: ({"e_tag": tag},),
    wrong='"0x8D0000000000000"',
)


@dataclass(frozen=True, slots=True)
class AzurePlace:
    """Where a container is, without secrets."""

    account: str
    container: str
    prefix: str
    """Without slashes at its ends; empty for the whole container."""
    endpoint: str
    """``https://host[:port][/path]``, without the container."""

    @property
    def address(self) -> str:
        query = urlencode({"account": self.account, "endpoint": self.endpoint}, safe=":/[]")
        return f"az://{self.container}/{self.prefix}?{query}"


@dataclass(frozen=True, slots=True)
class AzureKey:
    """What signs the requests: the account's shared key, in base64."""

    account_key: str = field(repr=False)


def azure_site(place: AzurePlace, key: AzureKey | None, authorities: bytes | None, patience: Patience) -> BucketSite:
    """``key`` None: requests without signature, for public containers."""
    small = _store(place, key, authorities, patience.small_timeout_s)
    large = _store(place, key, authorities, patience.large_timeout_s)
    return BucketSite(place.address, small, large, dialect=_DIALECT)


def _store(place: AzurePlace, key: AzureKey | None, authorities: bytes | None, timeout_s: float) -> AzureStore:
    def credentials() -> AzureAccessKey:
        if key is None:
            raise ConfigError(f"{place.address} is opened without keys")
        return {"access_key": key.account_key, "expires_at": None}

    with making_client(place.address):
        return AzureStore(
            place.container,
            prefix=place.prefix or None,
            config={"account_name": place.account, "endpoint": place.endpoint, "skip_signature": key is None},
            client_options=client_options(place.endpoint, authorities, timeout_s),
            retry_config=NO_RETRIES,
            credential_provider=credentials if key else None,
        )

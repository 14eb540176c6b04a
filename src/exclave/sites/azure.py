"""A site in a container of Azure Blob Storage. Page: ``docs/spec/layout.md``.

Azure has conditional writes of its own and no locks that this product sets: a thief of the account's key can delete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from obstore.exceptions import BaseError
from obstore.store import AzureStore

from exclave.errors import ConfigError
from exclave.sites.bucket import BucketSite, Dialect
from exclave.sites.bucket_errors import cause
from exclave.sites.patience import CONNECT_TIMEOUT_S, Patience

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
    """An obstore client in which nothing depends on the process's environment."""

    def credentials() -> AzureAccessKey:
        if key is None:
            raise ConfigError(f"{place.address} is opened without keys")
        return {"access_key": key.account_key, "expires_at": None}

    try:
        return AzureStore(
            place.container,
            prefix=place.prefix or None,
            config={"account_name": place.account, "endpoint": place.endpoint, "skip_signature": key is None},
            client_options={
                "allow_http": place.endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, timeout_s)),
                "timeout": timedelta(seconds=timeout_s),
                **({"root_certificate": authorities} if authorities else {}),
            },
            retry_config={"max_retries": 0},
            credential_provider=credentials if key else None,
        )
    except (BaseError, ValueError) as error:
        raise ConfigError(f"cannot open {place.address}: {cause(str(error))}") from error

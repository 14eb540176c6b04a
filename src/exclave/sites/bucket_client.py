"""What the clients of all engines have in common, so that nothing depends on the process's environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from obstore.exceptions import BaseError

from exclave.errors import ConfigError
from exclave.sites.bucket_errors import cause
from exclave.sites.patience import CONNECT_TIMEOUT_S

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

NO_RETRIES: Final[RetryConfig] = {"max_retries": 0}
"""A conditional write that is repeated blindly meets its own first try: ``RetryingSite`` does it knowingly."""


def client_options(
    endpoint: str, authorities: bytes | None, timeout_s: float, headers: Mapping[str, str] | None = None
) -> ClientConfig:
    """How an engine is reached. ``authorities``: PEM certificates to trust beside the system's; ``headers`` go with
    each request.
    """
    return {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, timeout_s)),
        "timeout": timedelta(seconds=timeout_s),
        **({"root_certificate": authorities} if authorities else {}),
        **({"default_headers": dict(headers)} if headers else {}),
    }


@contextmanager
def making_client(address: str, *, quoted: bool = True) -> Iterator[None]:
    """``ConfigError`` if the client refuses what it is given; in its own words if those may be ``quoted``."""
    try:
        yield
    except (BaseError, ValueError) as error:
        raise ConfigError(f"cannot open {address}: {cause(str(error)) if quoted else ''}") from error

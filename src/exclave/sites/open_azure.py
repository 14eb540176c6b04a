"""From an ``az:`` address to the site.

::

    az://container/prefix?account=NAME&…     a container of Azure Blob Storage; further parameters are
        endpoint=https://host:port/path      default: https://NAME.blob.core.windows.net
        credentials=/path.toml               private file (mode 600) with account_key; default: the environment variable
                                             AZURE_STORAGE_ACCOUNT_KEY
        authorities=/path.pem                certificates to trust beside the system's
        anonymous=yes                        requests without signature, for reading public containers
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from urllib.parse import SplitResult

from exclave.errors import ConfigError, MalformedError
from exclave.ids import parse_b64
from exclave.sites.address import read_endpoint, read_file, read_parameters, read_prefix, read_secrets
from exclave.sites.azure import AzureKey, AzurePlace, azure_site
from exclave.sites.contract import Site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryingSite

_CONTAINER = re.compile(r"[a-z0-9](-?[a-z0-9]){2,62}\Z")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}\Z")
_PARAMETERS = ("account", "endpoint", "credentials", "authorities", "anonymous")


def open_azure(parts: SplitResult, environment: Mapping[str, str], patience: Patience) -> Site:
    """The site at an ``az:`` address."""
    prefix = read_prefix(parts)
    if not _CONTAINER.match(parts.netloc):
        raise ConfigError(f"not the name of a container: {parts.netloc!r}")
    query = read_parameters(parts.query, _PARAMETERS)
    account = query.get("account", "")
    if not _ACCOUNT.match(account):
        raise ConfigError("an az: address needs account=, the storage account's name")
    endpoint = read_endpoint(query.get("endpoint", f"https://{account}.blob.core.windows.net"))
    authorities = read_file(query["authorities"], private=False) if "authorities" in query else None
    site = azure_site(
        AzurePlace(account, parts.netloc, prefix, endpoint), _key(query, environment), authorities, patience
    )
    return RetryingSite(site, sleep=time.sleep, clock=time.monotonic, spread=random.random, policy=patience.policy)


def _key(query: Mapping[str, str], environment: Mapping[str, str]) -> AzureKey | None:
    if "anonymous" in query:
        if query["anonymous"] != "yes" or "credentials" in query:
            raise ConfigError("anonymous=yes stands alone, without credentials")
        return None
    if "credentials" in query:
        return _checked(read_secrets(query["credentials"], ("account_key",))["account_key"])
    key = environment.get("AZURE_STORAGE_ACCOUNT_KEY")
    if not key:
        raise ConfigError(
            "no key for the container",
            hint="Set AZURE_STORAGE_ACCOUNT_KEY, or add credentials=/path/of/file to the address.",
        )
    return _checked(key)


def _checked(text: str) -> AzureKey:
    try:
        parse_b64(text, limit=1024)
    except MalformedError as error:
        # Without the parser's words, which could quote the key.
        raise ConfigError("the account's key is not base64") from error
    return AzureKey(text)

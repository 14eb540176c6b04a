"""From a ``gs:`` address to the site.

::

    gs://bucket/prefix?…                    a bucket of Google Cloud Storage; the parameters are
        credentials=/path.json              private file (mode 600): the JSON of a service account with its key
        endpoint=https://host:port          default: Google's
        authorities=/path.pem               certificates to trust beside the system's
        anonymous=yes                       requests without signature, for public buckets
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from urllib.parse import SplitResult

from exclave.errors import ConfigError
from exclave.sites.address import read_endpoint, read_file, read_parameters, read_prefix
from exclave.sites.contract import Site
from exclave.sites.gcs import GOOGLE, GcsPlace, gcs_site
from exclave.sites.patience import Patience
from exclave.sites.retry import RetryingSite

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]\Z")
_PARAMETERS = ("endpoint", "credentials", "authorities", "anonymous")


def open_gcs(parts: SplitResult, environment: Mapping[str, str], patience: Patience) -> Site:
    """The site at a ``gs:`` address. No variable of the environment counts here, and no metadata service is asked."""
    prefix = read_prefix(parts)
    if not _BUCKET.match(parts.netloc):
        raise ConfigError(f"not the name of a bucket: {parts.netloc!r}")
    query = read_parameters(parts.query, _PARAMETERS)
    place = GcsPlace(parts.netloc, prefix, read_endpoint(query.get("endpoint", GOOGLE)))
    authorities = read_file(query["authorities"], private=False) if "authorities" in query else None
    site = gcs_site(place, _account(query), authorities, patience)
    return RetryingSite(site, sleep=time.sleep, clock=time.monotonic, spread=random.random, policy=patience.policy)


def _account(query: Mapping[str, str]) -> str:
    if "anonymous" in query:
        if query["anonymous"] != "yes" or "credentials" in query:
            raise ConfigError("anonymous=yes stands alone, without credentials")
        return ""
    if "credentials" not in query:
        raise ConfigError(
            "no keys for the bucket",
            hint="Add credentials=/path/of/file to the address: the JSON of a service account with its key.",
        )
    try:
        return read_file(query["credentials"], private=True).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{query['credentials']} is not the JSON of a service account") from error

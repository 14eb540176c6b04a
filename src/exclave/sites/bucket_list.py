"""What a bucket's engine lists, page by page and folder by folder, with an end in time.

obstore goes on by itself from an empty page to the next, and an engine may send empty pages for ever; so it is asked in
a thread of its own, which is waited for no longer than ``within_s``. One that never ends is left behind, and ends with
the process. (Its asynchronous calls would end in time, but leave threads that sometimes abort a process that ends.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import obstore

from exclave.sites.in_time import in_time
from exclave.sites.patience import LARGE_TIMEOUT_S

if TYPE_CHECKING:
    from obstore import ListResult, ObjectMeta
    from obstore.store import ObjectStore

PAGE_S = 60
"""For a page of names, which may be several requests."""
FOLDER_S = LARGE_TIMEOUT_S
"""For all names of one folder: obstore gives them at once."""
_PAGE = 1000


def list_pages(store: ObjectStore, prefix: str, *, within_s: float = PAGE_S) -> Iterator[Sequence[ObjectMeta]]:
    """Everything below ``prefix``, up to 1000 names at a time, in the engine's order. Fails as obstore does, or with
    ``SiteUnavailable``."""
    stream = iter(obstore.list(store, prefix or None, chunk_size=_PAGE))
    while (page := in_time(within_s, lambda: next(stream, None), _listing(prefix))) is not None:
        yield page


def list_folder(store: ObjectStore, prefix: str, *, within_s: float = FOLDER_S) -> ListResult[Sequence[ObjectMeta]]:
    """Objects and folders directly below ``prefix``. Fails as ``list_pages`` does."""
    return in_time(within_s, lambda: obstore.list_with_delimiter(store, prefix or None), _listing(prefix))


def _listing(prefix: str) -> str:
    return f"who lists the names below {prefix or '/'}"

"""What a bucket's engine lists, page by page and folder by folder, with an end in time.

obstore goes on by itself from an empty page to the next, and an engine may send empty pages for ever; so it is asked in
a thread of its own, which is waited for no longer than ``within_s``. One that never ends is left behind, and ends with
the process. (Its asynchronous calls would end in time, but leave threads that sometimes abort a process that ends.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError

from exclave.errors import SiteUnavailable
from exclave.sites.patience import LARGE_TIMEOUT_S

if TYPE_CHECKING:
    from obstore import ListResult, ObjectMeta
    from obstore.store import ObjectStore

PAGE_S = 60
"""For a page of names, which may be several requests."""
FOLDER_S = LARGE_TIMEOUT_S
"""For all names of one folder: obstore gives them at once."""
_PAGE = 1000
_T = TypeVar("_T")


def list_pages(store: ObjectStore, prefix: str, *, within_s: float = PAGE_S) -> Iterator[Sequence[ObjectMeta]]:
    """Everything below ``prefix``, up to 1000 names at a time, in the engine's order. Fails as obstore does, or with
    ``SiteUnavailable``."""
    stream = iter(obstore.list(store, prefix or None, chunk_size=_PAGE))
    while (page := _within(within_s, prefix, lambda: next(stream, None))) is not None:
        yield page


def list_folder(store: ObjectStore, prefix: str, *, within_s: float = FOLDER_S) -> ListResult[Sequence[ObjectMeta]]:
    """Objects and folders directly below ``prefix``. Fails as ``list_pages`` does."""
    return _within(within_s, prefix, lambda: obstore.list_with_delimiter(store, prefix or None))


def _within(within_s: float, prefix: str, ask: Callable[[], _T]) -> _T:
    answers: SimpleQueue[tuple[_T] | BaseError | FileNotFoundError] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(),))
        except (BaseError, FileNotFoundError) as error:
            answers.put(error)

    Thread(target=run, name="list", daemon=True).start()
    try:
        answer = answers.get(timeout=within_s)
    except Empty as error:
        said = f"no name below {prefix or '/'} came within {within_s:g} s of listing"
        raise SiteUnavailable(said, silent=True) from error
    if isinstance(answer, tuple):
        return answer[0]
    raise answer

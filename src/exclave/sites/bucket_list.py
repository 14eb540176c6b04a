"""What a bucket's engine lists, page by page and folder by folder, with an end in time.

obstore goes on by itself from an empty page to the next, and an engine may send empty pages for ever; so each page is
waited for no longer than ``within_s``. A thread that has an event loop running cannot call this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import obstore

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


def list_pages(store: ObjectStore, prefix: str, *, within_s: float = PAGE_S) -> Iterator[list[ObjectMeta]]:
    """Everything below ``prefix``, up to 1000 names at a time, in the engine's order. Fails as obstore does, or with
    ``SiteUnavailable``."""
    stream = obstore.list(store, prefix or None, chunk_size=_PAGE)

    async def following() -> list[ObjectMeta] | None:
        try:
            return list(await anext(stream))
        except StopAsyncIteration:
            return None

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        while True:
            try:
                page = runner.run(asyncio.wait_for(following(), within_s))
            except TimeoutError as error:
                raise _endless(prefix, within_s) from error
            if page is None:
                return
            yield page


def list_folder(store: ObjectStore, prefix: str, *, within_s: float = FOLDER_S) -> ListResult[Sequence[ObjectMeta]]:
    """Objects and folders directly below ``prefix``. Fails as ``list_pages`` does."""

    async def found() -> ListResult[Sequence[ObjectMeta]]:
        return await obstore.list_with_delimiter_async(store, prefix or None)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        try:
            return runner.run(asyncio.wait_for(found(), within_s))
        except TimeoutError as error:
            raise _endless(prefix, within_s) from error


def _endless(prefix: str, within_s: float) -> SiteUnavailable:
    return SiteUnavailable(f"no name below {prefix or '/'} came within {within_s:g} s of listing", silent=True)

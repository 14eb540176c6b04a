"""Brings the members of a coded site what they lack or have wrong, from each other."""

from __future__ import annotations

from collections.abc import Iterator

from exclave.errors import ExclaveError, MissingObject
from exclave.ids import Key
from exclave.sites.coded import CodedSite
from exclave.sites.coded_form import named_digest
from exclave.sites.locking import is_head


def mend(site: CodedSite, prefix: str = "") -> Iterator[tuple[Key, int, ExclaveError | None]]:
    """(object, member's number, None) for each member that was brought something of it, and (object, number, error)
    for each that would not take it. May be repeated: a restart finds what was brought, and brings the rest.

    ``CorruptObject`` at an object of which fewer than k shards are left; ``SiteUnavailable`` if fewer than k members
    answer, or too few for a head.
    """
    # A host checks a ledger by the notes that lie there, and a head by the tiles: so first what is named by its hash.
    for wanted in (_by_hash, _by_place, is_head):
        for stat in site.list(prefix):
            if wanted(stat.key):
                yield from _head(site, stat.key) if is_head(stat.key) else _object(site, stat.key)


def _by_hash(key: Key) -> bool:
    return named_digest(key) is not None


def _by_place(key: Key) -> bool:
    return not _by_hash(key) and not is_head(key)


def _object(site: CodedSite, key: Key) -> Iterator[tuple[Key, int, ExclaveError | None]]:
    try:
        data = site.get(key)
    except MissingObject:
        return  # erased meanwhile
    named, shards = site.cut(key, data)
    for at in range(len(site.members)):
        try:
            if site.put_right(at, key, named, shards):
                yield key, at, None
        except ExclaveError as error:
            yield key, at, error


def _head(site: CodedSite, key: Key) -> Iterator[tuple[Key, int, ExclaveError | None]]:
    """Its votes first: if some member lacks the newest, all that answer accept it anew."""
    votes = site.heads.votes(key)
    if len({(vote.accepted, vote.digest) for vote in votes.values()}) > 1:
        site.heads.settle(key, empty=frozenset(at for at, vote in votes.items() if not vote.accepted.counter))
    head = site.heads.read(key)
    if head is None:
        return
    now = site.heads.votes(key)
    for at in range(len(site.members)):
        brought = at in votes and at in now and now[at].digest != votes[at].digest
        try:
            if site.carry(key, head.data, at) or brought:
                yield key, at, None
        except ExclaveError as error:
            yield key, at, error

"""Brings the members of a coded site what they lack or have wrong, from each other."""

from __future__ import annotations

from collections.abc import Iterator

from exclave.errors import ExclaveError, IntegrityError, MissingObject, NotAuthorised
from exclave.ids import Key, sha256
from exclave.sites.coded import CodedSite
from exclave.sites.coded_form import named_digest
from exclave.sites.conditions import CHECK_KEY
from exclave.sites.locking import is_head

Step = tuple[Key, int | None, ExclaveError | None]
"""An object, a member's number, and why that member did not take what it lacks; without a member, why nobody can mend
the object at all."""


def mend(site: CodedSite, prefix: str = "") -> Iterator[Step]:
    """(object, member's number, None) for each member that was brought something of it, and (object, number, error)
    for each that would not take it. May be repeated: a restart finds what was brought, and brings the rest.

    An object that cannot be mended, as fewer than k shards are left, or fewer than k members vouch for what no hash
    proves, keeps no other from it: (object, None, error). ``SiteUnavailable`` if fewer than k members answer, or too
    few for a head.
    """
    # A host checks a ledger by the notes that lie there, and a head by the tiles: so first what is named by its hash.
    for wanted in (_by_hash, _by_place, is_head):
        for stat in site.list(prefix):
            if wanted(stat.key) and stat.key != CHECK_KEY:  # each engine has, or has not, its own
                yield from _head(site, stat.key) if is_head(stat.key) else _object(site, stat.key)


def _by_hash(key: Key) -> bool:
    return named_digest(key) is not None


def _by_place(key: Key) -> bool:
    return not _by_hash(key) and not is_head(key)


def _object(site: CodedSite, key: Key) -> Iterator[Step]:
    try:
        # It takes the place of other bytes, so what its own name does not prove must not be the word of a few.
        digest = named_digest(key)
        data = site.vouched(key) if digest is None else site.get(key)
        if digest not in (None, sha256(data)):
            data = site.vouched(key)
    except MissingObject:
        return  # erased meanwhile
    except IntegrityError as error:
        yield key, None, error
        return
    named, shards = site.cut(key, data)
    for at in range(len(site.members)):
        try:
            if site.put_right(at, key, named, shards):
                yield key, at, None
        except ExclaveError as error:
            yield key, at, error


def _head(site: CodedSite, key: Key) -> Iterator[Step]:
    """Its votes first: if some member lacks the newest, all that answer accept it anew."""
    votes = site.heads.votes(key)
    try:
        if len({(vote.accepted, vote.digest) for vote in votes.values()}) > 1:
            site.heads.settle(key, empty=frozenset(at for at, vote in votes.items() if not vote.accepted.counter))
        head = site.heads.read(key)
    except (IntegrityError, NotAuthorised) as error:
        yield key, None, error
        return
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

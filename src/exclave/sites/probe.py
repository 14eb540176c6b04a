"""Does a store keep the promises of a site? The contract as checks that run against any real provider.

The checks write about 20 MiB under ``probe/TOKEN/``. There is no deletion in the contract, so that is left behind:
its operator may remove everything below ``probe/``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from exclave.errors import (
    AlreadyExists,
    CorruptObject,
    ExclaveError,
    HeadMoved,
    MissingObject,
    SiteFull,
    SiteReadOnly,
    UnavailableError,
)
from exclave.ids import Key, parse_key, sha256
from exclave.sites.contract import MAX_HEAD_BYTES, ObjectStat, Site, Tagged

DELETION_REFUSED = "deletion-refused"
"""The promise of a gateway alone, beside ``PROMISES``: ``gateway_probe.py`` tries it."""
_REACHED = Key("probe/reached")
_RACERS = 8
_LARGE_BYTES = 16 << 20
_EVERY_CHARACTER = "_-0123456789abcdefghijklmnopqrstuvwxyz._-"


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing that a site must do, and whether this one did."""

    name: str
    kept: bool
    detail: str
    """What was seen."""
    tried: bool = True
    """False: nothing is written there, since the site was refused a role; ``detail`` is that role and the reason."""


def unkept(name: str, error: ExclaveError) -> Promise:
    """What a failure says of the promise that was being tried."""
    if "role" in error.facts:
        return Promise(name, False, f"{error.facts['role']}: {error.facts['why']}", tried=False)
    return Promise(name, False, f"{error.code}: {error.message}")


class _Broken(Exception):
    """A promise that was not kept; the text says what was seen instead."""


class _Scratch:
    """The site, and names below ``probe/TOKEN/NAME/``."""

    def __init__(self, site: Site, token: str, name: str) -> None:
        self.site = site
        self.prefix = f"probe/{token}/{name}/"

    def key(self, rest: str) -> Key:
        return parse_key(self.prefix + rest)


def probe(site: Site, *, token: str) -> Iterator[Promise]:
    """Tries every promise in turn. ``token`` must be new: letters, digits and ``-`` that no earlier probe used here.

    ``MalformedError`` if it cannot be part of a name. Failures of the site are findings, not exceptions.
    """
    parse_key(f"probe/{token}")
    for name in PROMISES:
        yield try_promise(site, name, token=token)


def while_reached(site: Site, promises: Iterator[Promise]) -> Iterator[Promise]:
    """``promises`` as long as the site can be reached, is not full and takes this client's writes.

    Else there is nothing to judge: what the site raises (an ``UnavailableError``) comes instead of a verdict.
    """
    site.stat(_REACHED)
    try:
        site.put_same(_REACHED, b"Exclave writes this to see whether it may.\n")
    except (SiteFull, SiteReadOnly):
        raise
    except UnavailableError as error:
        if error.facts.get("silent"):
            raise
    except ExclaveError:
        pass  # what it refuses or does wrongly, the promises name
    for promise in promises:
        if not promise.kept:
            site.stat(_REACHED)
        yield promise


def try_promise(site: Site, name: str, *, token: str) -> Promise:
    """Tries one of ``PROMISES``. ``SiteFull`` is raised: it says nothing about any of them."""
    try:
        detail = PROMISES[name](_Scratch(site, token, name))
    except _Broken as broken:
        return Promise(name, False, str(broken))
    except SiteFull:
        raise
    except ExclaveError as error:
        return unkept(name, error)
    return Promise(name, True, detail)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Broken(otherwise)


def _refused(kind: type[ExclaveError], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise _Broken(f"was accepted; expected {kind.code}")


def _race(calls: Sequence[Callable[[], object]]) -> int:
    """Runs all at the same moment; how many did not fail. Who is refused a role does not race."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> bool:
        start.wait()
        try:
            call()
        except ExclaveError as error:  # a loser may also be told to come again
            if "role" in error.facts:
                raise
            return False
        return True

    with ThreadPoolExecutor(len(calls)) as pool:
        return sum(pool.map(run, calls))


def _round_trip(s: _Scratch) -> str:
    key = s.key("object")
    s.site.put_new(key, b"bytes")
    _require(s.site.get(key) == b"bytes", "other bytes came back")
    _require(s.site.stat(key) == ObjectStat(key, 5), "stat tells another size")
    return "what is put comes back at once"


def _empty(s: _Scratch) -> str:
    key = s.key("object")
    s.site.put_new(key, b"")
    _require(s.site.get(key) == b"" and s.site.get_range(key, 0, 0) == b"", "bytes came back")
    _require(s.site.stat(key) == ObjectStat(key, 0), "stat does not tell 0 bytes")
    _require(list(s.site.list(s.prefix)) == [ObjectStat(key, 0)], "it is not listed")
    return "an object of 0 bytes is an object"


def _large(s: _Scratch) -> str:
    key = s.key("object")
    data = b"".join(number.to_bytes(8, "big") for number in range(_LARGE_BYTES // 8))
    s.site.put_new(key, data)
    _require(s.site.get(key) == data, "other bytes came back")
    tail = s.site.get_range(key, _LARGE_BYTES - 9, 9)
    _require(tail == data[-9:], "its end came back wrong")
    return f"{_LARGE_BYTES >> 20} MiB came back unchanged"


def _limit(s: _Scratch) -> str:
    key = s.key("object")
    s.site.put_new(key, b"x" * 1001)
    _require(len(s.site.get(key, limit=1001)) == 1001, "not all came back")
    _refused(CorruptObject, lambda: s.site.get(key, limit=1000))
    return "an object over the reader's limit is refused"


def _write_once(s: _Scratch) -> str:
    key = s.key("object")
    s.site.put_new(key, b"first")
    _refused(AlreadyExists, lambda: s.site.put_new(key, b"other"))
    _refused(AlreadyExists, lambda: s.site.put_new(key, b"first"))
    _require(s.site.get(key) == b"first", "the first bytes are gone")
    return "a second put_new is refused and changes nothing"


def _one_creator(s: _Scratch) -> str:
    for round_number in range(3):
        key = s.key(f"object-{round_number}")
        offers = [b"%d" % racer for racer in range(_RACERS)]
        won = _race([partial(s.site.put_new, key, offer) for offer in offers])
        _require(won == 1, f"{won} of {_RACERS} racing put_new won")
        _require(s.site.get(key) in offers, "nobody's bytes are there")
    return f"exactly one of {_RACERS} racers wins, three times"


def _same(s: _Scratch) -> str:
    key = s.key("object")
    s.site.put_same(key, b"bytes")
    s.site.put_same(key, b"bytes")
    won = _race([lambda: s.site.put_same(key, b"bytes")] * _RACERS)
    _require(won == _RACERS, f"only {won} of {_RACERS} repeats worked")
    new = s.key("raced")
    won = _race([lambda: s.site.put_same(new, b"bytes")] * _RACERS)
    _require(won == _RACERS, f"only {won} of {_RACERS} racers with the same bytes worked")
    return "the same bytes may be put again"


def _different(s: _Scratch) -> str:
    key = s.key("object")
    s.site.put_same(key, b"bytes")
    for other in (b"BYTES", b"bytesbytes", b"byte", b""):
        _refused(CorruptObject, partial(s.site.put_same, key, other))
    _require(s.site.get(key) == b"bytes", "the first bytes are gone")
    return "other bytes under a taken name are found"


def _replace(s: _Scratch) -> str:
    key = s.key("head")
    _require(s.site.read_head(key) is None, "a head was there before it was written")
    first = s.site.replace_if(key, b"one", None)
    _require(s.site.read_head(key) == Tagged(b"one", first), "the head or its tag is not what was written")
    _refused(HeadMoved, lambda: s.site.replace_if(key, b"new", None))
    second = s.site.replace_if(key, b"two", first)
    _require(s.site.read_head(key) == Tagged(b"two", second), "the head was not replaced")
    _refused(HeadMoved, lambda: s.site.replace_if(key, b"late", first))
    _refused(HeadMoved, lambda: s.site.replace_if(s.key("absent"), b"x", first))
    _require(s.site.get(key) == b"two", "a refused replacement changed the head")
    _require(s.site.stat(s.key("absent")) is None, "a refused replacement made an object")
    s.site.replace_if(key, b"x" * MAX_HEAD_BYTES, second)
    return "a head is replaced only where its tag is the expected one"


def _one_first(s: _Scratch) -> str:
    key = s.key("head")
    won = _race([partial(s.site.replace_if, key, b"%d" % n, None) for n in range(_RACERS)])
    _require(won == 1, f"{won} of {_RACERS} racers made the first head")
    return f"exactly one of {_RACERS} racers makes the first head"


def _one_replacer(s: _Scratch) -> str:
    key = s.key("head")
    tag = s.site.replace_if(key, b"start", None)
    for round_number in range(3):
        offers = [b"%d-%d" % (round_number, racer) for racer in range(_RACERS)]
        won = _race([partial(s.site.replace_if, key, offer, tag) for offer in offers])
        _require(won == 1, f"{won} of {_RACERS} racing replacements won")
        head = s.site.read_head(key)
        if head is None or head.data not in offers:
            raise _Broken("the winner's bytes are not there")
        tag = head.tag
    return f"exactly one of {_RACERS} racers replaces the head, three times"


def _spoilt(s: _Scratch) -> str:
    wrong, right = b"wrong" * 50_000, b"right" * 50_000
    key = s.key(sha256(right).hex())  # a locked store repairs only where the name tells what is right
    s.site.put_new(key, wrong)
    _refused(HeadMoved, partial(s.site.replace_spoilt, key, right, sha256(b"other")))
    _refused(HeadMoved, partial(s.site.replace_spoilt, key, right, None))
    _refused(HeadMoved, partial(s.site.replace_spoilt, s.key("nothing"), right, sha256(wrong)))
    _require(s.site.get(key) == wrong, "an object was replaced that was not the one found spoilt")
    s.site.replace_spoilt(key, right, sha256(wrong))
    _require(s.site.get(key) == right, "the right bytes are not there")
    s.site.replace_spoilt(key, right, sha256(wrong))
    _refused(HeadMoved, partial(s.site.replace_spoilt, key, wrong, sha256(wrong)))
    _require(s.site.get(key) == right, "a good object was replaced")
    return "wrong bytes are replaced, and no others"


def _ranges(s: _Scratch) -> str:
    key = s.key("object")
    data = bytes(range(256)) * 16
    s.site.put_new(key, data)
    for offset, length in ((0, 1), (0, 4096), (1, 4095), (4095, 1), (255, 2), (1000, 777), (0, 0), (17, 0), (4096, 0)):
        _require(s.site.get_range(key, offset, length) == data[offset : offset + length], f"{offset}+{length} is wrong")
    for offset, length in ((4095, 2), (4096, 1), (5000, 1), (0, 4097), (4097, 0)):
        _refused(CorruptObject, partial(s.site.get_range, key, offset, length))
    return "ranges are exact, and refused beyond the end"


def _missing(s: _Scratch) -> str:
    s.site.put_new(s.key("folder/object"), b"x")
    for key in (s.key("nothing"), s.key("folder"), s.key("folder/nothing"), s.key("no/such/folder")):
        _require(s.site.stat(key) is None, f"stat finds {key}")
        _require(s.site.read_head(key) is None, f"read_head finds {key}")
        _refused(MissingObject, partial(s.site.get, key))
        _refused(MissingObject, partial(s.site.get_range, key, 0, 0))
        _refused(MissingObject, partial(s.site.get_range, key, 0, 1))
    _require(not list(s.site.list(s.prefix + "nothing/")), "an absent folder is not empty")
    return "what was never put is absent"


def _names(s: _Scratch) -> str:
    longest = s.key("/".join(["a" * 200, "b" * (299 - len(s.prefix) - 200)]))
    keys = [s.key(_EVERY_CHARACTER), longest, s.key("-"), s.key("_"), s.key("a..b"), s.key("000.p/1"), s.key("000")]
    for number, key in enumerate(keys):
        s.site.put_new(key, b"%d" % number)
    for number, key in enumerate(keys):
        _require(s.site.get(key) == b"%d" % number, f"another object came back for {key}")
    _require([item.key for item in s.site.list(s.prefix)] == sorted(keys), "they are listed under other names")
    return f"all allowed characters, and names of {len(longest)} characters"


def _listing(s: _Scratch) -> str:
    names = ["a/x", "a/y", "a-", "a-b/x", "a.b/y", "a0", "a_b", "ab", "b/c/d/e", "b/c/d0", "z"]
    for number, name in enumerate(names):
        s.site.put_new(s.key(name), b"." * number)
    found = list(s.site.list(s.prefix))
    wanted = sorted((ObjectStat(s.key(name), number) for number, name in enumerate(names)), key=lambda item: item.key)
    _require(sorted(found, key=lambda item: item.key) == wanted, f"{len(found)} of {len(wanted)} were listed rightly")
    _require(found == wanted, "they are not listed in order of name")
    inner = [item.key for item in s.site.list(s.prefix + "a/")]
    _require(inner == [s.key("a/x"), s.key("a/y")], "a folder's listing holds something else")
    return "listings are complete and in order of name"


PROMISES: dict[str, Callable[[_Scratch], str]] = {
    "round-trip": _round_trip,
    "empty-object": _empty,
    "large-object": _large,
    "size-limit": _limit,
    "write-once": _write_once,
    "one-creator-wins": _one_creator,
    "same-bytes-again": _same,
    "other-bytes-found": _different,
    "replace-if": _replace,
    "one-first-head-wins": _one_first,
    "one-replacer-wins": _one_replacer,
    "spoilt-replaced": _spoilt,
    "ranges": _ranges,
    "missing": _missing,
    "names": _names,
    "listing": _listing,
}
"""Every promise and its check, in the order in which ``probe`` tries them."""

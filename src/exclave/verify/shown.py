"""What one site shows of charters, cards and warrants, and what is wrong with it by its form alone."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, UnavailableError
from exclave.formats.card import Card, parse_card
from exclave.formats.charter import parse_charter
from exclave.formats.epochnote import parse_epoch
from exclave.formats.note import MAX_NOTE_BYTES, ParsedNote, parse_note
from exclave.formats.paths import card_key, card_prefix, charter_prefix, warrant_prefix
from exclave.formats.warrant import parse_warrant
from exclave.ids import Digest, Fingerprint, Key, RegisterId, parse_digest, sha256
from exclave.rules.charters import CharterChain
from exclave.rules.epochs import maker_of
from exclave.rules.signatures import signers
from exclave.sites.contract import ObjectStat, Readable, Sources

MAX_NAMES = 1_000_000
"""Most names that are looked at in one listing. Names cost a planter nothing, so this is generous."""
MAX_BYTES = 128 << 20
"""Most bytes that are read of one kind at one site."""
MAX_CARDS = 4096
"""Most cards that are kept of one site's listing; those that are needed are asked for by name."""
MAX_UNSIGNED = 64
"""Notes of one kind without a signature that counts, which are kept of one site to say why they do not count."""
MAX_TOLD = 100
"""Findings about single objects of one listing; a last one says that there are more."""
MAX_POOL_BYTES = 8 << 20
"""Charters of one site that are held while their signers' cards are not known yet; with more, it is listed again."""
AHEAD = 8
"""Objects of one listing that are asked for at once: where a site is far, the wait for one answer is that for all."""
_CARD_LIMIT = 8192


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of note: how it begins, and the largest that can be right, in bytes."""

    header: bytes
    limit: int


CHARTER = Kind(b"exclave/charter/v1\n", MAX_NOTE_BYTES)
WARRANT = Kind(b"exclave/warrant/v1\n", 512 << 10)
EPOCH = Kind(b"exclave/epoch/v1\n", 256 << 10)


NOT_IN_CHARTER = "not-in-charter"
"""The fault of a source that the charter does not name and where nothing of the state lies."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be at one site.

    ``fault`` is an error code of ``errors.py``; ``grave`` is false for what only explains itself by a site being
    unreachable or late.
    """

    site: str
    fault: str
    what: str
    detail: str
    register: RegisterId | None = None
    grave: bool = True
    hint: str = ""
    """What to do so that the site can be read, where it said so; empty otherwise."""


def finding(
    site: str, what: str, error: ExclaveError, register: RegisterId | None = None, *, grave: bool | None = None
) -> Finding:
    """A finding out of an error; unavailability is not grave."""
    serious = not isinstance(error, UnavailableError) if grave is None else grave
    hint = error.hint if isinstance(error, UnavailableError) and error.hint != error.default_hint else ""
    return Finding(site, error.code, what, error.message, register, serious, hint)


@dataclass(slots=True)
class Shown:
    """What one site showed of charters, cards, warrants and epochs; by object name."""

    cards: dict[Key, Digest] = field(default_factory=dict)
    charters: dict[Key, bytes] = field(default_factory=dict)
    warrants: dict[Key, Digest] = field(default_factory=dict)
    epochs: dict[RegisterId, dict[Key, bytes]] = field(default_factory=dict)
    unread: set[RegisterId] = field(default_factory=set)
    """Registers whose epochs could not be listed, because the site stopped answering."""


class Told:
    """Findings about the objects of one listing: the first ``MAX_TOLD``, then one for all others."""

    def __init__(self, site: str, prefix: str, findings: list[Finding], register: RegisterId | None = None) -> None:
        self.site, self.prefix, self.register = site, prefix, register
        self._findings, self._count = findings, 0

    def add(self, what: str, error: ExclaveError, *, grave: bool | None = None) -> None:
        self._count += 1
        if self._count <= MAX_TOLD:
            self._findings.append(finding(self.site, what, error, self.register, grave=grave))
        elif self._count == MAX_TOLD + 1:
            more = CorruptObject(f"more than {MAX_TOLD} objects here are not what they should be")
            self._findings.append(finding(self.site, self.prefix, more, self.register, grave=False))

    def cut(self, reason: str) -> None:
        """The rest was not looked at, so something may be hidden by it: always told, always grave."""
        self._findings.append(finding(self.site, self.prefix, CorruptObject(reason), self.register))


def _wanted(source: Readable, prefix: str, limit: int, told: Told) -> Iterator[ObjectStat]:
    """What is listed below ``prefix`` and may be right by name and size, up to ``MAX_BYTES`` together."""
    budget = MAX_BYTES
    try:
        for place, stat in enumerate(source.list(prefix)):
            if place >= MAX_NAMES:
                told.cut(f"there are more than {MAX_NAMES} objects; the rest was not looked at")
                return
            try:
                if not stat.key.startswith(prefix):
                    raise CorruptObject("a listing shows an object of another place")
                parse_digest(stat.key[len(prefix) :])
            except MalformedError as error:
                told.add(stat.key, error, grave=False)
                continue
            except IntegrityError as error:
                told.add(stat.key, error)
                continue
            if not 0 < stat.size_bytes <= limit:
                told.add(stat.key, MalformedError(f"{stat.size_bytes} bytes; 1 to {limit} can be right"), grave=False)
                continue
            if stat.size_bytes > budget:
                told.cut(f"there are more than {MAX_BYTES} bytes; the rest was not read")
                return
            budget -= stat.size_bytes
            yield stat
    except IntegrityError as error:
        told.add(prefix, error)


def _objects(source: Readable, prefix: str, limit: int, told: Told) -> Iterator[tuple[Key, bytes]]:
    """The objects below ``prefix`` that can be read and may be right by name and size, a few of them read ahead."""
    stats = _wanted(source, prefix, limit, told)
    first, second = next(stats, None), next(stats, None)
    if first is None:
        return
    if second is None:  # as a rule: to start threads would take longer than to read it
        yield from _read_all([(first.key, lambda: source.get(first.key, limit=limit))], told)
        return
    ahead = ThreadPoolExecutor(AHEAD, thread_name_prefix="state")
    try:
        yield from _read_all(_ahead(ahead, source, limit, itertools.chain((first, second), stats)), told)
    finally:
        ahead.shutdown(wait=False, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, source: Readable, limit: int, stats: Iterable[ObjectStat]
) -> Iterator[tuple[Key, Callable[[], bytes]]]:
    """``AHEAD`` of the objects are being read while the first of them is looked at."""
    coming: deque[tuple[Key, Future[bytes]]] = deque()
    for stat in stats:
        coming.append((stat.key, pool.submit(source.get, stat.key, limit=limit)))
        if len(coming) == AHEAD:
            key, read = coming.popleft()
            yield key, read.result
    for key, read in coming:
        yield key, read.result


def _read_all(objects: Iterable[tuple[Key, Callable[[], bytes]]], told: Told) -> Iterator[tuple[Key, bytes]]:
    """Those that can be read, up to ``MAX_BYTES`` together: a listing may show them smaller than they are."""
    budget = MAX_BYTES
    for key, read in objects:
        try:
            data = read()
        except MalformedError as error:
            told.add(key, error, grave=False)
            continue
        except IntegrityError as error:
            told.add(key, error)
            continue
        budget -= len(data)
        if budget < 0:
            told.cut(f"there are more than {MAX_BYTES} bytes; the rest was not read")
            return
        yield key, data


def names_shown(source: Readable, prefixes: Iterable[str]) -> bytes | None:
    """SHA-256 over the names and sizes of all objects below ``prefixes``; None if they cannot be told now.

    While it stays the same, nobody has put anything there. At most ``MAX_NAMES`` of each are looked at.
    """
    digest = hashlib.sha256()
    try:
        for prefix in prefixes:
            for stat in itertools.islice(source.list(prefix), MAX_NAMES):
                digest.update(f"{stat.key} {stat.size_bytes}\n".encode())
    except (UnavailableError, IntegrityError):
        return None
    return digest.digest()


def read_cards(
    source: Readable, state: Fingerprint, name: str, cards: dict[Digest, Card], findings: list[Finding]
) -> Shown:
    """The key cards that a site lists, added to what the others showed."""
    shown = Shown()
    told = Told(name, card_prefix(state), findings)
    for key, data in _objects(source, card_prefix(state), _CARD_LIMIT, told):
        if sha256(data).hex() != key.rpartition("/")[2]:
            told.add(key, CorruptObject("a key card does not have the digest that it is named by"))
            continue
        try:
            card = parse_card(data)
        except MalformedError as error:
            told.add(key, error, grave=False)
            continue
        cards[card.digest] = card
        shown.cards[key] = card.digest
        if len(shown.cards) >= MAX_CARDS:
            told.cut(f"there are {MAX_CARDS} key cards or more; the rest was not read")
            break
    return shown


def _notes_below(source: Readable, prefix: str, kind: Kind, told: Told) -> Iterator[tuple[Key, ParsedNote]]:
    """The notes below ``prefix``. One that does not have the hash it is named by is used as far as it is signed."""
    for key, data in _objects(source, prefix, kind.limit, told):
        wrong = sha256(data).hex() != key[len(prefix) :]
        if wrong:
            told.add(key, CorruptObject("a note does not have the hash that it is named by"))
        try:
            yield key, _parse(data, kind)
        except MalformedError as error:
            if not wrong:
                told.add(key, error, grave=False)


def _parse(data: bytes, kind: Kind) -> ParsedNote:
    if not data.startswith(kind.header):
        raise MalformedError(f"it does not begin as {kind.header.decode().strip()}")
    return parse_note(data)


class _Sieve:
    """Keeps the notes of one kind at one site that carry a good signature no kept copy of their text has yet.

    So nobody fills it without the keys: copies of a signed text with junk beside the signatures add nothing to it.
    Of all others it keeps the first ``MAX_UNSIGNED``.
    """

    def __init__(self) -> None:
        self._have: set[tuple[Digest, str]] = set()
        self._unsigned = 0

    def keeps(self, note: ParsedNote, cards: Iterable[Card], *, unsigned: bool = True) -> bool:
        digest = note.digest
        new = signers(note, [card for card in cards if (digest, card.name) not in self._have])
        self._have |= {(digest, signer) for signer in new}
        if not new and unsigned:
            self._unsigned += 1
        return bool(new) or (unsigned and self._unsigned <= MAX_UNSIGNED)


class CharterSearch:
    """The charters at all sites that custodians of the chain signed, found from the pinned text on.

    Who may sign a charter stands in the charters before it; so every site is gone through until no more custodians
    become known. What was not taken waits in a pool, and a site whose pool is full is listed again.
    """

    def __init__(self, sources: Sources, state: Fingerprint, cards: dict[Digest, Card]) -> None:
        self._sources, self._state, self._cards = sources, state, cards
        self._taken: dict[Digest, tuple[Digest, ...]] = {Digest(bytes.fromhex(state)): ()}
        """Charter texts that a custodian of the chain signed (and the pinned one), with their custodians' cards."""
        self._people: tuple[Digest, ...] = ()
        self._sieves = {name: _Sieve() for name in sources}
        self._pools: dict[str, list[tuple[Key, ParsedNote]] | None] = dict.fromkeys(sources)

    def go_through(self, name: str, shown: Shown, findings: list[Finding]) -> bool:
        """Takes what is signed by those who are known by now; whether that was anything."""
        pool = self._pools[name]
        prefix = charter_prefix(self._state)
        # What is wrong with the objects was told the first time.
        told = Told(name, prefix, findings if pool is None else [])
        full = pool is None or sum(len(note.text) for _, note in pool) > MAX_POOL_BYTES
        waiting: list[tuple[Key, ParsedNote]] = []
        size, any_taken = 0, False
        for key, note in _notes_below(self._sources[name], prefix, CHARTER, told) if full else pool or ():
            if key in shown.charters:
                continue
            try:
                taken = self._take(name, note)
            except MalformedError as error:
                told.add(key, error, grave=False)
                continue
            if taken:
                shown.charters[key] = note.encode()
                any_taken = True
            elif size <= MAX_POOL_BYTES:
                size += len(note.text)
                waiting.append((key, note))
        self._pools[name] = waiting
        return any_taken

    def _take(self, name: str, note: ParsedNote) -> bool:
        digest = note.digest
        own = self._taken.get(digest, ())
        charter = parse_charter(note.text)
        if digest in self._taken and not own:
            own = self._taken[digest] = tuple(person.card for person in charter.custodians)
        for card in own:
            if card not in self._cards:
                fetch_card(self._sources, self._state, card, self._cards)
        cards = [self._cards[card] for card in {*self._people, *own} if card in self._cards]
        if not self._sieves[name].keeps(note, cards, unsigned=False):
            return False
        self._taken.setdefault(digest, tuple(person.card for person in charter.custodians))
        return True

    def know(self, people: Iterable[Digest]) -> bool:
        """These are custodians of the chain; whether any of them is new."""
        now = tuple(sorted({*self._people, *people}))
        grown, self._people = now != self._people, now
        return grown

    def add_rest(self, name: str, shown: Shown) -> None:
        """A few of what nobody who counts has signed, so that it can be told why it does not count."""
        for key, note in (self._pools[name] or ())[:MAX_UNSIGNED]:
            shown.charters[key] = note.encode()


def read_warrants(
    source: Readable, chain: CharterChain, name: str, shown: Shown, findings: list[Finding]
) -> list[bytes]:
    """The warrants that a site shows, as they are: whose signatures are good is for ``collect_warrants`` to say."""
    sieve, found = _Sieve(), []
    told = Told(name, warrant_prefix(chain.state), findings)
    for key, note in _notes_below(source, told.prefix, WARRANT, told):
        try:
            charter = chain.find(parse_warrant(note.text).charter)
        except MalformedError as error:
            told.add(key, error, grave=False)
            continue
        if sieve.keeps(note, charter.cards if charter else ()):
            shown.warrants[key] = note.digest
            found.append(note.encode())
    return found


def read_epochs(
    source: Readable,
    prefix: str,
    named: Container[Digest],
    warrants: Mapping[Digest, ParsedNote],
    find_card: Callable[[Digest], Card | None],
    told: Told,
) -> Iterator[tuple[Key, ParsedNote]]:
    """Epoch notes below ``prefix`` that their makers signed, if a charter (``named``) or a warrant may grant them."""
    sieve = _Sieve()
    for key, note in _notes_below(source, prefix, EPOCH, told):
        try:
            epoch = parse_epoch(note.text)
        except MalformedError as error:
            told.add(key, error, grave=False)
            continue
        warrant = warrants.get(epoch.authority) if epoch.authority else None
        maker = maker_of(epoch, parse_warrant(warrant.text)) if warrant is not None else None
        if maker is None and note.digest in named:
            maker = epoch.writer
        card = find_card(maker) if maker is not None else None
        if maker is not None and maker != epoch.writer:
            find_card(epoch.writer)
        if sieve.keeps(note, [card] if card else ()):
            yield key, note


def fetch_cards(sources: Sources, state: Fingerprint, charters: Iterable[bytes], cards: dict[Digest, Card]) -> None:
    """Cards that charters name and no listing showed; a listing can be flooded, a name cannot."""
    for data in charters:
        charter = parse_charter(parse_note(data).text)
        named = [p.card for p in charter.custodians] + [w.card for w in charter.witnesses]
        for digest in named:
            if digest not in cards:
                fetch_card(sources, state, digest, cards)


def fetch_card(sources: Sources, state: Fingerprint, digest: Digest, cards: dict[Digest, Card]) -> Card | None:
    """The card with ``digest`` from any site, added to ``cards``; None if no site has it."""
    for source in sources.values():
        try:
            card = parse_card(source.get(card_key(state, digest), limit=_CARD_LIMIT))
        except (UnavailableError, IntegrityError, MalformedError):
            continue
        if card.digest == digest:
            cards[digest] = card
            return card
    return None

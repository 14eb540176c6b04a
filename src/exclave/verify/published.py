"""What is public of a register: the editions that its ledger names and all that they list, at every source; no key.

What the ledger does not name counts for nothing, whoever put it there. Page: ``docs/spec/edition.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from exclave.errors import CorruptObject, ExclaveError, IntegrityError, MalformedError, MissingObject, UnavailableError
from exclave.formats.edition import KIND, MAX_EDITION_BYTES, Edition, parse_edition, parse_published
from exclave.formats.paths import public_key, public_prefix
from exclave.ids import Digest, Instant, Key, RegisterId, Sequence, sha256
from exclave.sites.contract import MAX_OBJECT_BYTES, Readable, Sources, digest_of
from exclave.verify.history import CountedFact, RegisterHistory
from exclave.verify.state import Finding, StateView, finding

UNNAMED = "not-published"
"""What a finding says of objects among the published ones that no edition names."""
_PIECE = 4 << 20
_EXTRA_LISTED = 100_000


@dataclass(frozen=True, slots=True)
class Published:
    """An edition that the register's ledger names."""

    edition: Edition
    digest: Digest
    entered: Instant
    """When its writer entered it."""


def named_editions(history: RegisterHistory) -> Iterator[tuple[CountedFact, Sequence, Digest]]:
    """The facts that name an edition, the newest first; one that does not parse, or that is about a version later than
    all that count, is passed over."""
    last = history.versions[-1].leaf.sequence if history.versions else 0
    for counted in reversed(history.facts):
        if counted.fact.kind == KIND:
            try:
                sequence, digest = parse_published(counted.fact)
            except MalformedError:
                continue
            if sequence <= last:
                yield counted, sequence, digest


def newest_edition(view: StateView, sources: Sources, history: RegisterHistory) -> Published | None:
    """The edition that the newest readable fact of ``history`` names; None if it names none.

    ``MissingObject`` if one is named and no source has it, ``CorruptObject`` if it is none, another register's, or
    tells another time of its version than the ledger.
    """
    for counted, sequence, digest in named_editions(history):
        return Published(_edition(view, sources, history, sequence, digest), digest, counted.fact.time)
    return None


def newest_readable(view: StateView, sources: Sources, history: RegisterHistory) -> Published | None:
    """The newest edition that the ledger names and that can be read; None if there is none."""
    for counted, sequence, digest in named_editions(history):
        try:
            return Published(_edition(view, sources, history, sequence, digest), digest, counted.fact.time)
        except IntegrityError:
            continue
    return None


def _edition(
    view: StateView, sources: Sources, history: RegisterHistory, sequence: Sequence, digest: Digest
) -> Edition:  # fmt: skip
    data = fetch_bundle(view, sources, history.register, digest, limit=MAX_EDITION_BYTES)
    try:
        edition = parse_edition(data)
    except MalformedError as error:
        raise CorruptObject(f"the writer's edition of version {sequence} is none: {error.message}") from error
    if (edition.state, edition.register, edition.sequence) != (view.state, history.register, sequence):
        raise CorruptObject("the ledger names an edition of another state, register or version")
    if any(v.leaf.sequence == sequence and v.leaf.time != edition.time for v in history.versions):
        raise CorruptObject(f"the edition of version {sequence} gives that another time than the ledger")
    return edition


def fetch_bundle(
    view: StateView, sources: Sources, register: RegisterId, name: Digest, *, limit: int = MAX_OBJECT_BYTES
) -> bytes:
    """A published object, from the first source that has its right bytes. ``MissingObject`` if none has."""
    key = public_key(view.state, register, name)
    last: ExclaveError | None = None
    for source in sources.values():
        try:
            data = source.get(key, limit=limit)
        except (UnavailableError, IntegrityError) as error:
            last = error
            continue
        if sha256(data) == name:
            return data
        last = CorruptObject(f"{key} has other bytes than its name says")
    raise MissingObject(f"no site has a good copy of {key}", key=key) from last


def published_names(view: StateView, sources: Sources, history: RegisterHistory) -> set[Digest]:
    """All editions that the ledger names, and the bundles of the newest one, as far as a source shows that."""
    named = {digest for _, _, digest in named_editions(history)}
    try:
        newest = newest_edition(view, sources, history)
    except IntegrityError:
        return named  # `verify` says so
    return named | {line.name for line in newest.edition.bundles} if newest else named


def listed_public(source: Readable, view: StateView, register: RegisterId, most: int) -> dict[Digest, int]:
    """Published objects that ``source`` lists, with their sizes: at most ``most`` and some more."""
    found: dict[Digest, int] = {}
    for place, stat in enumerate(source.list(public_prefix(view.state, register))):
        if place >= 2 * most + _EXTRA_LISTED:
            break
        try:
            name = Digest(bytes.fromhex(stat.key.rpartition("/")[2]))
        except ValueError:
            continue
        if stat.key == public_key(view.state, register, name):
            found[name] = stat.size_bytes
    return found


def hashed(source: Readable, key: Key, size_bytes: int) -> Digest:
    """SHA-256 of an object of that size, a piece at a time. Fails as ``get_range`` does."""
    if size_bytes <= _PIECE:
        return digest_of(source, key, limit=_PIECE).digest
    found = hashlib.sha256()
    for at in range(0, size_bytes, _PIECE):
        found.update(source.get_range(key, at, min(_PIECE, size_bytes - at)))
    return Digest(found.digest())


@dataclass(slots=True)
class PublishedAt:
    """What one source has to hold, and what it lacks of it."""

    named: dict[Digest, str]
    """Name → what it is, in words."""
    sizes: dict[Digest, int] = field(default_factory=dict)
    """Sizes that an edition tells."""
    there: dict[Digest, int] = field(default_factory=dict)
    bad: set[Digest] = field(default_factory=set)


class PublishedObjects:
    """Everything published of one register, at each source whose ledger names it."""

    def __init__(self, view: StateView, sources: Sources, history: RegisterHistory) -> None:
        self.findings: list[Finding] = []
        self.at: dict[str, PublishedAt] = {}
        self.newest: Edition | None = None
        """The edition in force; None if nothing was published, or no source has it."""
        self._view, self._sources, self._history = view, sources, history
        self._editions: dict[Digest, Edition | None] = {}

    def check(self, *, read: bool) -> None:
        """What each source has to hold, by its ledger, and whether it lists all that, and nothing else; with ``read``,
        whether every byte is right. Memory: 4 MiB, and an edition."""
        for name, source in self._sources.items():
            own = self._needed(name)
            if own is not None:
                self.at[name] = own
                self._list(name, source, own)
                if read:
                    self._hash(name, source, own)

    def _needed(self, name: str) -> PublishedAt | None:
        own: PublishedAt | None = None
        for counted, sequence, digest in named_editions(self._history):
            if name not in counted.held_by:
                continue
            if own is None:
                own = PublishedAt({})
                edition = self._read(sequence, digest)
                for line in edition.bundles if edition is not None else ():
                    own.named[line.name] = f"a bundle of {line.files} files that edition {sequence} lists"
                    own.sizes[line.name] = line.size_bytes
            own.named.setdefault(digest, f"edition {sequence}")
        return own

    def _read(self, sequence: Sequence, digest: Digest) -> Edition | None:
        if digest not in self._editions:
            try:
                self._editions[digest] = _edition(self._view, self._sources, self._history, sequence, digest)
            except IntegrityError as error:
                self._editions[digest] = None
                self._note("?", f"edition {sequence}", error)
            read = self._editions[digest]
            if read is not None and (self.newest is None or read.sequence > self.newest.sequence):
                self.newest = read
        return self._editions[digest]

    def _list(self, name: str, source: Readable, own: PublishedAt) -> None:
        register = self._history.register
        try:
            own.there = listed_public(source, self._view, register, len(own.named))
            for digest in own.named.keys() - own.there.keys():  # of an endless listing not all was read
                stat = source.stat(public_key(self._view.state, register, digest))
                if stat is not None:
                    own.there[digest] = stat.size_bytes
        except (IntegrityError, UnavailableError) as error:
            self._note(name, public_prefix(self._view.state, register), error)
            own.bad |= own.named.keys() - own.there.keys()
            return
        for digest, what in sorted(own.named.items()):
            if digest not in own.there:
                self._spoilt(name, own, digest, MissingObject(f"{what} is missing: it was published"))
            elif own.there[digest] != own.sizes.get(digest, own.there[digest]):
                told = f"{what} has {own.there[digest]} bytes instead of {own.sizes[digest]}"
                self._spoilt(name, own, digest, CorruptObject(told))
            elif digest not in own.sizes and own.there[digest] > MAX_EDITION_BYTES:
                # No list tells an edition's size: whoever serves any number of bytes would never be read to the end.
                self._spoilt(name, own, digest, CorruptObject(f"{what} is listed with {own.there[digest]} bytes"))
        others = len(own.there.keys() - own.named.keys())
        if others and own.sizes:  # without the edition in force nobody knows what it names
            text = (
                f"{others} objects lie among what is published that no edition of the ledger names: nobody counts them;"
                " a publication was broken off, or somebody planted them"
            )
            prefix = public_prefix(self._view.state, register)
            self.findings.append(Finding(name, UNNAMED, prefix, text, register, grave=False))

    def _hash(self, name: str, source: Readable, own: PublishedAt) -> None:
        for digest in sorted(own.named.keys() - own.bad):
            key = public_key(self._view.state, self._history.register, digest)
            try:
                found = hashed(source, key, own.there[digest])
            except (IntegrityError, UnavailableError) as error:
                self._spoilt(name, own, digest, error)
                continue
            if found != digest:
                wrong = CorruptObject(f"{own.named[digest]} does not have the hash that it is named by")
                self._spoilt(name, own, digest, wrong)

    def _spoilt(self, name: str, own: PublishedAt, digest: Digest, error: ExclaveError) -> None:
        own.bad.add(digest)
        self._note(name, public_key(self._view.state, self._history.register, digest), error)

    def _note(self, site: str, what: str, error: ExclaveError) -> None:
        self.findings.append(finding(site, what, error, self._history.register))

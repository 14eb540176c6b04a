"""Publish: the newest version of a public register, in the clear, with a proof for each file, bound to its ledger.

(1) who has the pen, and which version is the newest · (2) what was published before · (3) what changed since ·
(4) bundles of it, with proofs, at every site of the rule · (5) the edition that lists all bundles · (6) the fact that
names it, in the ledger. Until (6) nothing refers to what was stored: an interrupted run leaves the former edition, and
the next one finds the bundles that lie there already and goes on. No warrant and no custodian is needed: whoever may
write a public register may say what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Final

from exclave.errors import (
    Fenced,
    HeadMoved,
    IntegrityError,
    MissingObject,
    PlacementUnmet,
    SourceUnavailable,
    UnavailableError,
    UsageError,
)
from exclave.formats.charter import CharterRegister
from exclave.formats.edition import (
    KIND,
    MAX_FILES,
    BundleLine,
    Edition,
    make_bundle,
    published_lines,
)
from exclave.formats.fact import Fact
from exclave.formats.leaf import VersionLeaf
from exclave.formats.paths import public_key
from exclave.ids import Digest, Instant, Label, RegisterId, sha256
from exclave.operations.act_fact import patiently
from exclave.operations.home import Home
from exclave.operations.ledger_entry import Entered, enter, settle_outbox
from exclave.operations.new_epoch import require_not_older
from exclave.operations.publish_before import leading_on, published_before, published_files
from exclave.operations.publish_folder import Changes, Outlook, Prover, Source, look
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.lease import basis_ended, require_basis_now
from exclave.rules.policy import lacking
from exclave.sites.contract import Readable, Site
from exclave.verify.history import CountedVersion, RegisterHistory, read_history
from exclave.verify.published import fetch_bundle, listed_public, named_editions
from exclave.verify.state import StateView, read_state

BUNDLE_BYTES: Final = 32 << 20
"""Files and proofs of one bundle before it is packed, but for a single file that is larger."""
_PATH_WEIGHT: Final = 8
"""So much of ``BUNDLE_BYTES`` a byte of a path counts, so that a full bundle's table is never over its own limit."""
_BEHIND: Final = "it does not answer, or its ledger is behind: the next publication after a backup or a sync brings all"
_LOOK_AGAIN: Final = "Run the command again, and look at what it shows; nothing was published."


OpenProver = Callable[[StateView, Mapping[Label, Readable], RegisterHistory, CountedVersion], Prover]


@dataclass(frozen=True, slots=True)
class PublishReceipt:
    """What a publication did."""

    register: RegisterId
    name: str
    """The register's public name."""
    sequence: int
    time: Instant
    """The moment whose state is public now."""
    edition: Digest
    files: int
    """Files that are new or changed since the former edition."""
    removed: int
    left_out: tuple[str, ...]
    """What cannot be published (links, devices, names, sizes): a line for each reason, with the first three paths."""
    bundles: int
    shipped_bytes: int
    sites: tuple[Label, ...]
    failed: dict[Label, str]
    nothing_new: bool
    """The newest version was public already, and every site that answers has all of it."""
    lacking: str = ""
    """Whose cosignatures the ledger still lacks, in words: until they are there, readers do not count it."""
    lost: tuple[str, ...] = ()
    """What was published before and cannot be read any more: this edition goes on without it."""


def publish(
    home: Home,
    name: str,
    source: Source,
    open_prover: OpenProver,
    *,
    sites: Mapping[Label, Site],
    witnesses: Mapping[Label, str],
    now: Instant,
    agreed: Outlook | None = None,
    anew: bool = False,
    progress: Callable[[str, int], None] = lambda what, files: None,
) -> PublishReceipt:
    """Publishes the newest version of the register ``name``, which must be public by the charter.

    With ``agreed``, what somebody looked at before and nothing else. With ``anew``, without what is lost of earlier
    publications. Raises ``UsageError`` for a sealed register, ``Fenced`` if another writer has the pen, ``RolledBack``
    if the sites show an older epoch than this home knows, ``LegalBasisMissing`` if it has ended at every site,
    ``SourceUnavailable`` if the folder is not as that version has it or as it was looked at, ``HeadMoved`` if there is
    a newer version by now, ``MissingObject`` or ``CorruptObject`` for what was published before and is lost,
    ``PlacementUnmet`` if no site takes the bundles.
    """
    register = home.register_id(name)
    view = read_state(sites, home.fingerprint())
    epoch = _own_epoch(home, view, register, name)  # (1)
    rule = _public_rule(view, register, name)
    at = {label: site for label, site in sites.items() if label in rule.at}
    ended = _ended(rule, at, now)
    with patiently(lambda: home.alone(register)):
        history = read_history(view, at, register)
        version = history.latest
        before = published_before(view, at, history, anew=anew)  # (2)
        level = {label: site for label, site in _level(history, at).items() if label not in ended}
        outlet = _Outlet(view, register, level, {**dict.fromkeys(at.keys() - level.keys(), _BEHIND), **ended})
        was = before.published
        if was is not None:
            named = {digest for _, _, digest in named_editions(history)}
            with leading_on():
                outlet.level_up({was.digest, *(line.name for line in before.bundles)}, named)
            if was.edition.sequence == version.leaf.sequence:
                return _receipt(was.edition, outlet, 0, 0, (), 0, nothing_new=True)
        if agreed is not None and agreed.sequence != version.leaf.sequence:
            raise HeadMoved(f"version {version.leaf.sequence} was taken meanwhile", hint=_LOOK_AGAIN)
        known = published_files(view, at, register, before.bundles)
        prover = open_prover(view, at, history, version)
        changes = Changes(source, known, prover, None if agreed is None else agreed.paths, progress)
        bundles = [outlet.put(version.leaf, group) for group in _grouped(changes.found())]  # (3) (4)
        if not before.bundles and not bundles:
            raise SourceUnavailable(f"there is nothing in {source.folder} that could be published")
        edition = Edition(
            view.state, register, version.leaf.sequence, version.leaf.time,
            was.digest if was is not None else None, rule.public_name or "",
            before.bundles + tuple(line for line in bundles if line not in before.bundles),
        )  # fmt: skip
        outlet.put_object(edition.encode())  # (5)
        entered = _enter(home, view, epoch, edition, outlet, witnesses, now)  # (6)
        done = _receipt(edition, outlet, changes.files, changes.removed, changes.left_out.told(), len(bundles))
        short = lacking(view.chain.newest.charter.policy, entered.witnesses)
        return replace(done, lacking=short, lost=before.lost)


def outlook(
    home: Home, name: str, source: Source, *, sites: Mapping[Label, Site], now: Instant, anew: bool = False
) -> Outlook | None:
    """What ``publish`` would make public now; None if it would be nothing new. It writes nothing.

    Raises what ``publish`` does before it puts anything.
    """
    register = home.register_id(name)
    view = read_state(sites, home.fingerprint())
    _own_epoch(home, view, register, name)
    rule = _public_rule(view, register, name)
    at = {label: site for label, site in sites.items() if label in rule.at}
    ended = _ended(rule, at, now)
    history = read_history(view, at, register)
    leaf = history.latest.leaf
    before = published_before(view, at, history, anew=anew)
    if before.published is not None and before.published.edition.sequence == leaf.sequence:
        return None
    known = published_files(view, at, register, before.bundles)
    return look(
        source, known, title=rule.public_name or name, sequence=leaf.sequence, time=leaf.time,
        sites=tuple(label for label in at if label not in ended), lost=before.lost,
    )  # fmt: skip


def _own_epoch(home: Home, view: StateView, register: RegisterId, name: str) -> VerifiedEpoch:
    epoch = view.epoch_chain(register).newest
    if epoch.note.writer != home.writer_card().digest:
        raise Fenced(f"epoch {epoch.number} of register {name} belongs to another writer", epoch=epoch.number)
    require_not_older(home, view, register)
    return epoch


def _public_rule(view: StateView, register: RegisterId, name: str) -> CharterRegister:
    rule = view.chain.newest.charter.register(register)
    if rule is None or rule.public_name is None:
        raise UsageError(
            f"register {name} is sealed: nothing of it may be published",
            hint="A register is public if the charter in force says so (public = true); the custodians sign that.",
        )
    return rule


def _ended(rule: CharterRegister, at: Mapping[Label, Site], now: Instant) -> dict[Label, str]:
    """Sites where the register's legal basis has ended, and why: nothing is shipped there, in the clear least of all.

    ``LegalBasisMissing`` if it has ended at all of them.
    """
    ended = {label: f"{why}: nothing is shipped there" for label in at if (why := basis_ended(rule, label, now))}
    if ended and len(ended) == len(at):
        require_basis_now(rule, next(iter(ended)), now)
    return ended


def _level(history: RegisterHistory, at: Mapping[Label, Site]) -> dict[Label, Site]:
    """Sites whose ledger is up to date: one that is behind must not show a fact about versions that it lacks."""
    log = history.newest_log
    return {label: site for label, site in at.items() if log.agreed.get(label, 0) >= log.counted}


@dataclass(slots=True)
class _Outlet:
    """The sites that take part, and those that fell out."""

    view: StateView
    register: RegisterId
    sites: dict[Label, Site]
    failed: dict[Label, str]
    shipped: int = 0

    def put(self, leaf: VersionLeaf, files: list[tuple[str, bytes | None, bytes]]) -> BundleLine:
        data = make_bundle(leaf.sequence, leaf.time, files).encode()
        return BundleLine(self.put_object(data), len(data), len(files))

    def put_object(self, data: bytes) -> Digest:
        """Puts ``data`` at every site that still answers. A restart puts the same bytes under the same name again."""
        name = sha256(data)
        for label, site in list(self.sites.items()):
            try:
                site.put_same(public_key(self.view.state, self.register, name), data)
            except (UnavailableError, IntegrityError) as error:
                self._drop(label, error.message)
        if not self.sites:
            raise PlacementUnmet("no site takes what is to be published: " + "; ".join(self.failed.values()))
        self.shipped += len(data)
        return name

    def level_up(self, needed: Set[Digest], named: Set[Digest]) -> None:
        """Brings what an earlier edition lists (``needed``, with itself) to sites that lack it: they were away, or are
        new; and the editions ``named`` by the ledger, without which they would seem to have lost something."""
        wanted = needed | named
        lacking: dict[Label, set[Digest]] = {}
        for label, site in list(self.sites.items()):
            try:
                there = listed_public(site, self.view, self.register, len(wanted))
            except (UnavailableError, IntegrityError) as error:
                self._drop(label, error.message)
                continue
            lacking[label] = set(wanted - there.keys())
        for name in sorted(set().union(*lacking.values())) if lacking else ():
            try:
                data = fetch_bundle(self.view, self.sites, self.register, name)
            except MissingObject:
                if name in needed:
                    raise
                continue  # a former edition that is lost everywhere: `verify` says so, and nothing newer needs it
            for label, names in lacking.items():
                if name in names and label in self.sites:
                    try:
                        self.sites[label].put_same(public_key(self.view.state, self.register, name), data)
                    except (UnavailableError, IntegrityError) as error:
                        self._drop(label, error.message)

    def _drop(self, label: Label, why: str) -> None:
        self.failed[label] = why
        self.sites.pop(label, None)


def _grouped(
    files: Iterable[tuple[str, bytes | None, bytes]],
) -> Iterator[list[tuple[str, bytes | None, bytes]]]:
    """Files in groups that fit into a bundle each."""
    group: list[tuple[str, bytes | None, bytes]] = []
    size = 0
    for path, content, proof in files:
        # Its path too: a file that was removed has nothing else, and the table has a measure of its own.
        length = _PATH_WEIGHT * len(path.encode()) + len(content or b"") + len(proof)
        if group and (size + length > BUNDLE_BYTES or len(group) >= MAX_FILES):
            yield group
            group, size = [], 0
        group.append((path, content, proof))
        size += length
    if group:
        yield group


def _enter(
    home: Home, view: StateView, epoch: VerifiedEpoch, edition: Edition, outlet: _Outlet,
    witnesses: Mapping[Label, str], now: Instant,
) -> Entered:  # fmt: skip
    """A restart finds the fact in the outbox and settles it, or publishes the same edition again."""
    outbox = home.folder / "state" / f"{edition.register}.outbox"
    settle_outbox(view, epoch, home.writer_key(), sites=outlet.sites, now=now, outbox=outbox)
    said = published_lines(edition.sequence, sha256(edition.encode()))
    fact = Fact(edition.register, epoch.number, now, KIND, None, said)
    entered = enter(
        view, epoch, home.writer_key(), [fact.encode()], sites=outlet.sites, witnesses=witnesses, now=now, outbox=outbox
    )
    outlet.failed |= entered.failed | entered.refused
    return entered


def _receipt(
    edition: Edition, outlet: _Outlet, files: int, removed: int, left_out: tuple[str, ...], bundles: int,
    *, nothing_new: bool = False,
) -> PublishReceipt:  # fmt: skip
    return PublishReceipt(
        edition.register, edition.name, edition.sequence, edition.time, sha256(edition.encode()), files, removed,
        left_out, bundles, outlet.shipped, tuple(outlet.sites), outlet.failed, nothing_new,
    )  # fmt: skip

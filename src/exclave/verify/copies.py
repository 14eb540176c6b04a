"""One epoch's log as several sources show it: which entries count, and who shows something else.

Every source is believed only what is proven to it. The newest epoch ends at the largest checkpoint that enough
witnesses cosigned; a former one at the cut that its successor's note names, whatever its writer added later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from exclave.errors import (
    ExclaveError,
    Fenced,
    Forked,
    IntegrityError,
    MalformedError,
    MissingObject,
    QuorumMissing,
    RolledBack,
    UnavailableError,
)
from exclave.formats.checkpoint import Checkpoint
from exclave.formats.epochnote import Cut
from exclave.formats.leaf import VersionLeaf, parse_ledger_entry
from exclave.formats.policy import NO_WITNESSES, WitnessPolicy
from exclave.formats.tile import TILE_WIDTH, bundle_key, checkpoint_key, cosigned_prefix
from exclave.ids import Digest
from exclave.rules.checkpoints import Candidate, VerifiedCheckpoint, choose_freshest, least_lacking
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.tree import EMPTY_ROOT
from exclave.sites.contract import Readable, Sources
from exclave.verify.ahead import each_ahead
from exclave.verify.cosigned import newest_cosigned
from exclave.verify.logs import LogTree, ProvenTree, TreeHead
from exclave.verify.state import Finding, StateView, finding

_NAMED_SEQUENCES = 20
"""Most entries beyond a cut that a finding names one by one."""


@dataclass(slots=True)
class LogCopies:
    """What ``judge_copies`` found out about one epoch's log."""

    epoch: VerifiedEpoch
    prefix: str
    heads: dict[str, VerifiedCheckpoint] = field(default_factory=dict)
    """The checkpoint of each source that shows one the writer signed."""
    kept: dict[str, VerifiedCheckpoint] = field(default_factory=dict)
    """Of the newest epoch, heads that enough witnesses cosigned and that are not (or no longer) the one a source
    shows: kept there beside it, or known to a witness. By source; ``witness NAME`` for a witness."""
    vouched: dict[str, int] = field(default_factory=dict)
    """Sizes that must count because somebody vouches for them who can: enough witnesses, or the next epoch's note."""
    forked: bool = False
    """Whether heads that could all count contradict each other."""
    refused: set[str] = field(default_factory=set)
    """Sources that did not answer or whose checkpoint is no checkpoint of this log. All others show none."""
    counts: TreeHead | None = None
    """Size and root of what counts; None if nothing does."""
    freshest: VerifiedCheckpoint | None = None
    """The head that vouches for ``counts``: that very one, or of a former epoch one that goes on from it."""
    agreed: dict[str, int] = field(default_factory=dict)
    """How many of the entries that count each source's own head covers."""
    holders: dict[str, ProvenTree] = field(default_factory=dict)
    """Trees that prove everything that counts, those of sources that claim to hold it first."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of entries that count."""
        return self.counts.size if self.counts else 0

    @property
    def best(self) -> str:
        """A source that holds all that counts; empty if none does."""
        return next((name for name in self.holders if self.agreed.get(name, 0) >= self.size), "")

    def tree(self) -> ProvenTree | None:
        """A tree of all that counts, readable as far as can be told."""
        return next(iter(self.holders.values()), None)

    def bundle(self, index: int) -> tuple[bytes, ...]:
        """The entries of bundle ``index`` that count, from the first holder that has them unharmed.

        Raises what the last holder did if none has. A holder that should have them and has not is a finding.
        """
        last: ExclaveError = MissingObject(f"no source holds bundle {index} of {self.prefix}")
        for name, tree in list(self.holders.items()):
            try:
                return tree.bundle(index)[: self.size - index * TILE_WIDTH]
            except (IntegrityError, UnavailableError) as error:
                last = error
                if self.agreed.get(name, 0) > index * TILE_WIDTH:
                    width = min(TILE_WIDTH, tree.size - index * TILE_WIDTH)
                    self.note(name, named(error, bundle_key(self.prefix, index, width)), error)
                if isinstance(error, UnavailableError):
                    del self.holders[name]
        raise last

    def foresee(self, index: int) -> None:
        """Bundle ``index`` will be asked for."""
        tree = self.tree()
        if tree is not None:
            tree.foresee(index)

    def entries(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """The entries that count, from number ``start``. Raises as ``bundle`` does."""
        for index in each_ahead(range(start // TILE_WIDTH, -(-self.size // TILE_WIDTH)), self.foresee):
            for at, entry in enumerate(self.bundle(index), index * TILE_WIDTH):
                if at >= start:
                    yield at, entry

    def note(self, site: str, what: str, error: ExclaveError, *, grave: bool | None = None) -> None:
        """Adds a finding, once."""
        found = finding(site, what, error, self.epoch.register, grave=grave)
        if found not in self.findings:
            self.findings.append(found)


def named(error: ExclaveError, otherwise: str) -> str:
    """The object that ``error`` names, or ``otherwise``."""
    return str(error.facts.get("key", otherwise))


def judge_copies(
    view: StateView,
    sources: Sources,
    epoch: VerifiedEpoch,
    *,
    cut: Cut | None,
    allow_unwitnessed: bool = False,
    remembered: Mapping[str, VerifiedCheckpoint] | None = None,
) -> LogCopies:
    """(1) Every source's head. (2) What counts. (3) Each head beside that. ``cut`` is None for the newest epoch.

    ``remembered``: what witnesses say they cosigned last of the newest epoch's log.
    """
    reader = view.log_reader(epoch, next(iter(sources.values())))
    copies = LogCopies(epoch, reader.prefix)
    witnesses = tuple(view.witness_cards().values())
    for name, source in sources.items():  # (1)
        try:
            copies.heads[name] = view.log_reader(epoch, source).head(witnesses)
        except MissingObject:
            continue
        except ExclaveError as error:
            copies.refused.add(name)
            copies.note(name, checkpoint_key(copies.prefix), error)
    if cut is None:  # (2)
        policy = view.chain.newest.charter.policy
        _look_for_kept(copies, view, sources, policy)
        copies.kept |= {f"witness {name}": head for name, head in (remembered or {}).items()}
        _choose(copies, sources, policy, allow_unwitnessed)
    else:
        copies.vouched["the next epoch's note"] = cut.size
        _take_cut(copies, sources, Checkpoint(reader.origin, cut.size, cut.root), allow_unwitnessed)
    if copies.counts is not None:  # (3)
        for name in copies.heads:
            if name not in copies.agreed:
                _compare(copies, sources[name], name, fenced=cut is not None)
    copies.agreed = {name: copies.agreed[name] for name in copies.heads if name in copies.agreed}
    return copies


def _look_for_kept(copies: LogCopies, view: StateView, sources: Sources, policy: WitnessPolicy) -> None:
    """Where a head has too few cosignatures, or is none, the largest one with enough that the source has kept."""
    if policy.quorum is None:
        return
    cards = tuple(view.witness_cards().values())
    for name, source in sources.items():
        head = copies.heads.get(name)
        if (head is None and name not in copies.refused) or (head is not None and head.counts_by(policy)):
            continue
        reader = view.log_reader(copies.epoch, source)
        try:
            kept = newest_cosigned(reader, cards, policy, near=head.size if head else None)
        except (IntegrityError, UnavailableError) as error:
            if name not in copies.refused:
                copies.note(name, named(error, cosigned_prefix(copies.prefix)), error)
            continue
        if kept is not None:
            copies.kept[name] = kept


_Group = tuple[VerifiedCheckpoint, list[str]]
"""A head with all its cosignatures, and who shows it, keeps it or remembers it."""


def _groups(*shown: Mapping[str, VerifiedCheckpoint]) -> dict[tuple[int, Digest], _Group]:
    """Equal heads taken together, with all their cosignatures and the sources that show them; largest first."""
    found: dict[tuple[int, Digest], list[Candidate]] = {}
    for heads in shown:
        for name, head in heads.items():
            found.setdefault((head.size, head.root), []).append(Candidate(name, head))
    return {
        key: (choose_freshest(found[key], NO_WITNESSES).freshest, list(dict.fromkeys(c.place for c in found[key])))
        for key in sorted(found, reverse=True)
    }


def _choose(copies: LogCopies, sources: Sources, policy: WitnessPolicy, allow_unwitnessed: bool) -> None:
    """The largest checkpoint that a quorum by ``policy`` cosigned and whose tiles some source can show."""
    groups = _groups(copies.heads, copies.kept)
    enough = [group for group in groups.values() if group[0].counts_by(policy)]
    for head, names in enough:
        for name in names:
            copies.vouched[name] = max(head.size, copies.vouched.get(name, 0))
    if groups and not enough:
        lacks = least_lacking(policy, [head for head, _ in groups.values()])
        error = QuorumMissing(f"no checkpoint has a quorum of witnesses; it lacks {lacks}")
        copies.note("?", checkpoint_key(copies.prefix), error, grave=True)
    if allow_unwitnessed:
        first = enough[0][0] if enough else None
        enough = [g for g in groups.values() if g in enough or first is None or _goes_on(copies, sources, g, first)]
    for place, (head, names) in enumerate(enough):
        if not _hold(copies, sources, head, [name for name in names if name in sources]):
            continue
        copies.counts = copies.freshest = head
        _agree(copies, head, names, head.size)
        _settle_forks(copies, sources, names, enough[place + 1 :])
        return


def _goes_on(copies: LogCopies, sources: Sources, group: _Group, witnessed: TreeHead) -> bool:
    """Whether an unwitnessed head goes on from the ``witnessed`` one: only then may anybody decide that it counts."""
    head, names = group
    for name in names:
        if name in sources:
            try:
                return head.size > witnessed.size and ProvenTree(
                    sources[name], copies.prefix, head
                ).root_at(witnessed.size) == witnessed.root  # fmt: skip
            except (IntegrityError, UnavailableError):
                continue  # _compare says so
    return False


def _agree(copies: LogCopies, head: TreeHead, names: Iterable[str], size: int) -> None:
    """``size`` entries that count are covered by ``head``, at those of ``names`` whose own head it is."""
    for name in names:
        own = copies.heads.get(name)
        if own is not None and (own.size, own.root) == (head.size, head.root):
            copies.agreed[name] = size


def _hold(copies: LogCopies, sources: Sources, head: TreeHead, claim: Iterable[str]) -> bool:
    """Finds trees that prove ``head``: at the sources in ``claim``, which should have them, else at any, and else by a
    larger head that goes on from it.
    """
    first = list(claim)
    for name in (*first, *(n for n in sources if n not in first)):
        tree = ProvenTree(sources[name], copies.prefix, head)
        try:
            tree.edge()
        except (IntegrityError, UnavailableError) as error:
            if name in first:
                copies.note(name, named(error, f"{copies.prefix}tile"), error)
            continue
        copies.holders[name] = tree
    for name in () if copies.holders else sources:
        larger = copies.heads.get(name)
        if larger is not None and larger.size > head.size:
            tree = ProvenTree(sources[name], copies.prefix, larger)
            try:
                if tree.root_at(head.size) == head.root:
                    copies.holders[name] = tree
            except (IntegrityError, UnavailableError):
                continue  # _compare says so
    return bool(copies.holders)


def _settle_forks(
    copies: LogCopies,
    sources: Sources,
    top: list[str],
    rest: list[tuple[VerifiedCheckpoint, list[str]]],
) -> None:
    """Of checkpoints that all could count, those that contradict the largest leave only what they have in common.

    Only the writer's key (and with it enough witnesses) makes such; which branch is right is for people to say, so
    neither counts. The branch at fewer sources is accused; both if they are equally many.
    """
    for_top, against = list(top), list[str]()
    least = copies.size
    for head, names in rest:
        shared = _shared(copies, sources, head, names)
        _agree(copies, head, names, shared)
        if shared == head.size:
            for_top += names
        else:
            against += names
            least = min(least, shared)
    if not against:
        return
    accused = [*(for_top if len(for_top) <= len(against) else ()), *(against if len(against) <= len(for_top) else ())]
    copies.forked = True
    for name in accused:
        size = (copies.heads.get(name) or copies.kept[name]).size
        error = Forked(f"its log of {size} entries and another one with the writer's signature part at entry {least}")
        copies.note(name, checkpoint_key(copies.prefix), error)
    tree = copies.tree()
    if tree is not None:
        copies.counts = Checkpoint(tree.head.origin, least, tree.root_at(least))
    copies.agreed = {name: min(least, size) for name, size in copies.agreed.items()}


def _shared(copies: LogCopies, sources: Sources, head: TreeHead, names: Iterable[str]) -> int:
    """How many entries ``head``, shown by ``names``, has in common with what counts."""
    for tree in copies.holders.values():
        try:
            if head.size <= tree.size and tree.root_at(head.size) == head.root:
                return head.size
            break
        except (IntegrityError, UnavailableError):
            continue
    for name in (n for n in names if n in sources):
        other = ProvenTree(sources[name], copies.prefix, head)
        for tree in copies.holders.values():
            try:
                return _common(tree, other, min(head.size, copies.size))
            except (IntegrityError, UnavailableError):
                continue
    return 0


def _common(one: ProvenTree, other: ProvenTree, most: int) -> int:
    """The largest number of first entries, up to ``most``, that both trees have in common."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if one.root_at(middle) == other.root_at(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _take_cut(copies: LogCopies, sources: Sources, cut: Checkpoint, allow_unwitnessed: bool) -> None:
    """What counts of a former epoch is what its successor's note says, whoever can show it."""
    what = checkpoint_key(copies.prefix)
    if cut.size == 0:
        copies.counts = cut if cut.root == EMPTY_ROOT else None
        return
    claim = [name for name, head in copies.heads.items() if (head.size, head.root) == (cut.size, cut.root)]
    larger = [(head.size, name) for name, head in copies.heads.items() if head.size > cut.size]
    for _, name in sorted(larger):
        try:
            tree = LogTree(sources[name], copies.prefix, copies.heads[name])
            if tree.root_at(cut.size) == cut.root:
                copies.holders[name] = tree
        except (IntegrityError, UnavailableError):
            continue  # _compare says so
    beyond, copies.holders = copies.holders, {}
    _hold(copies, sources, cut, claim)
    copies.holders = {name: tree for name, tree in copies.holders.items() if name not in beyond} | beyond
    closest = [*claim, *beyond]
    if closest:
        copies.freshest = copies.heads[closest[0]]
    if copies.holders:
        copies.counts = cut
        return
    behind = [group for group in _groups(copies.heads).values() if group[0].size < cut.size]
    error = RolledBack(f"no source shows the {cut.size} entries that the next epoch's note vouches for")
    copies.note("?", what, error)
    # Nothing proves that these came before the cut, but for the signature of a writer who has lost the pen.
    for head, names in behind if allow_unwitnessed else []:
        if _hold(copies, sources, head, names):
            copies.counts = copies.freshest = head
            copies.agreed.update(dict.fromkeys(names, head.size))
            return


def _compare(copies: LogCopies, source: Readable, name: str, *, fenced: bool) -> None:
    """(3) ``name``'s own head beside what counts: a start of it, the same, going on from it, or another history."""
    head, counts = copies.heads[name], copies.counts
    if counts is None:
        return
    what = checkpoint_key(copies.prefix)
    if (head.size, head.root) == (counts.size, counts.root) or head.size == 0:
        copies.agreed[name] = head.size
        return
    if head.size <= counts.size:
        shared = _shared(copies, {name: source}, head, [name])
        copies.agreed[name] = shared
        if shared < head.size:
            error: ExclaveError = Forked(f"its {head.size} entries are not the first of the {counts.size} that count")
            copies.note(name, what, error)
        return
    tree = LogTree(source, copies.prefix, head)
    try:
        goes_on = tree.root_at(counts.size) == counts.root
    except (IntegrityError, UnavailableError) as problem:
        copies.agreed[name] = 0
        copies.note(name, named(problem, f"{copies.prefix}tile"), problem)
        return
    if not goes_on:
        copies.agreed[name] = _shared(copies, {name: source}, head, [name])
        copies.note(name, what, Forked(f"its {head.size} entries do not go on from the {counts.size} that count"))
        return
    copies.agreed[name] = counts.size
    copies.holders.setdefault(name, tree)
    if fenced:
        copies.note(name, what, Fenced(_beyond(tree, counts.size)), grave=True)
    else:
        error = QuorumMissing(f"too few witnesses vouch for its entries beyond {counts.size} (it has {head.size})")
        copies.note(name, what, error, grave=False)


def _beyond(tree: ProvenTree, size: int) -> str:
    """What a fenced writer added, in words."""
    numbers: list[int] = []
    try:
        for _, entry in tree.entries(size, min(tree.size, size + _NAMED_SEQUENCES)):
            said = parse_ledger_entry(entry)
            if isinstance(said, VersionLeaf):
                numbers.append(said.sequence)
    except (IntegrityError, UnavailableError, MalformedError):
        pass  # Those read so far are named; that the rest is unreadable does not matter: none of it counts.
    versions = f" (versions {', '.join(str(n) for n in numbers)})" if numbers else ""
    count = tree.size - size
    return f"{count} entries{versions} were added after a later epoch cut this log at {size}; they do not count"

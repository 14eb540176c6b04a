"""Backup: one version of one register, sealed, at the sites that the rule names, and in its ledger.

(1) who has the pen · (2) what the sites hold · (3) capture, seal, ship · (4) every site gets what it lacks ·
(5) ledger: append, publish, witnesses · (6) receipt. Until (5) nothing refers to what was stored, so an interrupted
run leaves every earlier version whole, and the next run finds what was shipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from exclave.crypto.hpke import SealingKey
from exclave.errors import (
    ConfigError,
    CorruptObject,
    Fenced,
    LegalBasisMissing,
    PlacementUnmet,
    UnavailableError,
    UsageError,
)
from exclave.formats.annex import Dataset
from exclave.formats.charter import CharterRegister
from exclave.formats.config import DatasetConfig
from exclave.formats.leaf import MAX_SEQUENCE, VersionLeaf, parse_version_leaf
from exclave.formats.manifest import Secrets
from exclave.ids import Epoch, Instant, Label, RegisterId
from exclave.ids import Sequence as VersionNumber
from exclave.ledger.timestamp_client import ask_timestamp
from exclave.operations.carry import carry_lists, carry_state
from exclave.operations.carry_public import carry_public, carry_public_statements
from exclave.operations.home import Home
from exclave.operations.keeping import carry_orders, charter_facts, leave_doomed
from exclave.operations.ledger_entry import Entered, enter, settle_outbox, shown_size
from exclave.operations.new_epoch import forget_others, rekey_facts, require_not_older
from exclave.operations.records import Committing
from exclave.operations.signals import Observer, without_signals
from exclave.operations.timestamp import stamp_due
from exclave.registers.contract import Capture, Clock
from exclave.rules.epochs import VerifiedEpoch
from exclave.rules.lease import require_basis_now
from exclave.rules.pen import index_keys_of_pen
from exclave.rules.placement import PlacementRule, placement_of
from exclave.rules.policy import in_words, lacking
from exclave.sites.contract import Site
from exclave.vault.catchup import catch_up
from exclave.vault.index import ChunkIndex
from exclave.vault.reindex import finish_intents, reconcile
from exclave.vault.sealer import PackKeys
from exclave.vault.seed import Seeds
from exclave.vault.writer import SealedVersion, VersionWriter, WriterIdentity
from exclave.verify.deletions import read_deletions
from exclave.verify.history import CLOCK_TOLERANCE_US, RegisterHistory, read_history
from exclave.verify.state import StateView, read_state, signed_names

OpenCapture = Callable[[Dataset, Path, Clock], Capture]
"""From a dataset of the configuration and a staging folder to its capture."""


@dataclass(frozen=True, slots=True)
class DatasetReceipt:
    """What one dataset of a version holds."""

    name: str
    kind: str
    entries: int
    bytes: int
    captured: Instant
    digest: str
    digest_exact: bool
    rows: dict[str, int]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a backup did, and what it is worth."""

    register: str
    register_id: RegisterId
    epoch: int
    sequence: int
    time: Instant
    """The moment whose state the version is: the earliest of its datasets'."""
    datasets: tuple[DatasetReceipt, ...]
    read_bytes: int
    shipped_bytes: int
    new_chunks: int
    reused_files: int
    objects: int
    total_bytes: int
    """Size of all objects that the version needs."""
    sites: tuple[Label, ...]
    failed: dict[Label, str]
    """Sites that do not hold it, and why."""
    witnesses: tuple[Label, ...]
    witnesses_failed: dict[Label, str]
    quorum: str
    """Whose cosignatures the charter asks for, in words; empty if nobody's."""
    lacking: str
    """Which of them are missing, in words."""
    protected: bool
    """Enough sites hold it by the charter's rule, and their leases and legal bases stand."""
    protection: str
    """Why it is protected, or why not, in words."""
    protected_at: Instant
    rpo_s: int
    rpo_met_s: float
    """Age of the captured state when the version was protected, in seconds."""
    suspicious: tuple[str, ...] = ()
    """What is not as usual in what changed, in sentences: see ``exclave snapshots``."""
    timestamps: tuple[Label, ...] = ()
    """Authorities that dated the ledger, if that was due."""
    timestamps_failed: dict[Label, str] = field(default_factory=dict)
    """Authorities that should have and did not, and sites that did not take a token."""

    @property
    def witnessed(self) -> bool:
        return not self.lacking


@dataclass(slots=True)
class _Run:
    """What the steps of one backup share."""

    home: Home
    register: RegisterId
    view: StateView
    sites: dict[Label, Site]
    rule: CharterRegister
    placement: PlacementRule
    epoch: VerifiedEpoch
    signed: dict[str, bytes | None]
    """What names each site listed of what is signed, just before it was read."""
    failed: dict[Label, str] = field(default_factory=dict)


def backup(
    home: Home,
    name: str,
    *,
    sites: Mapping[Label, Site],
    witnesses: Mapping[Label, str],
    open_capture: OpenCapture,
    clock: Clock,
    progress: Callable[[str, int, int], None] = lambda what, done, size: None,
    to: Sequence[Label] = (),
) -> Receipt:
    """Takes one version of the register ``name``.

    ``witnesses``: their addresses. ``to``: only these sites. Raises ``Fenced`` if a later epoch has the pen,
    ``LegalBasisMissing``, ``SourceUnavailable``, ``PlacementUnmet``, ``Busy``; what was shipped until then is kept.
    """
    config = home.config.find_register(name)
    register = home.register_id(name)
    with home.alone(register):
        run = _begin(home, register, sites, to, clock())  # (1)
        outbox = home.folder / "state" / f"{register}.outbox"
        staging = home.cache(register) / "staging"
        shutil.rmtree(staging, ignore_errors=True)  # left by a run that died
        index = ChunkIndex(home.cache(register) / "index.sqlite")
        try:
            _reconcile(run, index)  # (2)
            settle_outbox(run.view, run.epoch, home.writer_key(), sites=run.sites, now=clock(), outbox=outbox)
            size = shown_size(run.view, run.epoch, run.sites)
            sequence, not_before, history = _next_version(run, clock())
            _carry(run, history, index, clock())
            writer = _writer(run, config.name, index, progress)
            try:
                observer = Observer(home.cache(register), clock())
                records = Committing(config, home.register_secrets(register).id_key)
                for dataset in config.dataset:
                    named = Dataset(dataset.name, dataset.kind, {k: str(v) for k, v in dataset.options.items()})
                    _capture(writer, open_capture(named, staging, clock), dataset, observer, records)
                time = Instant(max(min((d.captured for d in writer.datasets), default=clock()), not_before))
                sealed = writer.seal(sequence, time)  # (3)
                holders = _hand_round(run, writer, index, sealed)  # (4)
                leaf = VersionLeaf(
                    register, run.epoch.number, sequence, time, sealed.manifest, sealed.objects.root,
                    sealed.objects.count, sealed.objects.size_bytes, records.root(sequence),
                )  # fmt: skip
                parse_version_leaf(leaf.encode())  # what readers would not take is never entered
                _still_mine(run, sites)
                entries = [
                    *rekey_facts(run.view, run.epoch, run.sites, clock()),
                    *charter_facts(run.view, history, run.epoch.number, clock()), leaf.encode(),
                ]  # fmt: skip
                entered = enter(  # (5)
                    run.view, run.epoch, home.writer_key(), entries,
                    sites=holders, witnesses=witnesses, now=clock(), outbox=outbox, expected=size,
                )  # fmt: skip
                _still_mine(run, sites, entered.first + len(entries))
                run.failed.update(entered.failed)
                run.placement.check(entered.sites, _why(run))
                writer.commit_caches()
                observer.commit(sequence, run.epoch.number, time, sealed.manifest.hex())
                records.commit(home.cache(register), sequence)
            finally:
                writer.close()
        finally:
            index.close()
            shutil.rmtree(staging, ignore_errors=True)
        done = clock()
        receipt = _receipt(run, name, leaf, sealed, entered, done, observer.clear)  # (6)
        stamped = stamp_due(home, run.view, register, run.sites, ask_timestamp, now=done)
        return replace(receipt, timestamps=stamped.authorities, timestamps_failed=stamped.failed)


def _begin(home: Home, register: RegisterId, sites: Mapping[Label, Site], to: Sequence[Label], now: Instant) -> _Run:
    signed = signed_names(sites, home.fingerprint(), register)
    view = read_state(sites, home.fingerprint(), only={register})
    rule = view.chain.newest.charter.register(register)
    if rule is None:
        raise UsageError(f"the charter in force does not list register {register}")
    for label in to:
        if label not in rule.at:
            raise LegalBasisMissing(f"the charter gives no legal basis for this register at {label}", site=label)
        require_basis_now(rule, label, now)
    require_not_older(home, view, register)
    epoch = view.epoch_chain(register).newest
    me = home.writer_card()
    if epoch.note.writer != me.digest:
        raise Fenced(
            f"epoch {epoch.number} of this register belongs to another writer, {epoch.writer.name}; this one may no"
            " longer write",
            epoch=epoch.number,
        )
    # A lease that has ended stops no writer: the copies would only grow older. `status` sounds the alarm.
    placement = placement_of(view.chain.newest.charter, rule, now=now, leases=False)
    ended = {label: f"{why}: nothing is shipped there" for label, why in placement.ended.items() if label in sites}
    wanted = [label for label in (to or rule.at) if label in sites and label not in ended]
    run = _Run(
        home, register, view, {label: sites[label] for label in wanted}, rule, placement, epoch, signed, ended
    )  # fmt: skip
    if ended and not run.sites:
        require_basis_now(rule, next(iter(ended)), now)
    if not run.sites:
        raise ConfigError("none of the sites that the charter names for this register is in exclave.toml")
    if to and (lacks := run.placement.missing(run.sites)):
        raise PlacementUnmet(
            f"{', '.join(to)} alone cannot meet the register's placement rule: {lacks}",
            hint="Name further sites with --to, or leave it out; nothing was captured.",
        )
    return run


def _still_mine(run: _Run, sites: Mapping[Label, Site], entered: int | None = None) -> None:
    """Hours may have gone by since (1), and where no witness is needed nobody else would say that the pen is gone.

    Before the ledger, and after it with the log's size: who begins an epoch puts its note first and then looks at the
    former log, so one of the two always sees the other. Where every site lists what it listed in (1), nothing is new.
    """
    signed = signed_names(sites, run.view.state, run.register)
    if None not in signed.values() and signed == run.signed:
        return
    chain = read_state(sites, run.view.state, only={run.register}).epoch_chain(run.register)
    epoch = chain.newest
    if epoch.digest == run.epoch.digest:
        return
    follows = chain.find(Epoch(run.epoch.number + 1))
    if entered is not None and follows is not None and follows.note.previous is not None:
        cut = follows.note.previous
        if cut.note == run.epoch.digest and cut.size >= entered:
            return  # The new epoch begins after this version.
    if epoch.note.writer == run.epoch.note.writer:
        raise Fenced(
            f"epoch {epoch.number} of this register began while this backup ran, so its version does not count",
            hint="Run the backup again: what was shipped is kept, and the version is entered under the new epoch.",
            epoch=epoch.number,
        )
    raise Fenced(
        f"epoch {epoch.number} of this register began while this backup ran; this writer may no longer write",
        epoch=epoch.number,
    )


def _reconcile(run: _Run, index: ChunkIndex) -> None:
    """(2) Only what this writer alone can have sealed is believed, and what it has opened itself in a restore.

    The index keys of former writers are known to whoever stole the machine that had the pen then.
    """
    epoch, cache, chain = run.epoch.number, run.home.cache(run.register), run.view.epoch_chain(run.register)
    mine = index_keys_of_pen(run.home.register_secrets(run.register).index_keys, chain)
    if forget_others(run.home, index, chain):
        for catalogue in cache.glob("*.catalogue"):
            # Its references are as old. A restart finds fewer of them, and an index without what they name.
            catalogue.unlink()
    seeds = Seeds(cache)
    try:
        for label, site in list(run.sites.items()):
            try:
                reconcile(index, label, site, run.view.state, run.register, mine, whole=True, seeds=seeds, epoch=epoch)
            except UnavailableError as error:
                _leave_out(run, label, error.message)
    finally:
        seeds.close()
    run.placement.check(run.sites, _why(run))
    finish_intents(index)


def _leave_out(run: _Run, label: Label, why: str) -> None:
    run.failed[label] = why
    run.sites.pop(label, None)


def _why(run: _Run, more: Mapping[Label, str] | None = None) -> str:
    return "; ".join(f"{label}: {reason}" for label, reason in {**run.failed, **(more or {})}.items())


def _carry(run: _Run, history: RegisterHistory, index: ChunkIndex, now: Instant) -> None:
    """Sites that were away get what they missed but packs, before a ledger that speaks of it is published there.

    What an order takes away is left alone from here on: this version refers to none of it.
    """
    for label, why in carry_state(run.view, run.register, run.sites).items():
        _leave_out(run, label, why)
    for label, why in carry_lists(run.view, run.register, history.versions, run.sites).items():
        _leave_out(run, label, why)
    behind = _behind(run, history)
    # Not from each other: a host that hides what it was given would be asked for all that it shows, time and again.
    sources = {label: site for label, site in run.sites.items() if label not in behind}
    for label in behind:
        try:
            # What such a site refuses of these, `verify` and `site sync` tell: no version rests on them.
            carry_public(run.view, history, label, run.sites[label], sources)
            carry_public_statements(run.view, label, run.sites[label], sources)
        except UnavailableError as error:
            _leave_out(run, label, error.message)
    deletions = read_deletions(run.view, run.sites, history, now=now)
    for label, why in carry_orders(run.view, deletions, run.sites).items():
        _leave_out(run, label, why)
    leave_doomed(run.view, run.sites, history, deletions, index)
    run.placement.check(run.sites, _why(run))


def _behind(run: _Run, history: RegisterHistory) -> list[Label]:
    """Sites whose ledger lacks the newest version: they were away, or are new."""
    return [label for label in run.sites if history.versions and label not in history.latest.held_by]


def _next_version(run: _Run, now: Instant) -> tuple[VersionNumber, Instant, RegisterHistory]:
    """Number of the version to come, the time that it may not be older than, and what the ledger has before it.

    A former version whose time lies in the future was made by a wrong clock, or by a thief: it binds nobody.
    """
    history = read_history(run.view, run.sites, run.register, allow_unwitnessed=True)
    if not history.versions:
        return VersionNumber(1), Instant(0), history
    last = history.latest.leaf
    if last.sequence >= MAX_SEQUENCE:
        raise CorruptObject(
            f"the ledger's last version says that it is number {last.sequence}: there is none after it",
            hint="Somebody with the writer's key entered it: only a charter with a new register goes on from here.",
        )
    return VersionNumber(last.sequence + 1), least_time(last.time, now), history


def least_time(last: Instant, now: Instant) -> Instant:
    """The time that a version may not be older than, after one of ``last``."""
    return last if last <= now + CLOCK_TOLERANCE_US else Instant(0)


def _writer(run: _Run, name: str, index: ChunkIndex, progress: Callable[[str, int, int], None]) -> VersionWriter:
    secrets, chain = run.home.register_secrets(run.register), run.view.epoch_chain(run.register)
    mine = index_keys_of_pen(secrets.index_keys, chain)
    epoch = run.epoch.number
    if epoch not in mine:
        raise UsageError(
            f"this home has no index key for epoch {epoch} of register {name}",
            hint="Since a failover or failback, back up from the folder in which it was run: its keys are there.",
        )
    secrets = Secrets(
        secrets.id_key, secrets.chunk_seed, {**secrets.index_keys, **{int(e): key for e, key in mine.items()}}
    )
    keys = PackKeys(run.register, epoch, SealingKey(run.epoch.note.opening), secrets.id_key, mine[epoch])
    who = WriterIdentity(run.view.state, run.register, name, epoch, keys, secrets)

    def check(good: Collection[Label]) -> None:
        failed = {label: error.message for label, error in writer.shipper.failed.items()}
        run.placement.check(good, _why(run, failed))

    writer = VersionWriter(
        who,
        sites=run.sites,
        index=index,
        cache=run.home.cache(run.register),
        check_placement=check,
        progress=lambda entries, size: progress("read", entries, size),
    )
    return writer


def _capture(
    writer: VersionWriter, capture: Capture, dataset: DatasetConfig, observer: Observer, records: Committing
) -> None:
    label = Label(dataset.name)
    watch, former = observer.begin(dataset)
    with capture:
        describe = writer.add_dataset(
            label, dataset.kind, capture.items(), ordered=capture.ordered, watch=watch, records=records.key_for(dataset)
        )
        digest = capture.digest(records.rows_for(dataset, former))
        noted = observer.note(label, writer.signals_of(label), digest)
        noted |= records.note(label, writer.records_of(label), digest)
        describe(capture.captured_at, {**capture.facts, **noted}, digest)


def _hand_round(run: _Run, writer: VersionWriter, index: ChunkIndex, sealed: SealedVersion) -> dict[Label, Site]:
    """(4) Every site that works gets all packs of this version; the sites that hold them all.

    Packs of earlier versions are brought too where that can be done. What no site gives any more, or a site holds
    spoilt, is for ``verify`` to tell: it does not end all backups. The index holds no pack but this writer's own and
    those that it restored from, so nobody's rubbish is carried on.
    """
    for label, error in writer.shipper.failed.items():
        _leave_out(run, label, error.message)
    caught = catch_up(
        state=run.view.state, register=run.register, needs=dict(index.size_of(sealed.needs)),
        lists=sealed.objects.nodes, sites=run.sites, index=index,
        others={name: size for name, size in index.sizes().items() if name not in sealed.needs},
    )  # fmt: skip
    for label, problem in caught.failed.items():
        run.failed[label] = problem
    holders = {label: site for label, site in run.sites.items() if label not in caught.failed}
    run.placement.check(holders, _why(run))
    return holders


def _receipt(
    run: _Run,
    name: str,
    leaf: VersionLeaf,
    sealed: SealedVersion,
    entered: Entered,
    done: Instant,
    suspicious: tuple[str, ...],
) -> Receipt:
    charter = run.view.chain.newest.charter
    policy = charter.policy
    # Its sites took every object durably, each under the hash of its bytes, before they show it.
    protection = placement_of(charter, run.rule, now=done).protection(entered.sites, run.failed)
    return Receipt(
        register=name,
        register_id=run.register,
        epoch=run.epoch.number,
        sequence=leaf.sequence,
        time=leaf.time,
        datasets=tuple(
            DatasetReceipt(
                d.label,
                d.kind,
                d.entries,
                d.bytes,
                Instant(d.captured),
                d.digest,
                d.digest_exact,
                d.rows,
                without_signals(d.facts),
            )
            for d in sealed.datasets
        ),
        read_bytes=sealed.read_bytes,
        shipped_bytes=sealed.shipped_bytes,
        new_chunks=sealed.new_chunks,
        reused_files=sealed.reused_files,
        objects=sealed.objects.count,
        total_bytes=sealed.objects.size_bytes,
        sites=entered.sites,
        failed={label: why for label, why in run.failed.items() if label not in entered.sites},
        witnesses=entered.witnesses,
        witnesses_failed=entered.refused,
        quorum=in_words(policy) if policy.quorum else "",
        lacking=lacking(policy, entered.witnesses),
        protected=protection.protected,
        protection=protection.why,
        protected_at=done,
        rpo_s=run.rule.rpo_s,
        rpo_met_s=max(done - leaf.time, 0) / 1e6,
        suspicious=suspicious,
    )

"""Backup: one version of one register, sealed, at the sites that the rule names, and in its ledger.

(1) who has the pen · (2) what the sites hold · (3) capture, seal, ship · (4) every site gets what it lacks ·
(5) ledger: append, publish, witnesses · (6) receipt. Until (5) nothing refers to what was stored, so an interrupted
run leaves every earlier version whole, and the next run finds what was shipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from exclave.crypto.hpke import SealingKey
from exclave.errors import CorruptObject, UsageError
from exclave.formats.annex import Dataset
from exclave.formats.config import DatasetConfig
from exclave.formats.leaf import MAX_SEQUENCE, VersionLeaf, parse_version_leaf
from exclave.formats.manifest import Secrets
from exclave.ids import Instant, Label
from exclave.ids import Sequence as VersionNumber
from exclave.ledger.timestamp_client import ask_timestamp
from exclave.operations.backup_begin import Run, begin, leave_out, require_pen_still, why_left_out
from exclave.operations.backup_level import bring_level, reconcile_index
from exclave.operations.home import Home
from exclave.operations.keeping import charter_facts
from exclave.operations.ledger_entry import Entered, enter, settle_outbox, shown_size
from exclave.operations.new_epoch import rekey_facts
from exclave.operations.receipt import DatasetReceipt, Receipt
from exclave.operations.records import Committing
from exclave.operations.signals import Observer, without_signals
from exclave.operations.timestamp import stamp_due
from exclave.registers.contract import Capture, Clock
from exclave.rules.pen import index_keys_of_pen
from exclave.rules.placement import placement_of
from exclave.rules.policy import in_words, lacking
from exclave.sites.contract import Site
from exclave.vault.catchup import catch_up
from exclave.vault.index import ChunkIndex
from exclave.vault.sealer import PackKeys
from exclave.vault.writer import SealedVersion, VersionWriter, WriterIdentity
from exclave.verify.history import CLOCK_TOLERANCE_US, RegisterHistory, read_history

OpenCapture = Callable[[Dataset, Path, Clock], Capture]
"""From a dataset of the configuration and a staging folder to its capture."""


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
        run = begin(home, register, sites, to, clock())  # (1)
        outbox = home.folder / "state" / f"{register}.outbox"
        staging = home.cache(register) / "staging"
        shutil.rmtree(staging, ignore_errors=True)  # left by a run that died
        index = ChunkIndex(home.cache(register) / "index.sqlite")
        try:
            reconcile_index(run, index)  # (2)
            settle_outbox(run.view, run.epoch, home.writer_key(), sites=run.sites, now=clock(), outbox=outbox)
            size = shown_size(run.view, run.epoch, run.sites)
            sequence, not_before, history = _next_version(run, clock())
            bring_level(run, history, index, clock())
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
                require_pen_still(run, sites)
                entries = [
                    *rekey_facts(run.view, run.epoch, run.sites, clock()),
                    *charter_facts(run.view, history, run.epoch.number, clock()), leaf.encode(),
                ]  # fmt: skip
                entered = enter(  # (5)
                    run.view, run.epoch, home.writer_key(), entries,
                    sites=holders, witnesses=witnesses, now=clock(), outbox=outbox, expected=size,
                )  # fmt: skip
                require_pen_still(run, sites, entered.first + len(entries))
                run.failed.update(entered.failed)
                run.placement.check(entered.sites, why_left_out(run))
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


def _next_version(run: Run, now: Instant) -> tuple[VersionNumber, Instant, RegisterHistory]:
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


def _writer(run: Run, name: str, index: ChunkIndex, progress: Callable[[str, int, int], None]) -> VersionWriter:
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
        run.placement.check(good, why_left_out(run, failed))

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


def _hand_round(run: Run, writer: VersionWriter, index: ChunkIndex, sealed: SealedVersion) -> dict[Label, Site]:
    """(4) Every site that works gets all packs of this version; the sites that hold them all.

    Packs of earlier versions are brought too where that can be done. What no site gives any more, or a site holds
    spoilt, is for ``verify`` to tell: it does not end all backups. The index holds no pack but this writer's own and
    those that it restored from, so nobody's rubbish is carried on.
    """
    for label, error in writer.shipper.failed.items():
        leave_out(run, label, error.message)
    caught = catch_up(
        state=run.view.state, register=run.register, needs=dict(index.size_of(sealed.needs)),
        lists=sealed.objects.nodes, sites=run.sites, index=index,
        others={name: size for name, size in index.sizes().items() if name not in sealed.needs},
    )  # fmt: skip
    for label, problem in caught.failed.items():
        run.failed[label] = problem
    holders = {label: site for label, site in run.sites.items() if label not in caught.failed}
    run.placement.check(holders, why_left_out(run))
    return holders


def _receipt(
    run: Run,
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

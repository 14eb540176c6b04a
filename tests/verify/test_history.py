"""Which versions count: across epochs, cuts, witnesses, forks and sites that are behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from exclave.errors import MissingObject
from exclave.formats.charter import CharterWitness, ParsedCharter
from exclave.formats.leaf import VersionLeaf
from exclave.formats.paths import card_key, charter_key, epoch_key, ledger_origin, ledger_prefix
from exclave.ids import Digest, Epoch, Fingerprint, Instant, Sequence, sha256
from exclave.keys.file import KeyKind
from exclave.ledger.log import Log
from exclave.ledger.publish import publish
from exclave.rules.checkpoints import cosign
from exclave.sites.memory import MemorySite
from exclave.verify.history import RegisterHistory, read_history
from exclave.verify.state import read_state
from support.custody import REGISTER, START, Actor, Land, actor, any_of, people, writer
from support.hostile import MissingSite, containing
from support.shown_sites import FACTS, world

WITNESSES = tuple(actor(f"witness-{name}") for name in "abc")
HOUR = 3_600_000_000


class Ledgers:
    """A land whose register has two witnesses to convince, at two sites; versions are leaves without objects."""

    def __init__(self, needed: int = 2) -> None:
        self.land = Land(people("anna", "boris", "clara"), 2)
        self.sites = {"one": MemorySite("one"), "two": MemorySite("two")}
        head = self.land.chain.newest.charter
        shown = [*self.land.custodians, writer(), actor("observer", KeyKind.WITNESS), *WITNESSES]
        charter = replace(
            head,
            number=head.number + 1,
            previous=head.digest,
            witnesses=tuple(CharterWitness(w.name, w.card.digest) for w in WITNESSES),
            policy=any_of(needed, *(w.name for w in WITNESSES)),
        )
        self._charter(charter)
        self.state = Fingerprint(self.land.state)
        for site in self.sites.values():
            for note in self.land.charter_notes:
                site.put_same(charter_key(self.state, note), note)
            for note in self.land.epoch_notes:
                site.put_same(epoch_key(self.state, REGISTER, note), note)
            for person in shown:
                site.put_same(card_key(self.state, person.card.digest), person.card.encode().encode())

    def _charter(self, charter: ParsedCharter) -> None:
        self.land.add_charter(charter, *self.land.custodians[: self.land.threshold])

    def log(self, site: str = "one") -> Log:
        epoch, by = self.land.epochs.newest, writer()
        prefix = ledger_prefix(self.state, REGISTER, epoch.number, epoch.digest)
        origin = ledger_origin(self.state, REGISTER, epoch.number)
        return Log.open(self.sites[site], prefix, origin, by.card, by.pair, now=START)

    def add(self, *sequences: int, site: str = "one", witnesses: int = 0) -> Log:
        log = self.log(site)
        log.append([leaf(n) for n in sequences], Instant(START + sequences[-1] * HOUR))
        if witnesses:
            self.witness(log, WITNESSES[:witnesses])
        return log

    def witness(self, log: Log, by: Iterable[Actor]) -> None:
        assert log.checkpoint is not None
        for w in by:
            log.attach(cosign(log.checkpoint.checkpoint, w.name, w.pair, START))

    def publish(self, log: Log) -> None:
        assert log.checkpoint is not None
        publish(log.reader, log.checkpoint, self.sites["two"])

    def history(self, *, allow: bool = False, newest: int | None = None) -> RegisterHistory:
        view = read_state(self.sites, self.state)
        assert view.findings == []
        return read_history(view, self.sites, REGISTER, allow_unwitnessed=allow, newest=newest)


def leaf(sequence: int, *, tag: int = 0) -> bytes:
    name = sha256(bytes([tag]))
    time = Instant(START + sequence * HOUR)
    return VersionLeaf(REGISTER, Epoch(1), Sequence(sequence), time, name, name, 1, 4096).encode()


def numbers(history: RegisterHistory) -> list[int]:
    return [v.leaf.sequence for v in history.versions]


def faults(history: RegisterHistory) -> set[tuple[str, str, bool]]:
    return {(f.site, f.fault, f.grave) for f in history.findings}


def test_two_epochs_make_one_history() -> None:
    """Versions of both epochs in order, with where they stand and who covers them."""
    w = world()
    view = read_state(w.sites, w.state)
    history = read_history(view, w.sites, w.register)
    assert [(v.epoch, v.index, v.leaf.sequence) for v in history.versions] == [(1, 0, 1), (1, 1, 2), (2, FACTS, 3)]
    assert {v.held_by for v in history.versions} == {("home", "luxembourg", "monaco")}
    assert [(e.counted, e.source) for e in history.epochs] == [(2, "home"), (FACTS + 1, "home")]
    assert history.newest_log.freshest is not None
    assert history.newest_log.freshest.size == FACTS + 1
    assert history.newest_log.sizes == dict.fromkeys(w.sites, FACTS + 1)
    assert (history.latest, history.version(2).index) == (history.versions[-1], 1)
    assert history.findings == ()
    with pytest.raises(MissingObject):
        history.version(4)


def test_the_newest_few_come_without_reading_the_rest() -> None:
    """A restore of the latest version does not depend on old bundles."""
    w = world()
    view = read_state(w.sites, w.state)
    sites = {name: MissingSite(site, containing("tile/entries/000")) for name, site in w.sites.items()}
    assert numbers(read_history(view, sites, w.register, newest=1)) == [3]
    history = read_history(view, sites, w.register)
    assert numbers(history) == [3]
    assert ("?", "missing-object", True) in faults(history)


def test_an_epoch_without_versions_leaves_the_former_ones() -> None:
    """Right after a failover the latest version is one of the former epoch."""
    w = world()
    prefix = w.log_key("")
    for name in w.sites:
        for key in w.names(name):
            if key.startswith(prefix):
                w.put(name, key, None)
    history = read_history(read_state(w.sites, w.state), w.sites, w.register)
    assert history.latest.leaf.sequence == 2
    assert history.newest_log.freshest is None
    assert history.findings == ()


def test_a_former_epoch_is_read_though_every_head_of_it_is_gone() -> None:
    """The cut in the successor's note proves the entries; no checkpoint is needed, and none is believed over it."""
    w = world()
    for name in w.sites:
        w.put(name, w.log_key("checkpoint", 1), None)
    history = read_history(read_state(w.sites, w.state), w.sites, w.register)
    assert numbers(history) == [1, 2, 3]
    assert history.epochs[0].freshest is None
    assert [v.held_by for v in history.versions[:2]] == [(), ()]


def test_only_witnessed_entries_count() -> None:
    """The largest checkpoint with enough cosignatures counts; later entries are told, and not as grave."""
    ledgers = Ledgers()
    ledgers.publish(ledgers.add(1, 2, witnesses=2))
    ledgers.add(3, witnesses=1)
    history = ledgers.history()
    assert numbers(history) == [1, 2]
    assert faults(history) == {("one", "quorum-missing", False)}
    assert [v.held_by for v in history.versions] == [("one", "two")] * 2
    assert numbers(ledgers.history(allow=True)) == [1, 2, 3]


def test_cosignatures_at_different_sites_count_together() -> None:
    """One witness's at each site is two."""
    ledgers = Ledgers()
    log = ledgers.add(1)
    ledgers.publish(log)
    ledgers.witness(log, WITNESSES[:1])
    ledgers.witness(ledgers.log("two"), WITNESSES[1:2])
    assert numbers(ledgers.history()) == [1]


def test_without_enough_witnesses_nothing_counts_unless_allowed() -> None:
    """No witnessed checkpoint at all: grave, and only an explicit word goes on."""
    ledgers = Ledgers()
    ledgers.publish(ledgers.add(1, witnesses=1))
    history = ledgers.history()
    assert numbers(history) == []
    assert faults(history) == {("?", "quorum-missing", True)}
    with pytest.raises(MissingObject, match=r"lacks \(1 of: witness-b, witness-c\)"):
        history.latest  # noqa: B018
    assert numbers(ledgers.history(allow=True)) == [1]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_witnesses_decide_between_two_branches(size: int) -> None:
    """A thief of the writer's key forks the log at one site, shorter or longer: the witnessed branch stands."""
    ledgers = Ledgers()
    ledgers.add(1, 2, 3, witnesses=2)
    ledgers.log("two").append([leaf(1), *(leaf(n, tag=1) for n in range(2, size + 1))], START)
    history = ledgers.history()
    assert numbers(history) == [1, 2, 3]
    assert faults(history) == {("two", "forked", True)}
    assert [v.held_by for v in history.versions] == [("one", "two"), ("one",), ("one",)]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_without_witnesses_a_fork_leaves_what_both_have(size: int) -> None:
    """Nobody can tell which branch is right: both sites are named, and asking one alone follows its branch."""
    ledgers = Ledgers(needed=0)
    ledgers.add(1, 2, 3)
    ledgers.log("two").append([leaf(1), *(leaf(n, tag=1) for n in range(2, size + 1))], START)
    history = ledgers.history()
    assert numbers(history) == [1]
    assert faults(history) == {("one", "forked", True), ("two", "forked", True)}
    ledgers.sites = {"two": ledgers.sites["two"]}
    assert numbers(ledgers.history()) == list(range(1, size + 1))


def test_a_site_that_is_behind_covers_less() -> None:
    """It holds what its own head covers, which is the start of the freshest."""
    ledgers = Ledgers()
    ledgers.publish(ledgers.add(1, witnesses=2))
    ledgers.add(2, witnesses=2)
    history = ledgers.history()
    assert [v.held_by for v in history.versions] == [("one", "two"), ("one",)]
    assert (history.findings, history.newest_log.sizes) == ((), {"one": 2, "two": 1})


def test_a_log_is_read_from_whoever_has_it_unharmed() -> None:
    """The freshest site lost its bundle; the other one's bytes are proven by the same head."""
    ledgers = Ledgers()
    ledgers.publish(ledgers.add(1, 2, witnesses=2))
    spoilt = {"one": MissingSite(ledgers.sites["one"], containing("tile/entries")), "two": ledgers.sites["two"]}
    history = read_history(read_state(spoilt, ledgers.state), spoilt, REGISTER)
    assert numbers(history) == [1, 2]
    assert faults(history) == {("one", "missing-object", True)}


def test_sequences_must_rise_and_clocks_may_err_a_little() -> None:
    """A repeated number does not count; a time that goes far back is told."""
    ledgers = Ledgers(needed=0)
    name = Digest(bytes(32))
    back = VersionLeaf(REGISTER, Epoch(1), Sequence(4), Instant(START), name, name, 1, 4096).encode()
    ledgers.log().append([leaf(1), leaf(2), leaf(2), leaf(1), back], START)
    history = ledgers.history()
    assert numbers(history) == [1, 2, 4]
    assert [f.what for f in history.findings] == ["version 2", "version 1", "version 4"]


def test_unknown_registers_are_refused() -> None:
    """A register without epochs has no history."""
    ledgers = Ledgers()
    view = read_state(ledgers.sites, ledgers.state)
    view.epochs.clear()
    with pytest.raises(MissingObject):
        read_history(view, ledgers.sites, REGISTER)

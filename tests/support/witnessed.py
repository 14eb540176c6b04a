"""A register whose ledger some witnesses cosign at times of a test's choice; no objects, one site in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from exclave.formats.charter import CharterWitness
from exclave.formats.paths import card_key, charter_key, epoch_key, ledger_origin, ledger_prefix
from exclave.ids import Epoch, Fingerprint, Instant
from exclave.keys.file import KeyKind
from exclave.ledger.log import Log
from exclave.ledger.publish import keep_cosigned
from exclave.rules.checkpoints import cosign
from exclave.sites.memory import MemorySite
from support.custody import REGISTER, START, Land, actor, any_of, people, writer

HOUR = 3_600_000_000


class WitnessedState:
    """Use: ``append`` entries, then ``cosign`` the head."""

    register = REGISTER
    epoch = Epoch(1)

    def __init__(self, *, witnesses: tuple[str, ...], needed: int) -> None:
        land = Land(people("anna", "boris", "clara"), 2)
        self.witnesses = {name: actor(name, KeyKind.WITNESS) for name in sorted(witnesses)}
        head = land.chain.newest.charter
        charter = replace(
            head,
            number=head.number + 1,
            previous=head.digest,
            witnesses=tuple(CharterWitness(w.name, w.card.digest) for w in self.witnesses.values()),
            policy=any_of(needed, *self.witnesses),
        )
        land.add_charter(charter, *land.custodians[: land.threshold])
        self.state = Fingerprint(land.state)
        self.site = MemorySite("one")
        self.sites = {"one": self.site}
        for note in land.charter_notes:
            self.site.put_same(charter_key(self.state, note), note)
        for note in land.epoch_notes:
            self.site.put_same(epoch_key(self.state, REGISTER, note), note)
        observer = actor("observer", KeyKind.WITNESS)
        for person in (*land.custodians, writer(), observer, *self.witnesses.values()):
            self.site.put_same(card_key(self.state, person.card.digest), person.card.encode().encode())
        self._land = land

    def _log(self) -> Log:
        epoch = self._land.epochs.newest
        prefix = ledger_prefix(self.state, REGISTER, epoch.number, epoch.digest)
        origin = ledger_origin(self.state, REGISTER, epoch.number)
        return Log.open(self.site, prefix, origin, writer().card, writer().pair, now=START)

    def append(self, *entries: bytes) -> None:
        self._log().append(list(entries), START)

    def cosign(self, times: Mapping[str, Instant]) -> None:
        """Each of these witnesses vouches for the head by its own clock, and the head is kept."""
        log = self._log()
        assert log.checkpoint is not None
        head = log.checkpoint
        for name, time in times.items():
            by = self.witnesses[name]
            head = log.attach(cosign(head.checkpoint, by.name, by.pair, time))
        keep_cosigned(self.site, log.reader.prefix, head)

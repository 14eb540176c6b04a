"""A whole little state on disk: five custodians (three suffice), one register, one or more directory sites.

Made from the product's own parts, so a test gets real versions, epochs and ledgers in a second and can then break
them. Keys are the same each time; packs and signatures are not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from exclave.crypto.hpke import OpeningKey, SealingKey
from exclave.formats.card import Card
from exclave.formats.charter import (
    CharterRegister,
    CharterSite,
    Custodian,
    ParsedCharter,
    Placement,
    parse_charter,
)
from exclave.formats.entry import Captured
from exclave.formats.epochnote import Cut, ParsedEpoch, parse_epoch
from exclave.formats.leaf import VersionLeaf
from exclave.formats.manifest import Secrets
from exclave.formats.note import ParsedNote
from exclave.formats.paths import (
    box_key,
    card_key,
    charter_key,
    epoch_key,
    ledger_origin,
    ledger_prefix,
    warrant_key,
)
from exclave.formats.policy import NO_WITNESSES
from exclave.formats.warrant import Act, ParsedWarrant, parse_warrant
from exclave.ids import (
    Country,
    Digest,
    Epoch,
    Fingerprint,
    Instant,
    Key,
    Label,
    RegisterId,
    Sequence,
    sha256,
)
from exclave.keys.file import create
from exclave.ledger.log import Log
from exclave.ledger.publish import publish
from exclave.registers.files import FolderCapture
from exclave.rules.quorum import make_epoch_shares, seal_ancestors
from exclave.sites.directory import DirectorySite
from exclave.vault.index import ChunkIndex
from exclave.vault.sealer import PackKeys
from exclave.vault.writer import VersionWriter, WriterIdentity, new_secrets
from support.custody import Actor, actor, machine, people, signed, stream, writer

START = Instant(1_790_000_000_000_000)
HOUR = 3_600_000_000
REGISTER = RegisterId("0123456789abcdef0123456789abcdef")
COUNTRIES = (Country("EE"), Country("LU"), Country("MC"), Country("IS"))


class SmallEpoch:
    """One epoch: its note, the secret behind it, its sealed shares and who writes in it."""

    def __init__(self, note: ParsedEpoch, seed: bytes, boxes: Mapping[Label, bytes], by: Actor, maker: Actor) -> None:
        self.note, self.seed, self.boxes, self.by = note, seed, boxes, by
        self.opening = OpeningKey(seed)
        self.signed = signed(note.encode(), maker)


class SmallState:
    """Use: ``SmallState(folder)``, then ``write_version(source)`` as often as needed; ``new_epoch`` in between."""

    def __init__(
        self,
        folder: Path,
        *,
        sites: Iterable[str] = ("home",),
        custodians: Iterable[str] = ("anna", "boris", "clara", "dora", "emil"),
        threshold: int = 3,
        register_name: str | None = None,
    ) -> None:
        """``register_name``: the register's public name; None seals it."""
        self.folder, self.threshold, self.register = folder, threshold, REGISTER
        self.custodians = people(*sorted(custodians))
        self.sites: dict[Label, DirectorySite] = {}
        for name in sites:
            self.site_folder(name).mkdir(parents=True)
            self.sites[Label(name)] = DirectorySite(str(self.site_folder(name)))
        self.cache = folder / "cache"
        self.cache.mkdir()
        self.secrets: Secrets = new_secrets(Epoch(1))
        self.sequence = 0
        self.time = START
        home = writer()
        self.epochs: list[SmallEpoch] = [self._make_epoch(1, home, None, None)]
        self.charter = self._draft(register_name)
        self.state = Fingerprint(self.charter.digest.hex())
        self.put_everywhere(lambda note: charter_key(self.state, note), self._sign(self.charter.encode()))
        for person in (*self.custodians, home):
            self.put_card(person.card)
        self._put_epoch(self.epoch)

    # Where things are

    def site_folder(self, name: str) -> Path:
        return self.folder / "sites" / name

    @property
    def primary(self) -> DirectorySite:
        """The first site: ledgers are written there and copied to the others."""
        return next(iter(self.sites.values()))

    @property
    def epoch(self) -> SmallEpoch:
        """The newest one."""
        return self.epochs[-1]

    @property
    def opening_keys(self) -> dict[Epoch, OpeningKey]:
        """What the custodians' shares would give."""
        return {e.note.epoch: e.opening for e in self.epochs}

    def ledger_prefix(self, epoch: SmallEpoch | None = None) -> str:
        made = epoch or self.epoch
        return ledger_prefix(self.state, self.register, made.note.epoch, made.note.digest)

    def paths(self, part: str, site: str = "") -> list[Path]:
        """Files of the register's objects whose name starts with ``part`` (``pack/``, ``box/``, ``ledger/``…)."""
        root = self.site_folder(site or next(iter(self.sites))) / self.state / self.register
        return sorted(p for p in (root / part).rglob("*") if p.is_file())

    def key_file(self, name: str, *, passphrase: str | None = None, folder: Path | None = None) -> Path:
        """A custodian's key file on disk."""
        key = actor(name).key
        path = (folder or self.folder) / f"{name}.key"
        create(str(path), key.kind, key.name, seed=key.seed, passphrase=passphrase, log2_n=14)
        return path

    # What happens in a state's life

    def write_version(
        self, source: Path | Iterable[Captured], *, dataset: str = "docs", publish_to: Iterable[str] | None = None
    ) -> VersionLeaf:
        """Captures ``source`` as the register's next version and enters it in the ledger.

        ``publish_to``: sites whose ledger is brought up to date; None means all.
        """
        self.sequence += 1
        self.time = Instant(self.time + HOUR)
        made = self.epoch
        items = FolderCapture(source, lambda: self.time).items() if isinstance(source, Path) else source
        keys = PackKeys(
            self.register,
            made.note.epoch,
            made.opening.public,
            self.secrets.id_key,
            self.secrets.index_keys[made.note.epoch],
        )
        who = WriterIdentity(self.state, self.register, "land register", made.note.epoch, keys, self.secrets)
        index = ChunkIndex(self.cache / "index.sqlite")
        version = VersionWriter(
            who, sites=dict(self.sites), index=index, cache=self.cache, check_placement=lambda good: None
        )
        try:
            describe = version.add_dataset(Label(dataset), "files", items, ordered=True)
            describe(self.time, {"from": "a test"}, None)
            sealed = version.seal(Sequence(self.sequence), self.time)
            version.commit_caches()
        finally:
            version.close()
            index.close()
        leaf = VersionLeaf(
            self.register,
            made.note.epoch,
            Sequence(self.sequence),
            self.time,
            sealed.manifest,
            sealed.objects.root,
            sealed.objects.count,
            sealed.objects.size_bytes,
        )
        self.append(leaf.encode(), publish_to=publish_to)
        return leaf

    def append(self, *entries: bytes, publish_to: Iterable[str] | None = None) -> None:
        """Enters ``entries`` in the newest epoch's ledger."""
        log = self.open_log()
        done = log.append(entries, self.time)
        for name, site in list(self.sites.items())[1:]:
            if publish_to is None or name in publish_to:
                publish(log.reader, done.checkpoint, site)

    def open_log(self, epoch: SmallEpoch | None = None) -> Log:
        made = epoch or self.epoch
        origin = ledger_origin(self.state, self.register, made.note.epoch)
        return Log.open(self.primary, self.ledger_prefix(made), origin, made.by.card, made.by.pair, now=self.time)

    def new_epoch(
        self,
        act: Act = Act.FAILOVER,
        *,
        by: Actor | None = None,
        signers: Iterable[Actor] | None = None,
        without: tuple[int, ...] = (),
    ) -> SmallEpoch:
        """The next epoch, by a warrant that ``signers`` (None: the quorum) sign; the former ledger is cut here.

        ``by``: the warrant's machine. It becomes the writer, unless the act is to rekey. ``without``: epochs whose keys
        are left out of the ancestor box.
        """
        new, former = by or machine(f"rescue-{len(self.epochs)}"), self.epoch
        writes = former.by if act is Act.REKEY else new
        log = self.open_log(former)
        people = self.custodians[: self.threshold] if signers is None else signers
        warrant = signed(self.warrant_text(act, new), new, *people)
        number = len(self.epochs) + 1
        cut = Cut(former.note.digest, log.size, log.root)
        made = self._make_epoch(number, writes, cut, warrant.digest, maker=new, without=without)
        self.put_card(new.card)
        self.put_everywhere(lambda note: warrant_key(self.state, note), warrant)
        index_keys = {**self.secrets.index_keys, number: stream(f"index/{number}")(32)}
        self.secrets = Secrets(self.secrets.id_key, self.secrets.chunk_seed, index_keys)
        self.epochs.append(made)
        self._put_epoch(made)
        return made

    def warrant_text(self, act: Act, by: Actor) -> str:
        """A warrant for the register on the machine ``by``."""
        text = ParsedWarrant(
            state=self.state,
            charter=self.charter.digest,
            act=act,
            registers=(self.register,),
            place=next(iter(self.sites)),
            machine=by.card.digest,
            object=None,
            not_before=self.time,
            not_after=Instant(self.time + HOUR),
            reason="a test",
            nonce=f"{len(self.epochs):032x}",
        ).encode()
        assert parse_warrant(text).encode() == text
        return text

    def next_charter(self, change: Callable[[ParsedCharter], ParsedCharter] = lambda charter: charter) -> ParsedCharter:
        """The next charter, naming the newest epoch; signed by the quorum of the present custodians."""
        rule = replace(self.charter.registers[0], epoch=self.epoch.note.epoch, epoch_note=self.epoch.note.digest)
        charter = change(
            replace(
                self.charter,
                number=self.charter.number + 1,
                previous=self.charter.digest,
                issued=self.time,
                registers=(rule,),
            )
        )
        assert parse_charter(charter.encode()) == charter
        self.put_everywhere(lambda note: charter_key(self.state, note), self._sign(charter.encode()))
        self.charter = charter
        return charter

    def put_everywhere(self, name: Callable[[bytes], Key], note: ParsedNote) -> None:
        data = note.encode()
        for site in self.sites.values():
            site.put_same(name(data), data)

    def put_card(self, card: Card) -> None:
        for site in self.sites.values():
            site.put_same(card_key(self.state, card.digest), card.encode().encode())

    def copy_site(self, name: str, to: str) -> None:
        """A second site with everything that ``name`` holds now."""
        shutil.copytree(self.site_folder(name), self.site_folder(to))
        self.sites[Label(to)] = DirectorySite(str(self.site_folder(to)))

    # Parts

    def _sign(self, text: str) -> ParsedNote:
        return signed(text, *self.custodians[: self.threshold])

    def _make_epoch(
        self,
        number: int,
        by: Actor,
        cut: Cut | None,
        warrant: Digest | None,
        maker: Actor | None = None,
        without: tuple[int, ...] = (),
    ) -> SmallEpoch:
        seed = sha256(f"small-state/{number}".encode())
        cards = [c.card for c in self.custodians]
        lines, boxes = make_epoch_shares(
            seed,
            cards,
            self.threshold,
            register=self.register,
            epoch=Epoch(number),
            random=stream(f"small-state/{number}"),
        )
        opening = OpeningKey(seed).public.raw
        self._ancestors = b""
        if number > 1:
            seeds = {e.note.epoch: e.seed for e in self.epochs if e.note.epoch not in without}
            gone = [Epoch(one) for one in without]
            self._ancestors = seal_ancestors(seeds, SealingKey(opening), self.register, Epoch(number), without=gone)
        note = ParsedEpoch(
            register=self.register,
            epoch=Epoch(number),
            authority=warrant,
            previous=cut,
            writer=by.card.digest,
            opening=opening,
            threshold=self.threshold,
            shares=lines,
            ancestor=sha256(self._ancestors) if self._ancestors else None,
            without=tuple(Epoch(number) for number in without),
        )
        assert parse_epoch(note.encode()) == note
        return SmallEpoch(note, seed, {s.custodian: box for s, box in zip(lines, boxes, strict=True)}, by, maker or by)

    def _put_epoch(self, made: SmallEpoch) -> None:
        for site in self.sites.values():
            for box in (*made.boxes.values(), *([self._ancestors] if self._ancestors else [])):
                site.put_same(box_key(self.state, self.register, sha256(box)), box)
        self.put_everywhere(lambda note: epoch_key(self.state, self.register, note), made.signed)

    def _draft(self, register_name: str | None) -> ParsedCharter:
        labels = sorted(self.sites)
        places = {label: COUNTRIES[i % len(COUNTRIES)] for i, label in enumerate(labels)}
        register = CharterRegister(
            id=self.register,
            public_name=register_name,
            at=tuple(labels),
            placement=Placement(1, 1, 0),
            rpo_s=3600,
            rto_s=14400,
            retention_days=3650,
            epoch=Epoch(1),
            epoch_note=self.epochs[0].note.digest,
            annex_box=sha256(b"box"),
            annex_plain=sha256(b"plain"),
        )
        charter = ParsedCharter(
            number=1,
            previous=None,
            issued=START,
            state_name="Republic of Small State",
            home=Country("EE"),
            threshold=self.threshold,
            custodians=tuple(Custodian(c.name, Country("EE"), c.card.digest) for c in self.custodians),
            sites=tuple(CharterSite(label, places[label], Label("host")) for label in labels),
            witnesses=(),
            policy=NO_WITNESSES,
            authorities=(),
            registers=(register,),
        )
        assert parse_charter(charter.encode()) == charter
        return charter

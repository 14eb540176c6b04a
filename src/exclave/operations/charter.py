"""Charters: draft one from the configuration, sign it, publish it, show it.

A draft is a folder that can be carried to the custodians::

    charter.txt               what they sign
    cards/SHA256              key cards that it names
    boxes/REGISTER/SHA256     sealed shares and annexes
    epochs/REGISTER           notes of the epochs that it grants
    annexes/NAME              what the sealed annexes say, for those who sign; never published
    signatures/NAME           each custodian's copy of the charter with his signature

Nothing secret is in it in the clear but the annexes; the opening keys that were made for new registers exist only as
sealed shares when ``propose`` returns.
"""

from __future__ import annotations

import secrets as _random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from exclave.crypto.hpke import OpeningKey, SealingKey
from exclave.crypto.shares import commitment
from exclave.crypto.timestamp import root_certificate
from exclave.errors import (
    BadShare,
    ConfigError,
    ExclaveError,
    Forked,
    IntegrityError,
    MalformedError,
    NotAuthorised,
    QuorumMissing,
    TargetNotEmpty,
    UnavailableError,
    UsageError,
)
from exclave.formats.annex import (
    Annex,
    AnnexService,
    AnnexSite,
    AnnexWitness,
    Dataset,
    ReferenceQuery,
    annex_info,
    parse_annex,
)
from exclave.formats.card import Card, parse_card
from exclave.formats.charter import (
    CharterRegister,
    CharterSite,
    CharterWitness,
    Custodian,
    DeletionRule,
    Keep,
    ParsedCharter,
    Placement,
    parse_charter,
)
from exclave.formats.config import Config, RegisterConfig
from exclave.formats.epochnote import ParsedEpoch, parse_epoch, share_info
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import box_key, card_key, charter_key, epoch_key
from exclave.formats.timestamp import ANY, Authority
from exclave.ids import (
    Country,
    Digest,
    Epoch,
    Fingerprint,
    Instant,
    Label,
    RegisterId,
    parse_day,
    parse_digest,
    parse_register_id,
    sha256,
)
from exclave.keys.file import KeyFile
from exclave.operations.home import Home, absolute_address, key_card, read_limited, write_private
from exclave.rules.charters import CharterChain, cards_of, check_successor, find_charter_chain
from exclave.rules.epochs import VerifiedEpoch, verify_epoch_chain
from exclave.rules.quorum import make_epoch_shares
from exclave.rules.signatures import sign_text, signers
from exclave.sites.contract import Site
from exclave.vault.writer import new_secrets
from exclave.verify.state import StateView

_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft folder that was read."""

    folder: Path
    charter: ParsedCharter
    cards: Mapping[Digest, Card]
    epochs: Mapping[RegisterId, ParsedNote]
    annexes: Mapping[Label, Annex]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the charter's text; of a first charter, the state's fingerprint."""
        return self.charter.digest.hex()


@dataclass(frozen=True, slots=True)
class Quorum:
    """Whose signatures a draft needs, by one charter."""

    charter: int
    """Number of the charter that names these custodians: the former one, or the draft itself."""
    threshold: int
    signed: tuple[Label, ...]
    may_sign: tuple[Label, ...]
    """Its custodians who have not signed."""

    @property
    def met(self) -> bool:
        return len(self.signed) >= self.threshold


@dataclass(frozen=True, slots=True)
class Signed:
    """What ``sign`` did."""

    custodian: Label
    charter: str
    shares: tuple[str, ...]
    """Registers whose share was opened and compared with its commitment."""
    signatures: int
    """Custodians of this draft who have signed it so far."""
    threshold: int
    quorums: tuple[Quorum, ...]
    """All that must be met before it can be published: of the charter before it, and its own; one where they agree."""


@dataclass(frozen=True, slots=True)
class Published:
    """What ``publish`` did."""

    fingerprint: Fingerprint
    number: int
    signers: tuple[Label, ...]
    sites: tuple[Label, ...]
    failed: dict[Label, str]


def propose(
    home: Home,
    folder: Path,
    view: StateView | None,
    *,
    now: Instant,
    drop: Sequence[str] = (),
    epochs: Mapping[RegisterId, Digest] | None = None,
) -> Draft:
    """Drafts the next charter from ``exclave.toml`` into ``folder``, which must be new or empty.

    ``view`` is the state as its sites show it, None for a first charter. New registers get an id, deduplication keys,
    an opening key and epoch 1; the others keep theirs. Raises ``ConfigError`` for what cannot be a charter, and for a
    register of the charter in force that ``exclave.toml`` no longer has, unless ``drop`` names its id. ``epochs``
    says which epoch note the charter shall name for a register, where two were granted or the one in force is wrong.
    """
    if folder.exists() and any(folder.iterdir()):
        raise TargetNotEmpty(f"the draft folder {folder} is not empty")
    config = home.config
    people = _cards(home, [(c.name, c.card) for c in config.custodian])
    watchers = _cards(home, [(w.name, w.card) for w in config.witness])
    writer = home.writer_key()
    ids = home.assign_ids()
    _require_all(view, {ids[Label(register.name)] for register in config.register}, drop)
    registers = []
    for register in config.register:
        number = ids[Label(register.name)]
        epoch = _present_epoch(view, number, (epochs or {}).get(number))
        if epoch is None:
            note, opening = _first_epoch(home, folder, number, people, config.state.threshold, writer)
            parsed = parse_epoch(note.text)
        else:
            parsed, opening = epoch.note, SealingKey(epoch.note.opening)
        box, plain = _annex(home, folder, config, register, ids, parsed.epoch, opening)
        registers.append(_charter_register(register, number, parsed, box, plain))
    newest = view.chain.newest if view else None
    draft = ParsedCharter(
        number=newest.charter.number + 1 if newest else 1,
        previous=newest.digest if newest else None,
        issued=now,
        state_name=config.state.name,
        home=Country(config.state.home),
        threshold=config.state.threshold,
        custodians=tuple(
            sorted(
                (Custodian(Label(c.name), Country(c.country), people[Label(c.name)].digest) for c in config.custodian),
                key=lambda c: c.label,
            )
        ),
        sites=tuple(
            sorted(
                (
                    CharterSite(
                        Label(s.name),
                        Country(s.country),
                        Label(s.operator),
                        parse_day(s.lease_until) if s.lease_until else None,
                    )
                    for s in config.site
                ),
                key=lambda s: s.label,
            )
        ),
        witnesses=tuple(sorted((CharterWitness(n, c.digest) for n, c in watchers.items()), key=lambda w: w.label)),
        policy=config.policy(),
        authorities=_authorities(home),
        registers=tuple(sorted(registers, key=lambda r: r.id)),
    )
    try:
        parse_charter(draft.encode())
    except MalformedError as error:
        raise ConfigError(f"exclave.toml does not make a charter: {error.message}") from error
    for card in (*people.values(), *watchers.values(), key_card(writer)):
        write_private(folder / "cards" / card.digest.hex(), card.encode().encode())
    write_private(folder / "charter.txt", draft.encode().encode())
    return read_draft(folder)


def _present_epoch(view: StateView | None, register: RegisterId, chosen: Digest | None) -> VerifiedEpoch | None:
    """The epoch that the charter shall name; None for a new register."""
    if view is None or view.chain.newest.charter.register(register) is None:
        return None
    if chosen is None:
        return view.epoch_chain(register).newest
    notes = [data for site in view.shown.values() for data in site.epochs.get(register, {}).values()]
    return verify_epoch_chain(view.chain, register, notes, view.warrants, view.cards, chosen=chosen).newest


def _require_all(view: StateView | None, kept: set[RegisterId], drop: Sequence[str]) -> None:
    """No register leaves the charter by not being mentioned: an embassy may know only some of them."""
    listed = {register.id for register in view.chain.newest.charter.registers} if view else set()
    missing = sorted(listed - kept - set(drop))
    if missing:
        raise ConfigError(
            f"exclave.toml has not all registers of the charter in force; these are missing: {', '.join(missing)}",
            hint="Add them, or name each that shall leave the charter with --drop ID.",
        )


def lost_power(draft: Draft, view: StateView | None) -> tuple[str, ...]:
    """What a person must know before a charter with other custodians is signed: who can open the present epochs."""
    told: list[str] = []
    for rule in draft.charter.registers:
        if view is None or rule.id in draft.epochs or rule.id not in view.epochs:
            continue
        note = view.epochs[rule.id].newest.note
        holders = {share.custodian for share in note.shares}
        names = {custodian.label for custodian in draft.charter.custodians}
        without, left = sorted(names - holders), len(names & holders)
        if without or holders - names:
            told.append(
                f"register {rule.id}: {left} custodians of this charter hold shares of epoch {note.epoch}, and"
                f" {note.threshold} are needed to open it; without a share: {', '.join(without) or 'nobody'};"
                " after this charter, `exclave rekey` gives new shares to all"
            )
    return tuple(told)


def _cards(home: Home, named: list[tuple[str, str]]) -> dict[Label, Card]:
    found: dict[Label, Card] = {}
    for name, file in named:
        path = home.folder / file
        try:
            card = parse_card(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read the key card {path} of {name}: {error.strerror}") from error
        if card.name != name:
            raise ConfigError(f"the key card {path} is {card.name}'s, not {name}'s")
        found[Label(name)] = card
    return found


def _authorities(home: Home) -> tuple[Authority, ...]:
    found = []
    for one in home.config.timestamp:
        path = home.folder / one.root
        policy = None if one.policy == ANY else one.policy
        found.append(
            Authority(Label(one.name), policy, one.url, root_certificate(read_limited(path, _LIMIT), str(path)))
        )
    return tuple(sorted(found, key=lambda authority: authority.label))


def _first_epoch(
    home: Home, folder: Path, register: RegisterId, people: Mapping[Label, Card], threshold: int, writer: KeyFile
) -> tuple[ParsedNote, SealingKey]:
    """Makes a register's first opening key; only its sealed shares outlive this function."""
    home.save_secrets(register, new_secrets(Epoch(1)))
    seed = _random.token_bytes(32)
    opening = OpeningKey(seed).public
    shares, boxes = make_epoch_shares(
        seed, list(people.values()), threshold, register=register, epoch=Epoch(1), random=_random.token_bytes
    )
    for box in boxes:
        write_private(folder / "boxes" / register / sha256(box).hex(), box)
    note = ParsedEpoch(
        register=register,
        epoch=Epoch(1),
        authority=None,
        previous=None,
        writer=key_card(writer).digest,
        opening=opening.raw,
        threshold=threshold,
        shares=shares,
        ancestor=None,
    )
    text = parse_epoch(note.encode()).encode()
    signed = ParsedNote(text, sign_text(text, writer.name, writer.signing()))
    write_private(folder / "epochs" / register, signed.encode())
    return signed, opening


def _annex(
    home: Home,
    folder: Path,
    config: Config,
    register: RegisterConfig,
    ids: Mapping[Label, RegisterId],
    epoch: Epoch,
    opening: SealingKey,
) -> tuple[Digest, Digest]:
    """Writes the annex, in the clear for those who sign and sealed for the sites; digests of the box and the text."""
    annex = annex_of(home.folder, config, register, ids)
    plain = annex.encode()
    box = opening.seal(plain, annex_info(ids[Label(register.name)], epoch))
    write_private(folder / "annexes" / register.name, plain)
    write_private(folder / "boxes" / ids[Label(register.name)] / sha256(box).hex(), box)
    return sha256(box), annex.digest


def annex_of(folder: Path, config: Config, register: RegisterConfig, ids: Mapping[Label, RegisterId]) -> Annex:
    """The sealed part of a register's description, with fresh salt; ``folder`` is home, for relative addresses."""
    annex = Annex(
        format="exclave/annex/v1",
        salt=_random.token_bytes(32),
        name=register.name,
        register_class=register.register_class,
        owner=register.owner,
        depends={name: ids[Label(name)] for name in sorted(register.depends)},
        datasets=tuple(
            Dataset(d.name, d.kind, {key: str(value) for key, value in sorted(d.options.items())})
            for d in register.dataset
        ),
        services=tuple(
            AnnexService(
                s.name, s.kind, s.dataset, s.argv, dict(s.env), s.port, s.probe,
                ReferenceQuery(s.query.path, s.query.expect) if s.query else None,
            )
            for s in register.service
        ),
        sites=tuple(
            AnnexSite(
                s.name, absolute_address(folder, s.url), s.country, s.operator, register.legal_basis[s.name], s.can_run
            )
            for s in config.site
            if s.name in register.legal_basis
        ),
        witnesses=tuple(AnnexWitness(w.name, w.url) for w in config.witness),
    )  # fmt: skip
    try:
        return parse_annex(annex.encode())
    except MalformedError as error:
        raise ConfigError(f"exclave.toml: register {register.name}: {error.message}") from error


def _charter_register(
    register: RegisterConfig, number: RegisterId, epoch: ParsedEpoch, box: Digest, plain: Digest
) -> CharterRegister:
    rule = register.placement
    return CharterRegister(
        id=number,
        public_name=(register.title or register.name) if register.public else None,
        at=tuple(sorted(Label(name) for name in register.legal_basis)),
        placement=Placement(rule.copies, rule.countries, rule.outside_home, rule.administrators),
        rpo_s=register.rpo_s,
        rto_s=register.rto_s,
        retention_days=register.retention_days,
        epoch=epoch.epoch,
        epoch_note=epoch.digest,
        annex_box=box,
        annex_plain=plain,
        keep=Keep(register.keep_daily_days, register.keep_monthly_months, register.keep_yearly_years),
        hold=register.legal_hold or None,
        deletion=DeletionRule(register.deletion.delay_s, register.deletion.objections),
        until=tuple(sorted((Label(name), parse_day(day)) for name, day in register.legal_basis_until.items())),
    )


def read_draft(folder: Path) -> Draft:
    """Reads a draft and checks that its parts belong together. Raises ``UsageError``, ``MalformedError``."""
    try:
        charter = parse_charter(read_limited(folder / "charter.txt", _LIMIT).decode())
    except UnicodeDecodeError as error:
        raise MalformedError(f"{folder / 'charter.txt'} is not a text") from error
    cards = {}
    for path in _listed(folder / "cards"):
        card = parse_card(read_limited(path, _LIMIT))
        cards[card.digest] = card
    epochs = {parse_register_id(p.name): parse_note(read_limited(p, _LIMIT)) for p in _listed(folder / "epochs")}
    annexes = {Label(p.name): parse_annex(read_limited(p, _LIMIT)) for p in _listed(folder / "annexes")}
    plains = {annex.digest for annex in annexes.values()}
    for register in charter.registers:
        if register.annex_plain not in plains:
            raise MalformedError(f"the draft has no annex for register {register.id} with the digest that it names")
        note = epochs.get(register.id)
        if note is not None and note.digest != register.epoch_note:
            raise MalformedError(f"the draft's epoch note for register {register.id} is not the one that it names")
    return Draft(folder, charter, cards, epochs, annexes)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def sign(folder: Path, key: KeyFile, view: StateView | None = None) -> Signed:
    """A custodian signs a draft, after his own share of every new register was opened and compared.

    So does one whom the draft dismisses: the quorum of the charter in force is needed too. Every other register must
    keep the epoch that is in force as ``view`` shows it, which later charters need. Raises ``NotAuthorised`` if neither
    charter names him, ``BadShare`` if a share is not what was committed to or the draft lacks it, ``Forked`` if the
    draft names another epoch than the one in force, ``UsageError`` without a view.
    """
    draft = read_draft(folder)
    card = key_card(key)
    stays = _is_named(draft.charter, card)
    if not stays and (view is None or not _is_named(view.chain.newest.charter, card)):
        raise NotAuthorised(f"the charter does not name {key.name} with this key as a custodian")
    if draft.charter.number > 1:
        if view is None:
            raise UsageError(
                f"charter {draft.charter.number} cannot be signed blind: it says which epoch of each register is right",
                hint="Name sites to compare it with: --site NAME=URL --fingerprint HEX.",
            )
        check_successor(view.chain.newest, draft.charter)
    checked = []
    for rule in draft.charter.registers:
        note = draft.epochs.get(rule.id)
        if note is not None:
            if stays:
                _check_share(folder, rule.id, parse_epoch(note.text), key)
                checked.append(rule.id)
        elif view is None or draft.charter.number == 1:
            raise BadShare(f"the draft has no epoch note of register {rule.id}, so no share can be compared")
        else:
            _check_epoch(view, rule)
    text = draft.charter.encode()
    note = ParsedNote(text, sign_text(text, key.name, key.signing()))
    write_private(folder / "signatures" / key.name, note.encode())
    quorums = _quorums(draft, view)
    own = quorums[-1]
    return Signed(key.name, draft.fingerprint, tuple(checked), len(own.signed), own.threshold, quorums)


def _quorums(draft: Draft, view: StateView | None) -> tuple[Quorum, ...]:
    """How far the draft's signatures go, by the charter in force and by the draft."""
    note, own = ParsedNote(draft.charter.encode(), ()), draft.charter
    for path in _listed(draft.folder / "signatures"):
        signed = parse_note(read_limited(path, _LIMIT))
        if signed.text == note.text:  # one of another text counts for nothing, and `publish` names it
            note = note.with_signatures(*signed.signatures)
    former = view.chain.newest.charter if view is not None and own.number > 1 else None
    if former is None or (former.custodians, former.threshold) == (own.custodians, own.threshold):
        return (_quorum(own, draft.cards, note),)
    return _quorum(former, {**draft.cards, **view.cards} if view else {}, note), _quorum(own, draft.cards, note)


def _quorum(charter: ParsedCharter, cards: Mapping[Digest, Card], note: ParsedNote) -> Quorum:
    good = signers(note, cards_of(charter.custodians, cards))
    names = [custodian.label for custodian in charter.custodians]
    return Quorum(
        charter.number,
        charter.threshold,
        tuple(n for n in names if n in good),
        tuple(n for n in names if n not in good),
    )


def _is_named(charter: ParsedCharter, card: Card) -> bool:
    """Whether ``card`` is a custodian's of ``charter``: his name with this very key."""
    return any(c.label == card.name and c.card == card.digest for c in charter.custodians)


def _check_epoch(view: StateView, rule: CharterRegister) -> None:
    """The epoch that a draft names is the one in force; or the custodians decide by it between two, or for a later."""
    named = _present_epoch(view, rule.id, rule.epoch_note)
    if named is None:
        raise BadShare(f"register {rule.id} is new, and the draft has no epoch note of it with shares to compare")
    known = view.epochs.get(rule.id)
    if known is not None and known.newest.digest != named.digest and known.newest.number >= named.number:
        raise Forked(
            f"register {rule.id} is in epoch {known.newest.number}, and the draft names epoch {named.number}",
            hint="Have the charter drafted anew, so that it names the epoch in force.",
        )


def _check_share(folder: Path, register: RegisterId, epoch: ParsedEpoch, key: KeyFile) -> None:
    line = epoch.share_of(key.name)
    if line is None:
        raise BadShare(f"{key.name} has no share of register {register}", custodian=key.name)
    box = read_limited(folder / "boxes" / register / line.box.hex(), _LIMIT)
    try:
        share = key.opening().open(box, share_info(register, epoch.epoch, line.index, key.name))
    except IntegrityError as error:
        raise BadShare(f"the share of {key.name} for register {register} does not open", custodian=key.name) from error
    if sha256(box) != line.box or commitment(register, epoch.epoch, line.index, share) != line.commitment:
        raise BadShare(f"the share of {key.name} for register {register} is not the committed one", custodian=key.name)


def publish(home: Home, folder: Path, sites: Mapping[Label, Site], view: StateView | None) -> Published:
    """Puts a draft that enough custodians signed to all ``sites``, and pins the fingerprint of a first one.

    (1) boxes and cards, (2) epoch notes, (3) the charter: a crash in between leaves objects that no charter names.
    Sites that fail are named; ``UnavailableError`` if all do.
    """
    draft = read_draft(folder)
    note = _assemble(draft)
    chain = _verify(draft, note, view)
    _require_present(draft, view)
    failed: dict[Label, str] = {}
    done: list[Label] = []
    last: UnavailableError | None = None
    for label, site in sites.items():
        try:
            _put_draft(draft, note, chain.state, site)
            done.append(label)
        except UnavailableError as error:
            failed[label], last = error.message, error
    if not done:
        raise last or UsageError("no site is configured")
    home.pin(chain.state)
    newest = chain.newest
    return Published(chain.state, newest.charter.number, tuple(sorted(newest.signers)), tuple(done), failed)


def _require_present(draft: Draft, view: StateView | None) -> None:
    """No register got a later epoch since the draft was made: this charter would give the pen back to its former one.

    ``Forked`` otherwise. A register whose epochs cannot be told is left to the custodians, who named one of them.
    """
    for rule in draft.charter.registers:
        chain = view.epochs.get(rule.id) if view is not None else None
        if chain is not None and chain.newest.number > rule.epoch:
            raise Forked(
                f"register {rule.id} is in epoch {chain.newest.number} by now, and the draft names epoch {rule.epoch}",
                hint="Draft the charter anew, so that it names the epoch in force.",
            )


def _assemble(draft: Draft) -> ParsedNote:
    text = draft.charter.encode()
    note = ParsedNote(text, ())
    for path in _listed(draft.folder / "signatures"):
        signed = parse_note(read_limited(path, _LIMIT))
        if signed.text != text:
            raise MalformedError(f"{path} signs another text than this draft's charter")
        note = note.with_signatures(*signed.signatures)
    if not note.signatures:
        raise QuorumMissing("nobody has signed this draft yet", hint="Have custodians run `exclave charter sign`.")
    return note


def _verify(draft: Draft, note: ParsedNote, view: StateView | None) -> CharterChain:
    """The chain with this charter as its newest; raises ``QuorumMissing`` and the like otherwise."""
    if draft.charter.number == 1:
        pinned = Fingerprint(draft.fingerprint)
        return find_charter_chain([note.encode()], draft.cards, pinned)[0]
    if view is None:
        raise UsageError("the sites do not show the charters before this one")
    cards = {**view.cards, **draft.cards}
    earlier = view.charter_notes
    chain, rejected = find_charter_chain([*earlier, note.encode()], cards, view.state)
    if chain.newest.digest != draft.charter.digest:
        problem: ExclaveError = next((r.error for r in rejected if r.digest == draft.charter.digest), MalformedError(
            "the draft does not follow the newest charter"
        ))  # fmt: skip
        raise problem
    return chain


def _put_draft(draft: Draft, note: ParsedNote, state: Fingerprint, site: Site) -> None:
    for folder in _listed(draft.folder / "boxes"):
        for path in _listed(folder):
            data = read_limited(path, _LIMIT)
            if sha256(data) != parse_digest(path.name):
                raise MalformedError(f"{path} does not have the digest that it is named by")
            site.put_same(box_key(state, parse_register_id(folder.name), sha256(data)), data)
    for card in draft.cards.values():
        site.put_same(card_key(state, card.digest), card.encode().encode())
    for register, epoch in draft.epochs.items():
        site.put_same(epoch_key(state, register, epoch.encode()), epoch.encode())
    site.put_same(charter_key(state, note.encode()), note.encode())


def annex_summary(annex: Annex) -> dict[str, object]:
    """An annex as plain values, for people and ``--json``."""
    values: dict[str, object] = msgspec.to_builtins(annex)
    values["salt"] = "…"
    return values

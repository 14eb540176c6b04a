"""Drafts the next charter from the configuration: new registers get their keys, the others keep theirs."""

from __future__ import annotations

import secrets as _random
from collections.abc import Mapping, Sequence
from pathlib import Path

from exclave.crypto.hpke import OpeningKey, SealingKey
from exclave.crypto.timestamp import root_certificate
from exclave.errors import ConfigError, MalformedError, TargetNotEmpty
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
from exclave.formats.epochnote import ParsedEpoch, parse_epoch
from exclave.formats.note import ParsedNote
from exclave.formats.timestamp import ANY, Authority
from exclave.ids import Country, Digest, Epoch, Instant, Label, RegisterId, parse_day, sha256
from exclave.keys.file import KeyFile
from exclave.operations.charter_draft import Draft, present_epoch, read_draft, read_part
from exclave.operations.home import Home, absolute_address, key_card, write_private
from exclave.rules.quorum import make_epoch_shares
from exclave.rules.signatures import sign_text
from exclave.vault.writer import new_secrets
from exclave.verify.state import StateView


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
        epoch = present_epoch(view, number, (epochs or {}).get(number))
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


def _require_all(view: StateView | None, kept: set[RegisterId], drop: Sequence[str]) -> None:
    """No register leaves the charter by not being mentioned: an embassy may know only some of them."""
    listed = {register.id for register in view.chain.newest.charter.registers} if view else set()
    missing = sorted(listed - kept - set(drop))
    if missing:
        raise ConfigError(
            f"exclave.toml has not all registers of the charter in force; these are missing: {', '.join(missing)}",
            hint="Add them, or name each that shall leave the charter with --drop ID.",
        )


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
        found.append(Authority(Label(one.name), policy, one.url, root_certificate(read_part(path), str(path))))
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

"""The embassy's own folder after a failover: a home like any other, made from what the annexes and the charter say."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from exclave.formats.annex import Annex, AnnexService
from exclave.formats.card import Card
from exclave.formats.charter import CharterRegister, ParsedCharter
from exclave.formats.config import parse_config
from exclave.formats.policy import NOBODY
from exclave.formats.timestamp import ANY
from exclave.ids import Instant, Label, RegisterId, instant_text
from exclave.operations.home import CONFIG_NAME, write_private


def dataset_folder(folder: Path, register: str, dataset: str) -> Path:
    """Where a dataset lies in the embassy."""
    return folder / "registers" / register / dataset


def write_exile(
    folder: Path,
    charter: ParsedCharter,
    cards: Mapping[Label, Card],
    annexes: Mapping[RegisterId, Annex],
    options: Mapping[tuple[str, str], Mapping[str, str]],
    recorded: Collection[tuple[str, str]] = (),
) -> None:
    """Writes ``exclave.toml``, key cards and register ids, so that the embassy can be a writer.

    ``options``: (register, dataset) → where it is now. ``recorded``: those whose versions commit to each record by
    itself, as the restored one did. A restart writes the same again.
    """
    for label, card in cards.items():
        write_private(folder / "cards" / f"{label}.card", card.encode().encode())
    for authority in charter.authorities:
        write_private(folder / "cards" / f"{authority.label}.root.der", authority.root)
    text = config_text(charter, annexes, options, recorded)
    parse_config(text.encode())
    write_private(folder / CONFIG_NAME, text.encode())
    ids = sorted((annex.name, register) for register, annex in annexes.items())
    write_private(folder / "state" / "registers", "".join(f"{n} {r}\n" for n, r in ids).encode())


def config_text(
    charter: ParsedCharter,
    annexes: Mapping[RegisterId, Annex],
    options: Mapping[tuple[str, str], Mapping[str, str]],
    recorded: Collection[tuple[str, str]] = (),
) -> str:
    """``exclave.toml`` of the embassy."""
    lines = [
        "# Written by failover from the charter and the registers' annexes.",
        "[state]",
        f"name = {toml_text(charter.state_name)}",
        f"home = {toml_text(charter.home)}",
        f"threshold = {charter.threshold}",
        f"quorum = {toml_text(charter.policy.quorum or NOBODY)}",
    ]
    for custodian in charter.custodians:
        lines += ["", "[[custodian]]", f"name = {toml_text(custodian.label)}"]
        lines.append(f"country = {toml_text(custodian.country)}")
        lines.append(f"card = {toml_text(f'cards/{custodian.label}.card')}")
    sites = {site.label: site for annex in annexes.values() for site in annex.sites}
    for site in charter.sites:
        if site.label in sites:
            known = sites[site.label]
            lines += ["", "[[site]]", f"name = {toml_text(site.label)}", f"url = {toml_text(known.url)}"]
            lines += [f"country = {toml_text(site.country)}", f"operator = {toml_text(site.operator)}"]
            lines.append(f"can_run = {'true' if known.can_run else 'false'}")
            if site.lease_until is not None:
                lines.append(f"lease_until = {toml_text(_day(site.lease_until))}")
    watchers = {w.label: w for annex in annexes.values() for w in annex.witnesses}
    for witness in charter.witnesses:
        if witness.label in watchers:
            lines += [
                "",
                "[[witness]]",
                f"name = {toml_text(witness.label)}",
                f"url = {toml_text(watchers[witness.label].url)}",
            ]
            lines.append(f"card = {toml_text(f'cards/{witness.label}.card')}")
    for group in charter.policy.groups:
        members = ", ".join(toml_text(member) for member in group.members)
        lines += ["", "[[witness_group]]", f"name = {toml_text(group.name)}"]
        lines += [f"needed = {group.needed}", f"members = [{members}]"]
    for authority in charter.authorities:
        lines += ["", "[[timestamp]]", f"name = {toml_text(authority.label)}", f"url = {toml_text(authority.url)}"]
        lines.append(f"root = {toml_text(f'cards/{authority.label}.root.der')}")
        lines.append(f"policy = {toml_text(authority.policy or ANY)}")
    for register in charter.registers:
        if register.id in annexes:
            lines += _register(register, annexes[register.id], options, recorded)
    return "\n".join(lines) + "\n"


def _register(
    rule: CharterRegister, annex: Annex, options: Mapping[tuple[str, str], Mapping[str, str]],
    recorded: Collection[tuple[str, str]],
) -> list[str]:  # fmt: skip
    lines = ["", "[[register]]", f"name = {toml_text(annex.name)}", f"owner = {toml_text(annex.owner)}"]
    lines += [f"class = {toml_text(annex.register_class)}", f"rpo_s = {rule.rpo_s}", f"rto_s = {rule.rto_s}"]
    lines.append(f"retention_days = {rule.retention_days}")
    lines += [f"keep_daily_days = {rule.keep.daily_days}", f"keep_monthly_months = {rule.keep.monthly_months}"]
    lines.append(f"keep_yearly_years = {rule.keep.yearly_years}")
    if rule.hold is not None:
        lines.append(f"legal_hold = {toml_text(rule.hold)}")
    deletion = rule.deletion
    lines.append(f"deletion = {{ delay_s = {deletion.delay_s}, objections = {deletion.objections} }}")
    if rule.public_name is not None:
        lines += ["public = true", f"title = {toml_text(rule.public_name)}"]
    lines.append(f"depends = [{', '.join(toml_text(name) for name in sorted(annex.depends))}]")
    placement = rule.placement
    lines.append(
        f"placement = {{ copies = {placement.copies}, countries = {placement.countries},"
        f" outside_home = {placement.outside_home}, administrators = {placement.administrators} }}"
    )
    basis = ", ".join(f"{site.label} = {toml_text(site.legal_basis)}" for site in annex.sites if site.label in rule.at)
    lines.append(f"legal_basis = {{ {basis} }}")
    known = {site.label for site in annex.sites}
    ends = ", ".join(f"{label} = {toml_text(_day(until))}" for label, until in rule.until if label in known)
    lines.append(f"legal_basis_until = {{ {ends} }}")
    for dataset in annex.datasets:
        now = options.get((annex.name, dataset.name), dataset.options)
        lines += ["", "[[register.dataset]]", f"name = {toml_text(dataset.name)}", f"kind = {toml_text(dataset.kind)}"]
        pairs = (f"{name} = {value if name == 'port' else toml_text(value)}" for name, value in sorted(now.items()))
        if (annex.name, dataset.name) in recorded:
            lines.append("records = true")
        lines.append(f"options = {{ {', '.join(pairs)} }}")
    for service in annex.services:
        lines += _service(service)
    return lines


def _day(until: Instant) -> str:
    """The day of an end, as ``exclave.toml`` has it; never later than the end itself."""
    return instant_text(until)[:10]


def _service(service: AnnexService) -> list[str]:
    lines = ["", "[[register.service]]", f"name = {toml_text(service.name)}", f"kind = {toml_text(service.kind)}"]
    if service.dataset:
        lines.append(f"dataset = {toml_text(service.dataset)}")
    lines.append(f"argv = [{', '.join(toml_text(part) for part in service.argv)}]")
    if service.env:
        lines.append(f"env = {{ {', '.join(f'{k} = {toml_text(v)}' for k, v in sorted(service.env.items()))} }}")
    lines += [f"port = {service.port}", f"probe = {toml_text(service.probe)}"]
    if service.query is not None:
        query = service.query
        lines.append(f"query = {{ path = {toml_text(query.path)}, expect = {toml_text(query.expect)} }}")
    return lines


def toml_text(value: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

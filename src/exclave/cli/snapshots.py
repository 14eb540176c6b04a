"""``exclave snapshots``"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.cli.opening import Answers, open_by_warrant
from exclave.cli.output import (
    HomeFolder,
    Json,
    PinnedWithSite,
    Sites,
    note,
    print_json,
    progress_bar,
    say,
    size_text,
    table,
)
from exclave.cli.where import Where, view_of
from exclave.errors import UsageError
from exclave.ids import Label, RegisterId, instant_text, now
from exclave.operations.suspicion import Suspicion, accept, suspicion_at_home, suspicion_by_warrant
from exclave.rules.placement import Protection, placement_of
from exclave.verify.deletions import mark_erased
from exclave.verify.history import CountedVersion, RegisterHistory, read_history
from exclave.verify.holding import find_holders


def register(app: typer.Typer) -> None:
    app.command(name="snapshots", epilog="Example: exclave snapshots gazette")(snapshots)


@dataclass(frozen=True, slots=True)
class _Shown:
    """One register as it is told."""

    name: str
    number: RegisterId
    versions: tuple[CountedVersion, ...]
    witnessed: frozenset[int]
    suspicion: Suspicion | None
    erased: Mapping[int, str]
    """By sequence: when and by which warrant."""
    at: tuple[Label, ...]
    """The sites that the charter gives it."""
    protection: Mapping[int, Protection] = field(default_factory=dict)
    """By sequence, of versions that were not erased: whether it is protected, and why. Empty if nobody looked."""


def snapshots(
    register: Annotated[str | None, typer.Argument(help="Name or id of one register; default: all.")] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    warrant: Annotated[
        Path | None, typer.Option(help="Away from home: read what writers noticed from the manifests, by this warrant.")
    ] = None,
    answer: Answers = None,
    key: Annotated[Path | None, typer.Option(help="With --warrant: the key file of the machine that it names.")] = None,
    last: Annotated[int, typer.Option(min=1, help="With --warrant: open the last so many versions.")] = 400,
    accepted: Annotated[
        list[int] | None, typer.Option("--accept", help="This version's findings were looked at and are in order.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not look whether each version is whole at its sites.")
    ] = False,
    because: Annotated[str, typer.Option(help="With --accept at home, where it is remembered: why.")] = "",
    json: Json = False,
) -> None:
    """The versions of registers as their ledgers show them, verified without any key.

    Where all sites were named, also which versions are not protected, and why.
    At home, or by warrant, also which ones are suspicious, why, and which is the last clean one.
    """
    if warrant is not None:
        shown = [_opened(register, site, fingerprint, warrant, answer, key, last, accepted or [], quiet=json)]
    else:
        where = view_of(home, site, fingerprint)
        wanted = where.registers(register)
        if accepted and (where.home is None or len(wanted) != 1):
            raise UsageError("--accept needs one register, and a home that remembers it or a --warrant")
        shown = [_listed(where, number, name, accepted or [], because, quick=quick) for number, name in wanted]
    if json:
        told = [{"register": s.name, "id": s.number, "versions": _rows(s), **_judgement(s)} for s in shown]
        print_json({"registers": told})
        return
    for one in shown:
        _show(one)


def _listed(where: Where, number: RegisterId, name: str, accepted: list[int], because: str, *, quick: bool) -> _Shown:
    history = read_history(where.view, where.sites, number, allow_unwitnessed=True)
    history = mark_erased(where.view, where.sites, history, now())
    counted = frozenset(v.leaf.sequence for v in read_history(where.view, where.sites, number).versions)
    _tell_findings(name, history)
    suspicion = None
    if where.home is not None:
        for sequence in accepted:
            accept(where.home, number, history.versions, sequence, because, now())
        suspicion = suspicion_at_home(where.home, number, history.versions)
    protection = {} if quick else _protection(where, number, history)
    return _Shown(name, number, history.versions, counted, suspicion, history.erased, _named(where, number), protection)


def _protection(where: Where, number: RegisterId, history: RegisterHistory) -> dict[int, Protection]:
    """Of each version that was not erased, by what the sites of its register show; nothing if not all were named."""
    charter = where.view.chain.newest.charter
    rule = charter.register(number)
    if rule is None or not set(rule.at) <= where.sites.keys():
        return {}
    at = {label: site for label, site in where.sites.items() if label in rule.at and label in where.view.shown}
    living = [v for v in history.versions if v.leaf.sequence not in history.erased]
    placement, holders = placement_of(charter, rule, now=now()), find_holders(where.view, at, number, living)
    return {sequence: placement.protection(there) for sequence, there in holders.at.items()}


def _named(where: Where, register: RegisterId) -> tuple[Label, ...]:
    rule = where.view.chain.newest.charter.register(register)
    return rule.at if rule is not None else ()


def _opened(
    register: str | None, site: list[str] | None, fingerprint: str, warrant: Path, answer: list[Path] | None,
    key: Path | None, last: int, accepted: list[int], *, quiet: bool,
) -> _Shown:  # fmt: skip
    if key is None:
        raise UsageError("--warrant needs --key: the key file of the machine that the warrant names")
    opened = open_by_warrant(
        site, fingerprint, warrant, answer or [], key, register=register, unwitnessed=False, only_these=False
    )
    name, number, erased = opened.register.annex.name, opened.register.register, opened.history.erased
    versions = opened.history.versions
    kept = [v for v in versions if v.leaf.sequence not in erased]
    _tell_findings(name, opened.history)
    with progress_bar(name, quiet=quiet) as update:
        found = suspicion_by_warrant(
            opened.where.view.state, opened.sites, opened.register, kept[-last:], accepted, update
        )
    at = _named(opened.where, number)
    return _Shown(name, number, versions, frozenset(v.leaf.sequence for v in versions), found, erased, at)


def _tell_findings(name: str, history: RegisterHistory) -> None:
    for finding in history.findings:
        note(f"{name}: {finding.site}: {finding.detail}")


def _rows(shown: _Shown) -> list[dict[str, Any]]:
    return [
        {
            "sequence": v.leaf.sequence,
            "epoch": v.epoch,
            "time": instant_text(v.leaf.time),
            "objects": v.leaf.object_count,
            "bytes": v.leaf.object_bytes,
            "sites": list(v.held_by),
            "witnessed": v.leaf.sequence in shown.witnessed,
            **_protected(shown, v.leaf.sequence),
            **({"erased": shown.erased[v.leaf.sequence]} if v.leaf.sequence in shown.erased else {}),
            **({"signals": shown.suspicion.word(v.leaf.sequence)} if shown.suspicion else {}),
        }
        for v in shown.versions
    ]


def _protected(shown: _Shown, sequence: int) -> dict[str, Any]:
    found = shown.protection.get(sequence)
    return {} if found is None else {"protected": found.protected, "placement": found.why}


def _judgement(shown: _Shown) -> dict[str, Any]:
    """For machines; nothing away from home without a warrant."""
    if shown.suspicion is None:
        return {}
    verdict = shown.suspicion.verdict
    findings = [
        {
            "dataset": f.dataset, "code": f.code, "since": f.since, "found": f.found, "text": f.text,
            "examples": [_path(path) for path in f.examples], "accepted": f.accepted,
        }
        for f in verdict.findings
    ]  # fmt: skip
    return {"findings": findings, "last_clean": shown.suspicion.clean(shown.erased), "suspicious_since": verdict.since}


def _path(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _show(shown: _Shown) -> None:
    say(f"{shown.name}  ({shown.number})")
    rows = _rows(shown)
    marked, doubtful = shown.suspicion is not None, not all(v["witnessed"] for v in rows)
    at_risk = not all(found.protected for found in shown.protection.values())
    table(
        ("version", "epoch", "state of (UTC)", "objects", "size", "sites",
         *["witnessed"] * doubtful, *["protected"] * at_risk, *["signals"] * marked),
        (
            (
                v["sequence"], v["epoch"], v["time"][:19].replace("T", " "), v["objects"], size_text(v["bytes"]),
                _at(v, shown.at), *(["yes" if v["witnessed"] else "NO"] * doubtful),
                *(["yes" if v.get("protected", True) else f"NO: {v['placement']}"] * at_risk),
                *([v["signals"]] if marked else []),
            )
            for v in rows
        ),
    )  # fmt: skip
    for sequence in sorted(shown.erased):
        say(f"  version {sequence}: {shown.erased[sequence]}")
    if shown.suspicion is not None and shown.suspicion.verdict.findings:
        _show_verdict(shown, shown.suspicion)


def _at(row: dict[str, Any], every: tuple[Label, ...]) -> str:
    """The sites that show a version in their ledgers; of one that went they have no more than that."""
    if "erased" not in row:
        return f"all {len(every)}" if every and set(every) <= set(row["sites"]) else " ".join(row["sites"])
    return "erased" if row["erased"].startswith("erased") else "may be erased"


def _show_verdict(shown: _Shown, suspicion: Suspicion) -> None:
    for f in suspicion.verdict.findings:
        example = f", for example {_path(f.examples[0])}" if f.examples else ""
        why = next((a.reason for a in suspicion.accepted if a.sequence in (f.since, f.found)), "")
        mark = (f" [accepted: {why}]" if why else " [accepted]") if f.accepted else ""
        say(f"  version {f.since}, {f.dataset}: {f.text}{example}{mark}")
    verdict = suspicion.verdict
    if verdict.since is None:
        return
    number = suspicion.clean(shown.erased)
    if number is None:
        say("No version before that is known to be clean.")
        return
    clean = next(v for v in shown.versions if v.leaf.sequence == number)
    time = instant_text(clean.leaf.time)[:19].replace("T", " ")
    say(f"Last clean version: {number}, the state of {time}. Later ones may hold damage: see `exclave diff`.")

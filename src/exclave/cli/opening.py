"""From a warrant and its answers to one opened register and its versions: for all commands that read one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_annex_sites
from exclave.cli.keys import load_key
from exclave.cli.output import note
from exclave.cli.where import Where, view_of
from exclave.errors import UsageError
from exclave.formats.warrant import Act, ParsedWarrant
from exclave.ids import Label, now
from exclave.operations.custody import OpenedRegister, describe_warrant, grant, open_register
from exclave.operations.restore import remembered_heads
from exclave.sites.contract import Site
from exclave.verify.deletions import mark_erased
from exclave.verify.history import RegisterHistory, read_history

WarrantFile = Annotated[Path, typer.Option(help="The warrant to restore (or to fail over).")]
MachineKey = Annotated[Path, typer.Option(help="The key file of the machine that the warrant names: this one.")]
Answers = Annotated[list[Path] | None, typer.Option(help="A custodian's answer; as many as the quorum asks.")]
RegisterName = Annotated[str | None, typer.Option(help="Id or name of the register, if the warrant names several.")]
Unwitnessed = Annotated[bool, typer.Option("--allow-unwitnessed", help="Go on with too few witnesses.")]
_WHICH = "Write its name or id as the command's help says."
OnlyThese = Annotated[bool, typer.Option("--only-these-sites", help="Ask no other sites than those named with --site.")]


@dataclass(frozen=True, slots=True)
class Opened:
    """One register opened on this machine, its sites, and the versions that count."""

    where: Where
    warrant: ParsedWarrant
    register: OpenedRegister
    sites: dict[Label, Site]
    history: RegisterHistory


def open_by_warrant(
    site: list[str] | None,
    fingerprint: str,
    warrant: Path,
    answers: Iterable[Path],
    key: Path,
    *,
    register: str | None,
    unwitnessed: bool,
    only_these: bool,
) -> Opened:
    """Everything that a read needs. What was left out (wrong answers and shares, silent witnesses) is told to the user.

    ``UsageError`` if no site or not exactly one register is named; all that ``grant``, ``open_register`` raise.
    """
    if not site:
        raise UsageError("name at least one site with --site NAME=URL")
    where = view_of(Path(), site, fingerprint)
    machine = load_key(key)
    parsed, _ = describe_warrant(warrant)
    # Whoever may start a register may also look at it; no other act lets anybody read one.
    act = Act.FAILOVER if parsed.act is Act.FAILOVER else Act.RESTORE
    granted = grant(where.view, warrant, answers, act=act, place=None, machine=machine, now=now())
    for path, why in granted.rejected.items():
        note(f"{path}: {why}")
    opened = {number: open_register(where.view, where.sites, number, granted, machine) for number in parsed.registers}
    chosen = [o for o in opened.values() if register in (None, o.register, o.annex.name)]
    if len(chosen) != 1:
        names = ", ".join(o.annex.name for o in opened.values())
        asked = f"the warrant does not name a register {register!r}" if register else "say which register"
        raise UsageError(f"{asked}; the warrant has: {names}", hint=_WHICH)
    one = chosen[0]
    for custodian in one.bad:
        note(f"the share of {custodian} is wrong and was left out")
    sites = where.sites if only_these else open_annex_sites([one], where.sites) | where.sites
    addresses = {Label(w.label): w.url for w in one.annex.witnesses}
    remembered, silent = remembered_heads(where.view, one.register, addresses)
    for witness, why in silent.items():
        note(f"the witness {witness} does not say what it has seen: {why}")
    history = read_history(where.view, sites, one.register, allow_unwitnessed=unwitnessed, remembered=remembered)
    return Opened(where, parsed, one, sites, mark_erased(where.view, sites, history, now()))

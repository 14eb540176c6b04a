"""``exclave verify --statement``"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import typer

from exclave.cli.output import moment, plain, print_json, say, table, when
from exclave.errors import IntegrityError
from exclave.formats.note import MAX_NOTE_BYTES
from exclave.formats.publicstatement import PublicStatement
from exclave.ids import Fingerprint, RegisterId, now
from exclave.operations.home import read_limited
from exclave.sites.contract import Sources
from exclave.verify.statements import CheckedStatement, Truth, check_statement

NOT_CURRENT = 1
"""Exit code for a statement that is true as far as can be told, but old, or not wholly checked; 20 for a false one."""


def told_statement(said: PublicStatement) -> dict[str, Any]:
    """A statement for machines."""
    lines = [{**plain(line), "time": moment(line.time)} for line in said.lines]
    total = {**plain(said.total), "time": moment(said.total.time)} if said.total is not None else None
    return {**plain(said), "lines": lines, "total": total}


def verify_statement(
    path: Path, sources: Sources, pinned: Fingerprint, names: dict[RegisterId, str], json: bool
) -> None:
    """``exclave verify --statement FILE``: looks for everything that it claims. Ends with the verdict as exit code."""
    data = read_limited(path, MAX_NOTE_BYTES)
    found = check_statement(data, sources, pinned, now=now(), choose=secrets.randbelow)
    if json:
        claims = [plain(claim) for claim in found.claims]
        ok = found.truth is Truth.HOLDS and found.current
        said = told_statement(found.statement)
        print_json({"ok": ok, "truth": found.truth, "current": found.current, "claims": claims, "statement": said})
    else:
        _show(found, names)
    if found.truth is Truth.FALSE:
        raise typer.Exit(IntegrityError.exit_code)
    if found.truth is not Truth.HOLDS or not found.current:
        raise typer.Exit(NOT_CURRENT)


def _show(found: CheckedStatement, names: dict[RegisterId, str]) -> None:
    said = found.statement
    titles = {line.register: line.title for line in said.lines if line.title is not None} | names
    table(
        ("claim about", "is it true?", "what was found"),
        (
            (
                titles.get(c.register, c.register) if c.register is not None else "all together", c.truth, c.found,
            )
            for c in found.claims
        ),
    )  # fmt: skip
    say(f"Signed by {said.signer}, {said.role} by charter {said.charter}; verified {when(said.verified)} (UTC).")
    if not found.current:
        say(f"It is OLD: the next one was to come by {when(said.next_by)}. Ask for a newer one.")
    ends = {
        Truth.HOLDS: "Everything that it claims was found.",
        Truth.UNTOLD: "Not all of it could be looked for; nothing that was read contradicts it.",
        Truth.FALSE: "It claims what the sites do not show: it was wrong, or data was lost since. Ask who signed it.",
    }
    say(ends[found.truth])
    if advice := found.advice():
        say(advice)

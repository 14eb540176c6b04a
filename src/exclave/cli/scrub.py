"""``exclave scrub``"""

from __future__ import annotations

import os
import secrets
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from exclave.app import witness_addresses
from exclave.cli.keys import load_key
from exclave.cli.output import (
    HomeFolder,
    Json,
    PinnedWithSite,
    Sites,
    counted,
    note,
    plain,
    print_json,
    say,
    size_text,
    table,
    typed,
)  # fmt: skip
from exclave.cli.progress import work_bar
from exclave.cli.where import Where, view_of
from exclave.crypto.aead import derive
from exclave.errors import ExclaveError, IntegrityError, MalformedError, SiteUnavailable, UsageError
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.scrubbed import MAX_WRONG, ScrubLine, ScrubReport, WrongObject, parse_scrub_report
from exclave.ids import Instant, Key, Label, RegisterId, now, parse_label
from exclave.keys.file import KeyFile
from exclave.operations.deliver import registers_at
from exclave.operations.home import Home, key_card, read_limited, write_private
from exclave.operations.scrub import RegisterScrub, Scrubber
from exclave.operations.scrub_fact import enter_scrub, keep_left, left_at_home, worth_a_fact
from exclave.rules.scrub import day_text
from exclave.rules.signatures import sign_text, verify_signed_by

DEFAULT_DAYS = 30
REPAIRED = 1
_MAX_REPORT = 2 << 20
_EXAMPLE = (
    "Example: exclave scrub luxembourg    or, for an auditor: exclave scrub lux --site lux=dir:/mnt/lux"
    " --fingerprint 3f9a… --key auditor.key --report lux.report"
)


def register(app: typer.Typer) -> None:
    app.command(name="scrub", epilog=_EXAMPLE)(scrub)


def scrub(
    site_name: Annotated[str, typer.Argument(metavar="SITE", help="The site: its name.")],
    days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="Read all of it within so many days; default: scrub_days, or 30."),
    ] = None,
    only: Annotated[str | None, typer.Option("--register", help="Only this register: its name or id.")] = None,
    check_only: Annotated[bool, typer.Option("--check-only", help="Repair nothing.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="With --site: repair from the other sites named.")] = False,
    key: Annotated[
        Path | None, typer.Option(help="With --site: your key file; it orders what is read when, and signs the report.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a report there; the next run with it goes on from what it says.")
    ] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    json: Json = False,
) -> None:
    """Read a part of a site, so that all of it is read within some days, and repair what other sites have unharmed.

    Needs no key to check. While a former run left something wrong, all is read. Exit code 1: something was wrong and is
    repaired; 20: something is wrong still.
    """
    where = view_of(home, site, fingerprint)
    label = typed(parse_label, site_name)
    if label not in where.sites:
        raise UsageError(f"there is no site {label} here; there are: {', '.join(where.sites)}")
    if label not in where.view.shown:
        why = next((f.detail for f in where.view.findings if f.site == label), "it does not answer")
        raise SiteUnavailable(f"{label} cannot be scrubbed: {why}", site=label)
    if repair and check_only:
        raise UsageError("--repair and --check-only exclude each other")
    chosen = where.registers(only)[0][0] if only else None
    began = now()
    owner = load_key(key) if key is not None else None
    signer = owner or (where.home.writer_key() if where.home is not None else None)
    if report is not None and signer is None:
        raise UsageError("--report needs --key: a report is signed by whoever answers for it")
    before = _before(report, signer, where, label)
    results: list[RegisterScrub] = []
    with work_bar(f"scrub {label}", quiet=json) as bar:
        scrubber = Scrubber(
            where.view, label, where.sites[label], {n: s for n, s in where.sites.items() if n != label},
            days or _promised(where.home, label) or DEFAULT_DAYS,
            repair or (where.home is not None and not check_only), secrets.randbelow, began,
            workers=max(2, os.cpu_count() or 2), progress=lambda size: bar.read(size, counts=True),
        )  # fmt: skip
        for number in registers_at(where.view, label, chosen):
            name = where.names().get(number, number[:8])
            bar.begin(name)
            seed, known = _seed(where.home, owner, number)
            last = before.get(number)
            since = last.through if known and last is not None else None
            left = last.wrong - last.repaired if last is not None else 0
            if where.home is not None:
                left = max(left, left_at_home(where.home, number, label))
            results.append(
                scrubber.scrub(
                    number, seed, since=since, left=left, by_ledger=where.home is not None,
                    plan_done=partial(bar.at, name, 0),
                )
            )  # fmt: skip
    problems = _enter(where, label, results, began) if where.home is not None else {}
    if report is not None and signer is not None:
        write_private(report, _report(where, label, results, began, signer))
    if json:
        print_json(_told(where, label, results, problems))
    else:
        _show(where, label, results, problems)
    if any(r.left or r.unseen for r in results):
        raise typer.Exit(IntegrityError.exit_code)
    if any(r.found for r in results):
        raise typer.Exit(REPAIRED)


def _promised(home: Home | None, label: Label) -> int:
    return next((s.scrub_days for s in home.config.site if s.name == label), 0) if home is not None else 0


def _seed(home: Home | None, owner: KeyFile | None, register: RegisterId) -> tuple[bytes, bool]:
    """What orders the reading, and whether the next run will have the same."""
    if home is not None:
        return home.register_secrets(register).id_key, True
    if owner is not None:
        return derive(owner.seed, b"exclave/scrub/v1"), True
    return secrets.token_bytes(32), False


def _before(path: Path | None, signer: KeyFile | None, where: Where, label: Label) -> dict[RegisterId, ScrubLine]:
    """What the report of the last run says of each register; nothing if there is no such file yet."""
    if path is None or signer is None or not path.exists():
        return {}
    try:
        kept = parse_note(read_limited(path, _MAX_REPORT))
        verify_signed_by(kept, key_card(signer))
        found = parse_scrub_report(kept.text)
    except MalformedError as error:
        hint = "Name another file; nothing was read."
        raise MalformedError(f"{path} is no report of a scrub: {error.message}", hint=hint) from error
    if found.state != where.view.state:
        raise UsageError(f"{path} is a report about another state", hint="Name another file; nothing was read.")
    return {number: line for number, line in found.lines if line.site == label}


def _report(where: Where, label: Label, results: list[RegisterScrub], began: Instant, signer: KeyFile) -> bytes:
    lines = tuple((r.register, r.line(label)) for r in results)
    wrong = tuple(
        WrongObject(Key(f.key.replace(" ", "/")), Label(f.fault), f.found, f.repaired_from)
        for r in results for f in r.found
    )  # fmt: skip
    text = ScrubReport(where.view.state, began, lines, wrong[:MAX_WRONG]).encode()
    return ParsedNote(text, sign_text(text, signer.name, signer.signing())).encode()


def _enter(where: Where, label: Label, results: list[RegisterScrub], began: Instant) -> dict[RegisterId, str]:
    """Facts; why one could not be entered. What was repaired stays so."""
    problems: dict[RegisterId, str] = {}
    if where.home is None:
        return problems
    for result in results:
        keep_left(where.home, result, label)
        if worth_a_fact(result):
            try:
                enter_scrub(
                    where.home, result, label, sites=where.sites, witnesses=witness_addresses(where.home.config),
                    now=began,
                )  # fmt: skip
            except ExclaveError as error:
                problems[result.register] = error.message
    return problems


def _told(where: Where, label: Label, results: list[RegisterScrub], problems: dict[RegisterId, str]) -> dict[str, Any]:
    names = where.names()
    rows = [
        {
            "register": r.register, "name": names.get(r.register), "days": r.part.days,
            "from": day_text(min(r.part.first, r.part.through)), "through": day_text(r.part.through), "packs": r.packs,
            "packs_read": r.packs_read, "bytes_read": r.bytes_read, "wrong": len(r.found), "repaired": r.repaired,
            "left_before": r.left_before, "unseen": r.unseen,
            "found": plain(r.found), "fact_problem": problems.get(r.register, ""),
        }
        for r in results
    ]  # fmt: skip
    return {"site": label, "ok": not any(r.left or r.unseen for r in results), "registers": rows}


def _show(where: Where, label: Label, results: list[RegisterScrub], problems: dict[RegisterId, str]) -> None:
    names = where.names()
    table(
        ("register", "days", "packs read", "of", "bytes read", "wrong", "repaired"),
        (
            (names.get(r.register, r.register),
             f"{day_text(min(r.part.first, r.part.through))} to {day_text(r.part.through)} (of {r.part.days})",
             r.packs_read, r.packs, size_text(r.bytes_read), len(r.found), r.repaired)
            for r in results
        ),
    )  # fmt: skip
    for result in results:
        for found in result.found:
            end = f"repaired from {found.repaired_from}" if found.repaired_from else f"NOT repaired: {found.why_not}"
            whose = f"{names[result.register]}: " if result.register in names else ""
            say(f"{label}: {whose}{found.fault}: {found.key}: {end}")
        if result.register in problems:
            note(f"no fact in the ledger of {names.get(result.register, result.register)}: {problems[result.register]}")
        if result.left_before:
            say(f"{names.get(result.register, result.register)}: a former scrub left"
                f" {counted(result.left_before, 'object', 'objects')} wrong, so everything was read.")  # fmt: skip
    left, unseen = sum(r.left for r in results), sum(r.unseen for r in results)
    wrong = sum(len(r.found) for r in results)
    if left:
        say(f"{counted(left, 'object is', 'objects are')} wrong or missing at {label} still.")
    elif unseen:
        say(f"{label} shows less than it held when {counted(unseen, 'object was', 'objects were')} wrong there; bring"
            " it up to date (exclave backup, or a carried disk), then scrub it again.")  # fmt: skip
    elif wrong:
        say(f"{counted(wrong, 'object was', 'objects were')} wrong or missing at {label}; all are repaired.")
    else:
        say(f"All that was read at {label} is right.")
    read, packs = sum(r.packs_read for r in results), sum(r.packs for r in results)
    if read < packs:
        say(f"{read} of {packs} packs read; the rest is not due today.")

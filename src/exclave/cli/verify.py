"""``exclave verify``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_home, open_named_sites, open_sites
from exclave.cli.output import (
    HomeFolder,
    Json,
    Sites,
    counted,
    duration,
    out,
    plain,
    print_json,
    say,
    table,
    typed,
    when,
)
from exclave.cli.progress import counting, read_of, work_bar
from exclave.errors import IntegrityError, UsageError, all_errors
from exclave.ids import Instant, RegisterId, now, parse_fingerprint
from exclave.verify.advice import advice
from exclave.verify.embassy import EmbassyReport, verify_embassy
from exclave.verify.readers import Judged
from exclave.verify.report import mark_of, parse_at_least, text_of

_EXAMPLE = "Example: exclave verify --site lux=dir:/mnt/lux --site fin=dir:/mnt/fin --fingerprint 3f9a…"
UNSETTLED = 1
"""Exit code when nothing that was read is wrong, but not all is as it has to be."""


def register(app: typer.Typer) -> None:
    app.command(name="verify", epilog=_EXAMPLE)(verify)


def verify(
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Annotated[str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint.")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read packs: signatures, ledgers and lists only.")
    ] = False,
    statement: Annotated[
        Path | None, typer.Option(help="Look for all that this statement to the public claims, and for nothing else.")
    ] = None,
    proof: Annotated[
        Path | None, typer.Option(help="Check this proof of a single record (`exclave prove`); no site is asked.")
    ] = None,
    record: Annotated[
        Path | None, typer.Argument(help="With --proof: your copy of the document, to be compared.")
    ] = None,
    least_charter: Annotated[
        int, typer.Option(min=1, help="With --proof: refuse one that knows no charter of this number or a later one.")
    ] = 1,
    remember: Annotated[
        Path | None, typer.Option(help="Compare with what this file says you saw before, then write what you saw now.")
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Another reader's file: find whether sites show each of you another chain."),
    ] = None,
    at_least: Annotated[
        str,
        typer.Option(
            metavar="TIME|any",
            help="Data up to then is not too old (2026-11-27, or with T12:00:00Z);"
            " any: of any age. Default: what the charter allows.",
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Check whole sites without any key: signatures, history, completeness, every byte. Exit code 20 on faults.

    Exit code 1: what was read is right, but a register is older than its charter allows, a site could not be read, a
    placement rule is not met though all its sites were named, a site still shows what was erased, or another reader's
    file cannot be compared wholly. Exit codes 23 and 24: by what readers saw, the sites were rolled back, or show two
    histories.
    """  # fmt: skip
    if (remember or compare) and (proof or statement):
        raise UsageError("--remember and --compare go with whole sites, not with --proof or --statement")
    if proof is not None:
        from exclave.cli.proof_check import check_proof  # noqa: PLC0415 - each loads what the others do not need

        if not fingerprint:
            _require_home(home, "--proof needs --fingerprint, or the folder of a home")
        pinned = typed(parse_fingerprint, fingerprint) if fingerprint else open_home(home).fingerprint()
        check_proof(proof, record, pinned, least_charter=least_charter, json=json)
        return
    if record is not None:
        raise UsageError("a document is compared with a proof only: name that with --proof")
    if site:
        if not fingerprint:
            raise UsageError("--site needs --fingerprint: without it nobody can tell whose copies these are")
        sites, pinned = open_named_sites(site), typed(parse_fingerprint, fingerprint)
        names: dict[RegisterId, str] = {}
    else:
        _require_home(home, "name sites with --site, and the state with --fingerprint; or the folder of a home")
        opened = open_home(home)
        sites, pinned = open_sites(opened), opened.fingerprint()
        names = {number: str(name) for name, number in opened.register_ids().items()}

    since = typed(parse_at_least, at_least) if at_least else None
    if statement is not None:
        from exclave.cli.statement_check import verify_statement  # noqa: PLC0415

        verify_statement(statement, sites, pinned, names, json)
        return
    readers = None
    if remember or compare:
        from exclave.verify.seen_check import ReadersCheck  # noqa: PLC0415

        readers = ReadersCheck(remember, compare or (), pinned)
    counted, judged = counting(sites), None if readers is None else Judged()
    with work_bar("verify", quiet=json) as bar:
        bar.begin("signatures, ledgers and lists")
        bar.poll(read=read_of(counted))
        report = verify_embassy(
            counted, pinned, now=now(), read_packs=not quick,
            progress=lambda done, total: bar.at(f"{done} of {total} packs that are known by now", done, total),
            judged=judged,
        )  # fmt: skip
        if readers is not None and judged is not None and report.charter:
            bar.begin("what other readers saw")
            readers.run(counted, judged)
    compared = readers.exit_code if readers is not None else 0
    if json:
        ok = report.ok and report.settled and not report.old(since) and not compared
        told: dict[str, object] = {"unread": report.unread, "not_erased": report.not_erased, "old": report.old(since)}
        if readers is not None:
            told["compared"] = [{"file": name, **plain(one)} for name, one in readers.told]
        print_json({"ok": ok, **plain(report), **told})
    else:
        _show(report, names, since, quick=quick)
        for line in readers.lines(names, when) if readers is not None and report.charter else ():
            say(line)
    if compared > UNSETTLED:
        raise typer.Exit(compared)
    if not report.ok:
        raise typer.Exit(_exit_code(report))
    if compared or not report.settled or report.old(since):
        raise typer.Exit(UNSETTLED)


def _require_home(home: Path, otherwise: str) -> None:
    """``UsageError`` if ``home`` is no home: who only verifies has none, and shall not be told to make one."""
    if not (home / "exclave.toml").exists():
        raise UsageError(
            f"there is no home in {home.absolute()}: {otherwise}",
            hint="The fingerprint stands on what the state printed: nobody else can say whose data this is.",
        )


def _exit_code(report: EmbassyReport) -> int:
    """20 for faults at sites; if the state itself could not be read, the code of the reason."""
    if report.charter == 0:
        for cls in all_errors():
            if any(f.grave and f.fault == cls.code for f in report.findings):
                return cls.exit_code
    return IntegrityError.exit_code


def _show(report: EmbassyReport, known: Mapping[RegisterId, str], since: Instant | None, *, quick: bool) -> None:
    names = {r.register: known.get(r.register, r.public_name or r.register) for r in report.registers}
    table(
        ("register", "epoch", "versions", "last", "age", "placement rule", "versions complete at"),
        (
            (
                names[r.register], r.epoch, r.versions, r.latest or "-",
                duration(r.age_s) if r.age_s is not None else "-", r.placement_lacks or "met",
                ", ".join(f"{s.site} {s.complete}/{s.versions}" for s in r.sites),
            )
            for r in report.registers
        ),
    )  # fmt: skip
    for register in report.registers:
        for gone in register.erased:
            state = "erased" if gone.done else "to be erased: ordered"
            say(f"version {gone.sequence} of {names[register.register]}: {state} on"
                f" {when(gone.time)} by warrant {gone.warrant.hex()[:16]}…")  # fmt: skip
        for left in register.exits:
            say(f"{names[register.register]}: {left.text()}")
        if register.published is not None:
            say(register.published.text(names[register.register]))
    for register in report.registers:
        for newest in {dated.authority: dated for dated in register.timestamps}.values():
            if newest.sequence is not None:
                say(f"version {newest.sequence} of {names[register.register]} existed before {when(newest.before)}"
                    f" by {newest.authority}.")  # fmt: skip
    for found in report.findings:
        colour = "bold red" if found.grave else "yellow"
        out.print(f"[{colour}]{mark_of(found):5}[/{colour}]", end=" ")
        # The object's name has the register's id in it; a name that says more stands before it.
        name = names.get(found.register) if found.register is not None else None
        say(text_of(found, name if name is not None and name != found.register else ""))
    if report.placement_unmet:
        say(f"The placement rule is not met: {', '.join(names[r] for r in report.placement_unmet)}.")
    if report.not_erased:
        say(f"What was erased is still shown by: {', '.join(report.not_erased)}.")
    for sentence in advice(report, names):
        say(sentence)
    for sentence in report.verdict(since, quick=quick):
        say(sentence)
    if report.unread:
        say(f"{counted(len(report.unread), 'site was', 'sites were')} NOT looked at, or not wholly:"
            f" {', '.join(report.unread)}.")  # fmt: skip

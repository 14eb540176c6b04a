"""``exclave-verify``: the checks alone, for an auditor's machine; needs no key, and no other part of Exclave.

``exclave verify`` says the same with tables and a progress bar. Exit codes are the same: 0 right; 1 nothing is wrong,
but not all was read or settled, or it is old; 20 faults; 23 and 24 what readers saw; else the code of the error.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from exclave.errors import ExclaveError, IntegrityError, MalformedError, UsageError, all_errors
from exclave.formats.note import MAX_NOTE_BYTES
from exclave.formats.proof import MAX_PROOF_BYTES
from exclave.formats.record import FileRecord, table_name
from exclave.ids import Fingerprint, Instant, Label, instant_text, now, parse_fingerprint, parse_label
from exclave.sites.contract import Readable
from exclave.sites.opening import open_site
from exclave.verify.advice import advice
from exclave.verify.embassy import EmbassyReport, verify_embassy
from exclave.verify.localfiles import blocks, limited
from exclave.verify.proof import VerifiedProof, verify_document, verify_proof
from exclave.verify.readers import Judged
from exclave.verify.report import many, mark_of, parse_at_least, text_of
from exclave.verify.seen_check import ReadersCheck
from exclave.verify.statements import CheckedStatement, Truth, check_statement

UNSETTLED = 1
_INTERRUPTED = 130
_EXAMPLES = """examples:
  exclave-verify --fingerprint 3f9a… lux=dir:/mnt/lux fin=dir:/mnt/fin
  exclave-verify --fingerprint 3f9a… --statement statement.note lux=s3://bucket/state?anonymous=yes
  exclave-verify --fingerprint 3f9a… --remember seen.txt --compare theirs.txt lux=https://lux.example/state
  exclave-verify --fingerprint 3f9a… --proof deed-17.tlog-proof deed-17.txt
"""


def main() -> None:
    """Runs the command and exits with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """One check; its exit code. What is wrong with the call itself, argparse says (exit code 2)."""
    options = _parser().parse_args(arguments)
    try:
        return _check(options)
    except ExclaveError as error:
        if options.json:
            _print_json({"error": error.code, "message": error.message, "hint": error.hint, **error.facts})
        else:
            sys.stderr.write(f"exclave-verify: {_visible(error.message)}\n  {_visible(error.hint)}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("exclave-verify: interrupted; nothing was found out about what it did not reach\n")
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="exclave-verify",
        description="Check a data embassy without any key: signatures, history, completeness, every byte.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fingerprint", required=True, help="the state's fingerprint, as the state printed it")
    parser.add_argument("--quick", action="store_true", help="do not read packs: signatures, ledgers and lists only")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--proof", type=Path, metavar="FILE", help="check this proof of a record; no site is asked")
    what.add_argument("--statement", type=Path, metavar="FILE", help="look for all that this public statement claims")
    parser.add_argument("--least-charter", type=int, default=1, metavar="N", help="with --proof: one of N or later")
    parser.add_argument("--at-least", default="", metavar="TIME|any", help="data up to then is not too old: 2026-11-27,"
                        " or with T12:00:00Z; any: of any age; default: what the charter allows")  # fmt: skip
    parser.add_argument("--remember", type=Path, metavar="FILE", help="compare with what this file says you saw before,"
                        " then write what you saw now")  # fmt: skip
    parser.add_argument("--compare", type=Path, action="append", default=[], metavar="FILE", help="another reader's"
                        " file: find whether sites show each of you another chain")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("what", nargs="*", metavar="SITE|DOCUMENT", help="NAME=ADDRESS of each site, as the charter"
                        " calls it; with --proof: your copy of the document")  # fmt: skip
    return parser


def _check(options: argparse.Namespace) -> int:
    pinned = _argument("fingerprint", lambda: parse_fingerprint(options.fingerprint))
    if (options.remember or options.compare) and (options.proof or options.statement):
        raise UsageError("--remember and --compare go with whole sites, not with --proof or --statement")
    if options.proof is not None:
        if len(options.what) > 1:
            raise UsageError("a proof is of one document")
        return _proof(options, pinned, *map(Path, options.what))
    sites = open_sites(options.what)
    if options.statement is not None:
        data = limited(options.statement, MAX_NOTE_BYTES)
        return _told_statement(check_statement(data, sites, pinned, now=now(), choose=secrets.randbelow), options.json)
    since = _argument("--at-least", lambda: parse_at_least(options.at_least)) if options.at_least else None
    readers = ReadersCheck(options.remember, options.compare, pinned) if options.remember or options.compare else None
    judged = None if readers is None else Judged()
    report = verify_embassy(sites, pinned, now=now(), read_packs=not options.quick, judged=judged)
    if readers is not None and judged is not None:
        readers.run(sites, judged)
    return _told(report, readers, since, options.json, quick=options.quick)


def _told(
    report: EmbassyReport, readers: ReadersCheck | None, since: Instant | None, as_json: bool, *, quick: bool
) -> int:
    """Says what was found; the exit code."""
    compared = readers.exit_code if readers is not None else 0
    unsettled = bool(compared or not report.settled or report.old(since))
    if as_json:
        told: dict[str, Any] = {"unread": report.unread, "not_erased": report.not_erased, "old": report.old(since)}
        if readers is not None:
            told["compared"] = [{"file": name, **_plain(one)} for name, one in readers.told]
        _print_json({"ok": report.ok and not unsettled, **_plain(report), **told})
    else:
        _say(_report_lines(report, since, quick=quick))
        if readers is not None and report.charter:
            names = {r.register: r.public_name for r in report.registers if r.public_name}
            _say(readers.lines(names, _when))
    if compared > UNSETTLED:
        return compared
    if not report.ok:
        return _fault_code(report)
    return UNSETTLED if unsettled else 0


def open_sites(addresses: Iterable[str]) -> dict[Label, Readable]:
    """``NAME=ADDRESS`` each, or an address alone (then site-1, site-2, …); folders may be relative. ``UsageError``."""
    found: dict[Label, Readable] = {}
    for number, text in enumerate(addresses, 1):
        name, equals, url = text.partition("=")
        if not equals or not name or "/" in name or ":" in name:
            name, url = f"site-{number}", text
        if url.startswith("dir:") and not url.startswith("dir:/"):
            url = f"dir:{Path(url.removeprefix('dir:')).absolute()}"
        label = _argument(name, lambda name=name: parse_label(name))
        if label in found:
            raise UsageError(f"two sites are called {label}")
        found[label] = open_site(url)
    if not found:
        raise UsageError("no site was named", hint="Name at least one: NAME=ADDRESS.")
    return found


def _argument(what: str, parse: Any) -> Any:
    try:
        return parse()
    except MalformedError as error:
        raise UsageError(f"{what}: {error.message}") from error


def _fault_code(report: EmbassyReport) -> int:
    """20; if the state itself could not be read, the code of the reason."""
    grave = {found.fault for found in report.findings if found.grave}
    if report.charter == 0:
        return next((cls.exit_code for cls in all_errors() if cls.code in grave), IntegrityError.exit_code)
    return IntegrityError.exit_code


def _report_lines(report: EmbassyReport, since: Instant | None, *, quick: bool) -> Iterator[str]:
    for register in report.registers:
        last = _when(register.latest_time) if register.latest_time else "never"
        yield (
            f"{register.public_name or register.register}: {many(register.versions, 'version')} in"
            f" {many(register.epoch, 'epoch')},"
            f" the last of {last}; placement rule: {register.placement_lacks or 'met'}"
        )
        for site in register.sites:
            yield f"  {site.site}: {site.complete} of {many(site.versions, 'version')} complete"
        if register.published is not None:
            yield f"  {register.published.text(register.public_name or register.register)}"
    for found in report.findings:
        yield f"{mark_of(found):5} {text_of(found)}"
    yield f"{many(report.packs_read, 'pack was', 'packs were')} read."
    if report.not_erased:
        yield f"What was erased is still shown by: {', '.join(report.not_erased)}."
    if report.unread:
        yield f"NOT looked at, or not wholly: {', '.join(report.unread)}."
    yield from advice(report, {r.register: r.public_name for r in report.registers if r.public_name})
    yield from report.verdict(since, quick=quick)


def _proof(options: argparse.Namespace, pinned: Fingerprint, document: Path | None = None) -> int:
    data = limited(options.proof, MAX_PROOF_BYTES)
    proven = verify_proof(data, pinned, least_charter=options.least_charter)
    if document is not None:
        verify_document(proven.record, blocks(document))
    if options.json:
        _print_json({"ok": True, "document_checked": document is not None, **_plain(proven)})
        return 0
    _say(_proof_lines(proven))
    if document is not None:
        _say([f"{document} is that very document, byte by byte."])
    return 0


def _proof_lines(proven: VerifiedProof) -> Iterator[str]:
    record, leaf = proven.record, proven.leaf
    if isinstance(record, FileRecord):
        path = record.path.decode("utf-8", "backslashreplace")
        what = f"the document {path!a} of {record.dataset} ({record.size} bytes, BLAKE3 {record.content.hex()})"
    else:
        what = f"a row of table {table_name(record.table)!a} of {record.dataset}"
    yield f"PROVEN: {what}"
    yield f"  stood in the register {proven.title or record.register} of {proven.state_name}"
    yield f"  at {_when(leaf.time)}, version {leaf.sequence}; signed by {proven.writer}"
    for name, time in proven.cosigners:
        yield f"  cosigned by {name} at {_when(time)}"
    if proven.cut_off:
        yield "  confirmed by the custodians' next epoch"
    elif not proven.cosigners:
        yield "  The state's charter asks for no witness, so nobody else vouches for the time."
    if not isinstance(record, FileRecord):
        for column, kind, value in record.cells():
            yield f"  {column!a} ({kind}): {'NULL' if value is None else repr(value)}"
    yield f"The proof knows the state's charters up to number {proven.charter} ({_when(proven.charter_issued)})."


def _told_statement(found: CheckedStatement, as_json: bool) -> int:
    if as_json:
        ok = found.truth is Truth.HOLDS and found.current
        _print_json({"ok": ok, "truth": found.truth.value, "current": found.current, "claims": _plain(found.claims)})
    else:
        _say(f"{c.register or 'all together'}: {c.truth.value}: {c.found}" for c in found.claims)
        said = found.statement
        _say([f"Signed by {said.signer}; verified {_when(said.verified)}. In all: {found.truth.value}."])
        _say(filter(None, [found.advice()]))
        if not found.current:
            _say([f"It is OLD: the next one was to come by {_when(said.next_by)}."])
    if found.truth is Truth.FALSE:
        return IntegrityError.exit_code
    return 0 if found.truth is Truth.HOLDS and found.current else UNSETTLED


def _when(instant: Instant) -> str:
    return instant_text(instant)[:19].replace("T", " ") + " UTC"


def _visible(text: str) -> str:
    """Nothing that a host or a file said moves the cursor or hides what stands before it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(_visible(line) + "\n")


def _plain(value: object, kind: object = None) -> Any:
    """``value`` in JSON's types; instants as text, bytes as hex."""
    if isinstance(value, int) and kind in ("Instant", "Instant | None"):
        return instant_text(Instant(value)) if value else None
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), field.type) for field in fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()

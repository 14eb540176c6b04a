"""``exclave prove``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.opening import Answers, OnlyThese, Unwitnessed, open_by_warrant
from exclave.cli.output import HomeFolder, Json, PinnedWithSite, Sites, print_json, say, size_text
from exclave.cli.proof_check import proof_json, record_text
from exclave.cli.where import Where, view_of
from exclave.errors import UsageError
from exclave.formats.config import DatasetConfig
from exclave.formats.manifest import Root
from exclave.ids import Label, now, parse_label
from exclave.operations.prove import (
    ReadRows,
    RecordsOf,
    WantedRow,
    gather_evidence,
    records_at_home,
    records_opened,
    write_proof,
)
from exclave.operations.restore import choose_version, open_version
from exclave.registers.postgres_digest import postgres_digest
from exclave.registers.postgres_source import postgres_source
from exclave.registers.sqlite_digest import sqlite_digest
from exclave.verify.deletions import mark_erased
from exclave.verify.history import CountedVersion, RegisterHistory, read_history
from exclave.verify.proof import verify_proof

_EXAMPLE = "Example: exclave prove gazette 2026/act-17.pdf --out act-17.tlog-proof"


def register(app: typer.Typer) -> None:
    app.command(name="prove", epilog=_EXAMPLE)(prove)


def prove(
    register: Annotated[str, typer.Argument(help="Name or id of the register.")],
    record: Annotated[
        str,
        typer.Argument(
            help="A document's path below its dataset's folder; or a row: TABLE:COLUMN=VALUE,…", metavar="RECORD"
        ),
    ],
    out: Annotated[Path, typer.Option(help="The proof's file; it must not be there yet. Usual ending: .tlog-proof")],
    version: Annotated[int | None, typer.Option(min=1, help="Number of the version; default: the newest.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset, if several have records.")] = None,
    copy: Annotated[
        str | None,
        typer.Option(
            help="Of a row: the database to read it from, if not home's own: a SQLite file, or host=…,dbname=…,user=…"
        ),
    ] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    warrant: Annotated[Path | None, typer.Option(help="Away from home: a warrant to restore.")] = None,
    answer: Answers = None,
    key: Annotated[Path | None, typer.Option(help="With --warrant: the key file of the machine that it names.")] = None,
    unwitnessed: Unwitnessed = False,
    only_these: OnlyThese = False,
    json: Json = False,
) -> None:
    """Prove one document or one row of a version: a file that anybody checks with the fingerprint alone.

    The file shows that record and no other. At home it is made from what the last backup kept; away from home, or for a
    document of an earlier version, by warrant.
    """
    if out.exists():
        raise UsageError(f"{out} is there already", hint="Name another file with --out.")
    if warrant is None:
        where, found, history, records, config = _at_home(home, site, register, version)
    else:
        if key is None:
            raise UsageError("--warrant needs --key: the key file of the machine that the warrant names")
        opened = open_by_warrant(
            site, fingerprint, warrant, answer or [], key, register=register, unwitnessed=unwitnessed,
            only_these=only_these,
        )  # fmt: skip
        where, history = opened.where, opened.history
        found = choose_version(history, version)
        reader, root = open_version(where.view.state, opened.sites, opened.register, found)
        records, config = records_opened(reader, root, found.leaf), None
    label = _dataset(records, dataset)
    kind = _kind(label, config, None if config is not None else root)
    if kind == "files":
        opening = records.document(label, record.encode("utf-8", "surrogateescape"))
    else:
        opening = records.row(label, WantedRow(record), _rows(kind, copy, None if config is None else config[label]))
    sites = where.sites if warrant is None else opened.sites
    data = gather_evidence(where.view, sites, history, found).proof(opening)
    proven = verify_proof(data, where.view.state)  # what a citizen's verifier would not take is never handed out
    write_proof(out, data)
    if json:
        print_json({"path": str(out), "bytes": len(data), **proof_json(proven)})
        return
    say(f"{out} ({size_text(len(data))}): {record_text(proven.record)}, version {proven.leaf.sequence}.")
    say("It shows this record and no other. Whoever has the state's fingerprint checks it:")
    say(f"exclave verify --proof {out} --fingerprint FINGERPRINT")
    say("They must not have the fingerprint from you: who hands out a false proof hands out one that fits. The state")
    say("has printed it.")


def _at_home(
    home: Path, site: list[str] | None, register: str, version: int | None
) -> tuple[Where, CountedVersion, RegisterHistory, RecordsOf, dict[Label, DatasetConfig]]:
    if site:
        raise UsageError("--site needs a --warrant here: without one only the register's home can show its records")
    where = view_of(home, None, "")
    ((number, name),) = where.registers(register)
    history = read_history(where.view, where.sites, number)
    history = mark_erased(where.view, where.sites, history, now())
    found = choose_version(history, version)
    if where.home is None:
        raise UsageError("this is no home")
    own = {str(register_id): label for label, register_id in where.home.register_ids().items()}
    config = where.home.config.find_register(own.get(str(number), Label(name)))
    records = records_at_home(where.home, config.name, found.leaf)
    return where, found, history, records, {Label(d.name): d for d in config.dataset}


def _dataset(records: RecordsOf, wanted: str | None) -> Label:
    if wanted is not None:
        return parse_label(wanted)
    if len(records.datasets) > 1:
        raise UsageError(f"records of several datasets: {', '.join(records.datasets)}", hint="Name one with --dataset.")
    return records.datasets[0]


def _kind(label: Label, config: dict[Label, DatasetConfig] | None, root: Root | None) -> str:
    if config is not None:
        found = config.get(label)
        kind = str(found.kind) if found is not None else None
    else:
        kind = next((d.kind for d in root.datasets if d.label == label), None) if root is not None else None
    if kind is None:
        raise UsageError(f"there is no dataset {label}")
    return kind


def _rows(kind: str, copy: str | None, config: DatasetConfig | None) -> ReadRows:
    """How the rows are read: from ``copy``, or at home from the dataset itself."""
    own = config.options if config is not None else None
    if copy is None and own is None:
        raise UsageError(
            "a row is read from its database",
            hint="Restore this version, start its database if it is PostgreSQL, and name it with --copy.",
        )
    if kind == "sqlite":
        path = Path(copy) if copy is not None else Path(str((own or {}).get("path", "")))
        return lambda former: sqlite_digest(path, former=former)
    options: dict[str, str | int] = dict(own or {}) if copy is None else {}
    for part in copy.split(",") if copy is not None else ():
        name, _, value = part.partition("=")
        options[name] = int(value) if name == "port" and value.isascii() and value.isdigit() else value
    source = postgres_source(options)
    return lambda former: postgres_digest(source, former)

"""How results, progress and failures look, for people and with ``--json`` for machines."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, TextIO, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from exclave.cli.tables import PIPED_WIDTH, Rows, Wrong
from exclave.errors import ExclaveError, MalformedError, UsageError
from exclave.ids import Instant, instant_text

Value = TypeVar("Value")

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]
HomeFolder = Annotated[
    Path, typer.Option("--home", envvar="EXCLAVE_HOME", help="The home folder, with exclave.toml in it.")
]
Sites = Annotated[
    list[str] | None,
    typer.Option("--site", help="A site's address, NAME=URL, as often as there are sites (dir:/path, s3://bucket/…)."),
]
Pinned = Annotated[
    str, typer.Option("--fingerprint", envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint, 64 hex digits.")
]

PinnedWithSite = Annotated[
    str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint, with --site.")
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([1-9][0-9]{0,7})([smhd])\Z")


def _width(stream: TextIO) -> int | None:
    """Columns of ``stream`` if it is no terminal; None: the terminal's own, or what ``COLUMNS`` says."""
    own = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return None if own else PIPED_WIDTH


# Lines are never folded: what a person copies or searches for is whole.
out = Console(highlight=False, emoji=False, soft_wrap=True, width=_width(sys.stdout))
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def plain(value: object, kind: object = None) -> Any:
    """``value`` in JSON's types; instants as text, bytes as hex."""
    if kind in ("Instant", "Instant | None") and isinstance(value, int):
        return instant_text(Instant(value)) if value else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), f.type) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    return value


def typed(parse: Callable[[str], Value], text: str) -> Value:
    """``text`` as a person typed it; ``UsageError`` if it is not what ``parse`` takes."""
    try:
        return parse(text)
    except MalformedError as error:
        raise UsageError(error.message) from error


def print_json(value: object) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What commands a terminal, turns the direction of text, or cannot be written."""


def visible(text: str) -> str:
    """``text`` of a person, a host or a version, so that it does nothing to the terminal but stand there."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output, or records where it is too narrow. A file's name in a cell cannot look like a row."""
    out.print(Rows(columns, ([_cell(cell) for cell in row] for row in rows)))


def _cell(value: object) -> str:
    text = visible(str(value)).replace("\n", "\\n")
    return Wrong(text) if isinstance(value, Wrong) else text


def say(text: str) -> None:
    """A line for a person, without markup."""
    out.print(visible(text), markup=False)


def confirmed(question: str, without: str) -> bool:
    """The answer of the person at the keyboard. ``UsageError`` if there is nobody: ``without`` says what then holds."""
    try:
        return typer.confirm(question)
    except typer.Abort as error:
        if sys.stdin.isatty():
            raise
        hint = "Read what it shows; then run it again with --yes, which does not ask."
        raise UsageError(f"nobody can be asked here, so {without}", hint=hint) from error


def not_signed() -> typer.Exit:
    """For a person who was asked, and said no: nothing is wrong with the command."""
    say("Not signed.")
    return typer.Exit(UsageError.exit_code)


def note(text: str) -> None:
    """A line about what is going on, on standard error."""
    err.print(visible(text), markup=False, style="dim")


def alarm(text: str) -> None:
    """A line about something that is wrong, on standard error."""
    err.print(visible(text), markup=False, style="red")


def size_text(size_bytes: float) -> str:
    """``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size_bytes < 1024 or unit == "TiB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return ""


def counted(number: int, one: str, many: str) -> str:
    """``1 entry``, ``2 entries``."""
    return f"{number} {one if number == 1 else many}"


def when(instant: Instant | int) -> str:
    """``2026-11-23 14:22:01`` (UTC)."""
    return instant_text(Instant(instant))[:19].replace("T", " ") if instant else "-"


def moment(instant: Instant | int) -> str | None:
    """For ``--json``: ``2026-11-23T14:22:01.000000Z``, as in all other JSON; null for none."""
    return instant_text(Instant(instant)) if instant else None


def parse_duration(text: str) -> int:
    """``30s``, ``5m``, ``1h``, ``2d`` in seconds. ``UsageError`` for anything else."""
    found = _DURATION.match(text)
    if found is None:
        raise UsageError(f"a duration is written 30s, 5m, 1h or 2d, not {text[:40]!r}")
    return int(found[1]) * _UNITS[found[2]]


def duration(seconds: float) -> str:
    """``3.2 s``, ``4 min 10 s``, ``2 h 5 min``, ``3 d 4 h``, ``1 h``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next(at for at, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


@contextmanager
def progress_bar(what: str, *, quiet: bool) -> Iterator[Any]:
    """Shows entries, and bytes if there are any, while something long runs; yields ``update(text, entries, bytes)``."""
    if quiet or not err.is_terminal:
        yield lambda text, entries, size: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(text: str, entries: int, size: int) -> None:
            read = f", {size_text(size)}" if size else ""
            bar.update(task, description=visible(f"{what}: {text}, {entries} entries{read}"), completed=size)

        yield update


def error_json(error: ExclaveError) -> dict[str, Any]:
    """An error for machines."""
    told = {"error": error.code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return {**told, "facts": error.facts, "retryable": error.retryable}


def fail(error: ExclaveError, as_json: bool) -> int:
    """Shows an error; its exit code."""
    if as_json:
        print_json(error_json(error))
    else:
        err.print(visible(f"exclave: {error.message}"), style="bold red", markup=False)
        if error.hint:
            err.print(visible(f"  {error.hint}"), markup=False)
    return error.exit_code

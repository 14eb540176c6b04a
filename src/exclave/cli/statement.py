"""``exclave statement``"""

from __future__ import annotations

import secrets
import shlex
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from exclave.cli.ending import told_to_end
from exclave.cli.keys import load_key
from exclave.cli.output import HomeFolder, Json, PinnedWithSite, Sites, note, parse_duration, print_json, say
from exclave.cli.statement_check import told_statement
from exclave.cli.watch import ConfigFile, Watched, watched
from exclave.cli.where import view_of
from exclave.errors import UnavailableError, UsageError
from exclave.ids import Fingerprint, Instant, now
from exclave.keys.file import KeyFile
from exclave.operations.home import Home
from exclave.operations.statement import (
    NOTE_NAME,
    PAGE_NAME,
    make_statement,
    newest_statement,
    publish_statement,
    write_statement,
)
from exclave.operations.watch import Watch, WatchRule
from exclave.serve.statement_page import statement_page, statement_text

_DAY_S = 86_400

app = typer.Typer(help="Say in public up to when the data is safe.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Say in public up to when the data is safe."""


@app.command(epilog="Example: exclave statement make /var/www/safe --key witness.key --every 1h --publish")
def make(
    folder: Annotated[Path, typer.Argument(help="Where the note, its text and its page are written.")],
    key: Annotated[
        Path | None,
        typer.Option(help="Key file of a witness (best), a custodian or a writer; default: the home's writer."),
    ] = None,
    sealed: Annotated[
        str, typer.Option(help="What is said of sealed registers: total, each (by id), or none.")
    ] = "total",
    every: Annotated[str, typer.Option(help="Make another one after so long, and so on: 1h, 1d.")] = "",
    next_by: Annotated[
        str, typer.Option("--next-by", help="The next one comes within; default: twice --every, or 1d.")
    ] = "",
    publish: Annotated[bool, typer.Option("--publish", help="Put it at every site too.")] = False,
    config: ConfigFile = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    json: Json = False,
) -> None:
    """Look at all sites, and sign what was found there: data up to when, at how many places, in how many countries.

    It says what the sites show, good or bad, and when the next one comes: silence after that is a bad sign.
    """
    found = watched(home, site, fingerprint, config)
    shown = _sealed(sealed)
    if site and key is None:
        raise UsageError("--site needs --key: a statement is signed by somebody whom the charter names")
    signer = load_key(key) if key is not None else Home.open(home.absolute()).writer_key()
    every_s = parse_duration(every) if every else 0
    next_s = parse_duration(next_by) if next_by else 2 * every_s or _DAY_S
    if next_s <= every_s:
        raise UsageError("--next-by must be longer than --every: a look takes a while, and a site may be slow")
    ended = told_to_end(forever=every_s > 0)
    while True:
        began = time.monotonic()
        try:
            _make_one(found, folder, signer, next_s, shown, publish=publish, as_json=json)
        except UnavailableError as error:
            if not every_s:
                raise
            note(f"no statement this time: {error.message}")
        if not every_s or ended.wait(max(0.0, every_s - (time.monotonic() - began))):
            return


def _sealed(word: str) -> Literal["total", "each", "none"]:
    match word:
        case "total" | "each" | "none":
            return word
    raise UsageError(f"--sealed takes total, each or none, not {word[:40]!r}")


def _make_one(
    found: Watched,
    folder: Path,
    signer: KeyFile,
    next_s: int,
    sealed: Literal["total", "each", "none"],
    *,
    publish: bool,
    as_json: bool,
) -> None:
    # Each with a memory of its own: nothing that it says was found earlier.
    watch = Watch(found.sites, found.pinned, WatchRule(sample=found.config.sample), clock=now, choose=secrets.randbelow)
    look, ended = watch.look(), now()
    made = make_statement(
        look, watch, signer, found.pinned, now=ended, next_by=Instant(ended + next_s * 1_000_000),
        sample=found.config.sample, sealed=sealed,
    )  # fmt: skip
    write_statement(made, folder, statement_text(made.statement), statement_page(made.statement))
    failed = publish_statement(made, found.sites) if publish else {}
    if as_json:
        print_json({**told_statement(made.statement), "published": publish, "failed": failed})
    else:
        say(statement_text(made.statement).rstrip())
        say(f"\nWritten to {folder / NOTE_NAME} and {folder / PAGE_NAME}.")
        for label, why in failed.items():
            note(f"not put at {label}: {why}")


@app.command(epilog="Example: exclave statement latest /tmp/said --site lux=dir:/mnt/lux --fingerprint 3f9a…")
def latest(
    folder: Annotated[Path, typer.Argument(help="Where the note, its text and its page are written.")],
    days: Annotated[int, typer.Option(min=1, max=3650, help="So many days are looked through.")] = 31,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    json: Json = False,
) -> None:
    """Fetch the newest statement that the sites show, signed by somebody whom the charter names. It is not checked."""
    where = view_of(home, site, fingerprint)
    made = newest_statement(where.sites, where.view, now=now(), days=days)
    write_statement(made, folder, statement_text(made.statement), statement_page(made.statement))
    if json:
        print_json(told_statement(made.statement))
        return
    say(statement_text(made.statement).rstrip())
    say(f"\nWritten to {folder / NOTE_NAME}. Whether it is true:")
    say(f"  {_check_of(folder / NOTE_NAME, home, site, where.view.state)}")


def _check_of(path: Path, home: Path, site: list[str] | None, state: Fingerprint) -> str:
    """The command that checks the statement in ``path`` at the same sites, as it can be typed."""
    words = ["exclave", "verify", "--statement", str(path)]
    if not site:
        return shlex.join([*words, "--home", str(home.absolute())])
    return shlex.join([*words, "--fingerprint", str(state), *(word for one in site for word in ("--site", one))])

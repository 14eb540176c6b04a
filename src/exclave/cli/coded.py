"""``exclave coded``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.output import Json, plain, print_json, say, table
from exclave.cli.progress import work_bar
from exclave.errors import CorruptObject, SiteUnavailable
from exclave.operations.coded_mend import mend as verb
from exclave.operations.home import absolute_address
from exclave.sites.opening import open_site

app = typer.Typer(help="Sites that are cut across several hosts.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Sites that are cut across several hosts."""


@app.command(epilog="Example: exclave coded mend 'coded:2?member=dir:/mnt/a&member=dir:/mnt/b&member=dir:/mnt/c'")
def mend(
    address: Annotated[
        str, typer.Argument(help="The coded site's address, with the new member in the lost one's place.")
    ],
    json: Json = False,
) -> None:
    """Bring every member what it lacks or has wrong, from the others. Needs no key; reads everything once.

    Exit code 21 if an object cannot be mended by anybody, as too few of its shards are left (all others are), 11 if a
    member did not take all that it lacks.
    """
    with work_bar("mend", quiet=json) as bar:
        bar.begin("shards")
        done = verb(open_site(absolute_address(Path.cwd(), address)), lambda count: bar.at(f"{count} brought", count))
    if json:
        print_json(plain(done))
    else:
        table(("member", "objects brought"), done.brought.items())
        for why in done.beyond:
            say(f"nobody can mend it: {why}")
        if done.beyond_count > len(done.beyond):
            say(f"… and {done.beyond_count - len(done.beyond)} more")
        for fault in done.faults:
            say(f"wrong: {fault}")
        for member, why in done.refused.items():
            say(f"{member} does not take some of it, by its own rules: {why}")
        for member, why in done.lacking.items():
            say(f"{member} still lacks something: {why}")
    if done.beyond_count:
        raise typer.Exit(CorruptObject.exit_code)
    if done.lacking:
        raise typer.Exit(SiteUnavailable.exit_code)

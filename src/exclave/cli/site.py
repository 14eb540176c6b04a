"""``exclave site``"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_home, open_sites
from exclave.cli.output import HomeFolder, Json, out, print_json, say, table, typed
from exclave.errors import ConfigError, ExclaveError, UsageError
from exclave.formats.config import parse_config
from exclave.ids import parse_country, parse_label
from exclave.operations.home import CONFIG_NAME, absolute_address, write_private
from exclave.sites.opening import open_site
from exclave.sites.probe import probe as probe_site

app = typer.Typer(help="Sites: the places that keep copies.", no_args_is_help=True, rich_markup_mode=None)


@app.command(epilog="Example: exclave site add lux dir:/mnt/luxembourg --country LU --operator ctie --can-run")
def add(
    name: Annotated[str, typer.Argument(help="Its name.")],
    url: Annotated[str, typer.Argument(help="Its address: dir:/absolute/folder or s3://bucket/prefix?…")],
    country: Annotated[str, typer.Option(help="Country that it lies in, two letters.")],
    operator: Annotated[str, typer.Option(help="Who administers it.")],
    can_run: Annotated[bool, typer.Option("--can-run", help="It is an embassy: systems can be started there.")] = False,
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Add a site to exclave.toml. It gets copies once a charter gives a register a legal basis there."""
    opened = open_home(home)
    if any(site.name == name for site in opened.config.site):
        raise UsageError(f"there is a site {name!r} already")
    typed(parse_label, name)
    typed(parse_label, operator)
    open_site(absolute_address(opened.folder, url))
    block = (
        f'\n[[site]]\nname = "{name}"\nurl = {_quoted(url)}\ncountry = "{typed(parse_country, country)}"\n'
        f'operator = "{operator}"\ncan_run = {"true" if can_run else "false"}\n'
    )
    path = opened.folder / CONFIG_NAME
    text = path.read_text() + block
    parse_config(text.encode())
    write_private(path, text.encode())
    if json:
        print_json({"name": name, "url": url, "country": country, "operator": operator, "can_run": can_run})
        return
    say(f"{name} was added to {path}.")
    say("Try it with `exclave site probe`, give registers a legal_basis there, and propose a new charter.")


def _quoted(url: str) -> str:
    if '"' in url or "\\" in url or "\n" in url:
        raise UsageError("a site's address may hold no quotes, backslashes or line breaks")
    return f'"{url}"'


@app.command(name="list", epilog="Example: exclave site list")
def list_(home: HomeFolder = Path(), json: Json = False) -> None:
    """The sites of exclave.toml, and whether they answer."""
    opened = open_home(home)
    rows = []
    for site in opened.config.site:
        try:
            next(iter(open_site(absolute_address(opened.folder, site.url)).list("")), None)
            state = "answers"
        except ExclaveError as error:
            state = error.message
        rows.append({"name": site.name, "country": site.country, "operator": site.operator, "url": site.url,
                     "can_run": site.can_run, "state": state})  # fmt: skip
    if json:
        print_json({"sites": rows})
        return
    table(("site", "country", "operator", "can run", "address", "state"),
          ([r["name"], r["country"], r["operator"], "yes" if r["can_run"] else "no", r["url"], r["state"]]
           for r in rows))  # fmt: skip


@app.command(epilog="Example: exclave site probe lux    or: exclave site probe s3://bucket/prefix?endpoint=…")
def probe(
    site: Annotated[str, typer.Argument(help="Name of a site in exclave.toml, or an address.")],
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Try every promise that a site must keep. Leaves about 20 MiB of scratch objects below probe/ there."""
    if ":" in site or site.startswith("/"):
        target = open_site(absolute_address(Path.cwd(), site))
    else:
        sites = open_sites(open_home(home))
        found = next((s for name, s in sites.items() if name == site), None)
        if found is None:
            raise ConfigError(f"there is no site {site!r} in exclave.toml")
        target = found
    promises = []
    for promise in probe_site(target, token=secrets.token_hex(8)):
        promises.append(promise)
        if not json:
            mark = "[green]kept  [/green]" if promise.kept else "[bold red]BROKEN[/bold red]"
            out.print(f"{mark} {promise.name}", highlight=False)
            if not promise.kept:
                out.print(f"       {promise.detail}", markup=False)
    broken = [p for p in promises if not p.kept]
    if json:
        print_json({"site": target.address, "ok": not broken, "promises": promises})
    else:
        say(f"{len(promises) - len(broken)} of {len(promises)} promises kept at {target.address}.")
    if broken:
        raise typer.Exit(20)

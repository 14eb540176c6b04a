"""``exclave serve public``"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_named_sites
from exclave.cli.ending import told_to_end
from exclave.cli.output import Json, Sites, note, print_json, say, typed
from exclave.errors import ExclaveError, UnavailableError, UsageError
from exclave.ids import now, parse_fingerprint
from exclave.serve.reading_admission import Limits
from exclave.serve.reading_nginx import RoomSettings
from exclave.serve.reading_run import Follower, alone, run_search, served

EXAMPLE = (
    'Example: exclave serve public "Riigi Teataja" --dir /srv/reading --site lux=dir:/srv/lux --site mco=https://…'
    " --fingerprint 3f9a… --origin https://gazette.example --place Luxembourg"
)


def public(
    register: Annotated[str, typer.Argument(metavar="REGISTER", help="A public register: its public name or id.")] = "",
    folder: Annotated[
        Path, typer.Option("--dir", help="The room's folder; nothing in it is needed elsewhere.")
    ] = Path(),
    site: Sites = None,
    fingerprint: Annotated[
        str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint, 64 hex digits.")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8440,
    origin: Annotated[str, typer.Option(help="How readers call it: https://gazette.example.")] = "",
    place: Annotated[str, typer.Option(help="Where this copy stands, as readers shall read it.")] = "",
    certificate: Annotated[str, typer.Option(help="File with a certificate chain, for TLS without a proxy.")] = "",
    key: Annotated[str, typer.Option(help="File with its key.")] = "",
    behind: Annotated[
        list[str] | None, typer.Option(help="Network of a proxy or CDN whose X-Forwarded-For is believed.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, max=3600, help="Seconds between two looks at the sites.")] = 30,
    searches: Annotated[int, typer.Option(min=1, max=64, help="Searches at once.")] = 2,
    once: Annotated[bool, typer.Option("--once", help="Build the pages once and end; serve nothing.")] = False,
    search_only: Annotated[bool, typer.Option("--search-only", hidden=True, help="Be the search process.")] = False,
    json: Json = False,
) -> None:
    """Serve a public register to everybody: pages, search, permanent addresses, a proof for each document.

    Needs no key and no warrant. Every site that is named is asked, and the freshest version that is proven is shown.
    When a site goes away, readers notice nothing; the room goes on without any. Needs nginx.
    """
    path = str(folder.absolute())
    limits = Limits(at_work=searches)
    if search_only:
        run_search(path, limits)
        return
    if not register or not site or not fingerprint or folder == Path():
        raise UsageError("name the register, --dir, the state's --fingerprint and at least one --site NAME=URL")
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if certificate else "http"
    settings = RoomSettings(path, f"{shown}:{port}", certificate, key, tuple(behind or ()), limits=limits)
    with alone(path):
        follower = Follower(
            path, open_named_sites(site), typed(parse_fingerprint, fingerprint), register,
            origin=(origin or f"{scheme}://{shown}:{port}").rstrip("/"), place=place, clock=now, tell=note,
            progress=_progress,
        )  # fmt: skip
        if once:
            _build_once(follower, json)
            return
        if os.geteuid() == 0:
            note("it runs as root: give it a user of its own, who may write nothing but its folder")
        _begin(follower, path)
        stop = told_to_end()
        with served(settings, note), follower.telling(every):
            note(f"{register} can be read at {scheme}://{shown}:{port}/")
            while not stop.wait(every):
                if follower.once():
                    note("a new version is shown")


def _build_once(follower: Follower, json: bool) -> None:
    changed = follower.once(strict=True)
    if json:
        print_json({"changed": changed})
    else:
        say("a new version is ready" if changed else "nothing new")


def _begin(follower: Follower, path: str) -> None:
    """What was built earlier is served even if no site answers now; with nothing built, there is nothing to serve."""
    try:
        follower.once(strict=True)
    except ExclaveError as error:
        if not (Path(path) / "current").exists():
            raise
        follower.tell_status()
        kind = "no site answers" if isinstance(error, UnavailableError) else "what the sites show is not taken"
        note(f"{kind}: {error.message}; what was built before is shown")


def _progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty() and done % 500 == 0:
        sys.stderr.write(f"\r{what} {done}{f' of {of}' if of else ''}\x1b[K")
        sys.stderr.flush()

"""``exclave serve``"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import make_witness, open_identity, open_named_sites, open_tickets
from exclave.cli import serve_public, serve_site
from exclave.cli.keys import load_key
from exclave.cli.output import HomeFolder, Pinned, PinnedWithSite, Sites, error_json, note, typed
from exclave.cli.status import look, told
from exclave.console import web
from exclave.console.latest import Latest
from exclave.errors import UsageError
from exclave.ids import now, parse_fingerprint
from exclave.operations.identity_enter import sources_of
from exclave.operations.identity_follow import begin
from exclave.operations.identity_place import read_place, serving
from exclave.serve.identity import Served
from exclave.serve.identity import run as serve_identity
from exclave.serve.witness import build_app, run

app = typer.Typer(help="Services for other machines.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Services for other machines."""


@app.command(
    epilog="Example: exclave serve witness --site lux=dir:/srv/lux --fingerprint 3f9a… --key w.key --dir /var/witness"
)
def witness(
    fingerprint: Pinned,
    key: Annotated[Path, typer.Option(help="The witness's key file.")],
    folder: Annotated[Path, typer.Option("--dir", help="Where it keeps what it has cosigned.")],
    site: Sites = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8420,
) -> None:
    """Cosign the checkpoints of a state's ledgers as long as they only grow (C2SP tlog-witness)."""
    if not site:
        raise UsageError("name the site whose charter and epochs the witness goes by with --site NAME=URL")
    made = make_witness(folder.absolute(), load_key(key), open_named_sites(site), typed(parse_fingerprint, fingerprint))
    note(f"witness listening at http://{host}:{port}")
    run(build_app(made, now), host, port)


@app.command(epilog="Example: exclave serve identity --dir /srv/identity")
def identity(
    folder: Annotated[Path, typer.Option("--dir", envvar="EXCLAVE_IDENTITY", help="The place's folder.")],
    worker: Annotated[
        bool, typer.Option("--worker", hidden=True, help="Share the addresses of a running one.")
    ] = False,
) -> None:
    """Serve log-in and certificate status at this place, and send the identity journal abroad or follow it."""
    place_folder = folder.absolute()
    read_place(place_folder)
    if worker:
        _serve_identity(place_folder, follow=False)
        return
    with serving(place_folder), _workers(place_folder):
        _serve_identity(place_folder, follow=True)


@contextmanager
def _workers(folder: Path) -> Iterator[None]:
    """Further processes that share the addresses: started again if they end, and ended with this one."""
    argv = [sys.executable, "-m", "exclave.cli.main", "serve", "identity", "--dir", str(folder), "--worker"]
    ended = threading.Event()

    def keep_one() -> None:
        while not ended.is_set():
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
            while process.poll() is None and not ended.wait(0.5):
                pass
            if ended.is_set():
                process.terminate()
            else:
                note(f"a worker ended with {process.returncode}; another one is started")
            process.wait()

    keepers = [threading.Thread(target=keep_one) for _ in range(read_place(folder).serve.workers - 1)]
    for keeper in keepers:
        keeper.start()
    try:
        yield
    finally:
        ended.set()
        for keeper in keepers:
            keeper.join()


def _serve_identity(folder: Path, *, follow: bool) -> None:
    place = open_identity(folder, now)
    begin(place)
    tickets = open_tickets(place)
    serve = place.config.serve

    def ready() -> None:
        state = place.authority()
        note(f"identity services of {state.place} ({state.state}): status at {serve.status}, log-in at {serve.login}")

    sources = sources_of(place) if place.is_home and follow else ()
    try:
        serve_identity(Served(place, tickets, note, sources=sources, follow=follow), ready=ready)
    finally:
        tickets.close()
        place.close()


@app.command(epilog="Example: exclave serve console --home /srv/exclave --port 8430")
def console(
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: PinnedWithSite = "",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0: any free one.")] = 8430,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A further host name under which it is asked, behind a web server with TLS and a log-in."),
    ] = None,
) -> None:
    """Show the operators in a browser what `exclave status` says. It changes nothing, and asks for no log-in."""
    latest = Latest(lambda: look(home, site, fingerprint), now, time.monotonic)
    if isinstance(failure := latest.get().found, UsageError):
        raise failure  # typed wrong: said here and now. Sites that are down are shown, and may come back.
    at = web.listen(host, port)
    if host not in ("127.0.0.1", "::1", "localhost"):
        note(f"whoever reaches {host} can read the pages: let only a web server with TLS and a log-in reach it")
    shown = f"[{host}]" if ":" in host else host
    note(f"console listening at http://{shown}:{at.getsockname()[1]}")
    web.run(web.build_app(latest, told, error_json, [shown, *(name or [])]), at)


app.command(name="public", epilog=serve_public.EXAMPLE)(serve_public.public)
app.command(name="site", epilog=serve_site.EXAMPLE)(serve_site.site)

"""``exclave serve``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.app import make_witness, open_named_sites
from exclave.cli.keys import load_key
from exclave.cli.output import Pinned, Sites, note
from exclave.errors import UsageError
from exclave.ids import now, parse_fingerprint
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
    made = make_witness(folder.absolute(), load_key(key), open_named_sites(site), parse_fingerprint(fingerprint))
    note(f"witness listening at http://{host}:{port}")
    run(build_app(made, now), host, port)

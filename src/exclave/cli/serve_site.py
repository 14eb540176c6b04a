"""``exclave serve site``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.ending import told_to_end
from exclave.cli.output import Json, note, print_json
from exclave.errors import ConfigError
from exclave.formats.hostconfig import MAX_CONFIG_BYTES, HostConfig, parse_host_config
from exclave.ids import now
from exclave.serve.host_start import running_host
from exclave.serve.site import read_hosting, run
from exclave.serve.site_counts import GatewayCounts

EXAMPLE = "Example: exclave serve site --config /etc/exclave/host.toml"


def site(
    config: Annotated[Path, typer.Option(help="The host's file (docs/spec/host-config.md).")],
    check: Annotated[bool, typer.Option("--check", help="Read the file and all that it names, and end.")] = False,
    json: Json = False,
) -> None:
    """Keep copies for one or more states at this machine: the gateway of a host that is trusted with nothing.

    Knows no key and no name. Ends running requests when it is told to stop (SIGTERM).

    One process decides; others carry bytes: as many as processors, up to four, or "processes" of [limits] in the file.
    One that dies is started again, and takes no more with it than a cut line.
    """
    hosting = read_hosting(_read(config), str(config.absolute().parent))
    states = [
        {"name": s.name, "fingerprint": s.fingerprint, "bytes": s.usage.bytes_used, "objects": s.usage.objects_used}
        for s in hosting.states
    ]
    for state in states:
        note(f"keeps {state['objects']} objects, {state['bytes']} bytes for {state['name']}")
    if check:
        if json:
            print_json({"host": hosting.config.name, "states": states})
        return
    told = told_to_end()

    def ready(port: int) -> None:
        note(f"gateway of {hosting.config.name} listening at port {port}")
        if json:
            print_json({"host": hosting.config.name, "port": port, "states": states})

    counts = GatewayCounts()
    with running_host(hosting, config.absolute().parent, counts, now, note) as duties:
        run(hosting, duties, counts, ready=ready, wait=told.wait)
    note("stopped")


def _read(path: Path) -> HostConfig:
    try:
        with path.open("rb") as file:
            return parse_host_config(file.read(MAX_CONFIG_BYTES + 1))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            hint="Name the host's file with --config (docs/runbooks/gateway.md).",
        ) from error

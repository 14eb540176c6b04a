"""``exclave identity check``, ``names`` and ``nginx``: what must be in order before the worst day."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_identity
from exclave.cli.output import Json, note, out, print_json, say, table, when
from exclave.cli.status import kit_told
from exclave.errors import ConfigError, UsageError
from exclave.formats.dnsplan import HOME, DnsPlan
from exclave.ids import Label, now
from exclave.operations.identity_follow import begin
from exclave.operations.identity_kit_check import check_place, names_plan
from exclave.operations.identity_names import NamesReport, check_names, move_names, prepare_names, undo_names
from exclave.operations.identity_place import IdentityPlace
from exclave.serve.nginx import NginxSettings, nginx_config

Folder = Annotated[Path, typer.Option("--dir", envvar="EXCLAVE_IDENTITY", help="The place's folder.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the group ``exclave identity``."""
    app.command(epilog="Example: exclave identity check --dir /srv/embassy/identity")(check)
    app.command(
        epilog="Example: exclave identity nginx --dir . --certificate /etc/ssl/chain.pem --key /etc/ssl/login.key"
        " --issuers /etc/ssl/issuers.pem"
    )(nginx)
    names = typer.Typer(help="Names that lead to the services, and move with the authority (names.toml).",
                        no_args_is_help=True, rich_markup_mode=None)  # fmt: skip
    for name, verb in (("prepare", prepare), ("check", names_check), ("move", move), ("undo", undo)):
        names.command(name=name, epilog=f"Example: exclave identity names {name} --dir /srv/embassy/identity")(verb)
    app.add_typer(names, name="names")


@contextmanager
def _opened(folder: Path) -> Iterator[IdentityPlace]:
    place = open_identity(folder, now)
    try:
        begin(place)
        yield place
    finally:
        place.close()


def check(folder: Folder, json: Json = False) -> None:
    """Check the exile kit: certificates, keys, names, TLS, age of what is known. Exit code 1 unless all is in order."""
    with _opened(folder) as place:
        report = check_place(place)
    if json:
        print_json(kit_told(report))
    else:
        table(("what", "", "until (UTC)", "detail"),
              ((r.what, r.state, when(r.until) if r.until else "-", r.detail) for r in report.rows))  # fmt: skip
        say("\nThe kit is whole." if report.whole else "\nThe kit is NOT whole: what is missing cannot be made once"
            " home is gone.")  # fmt: skip
    if not report.whole:
        raise typer.Exit(1)


def nginx(
    folder: Folder,
    certificate: Annotated[str, typer.Option(help="Certificate chain of the issuer's host and the card host (PEM).")],
    key: Annotated[str, typer.Option(help="Its key.")],
    issuers: Annotated[str, typer.Option(help="Certificates of the issuing CAs whose cards are offered (PEM).")],
    listen: Annotated[str, typer.Option(help="Where nginx listens for the log-in pages.")] = "443",
    card_listen: Annotated[str, typer.Option(help="Where it asks for TLS client certificates.")] = "8443",
) -> None:
    """Print nginx's configuration for this place: TLS, the pages, and the door for TLS client certificates."""
    with _opened(folder) as place:
        settings, serve = place.settings(), place.config.serve
    if not (settings.card_origin and serve.card_socket):
        raise ConfigError("the door needs card_origin in identity.toml and serve.card_socket in place.toml",
                          hint="Write both, run `exclave identity enter` at home, then this again.")  # fmt: skip
    text = nginx_config(
        NginxSettings(
            settings.issuer, settings.card_origin, listen, card_listen, certificate, key, issuers, serve.login,
            serve.card_socket,
        )
    )  # fmt: skip
    out.print(text, markup=False, end="")


def _plan(place: IdentityPlace) -> DnsPlan:
    plan = names_plan(place)
    if plan is None:
        raise UsageError(f"there is no names.toml in {place.folder}", hint="docs/spec/names.md tells what it says.")
    return plan


def _target(place: IdentityPlace) -> Label:
    return HOME if place.is_home else place.label


def prepare(folder: Folder, json: Json = False) -> None:
    """In peace: give the names short times to live, so that a move is seen soon. Their values stay."""
    with _opened(folder) as place:
        report = prepare_names(_plan(place), place.folder, note)
    _show(report, json)


def names_check(folder: Folder, json: Json = False) -> None:
    """Ask name servers and resolvers whether the names lead to this place. Changes nothing. Exit code 1 if not."""
    with _opened(folder) as place:
        report = check_names(_plan(place), _target(place))
    _show(report, json)
    if not report.everywhere:
        raise typer.Exit(1)


def move(folder: Folder, json: Json = False) -> None:
    """Make the names lead to this place, which must decide. Failover does this by itself."""
    with _opened(folder) as place:
        authority = place.authority()
        if not authority.decides:
            raise UsageError(f"{place.label} does not decide ({authority.state}): names follow the authority",
                             hint="Move the authority first: exclave failover run.")  # fmt: skip
        report = move_names(_plan(place), _target(place), place.folder, place.folder / "state", now=now(), say=note)
    _show(report, json)


def undo(folder: Folder, json: Json = False) -> None:
    """Give the names the values and times to live that they had before they were moved here."""
    with _opened(folder) as place:
        report = undo_names(_plan(place), place.folder, place.folder / "state", note)
    _show(report, json)


def _show(report: NamesReport, json: bool) -> None:
    if json:
        print_json({"everywhere": report.everywhere, "settles_in_s": report.settles_in_s, "report": report})
        return
    table(("server", "name", "type", "values", "TTL", "leads here"),
          ((r.server, r.name, r.type, " ".join(r.values) or "-", r.ttl_s, "yes" if r.there else f"NO: {r.why}")
           for r in report.rows))  # fmt: skip
    if report.settles_in_s:
        say(f"\nIt may take {report.settles_in_s} s until everybody sees it.")

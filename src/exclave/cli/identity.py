"""``exclave identity``"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_home, open_identity, open_named_sites
from exclave.cli import identity_acts, identity_check, identity_kit
from exclave.cli.output import Json, Sites, counted, duration, moment, note, plain, print_json, say, table, typed, when
from exclave.errors import MalformedError, SiteUnavailable, TargetNotEmpty, UnavailableError, UsageError
from exclave.formats.card import parse_card
from exclave.formats.charter import ParsedCharter
from exclave.formats.gap import parse_gap
from exclave.formats.note import parse_note
from exclave.formats.relying import RelyingService, encode_service
from exclave.identity.contract import IssuerInfo
from exclave.ids import Fingerprint, Label, RegisterId, now, parse_fingerprint, parse_label, parse_register_id
from exclave.keys.file import KeyKind
from exclave.operations.home import absolute_address, key_card, make_folder, make_key, read_limited, write_private
from exclave.operations.identity_arrival import arrival_problem
from exclave.operations.identity_enter import enter_files, save_service
from exclave.operations.identity_follow import begin
from exclave.operations.identity_place import PLACE_NAME, IdentityPlace, place_text
from exclave.operations.identity_takeup import GAP_FILE
from exclave.rules.signatures import verify_signed_by
from exclave.sites.contract import Site
from exclave.verify.state import read_state

app = typer.Typer(help="Identity services: log-in and certificate status, at home and in exile.",
                  no_args_is_help=True, rich_markup_mode=None)  # fmt: skip
service = typer.Typer(help="Relying services of the log-in service.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(service, name="service")
identity_kit.register(app)
identity_acts.register(app)
identity_check.register(app)


class Acr(StrEnum):
    """Levels of assurance, as ``RelyingService.acr`` names them."""

    LOW = "low"
    SUBSTANTIAL = "substantial"
    HIGH = "high"


Folder = Annotated[Path, typer.Option("--dir", envvar="EXCLAVE_IDENTITY", help="The place's folder.")]


@app.callback()
def _group() -> None:
    """Identity services: log-in and certificate status, at home and in exile."""


def _entries(number: int) -> str:
    return counted(number, "entry", "entries")


def opened(folder: Path) -> IdentityPlace:
    """The place in ``folder``, its store in step with its journal, the authority read from the sites."""
    place = open_identity(folder, now)
    begin(place)
    return place


@app.command(epilog="Example: exclave identity init --dir /srv/identity --home /srv/exclave --register identity")
def init(
    folder: Folder,
    home: Annotated[Path | None, typer.Option(help="Home's folder: this place is home.")] = None,
    register: Annotated[
        str, typer.Option(help="The identity register: its name at home, its id at an embassy.")
    ] = "identity",
    place: Annotated[str, typer.Option(help="An embassy: its site's name in the charter.")] = "",
    site: Sites = None,
    fingerprint: Annotated[str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint.")] = "",
    unread: Annotated[
        bool, typer.Option("--unread", help="No site can be reached now: take --place and --register as typed.")
    ] = False,
    status: Annotated[str, typer.Option(help="Where certificate status is to be answered.")] = "127.0.0.1:8421",
    login: Annotated[str, typer.Option(help="Where the log-in service is to listen.")] = "127.0.0.1:8422",
    json: Json = False,
) -> None:
    """Make a place's folder: home's with --home; an embassy's with --place, --site, --fingerprint and --register ID."""
    target = folder.absolute()
    if (target / PLACE_NAME).exists():
        raise TargetNotEmpty(f"{target} is a place already", hint="Edit its place.toml.")
    if home is not None:
        text, card = _home_text(target, home, register, status, login), ""
    else:
        embassy = _embassy(register, place, site or [], fingerprint, unread=unread)
        text = place_text(
            place=embassy.place, role="embassy", fingerprint=embassy.state, register=embassy.register,
            key="machine.key", sites=embassy.sites, status=status, login=login,
        )  # fmt: skip
        card = _machine(target, embassy.place)
    make_folder(target / "journal")
    write_private(target / PLACE_NAME, text.encode())
    if json:
        print_json({"folder": target, "card": card})
        return
    say(f"{target} is a place of the identity services; what it is stands in {PLACE_NAME}.")
    if card:
        say(f"Give its card to home, for an [[embassy]] in home's place.toml: {card}")


def _home_text(folder: Path, home: Path, register: str, status: str, login: str) -> str:
    opened_home = open_home(home)
    return place_text(
        place="home", role="home", fingerprint=opened_home.fingerprint(), register=opened_home.register_id(register),
        key=os.path.relpath(opened_home.folder / "keys" / "writer.key", folder),
        sites={s.name: absolute_address(opened_home.folder, s.url) for s in opened_home.config.site},
        status=status, login=login,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Embassy:
    """What was typed of an embassy, checked."""

    place: Label
    state: Fingerprint
    register: RegisterId
    sites: dict[str, str]


def _embassy(register: str, place: str, site: list[str], fingerprint: str, *, unread: bool) -> _Embassy:
    """Nothing is written before all of it is right."""
    if not (place and site and fingerprint):
        raise UsageError("an embassy is made with --place, --site, --fingerprint and --register; home with --home")
    sites: dict[str, str] = {}
    for address in site:
        name, equals, url = address.partition("=")
        if not equals:
            raise UsageError(f"--site {address}: say NAME=URL")
        sites[typed(parse_label, name)] = absolute_address(Path.cwd(), url)
    label, state = typed(parse_label, place), typed(parse_fingerprint, fingerprint)
    reached = open_named_sites(site)
    if unread:
        return _Embassy(label, state, typed(parse_register_id, register), sites)
    charter = _charter(reached, state)
    if charter.site(label) is None:
        known = ", ".join(one.label for one in charter.sites)
        raise UsageError(f"the charter has no site {label!r}; it has: {known}",
                         hint="Name the embassy's site with --place; nothing was written.")  # fmt: skip
    found = next((one.id for one in charter.registers if one.id == register), None)
    if found is None:
        ids = ", ".join(f"{one.id} ({one.public_name})" if one.public_name else one.id for one in charter.registers)
        raise UsageError(
            f"the charter has no register {register!r}; it has: {ids}",
            hint="Name the identity register by its id, as home's place.toml says it; nothing was written.",
        )
    return _Embassy(label, state, found, sites)


def _charter(sites: Mapping[Label, Site], state: Fingerprint) -> ParsedCharter:
    try:
        return read_state(sites, state).chain.newest.charter
    except UnavailableError as error:
        raise SiteUnavailable(
            f"--place and --register cannot be checked, since no site can be read: {error.message}",
            hint="Correct --site; or add --unread if no site can be reached now and you are sure. Nothing was written.",
        ) from error


def _machine(folder: Path, place: Label) -> str:
    """Makes the machine's key; where its card lies."""
    key = make_key(folder / "machine.key", KeyKind.MACHINE, place)
    card = folder / "machine.card"
    write_private(card, key_card(key).encode().encode())
    return str(card)


@app.command(epilog="Example: exclave identity enter --dir /srv/identity")
def enter(folder: Folder, json: Json = False) -> None:
    """Enter what identity.toml, services/ and place.toml say into the journal; only what differs is entered."""
    place = opened(folder)
    try:
        done = enter_files(place)
    finally:
        place.close()
    if json:
        print_json(done)
        return
    if done.entries or not done.lacking:
        say(f"{_entries(done.entries)}." if done.entries else "Nothing differs from what is in the journal.")
    for what, names in (("issuer", done.issuers), ("service", done.services), ("service gone", done.gone)):
        for name in names:
            say(f"  {what}: {name}")
    for text in done.lacking:
        note(f"Still missing: {text} (docs/runbooks/identities.md)")
    for text in done.unread:
        note(f"cannot be read yet: {text}")
    for name in done.elsewhere:
        note(f"{name} was changed at another place, and that counts; to change it here, edit the file")


@app.command(epilog="Example: exclave identity state --dir /srv/identity")
def state(folder: Folder, json: Json = False) -> None:
    """Where this place stands: home, standby, exile or returning, and up to when it knows everything."""
    place = opened(folder)
    try:
        problem = arrival_problem(place) or place.watch.problem
        authority = place.authority()
        head = place.journal.head()
        issuers = place.store.issuers()
    finally:
        place.close()
    if json:
        print_json({"state": authority.state, "place": authority.place, "epoch": authority.epoch,
                    "decides": authority.decides, "why": authority.why, "as_of": moment(authority.as_of),
                    "entries": head.number, "problem": problem,
                    "issuers": [_told(info) for info in issuers]})  # fmt: skip
        return
    say(
        f"{authority.place}: {authority.state}, epoch {authority.epoch}{f' ({authority.why})' if authority.why else ''}"
    )
    known = f"; everything decided before {when(authority.as_of)} is known here" if authority.as_of else ""
    say(f"{_entries(head.number)}{known}\n")
    if problem:
        say(f"PROBLEM: {problem}\n")
    table(
        ("issuer", "kept up", "complete until (UTC)", "what was issued is known"),
        ((i.label, "as decided" if i.live else "by CRL", when(i.as_of), "yes" if i.issued_known else "no")
         for i in issuers),
    )  # fmt: skip


def _told(info: IssuerInfo) -> dict[str, object]:
    """For ``--json``: how recent an issuer's statuses are here."""
    return {"label": info.label, "id": info.id, "live": info.live, "complete_until": moment(info.as_of),
            "next_update": moment(info.next_update), "issued_known": info.issued_known}  # fmt: skip


@app.command(epilog="Example: exclave identity gap /srv/embassy/identity/state/gap.note --card machine.card")
def gap(
    statement: Annotated[Path, typer.Argument(help="The statement, or a place's folder.")],
    card: Annotated[Path | None, typer.Option(help="Check that the holder of this card signed it.")] = None,
    json: Json = False,
) -> None:
    """Show the revocation gap of a take-over: what the place that took over cannot know."""
    path = statement / "state" / GAP_FILE if statement.is_dir() else statement
    if not path.exists():
        if statement.is_dir():
            raise UsageError(
                f"no epoch has been taken up in {statement}, so no gap was stated",
                hint="A place states one when it takes over; name the folder of one that did.",
            )
        raise UsageError(f"there is no file {path}", hint="Name a gap statement, or a place's folder.")
    signed = parse_note(read_limited(path, 1 << 20))
    found = parse_gap(signed.text)
    if card is not None:
        verify_signed_by(signed, parse_card(read_limited(card, 1 << 14)))
    if json:
        print_json({**plain(found), "gap_s": found.gap_s, "checked": card is not None})
        return
    say(signed.text.rstrip())
    if card is None:
        note("Nobody's signature was checked: name the place's card with --card.")
    say(f"\nHome may have made decisions for {duration(found.gap_s)} that are not known at {found.place}."
        if found.gap_s else f"\nNo decision of home is missing at {found.place}.")  # fmt: skip


@service.command(
    "add",
    epilog="Example: exclave identity service add tax --name en=Taxes --redirect-uri https://tax.example/cb --dir .",
)
def add_service(
    client_id: Annotated[str, typer.Argument(help="The service's client id.")],
    folder: Folder,
    name: Annotated[list[str], typer.Option(help="LANGUAGE=TEXT: what citizens read; may be repeated.")],
    redirect_uri: Annotated[list[str], typer.Option(help="Where browsers are sent back to; may be repeated.")],
    post: Annotated[bool, typer.Option("--post", help="It sends its secret in the form, not in a header.")] = False,
    tara_at_hash: Annotated[bool, typer.Option("--tara-at-hash", help="at_hash as TARA writes it.")] = False,
    acr: Annotated[Acr, typer.Option(help="Least level of assurance.")] = Acr.SUBSTANTIAL,
    json: Json = False,
) -> None:
    """Register a relying service with a new secret, which is shown once; `exclave identity enter` makes it count."""
    names = dict(text.partition("=")[::2] for text in name)
    if not all(names.values()):
        raise UsageError("--name: say LANGUAGE=TEXT, for instance en=Taxes")
    secret = secrets.token_urlsafe(32)
    made = RelyingService(
        client_id=client_id, name=names, redirect_uris=tuple(redirect_uri),
        secret_sha256=(hashlib.sha256(secret.encode()).hexdigest(),),
        auth_methods=("client_secret_post",) if post else ("client_secret_basic",),
        acr=acr.value, quirks=("tara-at-hash",) if tara_at_hash else (),
    )  # fmt: skip
    place = open_identity(folder, now)
    try:
        path = save_service(place, encode_service(made))
    except MalformedError as error:
        raise UsageError(error.message, hint="Correct what was typed; nothing was written.") from error
    finally:
        place.close()
    if json:
        print_json({"file": path, "client_id": client_id, "secret": secret})
        return
    say(f"{path} was written. The service's secret, shown only now:\n  {secret}")
    say("It counts once `exclave identity enter` has been run.")

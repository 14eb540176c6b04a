"""``exclave identity csr | accept | enter-kit``: the exile kit, from an embassy's keys to home's journal."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_identity
from exclave.cli.output import Json, counted, moment, print_json, say, table, typed, when
from exclave.crypto.delegate import read_validity
from exclave.crypto.signer import Algorithm
from exclave.crypto.signer_file import parse_private_key
from exclave.errors import NotAuthorised, UsageError
from exclave.formats.keyring import KeyUse, Stored
from exclave.ids import now, parse_country, parse_label
from exclave.operations.home import read_limited
from exclave.operations.identity_carry import enter_carried, write_carried
from exclave.operations.identity_follow import begin
from exclave.operations.identity_kit import AcceptedRow, KitWishes, accept_certificates, request_kit
from exclave.operations.identity_place import IdentityPlace
from exclave.rules.ladder import LASTS_DAYS, OVERLAP_DAYS, RUNGS

Folder = Annotated[Path, typer.Option("--dir", envvar="EXCLAVE_IDENTITY", help="The place's folder.")]
_LIMIT = 4 << 20


class KeyKind(StrEnum):
    """Of responders' keys."""

    ES256 = "ES256"
    RS256 = "RS256"


def register(app: typer.Typer) -> None:
    """Adds the commands to the group ``exclave identity``."""
    app.command(
        epilog="Example: exclave identity csr --dir /srv/embassy/identity --out /media/stick/requests --country EE"
        " --organization 'State IT'"
    )(csr)
    app.command(epilog="Example: exclave identity accept --dir . --out /media/stick/kit /media/stick/issued/*.crt")(
        accept
    )
    app.command(
        name="keep-key", epilog="Example: exclave identity keep-key esteid-crl --dir . --issuer esteid --key ca.key"
    )(keep_key)
    app.command(name="enter-kit", epilog="Example: exclave identity enter-kit --dir . lux /media/stick/kit")(enter_kit)


def keep_key(
    name: Annotated[str, typer.Argument(help="What the key is to be called here.")],
    folder: Folder,
    issuer: Annotated[str, typer.Option(help="Label of the issuing CA whose key it is.")],
    key: Annotated[Path, typer.Option(help="The CA's private key (PEM, PKCS#8), out of custody.")],
    json: Json = False,
) -> None:
    """Take in a CA's own key out of custody: this place then issues its CRLs, and `reissue --ca-name` can use it."""
    place = _opened(folder)
    try:
        found = [info for info in place.store.issuers() if info.label == issuer]
        if not found:
            known = ", ".join(info.label for info in place.store.issuers()) or "none"
            raise UsageError(f"the journal names no issuing CA {issuer!r}; it has: {known}")
        owners = {read_validity(der).public_der for der in found[0].certificates}
        pem = read_limited(key, _LIMIT)
        if parse_private_key(pem).public_der not in owners:
            raise NotAuthorised(f"the key in {key} is not the one of {issuer}'s certificate")
        record = place.keys.store(name, KeyUse.CRL, found[0].id, pem)
    finally:
        place.close()
    if json:
        print_json({"name": record.name, "issuer": issuer, "algorithm": record.algorithm})
        return
    say(f"The key {record.name} of {issuer} is in this place's folder. Where it decides, it issues CRLs with it:")
    say(f"  /crl/{issuer}.crl at the address of certificate status")


def _opened(folder: Path) -> IdentityPlace:
    place = open_identity(folder, now)
    begin(place)
    return place


def csr(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="A new folder for the requests and what home's CA should know.")],
    country: Annotated[str, typer.Option(help="Of the state, two letters.")],
    organization: Annotated[str, typer.Option(help="Who operates this place, as the certificates shall say.")],
    rungs: Annotated[int, typer.Option(min=1, max=100, help="Certificates per issuing CA.")] = RUNGS,
    days: Annotated[int, typer.Option(min=1, max=400, help="How long each one lasts.")] = LASTS_DAYS,
    overlap: Annotated[int, typer.Option(min=0, max=200, help="Days that each overlaps the next.")] = OVERLAP_DAYS,
    kind: Annotated[KeyKind, typer.Option(help="Of the keys.")] = KeyKind.ES256,
    pkcs11: Annotated[bool, typer.Option("--pkcs11", help="Make the keys in the token of pkcs11.toml.")] = False,
    json: Json = False,
) -> None:
    """Make this place's keys and the requests for its OCSP certificates, to be signed by home's CA."""
    wishes = KitWishes(
        typed(parse_country, country),
        organization,
        Algorithm(kind.value),
        Stored.PKCS11 if pkcs11 else Stored.FILE,
        rungs,
        days,
        overlap,
    )
    place = _opened(folder)
    try:
        done = request_kit(place.keys, place.store, place.label, out.absolute(), wishes, now=now(), say=lambda _: None)
    finally:
        place.close()
    if json:
        print_json({"folder": done.folder, "requests": [
            {"file": r.file, "issuer": r.issuer, "name": r.name, "from": moment(r.window.begin),
             "to": moment(r.window.end)}
            for r in done.requests
        ]})  # fmt: skip
        return
    table(("request", "issuing CA", "from (UTC)", "to (UTC)"),
          ((r.file, r.issuer, when(r.window.begin), when(r.window.end)) for r in done.requests))  # fmt: skip
    say(f"\nThey lie in {done.folder}; manifest.txt there tells the CA's people what each certificate must have.")


def accept(
    files: Annotated[list[Path], typer.Argument(help="Certificates that home's CA issued, PEM or DER.")],
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="At an embassy: a folder to carry home.")] = None,
    json: Json = False,
) -> None:
    """Check certificates that came back; enter them where this place decides, else write what is to be carried home."""
    place = _opened(folder)
    try:
        accepted = accept_certificates(
            place.keys, place.store, place.label, [read_limited(path, _LIMIT) for path in files], now=now()
        )
        if place.authority().decides:
            if accepted.bodies:
                place.writer.enter(accepted.bodies)
        elif out is not None:
            write_carried(out.absolute(), accepted, place.keyring.jwks())
        elif accepted.bodies:
            raise NotAuthorised(
                f"{place.label} does not decide, so it cannot enter certificates",
                hint="Name a folder with --out, carry it home, and run `exclave identity enter-kit` there.",
            )
    finally:
        place.close()
    _show(accepted.rows, json)
    if accepted.refused:
        raise typer.Exit(NotAuthorised.exit_code)


def enter_kit(
    embassy: Annotated[str, typer.Argument(help="The embassy's place.")],
    kit: Annotated[Path, typer.Argument(help="The folder that came from it.")],
    folder: Folder,
    json: Json = False,
) -> None:
    """At home: enter an embassy's certificates and public token keys into the journal."""
    place = _opened(folder)
    try:
        done = enter_carried(place, typed(parse_label, embassy), kit.absolute(), now=now())
    finally:
        place.close()
    if json:
        print_json(done)
    else:
        _show(done.rows, False)
        say(f"{counted(done.entries, 'entry', 'entries')}{', with its public token keys' if done.keys else ''}.")
    if any(row.state == "refused" for row in done.rows):
        raise typer.Exit(NotAuthorised.exit_code)


def _show(rows: tuple[AcceptedRow, ...], json: bool) -> None:
    if json:
        print_json({"certificates": [
            {"subject": r.subject, "issuer": r.issuer, "state": r.state, "why": r.why,
             "from": moment(r.window.begin) if r.window else None, "to": moment(r.window.end) if r.window else None}
            for r in rows
        ]})  # fmt: skip
        return
    table(
        ("certificate", "issuing CA", "until (UTC)", ""),
        ((r.subject, r.issuer, when(r.window.end) if r.window else "-", f"{r.state}{f': {r.why}' if r.why else ''}")
         for r in rows),
    )  # fmt: skip

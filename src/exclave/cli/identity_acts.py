"""``exclave identity revoke | hold | release | extend | reissue``, and the order files that custodians sign for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_home, open_identity, open_sites, witness_addresses
from exclave.cli.output import Json, note, print_json, say, table, typed, when
from exclave.crypto.crl import issuer_id
from exclave.crypto.reissue import open_authority
from exclave.crypto.signer import Signer
from exclave.errors import UnavailableError, UsageError
from exclave.formats.extension import EndedBetween, ExtensionEnd, ExtensionList, parse_serial
from exclave.formats.warrant import Act
from exclave.ids import Instant, now, parse_digest, parse_fingerprint, parse_moment
from exclave.keys.service_key import load_service_key
from exclave.operations.act_fact import Recorded, RegisterFacts, patiently
from exclave.operations.acting import Desk, WatchedPlace
from exclave.operations.home import CONFIG_NAME, Home, write_private
from exclave.operations.identity_acts import StatusChanged, change_status
from exclave.operations.identity_extend import extend as extend_verb
from exclave.operations.identity_follow import begin
from exclave.operations.identity_place import IdentityPlace
from exclave.operations.identity_reissue import BATCH, Pace, reissue_all
from exclave.operations.orders import (
    OrderFile,
    convert_csv,
    make_extension,
    make_reissue,
    read_certificate,
    read_order,
)

_DO = (
    "--dir /srv/embassy/identity --warrant {0}.warrant --answer {0}-kaja.answer --answer {0}-luc.answer"
    " --order {0}.order"
)
_STATUS = (
    "--act revoke --csv stolen.csv --issuer 5d1c… --reason keyCompromise --since 2026-11-23T02:40Z --out stolen.order"
)
_EXTEND = (
    "--issuer 5d1c… --ended-from 2026-11-01T00:00Z --ended-to 2027-11-01T00:00Z --until 2027-11-01T00:00Z"
    " --list-until 2027-02-01T00:00Z --reason 'No cards can be made' --basis 'Emergency Act, section 3'"
    " --fingerprint 3f9a… --out extend.order"
)
_END = "--list 9b07… --reason 'Cards are made again' --fingerprint 3f9a… --out end.order"
_REISSUE = "--ca 8c22… --until 2028-01-01T00:00Z --group doctors/ --group everybody/ --out reissue.order"
Folder = Annotated[Path, typer.Option("--dir", envvar="EXCLAVE_IDENTITY", help="The place's folder.")]
Embassy = Annotated[
    Path | None, typer.Option("--home", help="The writer's folder (exclave.toml); default: the one above --dir.")
]
Warrant = Annotated[Path, typer.Option(help="The warrant.")]
Answers = Annotated[
    list[Path] | None, typer.Option("--answer", help="A custodian's answer; as many as the quorum asks.")
]
Order = Annotated[Path, typer.Option(help="The order file that the custodians saw.")]
Also = Annotated[bool, typer.Option("--also-unknown", help="Stop certificates too that are not known to be issued.")]
Out = Annotated[Path, typer.Option(help="The order file to write.")]
Issuer = Annotated[str, typer.Option(help="The issuing CA's id, 64 hex digits.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the group ``exclave identity``."""
    for verb in (revoke, hold, release, extend):
        app.command(epilog=f"Example: exclave identity {verb.__name__} {_DO.format(verb.__name__)}")(verb)
    app.command(
        epilog=f"Example: exclave identity reissue {_DO.format('reissue')} --ca ca.der --ca-key ca.key"
        " --certificates former/ --out new/"
    )(reissue)
    orders = typer.Typer(help="Order files about certificates: made here, read and signed for by the custodians.",
                         no_args_is_help=True, rich_markup_mode=None)  # fmt: skip
    for command, example in (
        (order_status, _STATUS), (order_extend, _EXTEND), (order_end, _END), (order_reissue, _REISSUE),
        (order_show, "stolen.order"), (order_issuer, "esteid2025.pem"),
    ):  # fmt: skip
        name = command.__name__.removeprefix("order_")
        orders.command(name=name, epilog=f"Example: exclave identity order {name} {example}")(command)
    app.add_typer(orders, name="order")


# Acts


def revoke(
    folder: Folder, warrant: Warrant, order: Order, answer: Answers = None, home: Embassy = None,
    also_unknown: Also = False, json: Json = False,
) -> None:  # fmt: skip
    """Revoke certificates for good. The same command goes on after a crash, and changes nothing twice."""
    _change(Act.REVOKE, folder, warrant, order, answer, home, also_unknown=also_unknown, json=json)


def hold(
    folder: Folder, warrant: Warrant, order: Order, answer: Answers = None, home: Embassy = None,
    also_unknown: Also = False, json: Json = False,
) -> None:  # fmt: skip
    """Hold certificates: they count as revoked until they are released."""
    _change(Act.HOLD, folder, warrant, order, answer, home, also_unknown=also_unknown, json=json)


def release(
    folder: Folder, warrant: Warrant, order: Order, answer: Answers = None, home: Embassy = None, json: Json = False
) -> None:
    """Release held certificates. What is revoked stays revoked."""
    _change(Act.RELEASE, folder, warrant, order, answer, home, also_unknown=False, json=json)


def _change(
    act: Act, folder: Path, warrant: Path, order: Path, answer: list[Path] | None, home: Path | None, *,
    also_unknown: bool, json: bool,
) -> None:  # fmt: skip
    with _desk(folder, warrant, answer, home) as (desk, _):
        done = change_status(desk, order, act, also_unknown=also_unknown)
    if json:
        print_json(done)
        return
    _show_change(done)
    _show_fact(done.fact)


def _show_change(done: StatusChanged) -> None:
    table(
        ("act", "in the order", "entered", "entered before", "needed nothing", "revoked for good before"),
        [(done.act, done.total, done.entered, done.before, done.unchanged, done.final)],
    )
    say(f"Journal: entry {done.head.number}. Answers change at once here.")


def extend(
    folder: Folder, warrant: Warrant, order: Order, answer: Answers = None, home: Embassy = None, json: Json = False
) -> None:
    """Accept certificates beyond their end, by an extension list; or end such a list."""
    with _desk(folder, warrant, answer, home) as (desk, _):
        done = extend_verb(desk, order)
    if json:
        print_json(done)
        return
    what = "counts no longer" if done.ended else f"counts until {when(done.until)} (UTC)"
    say(f"The list {done.list.hex()} {what}{'' if done.new else '; it was entered before'}.")
    _show_fact(done.fact)


def reissue(
    folder: Folder,
    warrant: Warrant,
    order: Order,
    ca: Annotated[Path, typer.Option(help="Certificate of the CA that signs (DER or PEM).")],
    certificates: Annotated[Path, typer.Option(help="Folder with the former certificates, one to a file.")],
    out: Annotated[Path, typer.Option(help="Folder for the new certificates; an earlier run is gone on with.")],
    ca_key: Annotated[Path | None, typer.Option(help="Its private key (PEM, PKCS#8), out of custody.")] = None,
    ca_name: Annotated[str, typer.Option(help="Or its key's name among this place's keys (file or token).")] = "",
    answer: Answers = None,
    home: Embassy = None,
    ocsp: Annotated[str, typer.Option(help="Address of the status service, where the CA is another one.")] = "",
    batch: Annotated[int, typer.Option(min=1, max=5000, help="Certificates that are entered together.")] = BATCH,
    pause_s: Annotated[float, typer.Option(min=0, help="Seconds between two batches.")] = 0.0,
    most: Annotated[int | None, typer.Option(min=1, help="Stop after so many; the next run goes on.")] = None,
    json: Json = False,
) -> None:
    """Give new certificates to keys that were certified before, group by group."""
    with _desk(folder, warrant, answer, home) as (desk, place):
        authority = open_authority(read_certificate(ca), _ca_signer(place, ca_key, ca_name))
        done = reissue_all(
            desk, order, ca=authority, certificates=certificates, out=out.absolute(), ocsp=ocsp,
            pace=Pace(batch, pause_s, most),
        )  # fmt: skip
    if json:
        print_json(done)
        return
    table(("in the order", "made", "made before", "refused", "left"),
          [(done.total, done.made, done.before, sum(done.refused.values()), done.left)])  # fmt: skip
    for reason, number in done.refused.items():
        say(f"  refused, {reason}: {number}")
    say(f"New certificates: {done.out}, listed in index.csv.")
    _show_fact(done.fact)


def _ca_signer(place: IdentityPlace, key: Path | None, name: str) -> Signer:
    if (key is None) == (not name):
        raise UsageError("name the CA's key with --ca-key or with --ca-name")
    if key is not None:
        return load_service_key(str(key), lambda: str(typer.prompt("Passphrase", hide_input=True)))
    record = next((record for record in place.keys.records() if record.name == name), None)
    if record is None:
        raise UsageError(f"this place has no key {name}; it has: {', '.join(r.name for r in place.keys.records())}")
    return place.keys.signer(record)


@contextmanager
def _desk(
    folder: Path, warrant: Path, answer: list[Path] | None, home: Path | None
) -> Iterator[tuple[Desk, IdentityPlace]]:
    """The place in ``folder`` with the warrant; the store has all of the journal, and the sites were read."""
    place = open_identity(folder, now)
    try:
        begin(place)
        view = place.watch.view
        if view is None:
            raise UnavailableError(f"no site could be read: {place.watch.problem}")
        writer = _writer(place, home)
        rule = view.chain.newest.charter.register(place.register)
        sites = {label: site for label, site in open_sites(writer).items() if rule is not None and label in rule.at}
        facts = RegisterFacts(
            view, place.register, place.key, sites, witness_addresses(writer.config), _outbox(writer, place),
            lambda: patiently(lambda: writer.alone(place.register)),
        )  # fmt: skip
        yield Desk(view, WatchedPlace(place, now()), facts, warrant, answer or [], place.key, now), place
    finally:
        place.close()


def _writer(place: IdentityPlace, home: Path | None) -> Home:
    folder = home or place.folder.parent
    if home is None and not (folder / CONFIG_NAME).exists():
        raise UsageError(
            f"there is no {CONFIG_NAME} in {folder}, above the folder of this place",
            hint="Name home's folder with --home: the one of `exclave init`, or the --dir of the last failover.",
        )
    return open_home(folder)


def _outbox(writer: Home, place: IdentityPlace) -> Path:
    """The one that backups of the register use: a ledger has one writer, and a writer one outbox."""
    return writer.folder / "state" / f"{place.register}.outbox"


def _show_fact(fact: Recorded) -> None:
    if fact.new:
        say(f"The ledger has it at {', '.join(fact.sites) or 'no site'}: counts and digests, no serial.")
    else:
        say("The ledger had it before.")
    for label, why in fact.failed:
        note(f"{label}: {why}")


# Order files


def order_status(
    act: Annotated[Act, typer.Option(help="revoke, hold or release.")],
    csv: Annotated[
        Path, typer.Option(help="A heading with serial_hex or serial_decimal; may have issuer, reason, since.")
    ],
    out: Out,
    issuer: Annotated[str, typer.Option(help="The issuing CA's id, if the file has no such column.")] = "",
    reason: Annotated[str, typer.Option(help="Of a revocation, if the file has no such column.")] = "",
    since: Annotated[str, typer.Option(help="Of a revocation, UTC (2026-11-23T02:40Z), likewise.")] = "",
    json: Json = False,
) -> None:
    """Make a status order from a CSV file."""
    made = convert_csv(
        csv, out.absolute(), act, issuer=typed(parse_digest, issuer) if issuer else None, reason=reason,
        since=typed(parse_moment, since) if since else None,
    )  # fmt: skip
    _show_order(out, made, json=json)


def order_extend(
    issuer: Issuer,
    until: Annotated[str, typer.Option(help="No certificate is accepted after it, UTC.")],
    list_until: Annotated[str, typer.Option(help="The list itself ends then, UTC.")],
    reason: Annotated[str, typer.Option(help="Why; it is public once used.")],
    basis: Annotated[str, typer.Option(help="The law or decision that allows it.")],
    fingerprint: Annotated[str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint.")],
    out: Out,
    ended_from: Annotated[str, typer.Option(help="A rule: certificates that end from here, UTC …")] = "",
    ended_to: Annotated[str, typer.Option(help="… to here, both included.")] = "",
    but: Annotated[list[str] | None, typer.Option("--except", help="A serial (hex) that the rule leaves out.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="A key: SHA-256 of its SubjectPublicKeyInfo, hex.")] = None,
    begin: Annotated[str, typer.Option(help="When the list begins to count, UTC; default: now.")] = "",
    json: Json = False,
) -> None:
    """Make an extension list."""
    rule = EndedBetween(typed(parse_moment, ended_from), typed(parse_moment, ended_to)) if ended_from else None
    found = ExtensionList(
        typed(parse_fingerprint, fingerprint), typed(parse_digest, issuer),
        typed(parse_moment, begin) if begin else _this_minute(), typed(parse_moment, list_until),
        typed(parse_moment, until), reason, basis, rule, frozenset(typed(parse_serial, text) for text in but or ()),
        frozenset(typed(parse_digest, text) for text in key or ()),
    )  # fmt: skip
    _show_order(out, make_extension(found, out.absolute()), json=json)


def order_end(
    list_: Annotated[str, typer.Option("--list", help="The list's digest, 64 hex digits.")],
    reason: Annotated[str, typer.Option(help="Why; it is public once used.")],
    fingerprint: Annotated[str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint.")],
    out: Out,
    json: Json = False,
) -> None:
    """Make the order that ends an extension list at once."""
    end = ExtensionEnd(typed(parse_fingerprint, fingerprint), typed(parse_digest, list_), reason)
    write_private(out.absolute(), end.encode().encode())
    _show_order(out, read_order(out), json=json)


def order_reissue(
    ca: Annotated[str, typer.Option(help="Id of the CA that shall sign, 64 hex digits.")],
    until: Annotated[str, typer.Option(help="No new certificate is valid after it, UTC.")],
    group: Annotated[list[Path], typer.Option(help="A folder of former certificates; the first group comes first.")],
    out: Out,
    json: Json = False,
) -> None:
    """Make a re-issue order."""
    made = make_reissue(group, out.absolute(), ca=typed(parse_digest, ca), until=typed(parse_moment, until))
    _show_order(out, made, json=json)


def order_show(order: Annotated[Path, typer.Argument(help="An order file.")], json: Json = False) -> None:
    """Say in words what an order file asks for, and its digest."""
    _show_order(order, read_order(order), json=json)


def order_issuer(
    certificate: Annotated[Path, typer.Argument(help="A CA's certificate (DER or PEM).")], json: Json = False
) -> None:
    """Say by which id orders name a CA."""
    found = issuer_id(read_certificate(certificate))
    if json:
        print_json({"issuer": found})
        return
    say(found.hex())


def _show_order(path: Path, made: OrderFile, *, json: bool) -> None:
    if json:
        print_json({"order": path, "act": made.act, "digest": made.digest, "words": made.words})
        return
    for line in made.words:
        say(line)
    say(f"Order file {path}, SHA-256 {made.digest.hex()}")


def _this_minute() -> Instant:
    return Instant(now() // 60_000_000 * 60_000_000)

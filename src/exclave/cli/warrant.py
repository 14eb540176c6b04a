"""``exclave warrant``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exclave.cli.deletion_told import show_objected, unasked
from exclave.cli.keys import load_key
from exclave.cli.output import (
    Json,
    Pinned,
    Sites,
    confirmed,
    counted,
    not_signed,
    note,
    plain,
    print_json,
    say,
    typed,
    when,
)
from exclave.cli.where import Where, view_of
from exclave.errors import UsageError, WarrantForeign
from exclave.formats.deletion import DeletionOrder
from exclave.formats.warrant import STANDING_ACTS, Act, ParsedWarrant
from exclave.ids import now, parse_label
from exclave.keys.file import KeyKind
from exclave.operations.custody import describe_warrant, request_warrant, require_shown, sign_warrant
from exclave.operations.home import make_key
from exclave.operations.objecting import Objected, objected_before
from exclave.operations.orders import read_order, require_named

app = typer.Typer(help="Warrants: what the custodians allow one machine to do.", no_args_is_help=True,
                  rich_markup_mode=None)  # fmt: skip
_SIGN = "Example: exclave warrant sign failover.warrant --key kaja.key --site lux=dir:/mnt/lux --fingerprint 3f9a…"
_REQUEST = "Example: exclave warrant request failover.warrant --act failover --place lux --key machine.key --site …"


@app.command(epilog=_REQUEST)
def request(
    warrant: Annotated[Path, typer.Argument(help="The file to write; the machine's card is put beside it (.card).")],
    fingerprint: Pinned,
    key: Annotated[Path, typer.Option(help="This machine's key file; made if there is none.")],
    act: Annotated[Act, typer.Option(help="What shall be allowed.")],
    place: Annotated[str, typer.Option(help="The charter's site where this machine stands.")],
    reason: Annotated[str, typer.Option(help="Why; the custodians read it, and it is public once used.")],
    site: Sites = None,
    register: Annotated[
        list[str] | None, typer.Option(help="A register's id, its first 8 digits or its public name; default: all.")
    ] = None,
    hours: Annotated[int, typer.Option(min=1, max=24 * 90, help="How long the warrant holds.")] = 24,
    machine: Annotated[str, typer.Option(help="Name of this machine, for a new key.")] = "embassy",
    object: Annotated[
        Path | None,
        typer.Option(help="The order file, to delete or act on certificates; none: a standing order (revoke, hold)."),
    ] = None,
    json: Json = False,
) -> None:
    """Ask the custodians to let this machine act."""
    where = view_of(Path(), _named(site), fingerprint)
    wanted = [where.registers(text)[0][0] for text in register or ()]
    at, name = typed(parse_label, place), typed(parse_label, machine)
    secret = load_key(key) if key.exists() else make_key(key.absolute(), KeyKind.MACHINE, name)
    made = request_warrant(
        where.view, secret, warrant.absolute(), act=act, registers=wanted, place=at, reason=reason, now=now(),
        valid_s=hours * 3600, object=object,
    )  # fmt: skip
    if json:
        print_json({"warrant": made.warrant, "card": made.card, "digest": made.parsed.digest, "text": made.parsed})
        return
    say(made.parsed.encode())
    say("Once the warrant is used it lies at the sites, and everybody who reads them can read its reason.")
    if object is not None:
        say(f"Send {object} too: the custodians sign for exactly this file.")
    say(f"Send {made.warrant} and {made.card} to the custodians; each answers with `exclave warrant sign`.")


def require_yes(*, yes: bool, json: bool) -> None:
    """``--json`` asks nobody, so it must not sign on its own account."""
    if json and not yes:
        raise UsageError("--json does not ask, so nothing was signed", hint="Read the text first; then add --yes.")


def _named(site: list[str] | None) -> list[str]:
    if not site:
        raise UsageError("name at least one site with --site NAME=URL")
    return site


@app.command(epilog=_SIGN)
def sign(
    warrant: Annotated[Path, typer.Argument(help="The request; the machine's card lies beside it (.card).")],
    key: Annotated[Path, typer.Option(help="The custodian's key file.")],
    fingerprint: Pinned,
    site: Sites = None,
    out: Annotated[Path | None, typer.Option(help="The answer's file; default: WARRANT-NAME.answer.")] = None,
    object: Annotated[Path | None, typer.Option(help="The order file that came with the request; shown first.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the request was read before.")] = False,
    json: Json = False,
) -> None:
    """Consent as a custodian: approve the request, and seal one's shares to the requesting machine alone."""
    require_yes(yes=yes, json=json)
    secret = load_key(key)
    where = view_of(Path(), _named(site), fingerprint)
    parsed, _ = describe_warrant(warrant)
    require_shown(parsed, object)
    if not yes:
        _show(parsed, object)
    order = _deletion(where, parsed, object)
    objected = objected_before(where.view, where.sites, order, now=now()) if order is not None else ()
    if order is not None and not json:
        _show_before(where, order, objected)
    if not yes and not confirmed("Allow this?", "nothing was signed"):
        raise not_signed()
    target = out or warrant.with_name(f"{warrant.stem}-{secret.name}.answer")
    done = sign_warrant(warrant, where.view, where.sites, secret, target.absolute(), now=now(), object=object)
    if done.replaced:
        note(f"{done.path} held an earlier answer, which this one replaced.")
    if json:
        print_json({**plain(done), "objected": objected})
        return
    shares = counted(len(done.shares), "share was", "shares were")
    sealed = f"{shares} sealed to the machine" if done.shares or done.without else "no share was needed"
    if done.without:
        note(f"{done.custodian} holds no share of: {', '.join(done.without)}. Others have to open these.")
    say(f"{done.custodian} consents; {sealed}. Send it {done.path}.")


def _deletion(where: Where, parsed: ParsedWarrant, object: Path | None) -> DeletionOrder | None:
    """The order to delete in ``object``, if the warrant is for it; None for other acts."""
    if parsed.act is not Act.DELETE or object is None:
        return None
    read = read_order(object)
    require_named(read, parsed)
    order = read.order
    if not isinstance(order, DeletionOrder):
        return None
    if order.state != where.view.state or order.register not in parsed.registers:
        raise WarrantForeign("the order file is for another state, or for a register that the warrant does not name")
    return order


def _show_before(where: Where, order: DeletionOrder, objected: tuple[Objected, ...]) -> None:
    """What a custodian has to know of others before he signs for ``order``."""
    show_objected(objected)
    if silent := unasked(where, order.register):
        say(f"Not asked whether anybody objected before: {', '.join(silent)}; name them with --site.")


@app.command(epilog="Example: exclave warrant show failover.warrant")
def show(
    warrant: Annotated[Path, typer.Argument(help="A warrant or request.")],
    object: Annotated[Path | None, typer.Option(help="Its order file, to be shown in words.")] = None,
    json: Json = False,
) -> None:
    """Show what a warrant says. Whether it holds is decided where it is used."""
    parsed, names = describe_warrant(warrant)
    if json:
        told = {"warrant": parsed, "digest": parsed.digest, "signatures": names}
        if object is not None:
            order = read_order(object)
            require_named(order, parsed)
            told["order"] = order.words
        print_json(told)
        return
    _show(parsed, object)
    note(f"Signatures under the names (not verified): {', '.join(names)}")


def _show(parsed: ParsedWarrant, object: Path | None = None) -> None:
    say(f"Act:        {parsed.act}")
    say(f"Place:      {parsed.place}")
    say(f"Reason:     {parsed.reason}")
    say(f"Holds:      {when(parsed.not_before)} to {when(parsed.not_after)} (UTC)")
    say(f"State:      {parsed.state}")
    say(f"Machine:    {parsed.machine.hex()}")
    for register in parsed.registers:
        say(f"Register:   {register}")
    if parsed.object is not None:
        say(f"Order file: {parsed.object.hex()}")
    elif parsed.act in STANDING_ACTS:
        say("Order file: none. This is a standing order: the machine may do this to any certificate while it holds.")
    if object is not None:
        order = read_order(object)
        require_named(order, parsed)
        for line in order.words:
            say(line)
    elif parsed.object is not None:
        say("What the order file says was not shown: name it with --object.")

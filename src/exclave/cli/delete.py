"""``exclave delete``"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from exclave.app import open_eraser, open_named_sites, witness_addresses
from exclave.cli.deletion_told import erasure_json, left_text, show_failed, show_objected, show_run, unasked
from exclave.cli.keys import load_key
from exclave.cli.output import (
    HomeFolder,
    Json,
    Pinned,
    Sites,
    counted,
    note,
    plain,
    print_json,
    say,
    typed,
    when,
)
from exclave.cli.progress import work_bar
from exclave.cli.where import Where, view_of
from exclave.errors import Fenced, UsageError
from exclave.formats.warrant import Act
from exclave.ids import Epoch, RegisterId, now, parse_digest, parse_fingerprint
from exclave.operations import deletion as verbs
from exclave.operations.act_fact import RegisterFacts, patiently
from exclave.operations.custody import grant
from exclave.operations.erasure import Here, carry_out
from exclave.operations.home import read_limited, write_private
from exclave.operations.objecting import object_to, objected_before, put_objection
from exclave.operations.orders import read_order

app = typer.Typer(help="Delete old versions: an order, a warrant, a delay to object in, and a record.",
                  no_args_is_help=True, rich_markup_mode=None)  # fmt: skip
_OBJECTION_LIMIT = 64 << 10
_PUBLISH = (
    "Example: exclave delete publish old.order --warrant old.warrant --answer old-kaja.answer --answer old-luc.answer"
)
_OBJECT = "Example: exclave delete object 9c41d0e7 --reason 'Case 7/2027' --key kaja.key --site lux=dir:… --site nord=…"
_RUN = "Example: exclave delete run lux=dir:/srv/exclave-site --site nord=s3://… --fingerprint 3f9a…"
Register = Annotated[str, typer.Argument(help="Name or id of the register.")]
AwayRegister = Annotated[
    str, typer.Argument(help="The register's id, its first 8 digits or more, or its name if that is public.")
]
Fingerprint = Annotated[str, typer.Option(envvar="EXCLAVE_FINGERPRINT", help="The state's fingerprint, with --site.")]


@app.command(epilog="Example: exclave delete propose gazette old.order --reason 'Archives Act, section 11'")
def propose(
    register: Register,
    order: Annotated[Path, typer.Argument(help="The order file to write.")],
    reason: Annotated[str, typer.Option(help="Why; it is public.")],
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Fingerprint = "",
    keys: Annotated[int | None, typer.Option(min=1, help="An epoch whose shares shall be destroyed as well.")] = None,
    last_clean_too: Annotated[
        bool, typer.Option("--last-clean-too", help="Also the last version known to be clean; the reason will say so.")
    ] = False,
    json: Json = False,
) -> None:
    """Write an order file for all versions that no rule keeps any more. Nothing is deleted by it.

    Refused at home if the last version that is known to be clean would go (`exclave snapshots`).
    """
    where = view_of(home, site, fingerprint)
    made = verbs.propose(
        where.view, where.sites, _one(where, register), order.absolute(), reason=reason, now=now(),
        keys=None if keys is None else Epoch(keys), home=where.home, last_clean_too=last_clean_too,
    )  # fmt: skip
    objected = objected_before(where.view, where.sites, made, now=now())
    if where.home is None:
        note("Signals were not looked at: only home knows them. See `exclave snapshots` there, or by warrant.")
    if json:
        print_json({"path": order.absolute(), "digest": made.digest, "order": made, "objected": objected})
        return
    for line in read_order(order).words:
        say(line)
    show_objected(objected)
    say(f"\nSHA-256 of the order: {made.digest.hex()}")
    say(f"Now: exclave warrant request WARRANT --act delete --object {order} --register {made.register} …")


@app.command(epilog=_PUBLISH)
def publish(
    order: Annotated[Path, typer.Argument(help="The order file that the custodians saw.")],
    warrant: Annotated[Path, typer.Option(help="The warrant.")],
    answer: Annotated[list[Path] | None, typer.Option(help="A custodian's answer; as many as the quorum asks.")] = None,
    home: HomeFolder = Path(),
    json: Json = False,
) -> None:
    """Make a warranted order public, at the sites and in the ledger: its delay begins. Run by the register's writer."""
    where = view_of(home, None, "")
    wanted = verbs.read_order_file(order)
    facts = writer_facts(where, wanted.register)
    objected = objected_before(where.view, where.sites, wanted, now=now())
    warning = "" if where.home is None else verbs.last_clean_in(where.view, where.sites, wanted, where.home, now=now())
    granted = grant(
        where.view, warrant, answer or (), act=Act.DELETE, place=None, machine=facts.machine, now=now(),
        object=wanted.digest,
    )  # fmt: skip
    done = verbs.publish(where.view, wanted, granted, facts, facts.sites, now=now())
    if json:
        told = {"order": wanted.digest, "entered": done, "delay_s": wanted.delay_s}
        print_json({**told, "objected": objected, "warning": warning})
        return
    say(f"Order {wanted.digest.hex()} {'is' if done.new else 'was already'} in the ledger.")
    say(f"It lies open for {wanted.delay_s} s at each site. {counted(wanted.objections, 'custodian', 'custodians')}"
        " can stop it until then with `exclave delete object`.")  # fmt: skip
    if warning:
        say(f"WARNING: {warning}. If that is not meant, ask a custodian to object at once.")
    show_objected(objected)
    show_failed(done)


@app.command(name="object", epilog=_OBJECT)
def object_(
    register: AwayRegister,
    key: Annotated[Path, typer.Option(help="The custodian's key file.")],
    reason: Annotated[str, typer.Option(help="Why; it is public.")],
    fingerprint: Pinned,
    site: Sites = None,
    order: Annotated[str, typer.Option(help="SHA-256 of the order; none: against every order, a legal hold.")] = "",
    out: Annotated[Path | None, typer.Option(help="Also write the objection to this file.")] = None,
    json: Json = False,
) -> None:
    """Object to an order as a custodian, before its delay is over. Without an order: hold everything.

    Name all sites: an operator may read only his own and one other. An objection to one order does not stop the next
    one over the same versions; a hold does.
    """
    where = view_of(Path(), _named(site), fingerprint)
    number = _one(where, register)
    against = typed(parse_digest, order) if order else None
    made = object_to(where.view, number, against, load_key(key), reason=reason, now=now())
    if out is not None:
        write_private(out.absolute(), made)
    good, failed = put_objection(where.view, number, made, where.sites)
    missing = [name for name in where.at(number) if name not in good]
    if json:
        print_json({"order": against, "register": number, "sites": good, "failed": failed, "not_yet_at": missing})
    else:
        say(f"The objection {'to every order ' if against is None else ''}lies at: {', '.join(good) or 'no site'}.")
        for label, why in failed.items():
            note(f"{label}: {why}")
        if missing:
            say(f"Not yet at: {', '.join(missing)} – name them with --site.")
        if against is not None:
            say("It stops this order alone. Without --order it stops every order until the next charter.")
    if not good and out is None:
        raise UsageError(
            "no site took the objection", hint="Write it with --out, and give the file to the sites' operators."
        )


@app.command(epilog="Example: exclave delete status gazette --site lux=dir:/mnt/lux --fingerprint 3f9a…")
def status(
    register: Annotated[str | None, typer.Argument(help="Name or id of one register; default: all.")] = None,
    home: HomeFolder = Path(),
    site: Sites = None,
    fingerprint: Fingerprint = "",
    json: Json = False,
) -> None:
    """Which orders to delete there are, until when they can be objected to, and what became of them."""
    where = view_of(home, site, fingerprint)
    found = [(number, name, verbs.status(where.view, where.sites, number, now=now())) for number, name in
             where.registers(register)]  # fmt: skip
    if json:
        print_json({"registers": [{"register": name, "orders": orders} for _, name, orders in found]})
        return
    for number, name, orders in found:
        say(f"{name}: {counted(len(orders), 'order', 'orders')} to delete")
        if orders and (silent := unasked(where, number)):
            say(f"  not asked whether anybody objects: {', '.join(silent)}")
        for one in orders:
            say(f"\n  order     {one.digest.hex()}")
            say(f"  warrant   {one.warrant.hex()}")
            say(f"  entered   {when(one.entered)} (UTC); {counted(len(one.order.versions), 'version', 'versions')}")
            say(f"  reason    {one.order.reason}")
            say(f"  {one.verdict.state:<9} {one.verdict.why}")
            for said in one.objections:
                what = "to this order" if said.order is not None else "to every order"
                say(f"  objection {what} by {said.custodian}, {when(said.time)}: {said.reason}")


@app.command(epilog=_RUN)
def run(
    here: Annotated[str, typer.Argument(help="NAME=URL of the site to erase at, with credentials that may.")],
    fingerprint: Pinned,
    site: Sites = None,
    order: Annotated[str, typer.Option(help="SHA-256 of one order; default: all that are due.")] = "",
    objection: Annotated[list[Path] | None, typer.Option(help="An objection that came as a file.")] = None,
    look: Annotated[bool, typer.Option("--look", help="Say what would be erased, and erase nothing.")] = False,
    json: Json = False,
) -> None:
    """Carry out at a site what may be erased there. Run by the site's operator; may be repeated, goes on after a crash.

    Everything is verified first from what lies at the sites: name all of them. Exit code 1 while an order is open here:
    it waits, or not all of it is erased. Orders that are done or stopped count as 0.
    """
    label, _, url = here.partition("=")
    named = open_named_sites([here])
    (name, opened) = next(iter(named.items()))
    others = open_named_sites(site) if site else {}
    others.pop(name, None)
    brought = [read_limited(path, _OBJECTION_LIMIT) for path in objection or ()]
    with work_bar(f"erasing at {name}", quiet=json) as bar:
        done = carry_out(
            Here(name, opened, open_eraser(url or label)), others, typed(parse_fingerprint, fingerprint), now=now(),
            only=typed(parse_digest, order) if order else None, brought=brought, look=look,
            progress=lambda at, total: bar.at(f"{at} of {total} objects", at, total),
        )  # fmt: skip
    if json:
        print_json({"site": name, "orders": [erasure_json(one) for one in done]})
    else:
        show_run(name, done, look)
    if any(one.open for one in done):
        raise typer.Exit(1)


@app.command(epilog="Example: exclave delete record gazette --home /srv/exclave")
def record(register: Register, home: HomeFolder = Path(), json: Json = False) -> None:
    """Enter in the ledger what was erased, as the sites show it now. Run by the register's writer."""
    where = view_of(home, None, "")
    number = _one(where, register)
    facts = writer_facts(where, number)
    done = verbs.record(where.view, facts.sites, number, facts, now=now())
    if json:
        told = {digest.hex(): {**plain(one.entered), "left": one.left} for digest, one in done.items()}
        print_json({"orders": told})
        return
    if not done:
        say("No order was carried out at any site yet. Each site's operator does it with `exclave delete run`.")
    for digest, one in done.items():
        say(f"Order {digest.hex()}: {'entered' if one.entered.new else 'nothing new since the last record'}.")
        for line in map(left_text, one.left):
            say(f"  {line}")
        show_failed(one.entered)


def writer_facts(where: Where, register: RegisterId) -> RegisterFacts:
    """Entering facts into the register's ledger from this home, which must have the pen."""
    home = where.home
    if home is None:
        raise UsageError("this is done in a home", hint="Run it where exclave.toml is.")
    rule = where.view.chain.newest.charter.register(register)
    epoch = where.view.epoch_chain(register).newest
    if epoch.note.writer != home.writer_card().digest:
        raise Fenced(f"epoch {epoch.number} of this register belongs to {epoch.writer.name}", epoch=epoch.number)
    at = {label: site for label, site in where.sites.items() if rule is None or label in rule.at}
    return RegisterFacts(
        where.view, register, home.writer_key(), at, witness_addresses(home.config),
        home.folder / "state" / f"{register}.outbox", partial(patiently, partial(home.alone, register)),
    )  # fmt: skip


def _one(where: Where, register: str) -> RegisterId:
    return where.registers(register)[0][0]


def _named(site: list[str] | None) -> list[str]:
    if not site:
        raise UsageError("name at least one site with --site NAME=URL")
    return site

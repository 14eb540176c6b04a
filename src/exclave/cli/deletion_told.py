"""How orders to delete, what was said against them and what became of them are told: to people, and with ``--json``."""

from __future__ import annotations

from collections.abc import Iterable

from exclave.cli.output import counted, note, say, size_text, table, when
from exclave.cli.where import Where
from exclave.ids import Label, RegisterId, instant_text
from exclave.operations.act_fact import Recorded
from exclave.operations.deletion import Left
from exclave.operations.erasure import SiteErasure
from exclave.operations.objecting import Objected
from exclave.rules.deletion import OrderState


def unasked(where: Where, register: RegisterId) -> list[Label]:
    """Sites that the charter gives ``register`` and that were not read."""
    return [name for name in where.at(register) if name not in where.view.shown]


def erasure_json(one: SiteErasure) -> dict[str, object]:
    return {
        "order": one.order, "register": one.register, "state": one.verdict.state, "why": one.verdict.why,
        "due": instant_text(one.verdict.due) if one.verdict.due else None, "erased": one.erased,
        "erased_bytes": one.erased_bytes, "absent": one.absent, "shared": one.shared, "packs": one.digest,
        "pending": one.pending, "waits": one.waits, "complete": one.complete, "open": one.open, "asked": one.asked,
        "unasked": one.unasked, "objected": one.objected,
    }  # fmt: skip


def left_text(at: Left) -> str:
    if at.objects is None:
        return f"{at.site} did not answer ({at.problem}): look again with `exclave delete record`"
    if not at.objects:
        return f"{at.site} has nothing of it any more"
    again = "was not run there yet" if at.objects == at.of else "has to be run there again"
    return f"{at.site} still has {at.objects} of {counted(at.of, 'object', 'objects')}: `exclave delete run` {again}"


def show_run(name: str, done: tuple[SiteErasure, ...], look: bool) -> None:
    if not done:
        say(f"{name}: no ledger names an order to delete.")
    for one in done:
        say(f"Order {one.order.hex()}: {one.verdict.state}: {one.verdict.why}")
        if one.verdict.state in (OrderState.DUE, OrderState.WAITING):
            say(f"  {_heard(one)}")
        if look and one.pending:
            say(f"  {counted(len(one.pending), 'object', 'objects')} would be erased; {one.shared} stay, which living"
                " versions need")  # fmt: skip
            continue
        if one.erased or one.pending:
            say(f"  erased: {counted(one.erased, 'object', 'objects')}, {size_text(one.erased_bytes)}; gone before:"
                f" {one.absent}; {one.shared} stay, which living versions need")  # fmt: skip
        if one.pending:
            table(
                ("still there", "until", "why"),
                ((p.key.rpartition("/")[2][:16] + "…", when(p.until or 0), p.why) for p in one.pending[:20]),
            )
            say(f"  {counted(len(one.pending), 'object', 'objects')} in all: run this again after these times.")
        if one.waits:
            say(f"  {one.waits}")


def _heard(one: SiteErasure) -> str:
    """Who was asked whether anybody objects: nobody hears an objection at a site that he does not read."""
    who = f"objected: {', '.join(one.objected)}, too few to stop it" if one.objected else "no objection"
    silent = f"; {', '.join(one.unasked)} {'was' if len(one.unasked) == 1 else 'were'} not asked" if one.unasked else ""
    return f"{who} at {', '.join(one.asked)}{silent}"


def show_objected(objected: Iterable[Objected]) -> None:
    """What was said before against orders over the same versions."""
    for one in objected:
        say(f"OBJECTION: {one.words}")


def show_failed(done: Recorded) -> None:
    for label, why in done.failed:
        note(f"{label}: {why}")

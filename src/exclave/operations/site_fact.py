"""Facts about a site: what a probe found there, how long its locks hold. The register's writer enters them."""

from __future__ import annotations

from collections.abc import Mapping

from exclave.errors import Fenced
from exclave.formats.fact import Fact
from exclave.ids import Instant, Label, RegisterId
from exclave.operations.act_fact import patiently
from exclave.operations.home import Home
from exclave.operations.ledger_entry import Entered, enter, settle_outbox
from exclave.sites.contract import Site
from exclave.verify.history import read_copies
from exclave.verify.state import read_state


def enter_site_fact(
    home: Home, register: RegisterId, kind: Label, say: tuple[str, ...], *, sites: Mapping[Label, Site],
    witnesses: Mapping[Label, str], now: Instant,
) -> Entered:  # fmt: skip
    """Enters a fact of ``kind`` into the ledger of ``register``. ``Fenced`` if another writer has the pen.

    A restart finds the fact in the outbox and finishes it; what it tells of can be done again.
    """
    view = read_state(sites, home.fingerprint())
    epoch = view.epoch_chain(register).newest
    if epoch.note.writer != home.writer_card().digest:
        raise Fenced(f"epoch {epoch.number} of register {register} belongs to another writer", epoch=epoch.number)
    rule = view.chain.newest.charter.register(register)
    at = {name: site for name, site in sites.items() if rule is not None and name in rule.at}
    newest = read_copies(view, at, register)[-1]
    # A site that is behind must not show a ledger that speaks of versions that it lacks: the next backup brings both.
    level = {name: site for name, site in at.items() if newest.agreed.get(name, 0) >= newest.size}
    outbox = home.folder / "state" / f"{register}.outbox"
    with patiently(lambda: home.alone(register)):
        settle_outbox(view, epoch, home.writer_key(), sites=level, now=now, outbox=outbox)
        fact = Fact(register, epoch.number, now, kind, None, say)
        return enter(
            view, epoch, home.writer_key(), [fact.encode()], sites=level, witnesses=witnesses, now=now, outbox=outbox
        )

"""The public trace of a scrub: one fact a day for each register and site, entered by the register's writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exclave.errors import Fenced, MalformedError
from exclave.formats.fact import Fact
from exclave.formats.paths import pack_prefix
from exclave.formats.scrubbed import KIND, parse_scrub_line
from exclave.ids import Instant, Label, RegisterId, parse_digest
from exclave.operations.act_fact import patiently
from exclave.operations.home import Home, read_limited, write_private
from exclave.operations.ledger_entry import Entered, enter, settle_outbox
from exclave.operations.scrub import RegisterScrub
from exclave.rules.lease import basis_ended
from exclave.sites.contract import Site
from exclave.vault.index import ChunkIndex
from exclave.verify.history import read_copies
from exclave.verify.state import read_state

_MAX_LINE = 4096


def worth_a_fact(done: RegisterScrub) -> bool:
    """The first run of a day, and a later one that found something, or read all because a former one had left something
    wrong: the ledger stays small.
    """
    return done.part.first <= done.part.through or bool(done.found) or done.left_before > 0


def keep_left(home: Home, done: RegisterScrub, label: Label) -> None:
    """Remembers at home what ``done`` left wrong: the ledger may not take its fact. Forgets what is right again.

    A restart finds the former state: then the next run reads everything once more, or the fact tells it to.
    """
    path = _left_path(home, done.register, label)
    if done.left or done.unseen:
        write_private(path, done.line(label).encode().encode())
    elif done.left_before:
        path.unlink(missing_ok=True)


def left_at_home(home: Home, register: RegisterId, label: Label) -> int:
    """How many objects the last run from here left wrong at ``label``, as ``keep_left`` remembers."""
    path = _left_path(home, register, label)
    if not path.exists():
        return 0
    try:
        line = parse_scrub_line(read_limited(path, _MAX_LINE).decode())
    except (MalformedError, UnicodeError):
        return 1  # it says at least that there was something
    return max(1, line.wrong - line.repaired)


def _left_path(home: Home, register: RegisterId, label: Label) -> Path:
    return home.folder / "state" / f"{register}.{label}.scrub"


def enter_scrub(
    home: Home, done: RegisterScrub, label: Label, *, sites: Mapping[Label, Site], witnesses: Mapping[Label, str],
    now: Instant,
) -> Entered:  # fmt: skip
    """Enters what ``done`` says of ``label``. ``Fenced`` if another writer has the pen.

    A restart finds the fact in the outbox and finishes it; the scrub before it is done again and finds nothing to read.
    """
    view = read_state(sites, home.fingerprint())
    epoch = view.epoch_chain(done.register).newest
    if epoch.note.writer != home.writer_card().digest:
        raise Fenced(f"epoch {epoch.number} of register {done.register} belongs to another writer", epoch=epoch.number)
    rule = view.chain.newest.charter.register(done.register)
    at = {
        name: site
        for name, site in sites.items()
        if rule is not None and name in rule.at and not basis_ended(rule, name, now)
    }
    newest = read_copies(view, at, done.register)[-1]
    # A site that is behind must not show a ledger that speaks of versions that it lacks: the next backup brings both.
    level = {name: site for name, site in at.items() if newest.agreed.get(name, 0) >= newest.size}
    outbox = home.folder / "state" / f"{done.register}.outbox"
    with patiently(lambda: home.alone(done.register)):
        _tell_index(home, done, label)
        settle_outbox(view, epoch, home.writer_key(), sites=level, now=now, outbox=outbox)
        fact = Fact(done.register, epoch.number, now, KIND, None, (done.line(label).encode(),))
        return enter(
            view, epoch, home.writer_key(), [fact.encode()], sites=level, witnesses=witnesses, now=now, outbox=outbox
        )


def _tell_index(home: Home, done: RegisterScrub, label: Label) -> None:
    """The cache may have given these packs up. Dies before: their chunks are shipped once more in others."""
    prefix = pack_prefix(home.fingerprint(), done.register)
    packs = [f.key for f in done.found if f.repaired_from is not None and f.key.startswith(prefix)]
    path = home.cache(done.register) / "index.sqlite"
    if not packs or not path.exists():
        return
    index = ChunkIndex(path)
    try:
        index.repaired([parse_digest(key.rpartition("/")[2]) for key in packs], label)
    finally:
        index.close()

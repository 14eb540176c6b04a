"""After the authority over identities has moved: the names follow, and the move is a fact in the ledger."""

from __future__ import annotations

from exclave.errors import ExclaveError
from exclave.formats.dnsplan import HOME, MAX_PLAN_BYTES, DnsPlan, parse_dns_plan
from exclave.formats.fact import Fact
from exclave.formats.note import parse_note
from exclave.formats.warrant import Act
from exclave.ids import Label, instant_text
from exclave.operations.failover_run import Run
from exclave.operations.home import read_limited
from exclave.operations.identity_authority import read_taken_up
from exclave.operations.identity_names import move_names
from exclave.operations.identity_takeup import GAP_FILE

MERGE_FILE = "merge.note"
NAMES_FILE = "names.toml"
MOVED = "moved"


def has_identity(run: Run, name: str) -> bool:
    """Whether the register is the one of identities."""
    return any(dataset.kind == "identity" for dataset in run.register(name)[1].annex.datasets)


def names_register(run: Run, name: str) -> None:
    """The names of the identity services lead to this place, if ``names.toml`` says so.

    A server that does not take the change stops no other register: it is told, and tried again at the end.
    """
    plan = _plan(run) if has_identity(run, name) else None
    if plan is None:
        return
    progress = run.progress[name]
    place = HOME if run.granted.warrant.warrant.act is Act.FAILBACK else Label(run.place)
    try:
        report = move_names(plan, place, run.identity, run.identity / "state", now=run.clock(), say=run.say)
    except ExclaveError as error:
        progress.names = error.message
        run.say(f"{name}: the names do not lead here: {error.message}")
        return
    progress.names = MOVED
    for row in report.rows:
        if not row.there:
            run.say(f"{name}: {row.server} tells of {row.name}: {row.why}; for {row.ttl_s} s at most")


def _plan(run: Run) -> DnsPlan | None:
    path = run.identity / NAMES_FILE
    return parse_dns_plan(read_limited(path, MAX_PLAN_BYTES)) if path.exists() else None


def identity_facts(run: Run, name: str) -> list[bytes]:
    """What the register's ledger keeps of the move: which epoch was taken up, and the digest of the statement."""
    if not has_identity(run, name):
        return []
    register = run.register(name)[0]
    epoch = run.view.epoch_chain(register).newest
    taken = read_taken_up(run.identity)
    if taken is None or taken.epoch != epoch.number:
        return []
    back = run.granted.warrant.warrant.act is Act.FAILBACK
    statement = run.identity / "state" / (MERGE_FILE if back else GAP_FILE)
    digest = parse_note(read_limited(statement, 1 << 20)).digest.hex()
    said = (
        f"identities are decided at {run.place} since {instant_text(taken.time)}, from entry {taken.number} on",  # type: ignore[arg-type]
        f"{'merge note' if back else 'gap statement'} {digest}",
    )
    kind = Label("identity-home" if back else "identity-exile")
    facts = [Fact(register, epoch.number, run.clock(), kind, run.granted.warrant.digest, said)]
    if back:
        returning = ("home has been granted the authority and answers nothing until it has merged",)
        when = run.granted.decided
        facts.insert(0, Fact(register, epoch.number, when, Label("identity-returning"), facts[0].warrant, returning))
    return [fact.encode() for fact in facts]

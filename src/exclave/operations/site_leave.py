"""A site leaves a state: run by its operator, on his machine, with credentials that home lacks.

Everything is verified anew from what lies at the sites, as by any outsider: (1) charters, holds, what remains elsewhere
· (2) the list of all that lies here, durable before anything goes · (3) objects of registers, one by one · (4) cards,
warrants, charters and statements · (5) what the operator states. A crash leaves fewer objects and the list: the next
run goes on by it, and judges anew as long as the charter that leaves the site out lies here.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exclave.durable import sync_folder
from exclave.errors import MalformedError, NotAuthorised, SiteUnavailable, UsageError
from exclave.formats.exit import ExitHead, ExitList, ExitStatement, object_line
from exclave.formats.note import ParsedNote, parse_note
from exclave.ids import Digest, Fingerprint, Instant, Key, Label, RegisterId
from exclave.keys.file import KeyFile
from exclave.operations.erasure import Here
from exclave.operations.home import key_card, make_folder, write_private
from exclave.rules.charters import VerifiedCharter, find_charter_chain
from exclave.rules.deletion import OrderState, Verdict
from exclave.rules.leaving import Leaving, judge_exit, lay_there, left_out_by
from exclave.rules.placement import placement_of
from exclave.rules.signatures import sign_text
from exclave.sites.contract import Readable, Site
from exclave.verify.deletions import read_deletions
from exclave.verify.history import read_history
from exclave.verify.holding import find_holders
from exclave.verify.objections import read_objections
from exclave.verify.state import Finding, StateView, read_state

LIST_NAME = "exit.list"
STATEMENT_NAME = "exit.note"
CARD_NAME = "operator.card"
_SHOWN_LOCKED = 100


@dataclass(frozen=True, slots=True)
class Left:
    """What became of the state's objects at the site."""

    site: Label
    verdict: Verdict
    objects: int = 0
    """In the list: taken away by this run or a former one, but for what is left."""
    bytes: int = 0
    erased: int = 0
    """By this run."""
    left: int = 0
    """Objects that the store locks, or that came meanwhile."""
    until: Instant | None = None
    others: tuple[RegisterId, ...] = ()
    """Registers that no charter in force lists, whose objects were left alone."""
    statement: ExitStatement | None = None

    @property
    def done(self) -> bool:
        return self.statement is not None and self.left == 0


def leave(
    here: Here,
    others: Mapping[Label, Site],
    pinned: Fingerprint,
    folder: Path,
    key: KeyFile,
    *,
    clock: Callable[[], Instant],
    look: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Left:
    """Takes the objects of the state ``pinned`` away from ``here``, and writes list and statement into ``folder``.

    ``others``: the sites that remain. ``look`` takes nothing away. ``progress(objects done, in all)``.
    Raises ``NotAuthorised`` for what cannot be judged, ``UsageError`` if ``folder`` is another exit's.
    """
    path = folder / LIST_NAME
    begun = _head_of(path, here.label, pinned) if path.exists() else None
    view = read_state({here.label: here.site, **others}, pinned)  # (1)
    if begun is None:
        verdict = _judge(view, here, others, clock())
        if verdict.state is not OrderState.DUE or look:
            return Left(here.label, verdict, others=_unlisted(view, here, pinned))
        newest = view.chain.newest
        begun = ExitHead(pinned, here.label, newest.charter.number, newest.digest, clock())
    else:
        verdict = _still(view, others, begun, clock())
        if verdict.state is OrderState.DUE and _can_be_judged(view, here, begun):
            verdict = _judge(view, here, others, clock())
        if verdict.state is not OrderState.DUE or look:
            return Left(here.label, verdict)
        _require_own(path, view, begun)
    listed = {rule.id for rule in view.chain.newest.charter.registers}
    total, size, root = _write_list(path, begun, here, listed)  # (2)
    erased, locked = 0, []
    for late in (False, True):  # (3), (4)
        for number, (name, _) in enumerate(_read_list(path), 1):
            if _is_late(name) == late:
                if here.power.shown_since(name) is not None:
                    # Killed before this: the object, and the next run removes it. After it: it is gone for good.
                    refused = here.power.erase(name)
                    locked += [refused] if refused is not None else []
                    erased += refused is None
                progress(number, total)
    left = sum(1 for _ in _there(here, pinned, listed))
    ends = [one.until for one in locked]
    until = max((end for end in ends if end is not None), default=None) if left else None
    statement = ExitStatement(
        pinned, here.label, begun.charter, begun.charter_digest, begun.begun, max(clock(), begun.begun),
        max(total - left, 0), size, root, left, until, key.name, key_card(key).digest,
    )  # fmt: skip
    _write_statement(folder, statement, key)  # (5)
    return Left(
        here.label, verdict, total, size, erased, left, until, _unlisted(view, here, pinned), statement,
    )  # fmt: skip


# (1)


def _judge(view: StateView, here: Here, others: Mapping[Label, Site], now: Instant) -> Verdict:
    if here.label not in view.shown:
        raise SiteUnavailable(f"{here.label} does not show the state")
    charters = [c.charter for c in view.chain.charters]
    number = left_out_by(charters, here.label)
    since = _public_since(view, here, view.chain.charters[number - 1]) if number else None
    remaining = {name: site for name, site in others.items() if name in view.shown and name != here.label}
    if not remaining:
        raise NotAuthorised(f"no site but {here.label} answers", hint="Name the sites that remain with --site.")
    holders, unheard = _holds(view, here, remaining)
    risk = _at_risk(view, {**remaining, here.label: here.site}, remaining, now)
    return judge_exit(Leaving(here.label, charters, since, holders, unheard, risk), now)


def _can_be_judged(view: StateView, here: Here, begun: ExitHead) -> bool:
    """Whether the charter of a list that is there still lies here: then nobody's list is believed that it was judged.
    A run that took charters away already cannot be judged by them again."""
    meant = next((c for c in view.chain.charters if c.digest == begun.charter_digest), None)
    return meant is not None and here.label in view.shown and _public_since(view, here, meant) is not None


def _still(view: StateView, others: Mapping[Label, Site], begun: ExitHead, now: Instant) -> Verdict:
    """Of an exit that was judged and begun: whether the sites that remain still hold all, and nobody took it back."""
    charters = [c.charter for c in view.chain.charters]
    meant = next((c for c in charters if (c.number, c.digest) == (begun.charter, begun.charter_digest)), None)
    if meant is None or not left_out_by([c for c in charters if c.number <= meant.number], begun.site):
        raise NotAuthorised(
            f"the list says that charter {begun.charter} leaves {begun.site} out, and none with that digest does",
            hint="Somebody else wrote that list: nothing was erased. Name another folder with --out.",
        )
    if view.chain.newest.charter.site(begun.site) is not None:
        why = f"charter {view.chain.newest.charter.number} names this site again"
        return Verdict(OrderState.STOPPED, why, None)
    risk = _at_risk(view, others, others, now)
    if risk:
        return Verdict(OrderState.STOPPED, f"without this site the rule would not hold: {risk[0]}", None)
    return Verdict(OrderState.DUE, "it was begun, and goes on", None)


def _public_since(view: StateView, here: Here, charter: VerifiedCharter) -> Instant | None:
    """Since when a copy of ``charter`` that enough custodians signed by itself lies here, by the store's clock."""
    before = [data for data in view.charter_notes if parse_note(data).digest != charter.digest]
    times = []
    for key, data in view.shown[here.label].charters.items():
        if parse_note(data).digest != charter.digest:
            continue
        chain, _ = find_charter_chain([*before, data], view.cards, view.state)
        if any(c.digest == charter.digest for c in chain.charters):
            since = here.power.shown_since(key)
            times += [] if since is None else [since]
    return min(times, default=None)


def _holds(
    view: StateView, here: Here, remaining: Mapping[Label, Site]
) -> tuple[dict[RegisterId, frozenset[Label]], str]:
    """Who holds everything of each register that lay here, under the newest charter."""
    newest = view.chain.newest
    sources: dict[Label, Readable] = {**remaining, here.label: here.site}
    found: dict[RegisterId, frozenset[Label]] = {}
    unheard = ""
    for register in lay_there([c.charter for c in view.chain.charters], here.label):
        findings: list[Finding] = []
        objections, silent = read_objections(view, sources, register, {}, findings, ())
        unheard = unheard or silent
        found[register] = frozenset(
            o.custodian for o in objections.values() if o.order is None and o.charter == newest.digest
        )
    return found, unheard


def _at_risk(
    view: StateView, known: Mapping[Label, Readable], remaining: Mapping[Label, Site], now: Instant
) -> list[str]:
    """Living versions that ``known`` sites show and that ``remaining`` ones do not hold as the newest charter asks."""
    charter = view.chain.newest.charter
    risk: list[str] = []
    for rule in charter.registers:
        answering = {name: site for name, site in known.items() if name in view.shown}
        # What no witness vouches for yet counts too: it may be the newest there is.
        history = read_history(view, answering, rule.id, allow_unwitnessed=True)
        if any(log.forked or log.unread for log in history.epochs):
            risk.append(f"the ledger of register {rule.id} cannot be read whole, or has two ends")
            continue
        gone = read_deletions(view, answering, history, now=now).erased(view, now)
        living = [v for v in history.versions if v.leaf.sequence not in gone]
        holders = find_holders(view, {n: s for n, s in remaining.items() if n in view.shown}, rule.id, living)
        placement = placement_of(charter, rule, now=now)
        for version in living:
            lacks = placement.missing(holders.at[version.leaf.sequence])
            if lacks:
                risk.append(f"version {version.leaf.sequence} of register {rule.id} would have {lacks}")
    return risk


# (2)


def _head_of(path: Path, site: Label, state: Fingerprint) -> ExitHead:
    try:
        with open(path, "rb") as file:
            head = ExitList(file).head
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except MalformedError as error:
        raise MalformedError(f"{path}: {error.message}", hint="Name another folder with --out.") from error
    if (head.site, head.state) != (site, state):
        raise UsageError(f"{path} is the list of another exit", hint="Name another folder with --out.")
    return head


def _require_own(path: Path, view: StateView, begun: ExitHead) -> None:
    """``NotAuthorised`` if a list that is there names what no run of this command would have taken away: the folder may
    be another's, and what stands in it decides what is erased."""
    listing = [c.charter for c in view.chain.charters if c.charter.number >= begun.charter]
    parts = {*_LATE, *(rule.id for charter in listing for rule in charter.registers)}
    foreign = next((key for key, _ in _read_list(path) if key.split("/")[1] not in parts), None)
    if foreign is not None:
        raise NotAuthorised(
            f"{path} names {foreign}, which no charter since number {begun.charter} lets go",
            hint="Somebody else wrote that list: nothing was erased. Name another folder with --out.",
        )


def _read_list(path: Path) -> Iterator[tuple[Key, int]]:
    with open(path, "rb") as file:
        yield from ExitList(file).objects()


def _write_list(path: Path, head: ExitHead, here: Here, listed: set[RegisterId]) -> tuple[int, int, Digest]:
    """The list: what a former run found, and what lies here now. Number of objects, their bytes, and its digest.

    Durable when it returns. A restart finds the former list or this one, and both name all that was taken away.
    """
    former = _read_list(path) if path.exists() else iter(())
    fresh = path.with_name(path.name + ".new")
    make_folder(path.parent)
    before, count, size = "", 0, 0
    with open(fresh, "wb") as file:
        file.write(head.encode().encode())
        for key, size_bytes in heapq.merge(former, _there(here, head.state, listed)):
            if key == before:
                continue
            before, count, size = key, count + 1, size + size_bytes
            file.write(object_line(key, size_bytes))
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    sync_folder(path.parent)
    with open(path, "rb") as file:
        read = ExitList(file)
        for _ in read.objects():
            pass
        return count, size, read.root


def _there(here: Here, state: Fingerprint, listed: set[RegisterId]) -> Iterator[tuple[Key, int]]:
    """What lies here of the state and may go, sorted by name."""
    for stat in here.site.list(f"{state}/"):
        part = stat.key.split("/")[1]
        if part in listed or part in _LATE:
            yield stat.key, stat.size_bytes


_LATE = ("card", "warrant", "charter", "statement")


def _is_late(key: Key) -> bool:
    """Whether an object goes last: by these a run that was broken off before its list was written is judged."""
    return key.split("/")[1] in _LATE


def _unlisted(view: StateView, here: Here, state: Fingerprint) -> tuple[RegisterId, ...]:
    """Registers that lie here and that the newest charter does not list."""
    listed = {rule.id for rule in view.chain.newest.charter.registers}
    placed = {rule.id for c in view.chain.charters for rule in c.charter.registers}
    return tuple(
        register
        for register in sorted(placed - listed)
        if next(iter(here.site.list(f"{state}/{register}/")), None) is not None
    )


# (5)


def _write_statement(folder: Path, statement: ExitStatement, key: KeyFile) -> None:
    """A restart finds the former statement or this one, whole, or none: then the next run writes it."""
    text = statement.encode()
    write_private(folder / CARD_NAME, key_card(key).encode().encode())
    write_private(folder / STATEMENT_NAME, ParsedNote(text, sign_text(text, key.name, key.signing())).encode())


__all__ = ["CARD_NAME", "LIST_NAME", "STATEMENT_NAME", "Left", "leave"]

"""Is the exile kit whole? What was gathered, and what it means. Pure: ``check_kit`` asks nobody.

Runbook: docs/runbooks/identity-kit.md. What is amiss here can be put right in peace and not afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from exclave.ids import Instant, Label, instant_text
from exclave.rules.ladder import ALARM_DAYS, DAY_S, Window, look

TLS_ALARM_DAYS = 30
MAX_TTL_S = 300
"""Of a name: if longer, citizens are led to the old place for over a tenth of the 45 minutes of an outage."""
LOG_MAX_AGE_S = 900
"""Of a status log that is fed live; relying services of TARA refuse older answers."""
LIST_MAX_AGE_S = DAY_S
"""Of one that is fed from CRLs which promise no next one."""
MAX_SKEW_S = 3.0
"""From a clock that is told in whole seconds over a network; TARA-Login allows 2 s."""


class RowState(StrEnum):
    """What to do about a row: nothing, look at it, or make the thing."""

    OK = "ok"
    ALARM = "alarm"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class KitRow:
    """One thing of the kit."""

    what: str
    state: RowState
    detail: str
    until: Instant | None = None
    """So long it will do."""


@dataclass(frozen=True, slots=True)
class KitReport:
    """The kit of ``place`` as it was at ``time``."""

    place: Label
    time: Instant
    rows: tuple[KitRow, ...]

    @property
    def whole(self) -> bool:
        """Nothing is amiss."""
        return all(row.state is RowState.OK for row in self.rows)

    @property
    def good_until(self) -> Instant | None:
        """The first moment at which something that is good now ends."""
        return min((row.until for row in self.rows if row.until is not None), default=None)


# What was gathered


@dataclass(frozen=True, slots=True)
class LadderSeen:
    """Certificates that let ``place`` answer for ``issuer``, as the journal has them."""

    place: Label
    issuer: Label
    windows: tuple[Window, ...]
    unusable: tuple[str, ...] = ()
    """At the place itself: why keys of some of them cannot be used."""


@dataclass(frozen=True, slots=True)
class TokensSeen:
    """Token keys of the place, by thumbprint."""

    own: frozenset[str]
    unusable: tuple[str, ...]
    in_journal: frozenset[str]
    at_home: frozenset[str] | None
    """In the key set that home publishes; None: it could not be read."""
    problem: str = ""
    """Why not."""
    strange: tuple[str, ...] = ()
    """Places with token keys in the journal that the charter does not know."""


@dataclass(frozen=True, slots=True)
class NameSeen:
    """What one resolver says of a host."""

    host: str
    resolver: str
    addresses: tuple[str, ...]
    ttl_s: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TlsSeen:
    """The TLS certificate for ``host`` at the embassy; ``problem``: why nothing else is known."""

    host: str
    problem: str = ""
    covered: bool = False
    key_matches: bool | None = None
    """None: the key was not looked at."""
    begin: Instant = Instant(0)
    end: Instant = Instant(0)


@dataclass(frozen=True, slots=True)
class UpdateSeen:
    """Whether names can be moved: which server takes the key, or why none does; neither: there is no plan."""

    server: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class LogSeen:
    """How recent an issuer's statuses are here; see ``identity.contract.IssuerInfo``."""

    issuer: Label
    live: bool
    as_of: Instant
    next_update: Instant
    issued_known: bool


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """Another clock: it is ``ahead_s`` ahead of ours; or why it could not be read."""

    source: str
    ahead_s: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that ``check_kit`` goes by."""

    place: Label
    now: Instant
    decides: bool
    """The authority is here: statuses are as recent as now."""
    store_problem: str
    """Why the status store cannot be read; then nothing of the journal is known."""
    ladders: tuple[LadderSeen, ...]
    logs: tuple[LogSeen, ...]
    tokens: TokensSeen
    names: tuple[NameSeen, ...]
    tls: tuple[TlsSeen, ...]
    update: UpdateSeen
    clocks: tuple[ClockSeen, ...]
    arrival: str | None = None
    """Why what is sent to this place does not arrive, and what to do; empty: it does; None: nothing is awaited here."""


# What it means


def check_kit(gathered: Gathered) -> KitReport:
    """A row for each thing."""
    rows = [*_arrival(gathered), *_store(gathered), *_ladders(gathered), *_tokens(gathered.tokens)]
    rows += [*_names(gathered), *_tls(gathered), *_update(gathered.update), *_logs(gathered), *_clocks(gathered)]
    return KitReport(gathered.place, gathered.now, tuple(rows))


def _arrival(gathered: Gathered) -> Iterator[KitRow]:
    if gathered.arrival:
        yield KitRow("identity feed", RowState.ALARM, gathered.arrival[:500])
    elif gathered.arrival is not None:
        yield KitRow("identity feed", RowState.OK, "what is sent arrives here")


def _store(gathered: Gathered) -> Iterator[KitRow]:
    if gathered.store_problem:
        yield KitRow("status store", RowState.MISSING, gathered.store_problem)
    elif not gathered.logs:
        yield KitRow("status store", RowState.MISSING, "it can be read, and knows no issuing CA")
    else:
        yield KitRow("status store", RowState.OK, f"it can be read; {len(gathered.logs)} issuing CAs")


def _ladders(gathered: Gathered) -> Iterator[KitRow]:
    for seen in gathered.ladders:
        what = f"certificates of {seen.place} to answer for {seen.issuer}"
        state = look(seen.windows, now=gathered.now)
        if seen.unusable:
            yield KitRow(what, RowState.ALARM, "; ".join(seen.unusable)[:500], state.covered_until)
        elif state.ends is None:
            yield KitRow(what, RowState.MISSING, "there is none; ask for them: exclave identity csr")
        elif state.covered_until is None:
            yield KitRow(what, RowState.MISSING, f"none is valid before {_day(state.gaps[0].end)}")
        elif state.alarm:
            gaps = f"; gap from {_day(state.gaps[0].begin)} to {_day(state.gaps[0].end)}" if state.gaps else ""
            detail = f"less than {ALARM_DAYS} days are covered{gaps}; ask for more now: exclave identity csr"
            yield KitRow(what, RowState.ALARM, detail, state.covered_until)
        elif state.gaps:
            detail = f"gap from {_day(state.gaps[0].begin)} to {_day(state.gaps[0].end)}"
            yield KitRow(what, RowState.ALARM, detail, state.covered_until)
        else:
            detail = f"{len(seen.windows)}, without a gap; next request due {_day(state.request_due)}"
            yield KitRow(what, RowState.OK, detail, state.covered_until)


def _tokens(seen: TokensSeen) -> Iterator[KitRow]:
    if seen.strange:
        detail = f"the charter knows no such place, so they are not published: {', '.join(seen.strange)}"
        yield KitRow("token keys of strangers", RowState.ALARM, detail[:500])
    if not seen.own:
        yield KitRow("token keys", RowState.MISSING, "this place has none; make them: exclave identity csr")
        return
    if seen.unusable:
        yield KitRow("token keys", RowState.ALARM, "; ".join(seen.unusable)[:500])
    else:
        yield KitRow("token keys", RowState.OK, f"{len(seen.own)}, and they sign")
    yield _published("token keys in the journal", seen.own, seen.in_journal, "")
    yield _published("token keys in home's key set", seen.own, seen.at_home, seen.problem)


def _published(what: str, own: frozenset[str], there: frozenset[str] | None, problem: str) -> KitRow:
    if there is None:
        return KitRow(what, RowState.ALARM, problem)
    lacking = sorted(own - there)
    if lacking:
        return KitRow(what, RowState.MISSING, f"not published: {', '.join(lacking)}")
    return KitRow(what, RowState.OK, "all are published")


def _names(gathered: Gathered) -> Iterator[KitRow]:
    if not gathered.names:
        yield KitRow("names", RowState.MISSING, "no host or no resolver is configured to ask")
    for seen in gathered.names:
        what = f"{seen.host} asked of {seen.resolver}"
        if seen.problem or not seen.addresses:
            yield KitRow(what, RowState.ALARM, seen.problem or "it has no address")
        elif seen.ttl_s > MAX_TTL_S:
            detail = f"its time to live is {seen.ttl_s} s; a move would be seen so late. exclave identity names prepare"
            yield KitRow(what, RowState.ALARM, detail)
        else:
            yield KitRow(what, RowState.OK, f"{' '.join(seen.addresses)}, {seen.ttl_s} s")


def _tls(gathered: Gathered) -> Iterator[KitRow]:
    if not gathered.tls:
        yield KitRow("TLS certificate", RowState.MISSING, "none is configured for the log-in service's host")
    for seen in gathered.tls:
        what = f"TLS certificate for {seen.host}"
        days = (seen.end - gathered.now) // (DAY_S * 1_000_000)
        if seen.problem:
            yield KitRow(what, RowState.MISSING, seen.problem)
        elif seen.key_matches is False:
            yield KitRow(what, RowState.ALARM, "the key beside it is another one's", seen.end)
        elif not seen.covered:
            yield KitRow(what, RowState.ALARM, "it does not name this host", seen.end)
        elif gathered.now < seen.begin:
            yield KitRow(what, RowState.ALARM, f"it is not valid before {_day(seen.begin)}", seen.end)
        elif days < TLS_ALARM_DAYS:
            yield KitRow(what, RowState.ALARM, f"{max(days, 0)} days left" if days >= 0 else "it has ended", seen.end)
        else:
            unseen = "" if seen.key_matches else "; its key was not looked at"
            yield KitRow(what, RowState.OK, f"{days} days left{unseen}", seen.end)


def _update(seen: UpdateSeen) -> Iterator[KitRow]:
    what = "key that moves the names"
    if seen.problem:
        yield KitRow(what, RowState.ALARM, seen.problem)
    elif seen.server:
        yield KitRow(what, RowState.OK, f"{seen.server} takes it")
    else:
        yield KitRow(what, RowState.MISSING, "there is no names.toml")


def _logs(gathered: Gathered) -> Iterator[KitRow]:
    for seen in gathered.logs:
        what, age_s = f"statuses of {seen.issuer}", (gathered.now - seen.as_of) // 1_000_000
        if gathered.decides:
            yield KitRow(what, RowState.OK, "decided here")
        elif not seen.as_of:
            yield KitRow(what, RowState.MISSING, "nothing was ever confirmed; feed it")
        elif seen.live and age_s > LOG_MAX_AGE_S:
            yield KitRow(what, RowState.ALARM, f"as of {instant_text(seen.as_of)}: {age_s} s old, and it is fed live")
        elif not seen.live and seen.next_update and seen.next_update < gathered.now:
            yield KitRow(what, RowState.ALARM, f"a newer list was promised for {instant_text(seen.next_update)}")
        elif not seen.live and not seen.next_update and age_s > LIST_MAX_AGE_S:
            yield KitRow(what, RowState.ALARM, f"the last list is of {instant_text(seen.as_of)}")
        elif not seen.issued_known:
            yield KitRow(what, RowState.ALARM, "what was issued is not known, so good is said of nobody")
        else:
            yield KitRow(what, RowState.OK, f"as of {instant_text(seen.as_of)}")


def _clocks(gathered: Gathered) -> Iterator[KitRow]:
    if not gathered.clocks:
        yield KitRow("clock", RowState.MISSING, "there is nothing to compare it with")
    for seen in gathered.clocks:
        what = f"clock against {seen.source}"
        if seen.problem:
            yield KitRow(what, RowState.ALARM, seen.problem)
        elif abs(seen.ahead_s) > MAX_SKEW_S:
            yield KitRow(what, RowState.ALARM, f"it is {seen.ahead_s:+.0f} s from ours")
        else:
            yield KitRow(what, RowState.OK, f"within {MAX_SKEW_S:g} s")


def _day(instant: Instant) -> str:
    return instant_text(instant)[:10]

"""Timestamps of ledgers: asks the charter's authorities about the head that counts, keeps their tokens at all sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exclave.errors import ExclaveError, IntegrityError, MalformedError, NotAuthorised, OutcomeUnknown, UnavailableError
from exclave.formats.paths import ledger_prefix
from exclave.formats.timestamp import Authority, timestamp_key
from exclave.ids import Instant, Key, Label, RegisterId, instant_text, parse_instant
from exclave.operations.carry_public import timestamps_lacking
from exclave.operations.home import Home, write_private
from exclave.sites.contract import Site
from exclave.verify.history import read_history
from exclave.verify.state import StateView

Ask = Callable[[Authority, bytes], bytes]
"""Asks an authority about a message: ``ledger.timestamp_client.ask_timestamp``."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """What ``stamp`` did about one register."""

    entries: int
    """Of the newest epoch's log; 0: there was nothing to ask about."""
    authorities: tuple[Label, ...]
    """Those that dated them."""
    failed: dict[Label, str]
    """Authorities and sites that did not do their part, and why."""


def stamp(
    view: StateView,
    register: RegisterId,
    sites: Mapping[Label, Site],
    ask: Ask,
    *,
    only: frozenset[Label] | None = None,
) -> Stamped:
    """Has the charter's authorities (or ``only`` these) date what counts of the newest epoch's log.

    (1) the head that counts · (2) each authority's token, checked · (3) put to every site, with the tokens that other
    sites have. Nothing that an authority or a site does stops the others. A restart finds some tokens at some sites:
    each proves what it proves, and the next call brings them to the rest.
    """
    history = read_history(view, sites, register)  # (1)
    log = history.newest_log
    if log.freshest is None or not log.counted:
        return Stamped(0, (), {})
    prefix = ledger_prefix(view.state, register, log.epoch.number, log.epoch.digest)
    message = log.freshest.checkpoint.encode().encode()
    done: list[Label] = []
    failed: dict[Label, str] = {}
    tokens: list[tuple[Key, bytes]] = []
    for authority in view.chain.newest.charter.authorities:  # (2)
        if only is not None and authority.label not in only:
            continue
        try:
            token = ask(authority, message)
        except (UnavailableError, IntegrityError, NotAuthorised, MalformedError) as error:
            failed[authority.label] = error.message
            continue
        tokens.append((timestamp_key(prefix, log.counted, token), token))
        done.append(authority.label)
    for label, site in sites.items():  # (3)
        try:
            for key, token in [*tokens, *timestamps_lacking(view, history, site, sites)]:
                site.put_same(key, token)
        except (UnavailableError, IntegrityError, OutcomeUnknown) as error:
            failed[label] = error.message
    return Stamped(log.counted, tuple(done), failed)


def stamp_due(
    home: Home, view: StateView, register: RegisterId, sites: Mapping[Label, Site], ask: Ask, *, now: Instant
) -> Stamped:
    """``stamp`` by those authorities whose last token is as old as ``exclave.toml`` says; raises nothing.

    When each dated the register last stands in a file of home's: without it, one token more is asked for.
    """
    path = home.folder / "state" / f"{register}.stamped"
    last = _read(path.read_text() if path.exists() else "")
    due = frozenset(
        Label(one.name)
        for one in home.config.timestamp
        if one.every_s and now - last.get(Label(one.name), Instant(0)) >= one.every_s * 1_000_000
    )
    if not due:
        return Stamped(0, (), {})
    try:
        made = stamp(view, register, sites, ask, only=due)
    except ExclaveError as error:
        return Stamped(0, (), dict.fromkeys(due, error.message))
    last.update(dict.fromkeys(made.authorities, now))
    # A restart finds the former times, and asks once more.
    write_private(path, "".join(f"{label} {instant_text(at)}\n" for label, at in sorted(last.items())).encode())
    return made


def _read(text: str) -> dict[Label, Instant]:
    found: dict[Label, Instant] = {}
    for line in text.splitlines():
        label, _, at = line.partition(" ")
        try:
            found[Label(label)] = parse_instant(at)
        except MalformedError:
            continue
    return found

"""Composition root: from configuration and addresses to wired objects. The only place that knows every kind.

What only some commands need (captures, keys, witnesses, identity services, PostgreSQL) is loaded where it is wired:
loading all of it takes longer than a backup in which nothing has changed, or the check of a small embassy.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exclave.errors import ConfigError, Fenced, MalformedError, MissingObject, UsageError
from exclave.formats.limits import parse_limits, parse_zone
from exclave.formats.paths import ledger_origin
from exclave.ids import Fingerprint, Label, RegisterId, now, parse_label
from exclave.operations.home import Home, absolute_address, key_card, make_folder
from exclave.rules.bandwidth import rate_at
from exclave.sites.contract import Site, Sources
from exclave.sites.opening import open_site
from exclave.sites.patience import USUAL, Patience
from exclave.sites.retry import RetryPolicy
from exclave.sites.throttle import ThrottledSite, TokenBucket
from exclave.verify.state import StateView, read_state

if TYPE_CHECKING:
    from exclave.formats.annex import Dataset
    from exclave.formats.card import Card
    from exclave.formats.config import Config, SiteConfig
    from exclave.identity.contract import Tickets
    from exclave.keys.file import KeyFile
    from exclave.ledger.witness import Authority, Witness
    from exclave.operations.custody import OpenedRegister
    from exclave.operations.identity_place import IdentityPlace
    from exclave.operations.publish import OpenProver
    from exclave.operations.publish_folder import Source
    from exclave.registers.contract import Capture, Clock
    from exclave.sites.erasing import ErasingSite

BRISK = Patience(
    RetryPolicy(attempts=2, total_s=4.0, unmet_total_s=4.0, longest_rest_s=10.0),
    small_timeout_s=5.0,
    large_timeout_s=60.0,
)
"""For what looks again every second by itself: one silent site must not make the others' news old, and a home that is
heard again must see soon that it decides no more."""
REFUSAL_S = 2.0
"""So long a witness goes on refusing by what it read last; in seconds."""


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks of up to 32 MiB for the next ones, in two arenas.

    Otherwise each block and pack is mapped, zeroed page by page and unmapped again, which costs as much as the work
    on it. Other C libraries go on as they do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((-3, 32 << 20), (-1, 128 << 20), (-8, 2)):  # mmap and trim threshold, arenas
            mallopt(parameter, value)


def collect_seldom() -> None:
    """Tells Python to look for cycles seldom, and never among what is loaded by now.

    A backup makes some twenty small objects for each file, none of which is in a cycle: to look at them again and
    again takes a tenth of its time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def open_home(folder: Path) -> Home:
    """The home in ``folder``, which is made absolute."""
    return Home.open(folder.absolute())


def open_sites(home: Home, patience: Patience = USUAL) -> dict[Label, Site]:
    """All sites of a home's configuration, each held to its limits; nothing is contacted yet."""
    return {
        Label(s.name): limited(open_site(absolute_address(home.folder, s.url), patience=patience), s)
        for s in home.config.site
    }


def limited(site: Site, config: SiteConfig) -> Site:
    """``site``, with its bulk objects held to the limits that ``config`` has for the hour."""
    windows, zone = parse_limits(config.limit), parse_zone(config.limit_zone)
    if not windows:
        return site
    bucket = TokenBucket(lambda: rate_at(windows, zone, now()), clock=time.monotonic, sleep=time.sleep)
    return ThrottledSite(site, bucket)


def witness_addresses(config: Config) -> dict[Label, str]:
    """Addresses of the witnesses of a configuration."""
    return {Label(witness.name): witness.url for witness in config.witness}


def open_named_sites(addresses: Iterable[str], patience: Patience = USUAL) -> dict[Label, Site]:
    """Sites given on a command line as ``NAME=URL`` or ``URL`` (then called site-1, site-2, …)."""
    found: dict[Label, Site] = {}
    for number, address in enumerate(addresses, 1):
        name, equals, url = address.partition("=")
        if not equals and ":" not in address:
            raise UsageError(f"--site takes NAME=URL, not {address[:80]!r}", hint="For instance: lux=dir:/mnt/lux")
        if not equals or not name or "/" in name or ":" in name:
            name, url = f"site-{number}", address
        try:
            label = parse_label(name)
            if label in found:
                raise UsageError(f"two sites are called {label}")
            found[label] = open_site(absolute_address(Path.cwd(), url), patience=patience)
        except (MalformedError, ConfigError) as error:
            hint = "" if error.hint == error.default_hint else error.hint
            raise UsageError(f"--site {name}: {error.message}", hint=hint) from error
    if not found:
        raise UsageError("no site was named", hint="Name at least one with --site NAME=URL.")
    return found


def open_eraser(url: str) -> ErasingSite:
    """The power to erase at a site, for the one command that carries out an authorised erasure."""
    from exclave.sites.open_erasing import open_erasing  # noqa: PLC0415 - see the top

    return open_erasing(absolute_address(Path.cwd(), url))


def open_annex_sites(opened: Iterable[OpenedRegister], known: Mapping[Label, Site]) -> dict[Label, Site]:
    """The charter's sites by the addresses that the annexes tell; addresses that the user named win.

    A site that cannot be opened (a missing credential) is left out: recovery goes on from the others.
    """
    by_address = {site.address: site for site in known.values()}
    found: dict[Label, Site] = {}
    for register in opened:
        for site in register.annex.sites:
            label = Label(site.label)
            if label in known:
                found[label] = known[label]
            elif label not in found:
                try:
                    made = open_site(site.url)
                except ConfigError:
                    continue
                found[label] = by_address.get(made.address, made)
    return found


def open_identity(folder: Path, clock: Clock) -> IdentityPlace:
    """The place of the identity services in ``folder``. No site is contacted yet; the store may be behind the journal.

    ``UsageError`` or ``ConfigError`` for a folder that is no place.
    """
    from exclave.identity.journal import Journal  # noqa: PLC0415 - see the top
    from exclave.identity.key_folder import KeyFolder  # noqa: PLC0415
    from exclave.identity.keyring import Keyring  # noqa: PLC0415
    from exclave.identity.store_postgres import open_postgres  # noqa: PLC0415
    from exclave.identity.store_sqlite import open_sqlite  # noqa: PLC0415
    from exclave.identity.sync import Pen  # noqa: PLC0415
    from exclave.keys.file import load  # noqa: PLC0415
    from exclave.operations.identity_authority import AuthorityWatch  # noqa: PLC0415
    from exclave.operations.identity_place import PLACE_NAME, IdentityPlace, read_place  # noqa: PLC0415

    folder = folder.absolute()
    config = read_place(folder)
    key = load(str(folder / config.key))
    sites = {}
    for site in config.site:
        try:
            sites[Label(site.name)] = open_site(absolute_address(folder, site.url), patience=BRISK)
        except ConfigError as error:
            hint = error.hint if error.hint != error.default_hint else "Correct this [[site]]; nothing was changed."
            raise ConfigError(f"{folder / PLACE_NAME}: site {site.name}: {error.message}", hint=hint) from error
    for name in ("journal", "cache", "state"):
        make_folder(folder / name)
    state = config.serve.state
    store = open_postgres(state) if state else open_sqlite(str(folder / "cache" / "status.sqlite"))
    journal = Journal.open(str(folder / "journal"))
    watch = AuthorityWatch(
        Label(config.place), config.role == "home", key_card(key), folder, Fingerprint(config.fingerprint),
        RegisterId(config.register), sites, config.lease_s, clock, lambda head: journal.at(head.number) == head,
    )  # fmt: skip
    keys = KeyFolder(folder / "identity-keys")
    keyring = Keyring(keys, store, Label(config.place))
    writer = Pen(journal, store, watch.now, clock)
    return IdentityPlace(folder, config, key, sites, journal, store, writer, keys, keyring, watch, clock)


def open_tickets(place: IdentityPlace) -> Tickets:
    """Where challenges, codes and sessions are kept: in PostgreSQL where several processes share them."""
    from exclave.identity.tickets import SqliteTickets  # noqa: PLC0415 - see the top
    from exclave.identity.tickets_postgres import PostgresTickets  # noqa: PLC0415

    if place.config.serve.state:
        return PostgresTickets(place.config.serve.state)
    return SqliteTickets(str(place.folder / "cache" / "tickets.sqlite"))


def open_capture(dataset: Dataset, staging: Path, clock: Clock) -> Capture:
    """The capture of a configured dataset. ``ConfigError`` for wrong options."""
    from exclave.registers.files import FolderCapture  # noqa: PLC0415 - see the top

    options = dict(dataset.options)
    if dataset.kind == "postgres":
        from exclave.registers.postgres import PostgresCapture  # noqa: PLC0415 - see the top
        from exclave.registers.postgres_source import postgres_source  # noqa: PLC0415

        numbers: dict[str, str | int] = dict(options)
        if "port" in options:
            try:
                numbers["port"] = int(options["port"])
            except ValueError as error:
                raise ConfigError(f"dataset {dataset.name}: port must be a number") from error
        return PostgresCapture(postgres_source(numbers), clock)
    path = options.pop("path", "")
    skip = options.pop("skip", "") if dataset.kind == "files" else ""
    if not path.startswith("/") or options:
        raise ConfigError(f"dataset {dataset.name}: a dataset of kind {dataset.kind} needs an absolute `path`, no more")
    if dataset.kind == "sqlite":
        from exclave.registers.sqlite import SqliteCapture  # noqa: PLC0415

        return SqliteCapture(Path(path), staging, clock)
    if dataset.kind == "identity":
        return FolderCapture(Path(path), clock)
    return FolderCapture(Path(path), clock, skip=frozenset(part.encode() for part in skip.split(":") if part))


def open_publishing(home: Home, name: str, dataset: str) -> tuple[Source, OpenProver]:
    """The folder that is published of the register ``name``, and who proves its files; ``dataset``: empty if it has
    that one only. ``UsageError`` if that is not clear: beside a database, the one folder may be its application's.
    """
    from exclave.operations.publish_folder import Source  # noqa: PLC0415 - see the top
    from exclave.operations.publish_proofs import HomeProvers  # noqa: PLC0415

    config = home.config.find_register(name)
    found = {one.name: one for one in config.dataset if one.kind == "files"}
    if not dataset and (len(found) != 1 or len(config.dataset) != 1):
        raise UsageError(
            f"register {name} has {len(config.dataset)} datasets, {len(found)} of files: name one with --dataset"
        )
    chosen = found.get(dataset) if dataset else next(iter(found.values()))
    if chosen is None:
        raise UsageError(f"register {name} has no dataset of files {dataset!r}; it has: {', '.join(found) or 'none'}")
    skip = str(chosen.options.get("skip", ""))
    source = Source(str(chosen.options.get("path", "")), Label(chosen.name), frozenset(p for p in skip.split(":") if p))
    return source, HomeProvers(home, name, source.dataset)


def witness_authority(sources: Sources, state: Fingerprint) -> Authority:
    """What a witness goes by: the charter and epochs of ``state`` as its sites show them at this moment.

    A view of the last ``REFUSAL_S`` serves to refuse former writers and other states' logs, so that a flood of them
    costs no reading. Whoever may have the pen, or is not known yet, is answered by what the sites show now.
    """
    known: tuple[float, StateView] | None = None

    def authority(origin: str) -> Card:
        nonlocal known
        if not origin.startswith(f"exclave/{state}/"):
            raise MissingObject(f"no register of this state has the log {origin}")
        if known is not None and time.monotonic() - known[0] < REFUSAL_S:
            _find_writer(known[1], origin)
        view = read_state(sources, state)
        known = time.monotonic(), view
        writer = _find_writer(view, origin)
        if writer is None:
            raise MissingObject(f"no register of this state has the log {origin}")
        return writer

    return authority


def _find_writer(view: StateView, origin: str) -> Card | None:
    """The writer of the log ``origin``, None if there is none; ``Fenced`` if its epoch is over."""
    for register, chain in view.epochs.items():
        for epoch in chain.epochs:
            if ledger_origin(view.state, register, epoch.number) == origin:
                newest = chain.newest
                if newest.number != epoch.number:
                    raise Fenced(f"epoch {newest.number} has the pen, epoch {epoch.number} may write no more")
                return epoch.writer
    return None


def make_witness(folder: Path, key: KeyFile, sources: Sources, state: Fingerprint) -> Witness:
    """A witness with its memory in ``folder``."""
    from exclave.ledger.witness import Witness  # noqa: PLC0415 - see the top
    from exclave.ledger.witness_store import WitnessStore  # noqa: PLC0415

    return Witness(WitnessStore(folder), key_card(key), key.signing(), witness_authority(sources, state))

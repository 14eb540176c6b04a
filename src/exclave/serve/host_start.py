"""From host.toml to a host's duties at work: guards, cosigners, erasures, the watch and the page."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from exclave.app import open_named_sites
from exclave.errors import ConfigError
from exclave.formats.hostconfig import HostDuties, page_address
from exclave.ids import Fingerprint, Instant, Label
from exclave.keys.file import KeyFile, KeyKind, load
from exclave.ledger.mirror import Mirror
from exclave.ledger.witness import Witness
from exclave.ledger.witness_store import WitnessStore
from exclave.operations.home import key_card, make_folder
from exclave.operations.host_erasure import HostErasure
from exclave.serve.host_access import AccessLog
from exclave.serve.host_duties import HostedViews, Signers, make_duties, read_views
from exclave.serve.host_page import build_app, start
from exclave.serve.host_watch import HostWatch
from exclave.serve.site import Hosting
from exclave.serve.site_contract import Duties, HostedState
from exclave.serve.site_counts import GatewayCounts
from exclave.sites.coded_erasing import MemberEraser
from exclave.sites.contract import Site
from exclave.sites.erasing import DirectoryEraser


@contextmanager
def running_host(
    hosting: Hosting,
    folder: Path,
    counts: GatewayCounts,
    clock: Callable[[], Instant],
    told: Callable[[str], None],
) -> Iterator[Duties]:
    """The duties, with watch and page running until the end. ``folder``: that of host.toml.

    ``ConfigError`` for what host.toml names and is not there.
    """
    config = hosting.config.duties
    states = tuple(hosting.states)
    memory = (folder / config.memory) if config.memory else None
    if memory is not None:
        make_folder(memory)
        if config.access_log:
            counts.note = AccessLog(memory, [state.fingerprint for state in states], clock).note
    views = read_views(states, clock)
    signers = _signers(config, folder, memory, views)
    erasures = {} if config.erase == "never" else {s.fingerprint: _erasure(s) for s in states}
    watch = HostWatch(
        states, erasures, memory, config.scrub_days, config.erase == "daily", clock, lambda: time.monotonic_ns() // 1000
    )
    address = page_address(config)
    stop: Callable[[], None] = lambda: None  # noqa: E731
    if address is not None:
        names = frozenset({f"[{address[0]}]" if ":" in address[0] else address[0]})
        port, stop = start(build_app(hosting.config.name, watch, counts, names), address)
        told(f"the operator's page is at http://{next(iter(names))}:{port}")
    keepers = [
        threading.Thread(target=run, name=name, daemon=True)
        for name, run in (("watch", watch.run), ("scrub", watch.run_scrubs))
    ]
    for keeper in keepers:
        keeper.start()
    try:
        yield make_duties(views, signers, erasures, clock, watch.clock_fault)
    finally:
        watch.stop()
        stop()
        for keeper in keepers:
            keeper.join(timeout=10)


def _signers(config: HostDuties, folder: Path, memory: Path | None, views: HostedViews) -> Signers:
    if memory is None or not config.witness_key:
        return Signers()
    key = _key(folder / config.witness_key)
    witness = Witness(WitnessStore(memory / "witness"), key_card(key), key.signing(), views.logs.writer)
    if not config.mirror_key:
        return Signers(witness)
    other = _key(folder / config.mirror_key)
    store = WitnessStore(memory / "mirror")
    return Signers(witness, Mirror(views.logs, witness, key_card(key), store, key_card(other), other.signing()))


def _key(path: Path) -> KeyFile:
    key = load(os.fspath(path))
    if key.kind is not KeyKind.WITNESS:
        raise ConfigError(
            f"host.toml: {path} is the key of a {key.kind}, not of a witness",
            hint="Make one with: exclave custodian new NAME --kind witness --out FOLDER",
        )
    return key


def _erasure(state: HostedState) -> HostErasure:
    def others() -> Mapping[Label, Site]:
        return open_named_sites(state.config.others) if state.config.others else {}

    label = Label(state.config.site) if state.config.site else None
    power = MemberEraser(state.site, DirectoryEraser(state.folder))
    return HostErasure(label, state.site, power, Fingerprint(state.fingerprint), others, state.usage.recount)

"""One place of the identity services: its folder, and what is opened from it.

::

    place.toml          what this place is (docs/spec/identity-config.md)
    identity.toml       at home: what is entered into the journal for all places
    journal/            the identity journal, the register's dataset
    identity-keys/      this place's signing keys
    state/              what was taken up, how far the feed was sent, statements
    cache/              the store and tickets; may be thrown away
    serve.lock          held by the process that serves
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exclave.errors import Busy, ConfigError, UnavailableError, UsageError
from exclave.formats.annex import Annex
from exclave.formats.card import Card
from exclave.formats.identityconfig import IdentityConfig, PlaceConfig, parse_identity_config, parse_place_config
from exclave.identity.contract import AuthorityNow, JournalWriter
from exclave.identity.journal import Journal
from exclave.identity.key_folder import KeyFolder
from exclave.identity.keyring import Keyring
from exclave.identity.store import Store
from exclave.ids import Fingerprint, Instant, Label, RegisterId
from exclave.keys.file import KeyFile
from exclave.operations.custody import read_card
from exclave.operations.exile import toml_text
from exclave.operations.failover_run import Run
from exclave.operations.home import make_folder, read_limited, write_private
from exclave.operations.identity_authority import AuthorityWatch
from exclave.sites.contract import Site

PLACE_NAME = "place.toml"
CONFIG_NAME = "identity.toml"
HOME = Label("home")
LIVE_PATH = "/health/live"
DECIDES_PATH = "/health/decides"
_LIMIT = 256 << 10


@dataclass(frozen=True, slots=True)
class IdentityPlace:
    """Everything that a place's programs work with. Made by ``app.open_identity``."""

    folder: Path
    config: PlaceConfig
    key: KeyFile
    sites: Mapping[Label, Site]
    journal: Journal
    store: Store
    writer: JournalWriter
    keys: KeyFolder
    keyring: Keyring
    watch: AuthorityWatch
    clock: Callable[[], Instant]

    @property
    def label(self) -> Label:
        return Label(self.config.place)

    @property
    def is_home(self) -> bool:
        return self.config.role == "home"

    @property
    def state(self) -> Fingerprint:
        return Fingerprint(self.config.fingerprint)

    @property
    def register(self) -> RegisterId:
        return RegisterId(self.config.register)

    @property
    def authority(self) -> AuthorityNow:
        return self.watch.now

    def places(self) -> frozenset[Label] | None:
        """Home and the charter's sites, where embassies are; None before a site has been read."""
        view = self.watch.view
        if view is None:
            return None
        return frozenset({HOME, self.label, *(site.label for site in view.chain.newest.charter.sites)})

    def settings(self) -> IdentityConfig:
        """What all places were told last. ``UnavailableError`` if nothing has arrived yet."""
        data = self.store.settings()
        if data is None:
            raise UnavailableError(
                "the services' settings have not arrived here yet",
                hint="At home run `exclave identity enter`; at an embassy wait until the feed was followed once.",
            )
        return parse_identity_config(data)

    def standby_cards(self) -> dict[Label, Card]:
        """Machines of the places that stand by: the feed is sealed to them."""
        from_file = {Label(e.place): self.folder / e.card for e in self.config.embassy}
        return {label: read_card(path) for label, path in from_file.items()}

    def close(self) -> None:
        self.store.close()
        self.keys.close()


def read_place(folder: Path) -> PlaceConfig:
    """``place.toml``. ``UsageError`` if there is none, ``ConfigError`` if it is wrong."""
    path = folder / PLACE_NAME
    if not path.exists():
        raise UsageError(f"there is no {PLACE_NAME} in {folder}", hint="Make one with `exclave identity init`.")
    return parse_place_config(read_limited(path, _LIMIT))


def login_port(folder: Path) -> int:
    """Where the log-in service of this place listens. ``ConfigError`` unless it is a port of this machine."""
    listen = read_place(folder).serve.login
    host, _, port = listen.rpartition(":")
    if not port.isdigit() or host not in ("127.0.0.1", "localhost", "[::1]"):
        raise ConfigError(f"{folder / PLACE_NAME}: serve.login must be a port on this machine, not {listen}",
                          hint=f"Correct {PLACE_NAME}; nothing was changed.")  # fmt: skip
    return int(port)


def is_served(folder: Path) -> bool:
    """Whether a process serves this place now."""
    try:
        with serving(folder):
            return False
    except Busy:
        return True


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Holds the place for one serving process, until it ends, however it dies; ``Busy`` if another one has it."""
    make_folder(folder)
    handle = os.open(folder / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"the identity services of {folder} are served by another process") from error
        yield
    finally:
        os.close(handle)


def place_text(
    *, place: str, role: str, fingerprint: str, register: str, key: str, sites: Mapping[str, str],
    status: str, login: str,
) -> str:  # fmt: skip
    """A new ``place.toml``. ``UsageError`` for what cannot stand there."""
    lines = [
        "# What this place of the identity services is; docs/spec/identity-config.md tells all that can be said here.",
        f"place = {toml_text(place)}",
        f"role = {toml_text(role)}",
        f"fingerprint = {toml_text(fingerprint)}",
        f"register = {toml_text(register)}",
        f"key = {toml_text(key)}",
    ]
    for name, url in sorted(sites.items()):
        lines += ["", "[[site]]", f"name = {toml_text(name)}", f"url = {toml_text(url)}"]
    lines += ["", "[serve]", f"status = {toml_text(status)}", f"login = {toml_text(login)}"]
    text = "\n".join(lines) + "\n"
    try:
        parse_place_config(text.encode())
    except ConfigError as error:
        raise UsageError(error.message, hint="Correct what was typed; nothing was written.") from error
    return text


def settle_place(run: Run, annex: Annex) -> None:
    """A ``place.toml`` for a bare machine that takes over; one that is there stays as it is."""
    if (run.identity / PLACE_NAME).exists():
        return
    register = next(r for r, o in run.opened.items() if o.annex.name == annex.name)
    text = place_text(
        place=run.place, role="embassy", fingerprint=run.view.state, register=register,
        key=str(run.folder / "keys" / "writer.key"), sites={s.label: s.url for s in annex.sites},
        status="127.0.0.1:8421", login="127.0.0.1:8422",
    )  # fmt: skip
    write_private(run.identity / PLACE_NAME, text.encode())
    run.say(f"{annex.name}: no identity services stood by here: this place has no certificates to answer with yet")

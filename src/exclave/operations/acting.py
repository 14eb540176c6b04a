"""What every act on certificates shares: the order is the one that was signed for, and this place may carry it out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from exclave.errors import Fenced, MalformedError, NotAuthorised, UsageError, WarrantExpired, WarrantForeign
from exclave.formats.warrant import Act, ParsedWarrant
from exclave.identity.contract import Authority, AuthorityNow, Clock, JournalWriter, StatusStore
from exclave.identity.warranted import Readable
from exclave.ids import Digest, Instant, RegisterId, instant_text
from exclave.keys.file import KeyFile
from exclave.operations.act_fact import Facts
from exclave.operations.custody import Granted, grant
from exclave.operations.home import key_card
from exclave.operations.identity_place import IdentityPlace
from exclave.verify.state import StateView

REFRESH_S = 5
_COPY_BYTES = 1 << 20


class Identity(Protocol):
    """The identity services of one place, as far as acts need them; opened from an embassy's folder."""

    @property
    def writer(self) -> JournalWriter: ...

    @property
    def store(self) -> StatusStore: ...

    @property
    def journal(self) -> Readable: ...

    @property
    def authority(self) -> AuthorityNow: ...

    @property
    def register(self) -> RegisterId:
        """The register that holds the identity journal."""


@dataclass(slots=True)
class WatchedPlace:
    """A place whose sites are read again while an act goes on: a long one sees that another place took over."""

    place: IdentityPlace
    read: Instant
    """When the sites were read last."""

    @property
    def writer(self) -> JournalWriter:
        return self.place.writer

    @property
    def store(self) -> StatusStore:
        return self.place.store

    @property
    def journal(self) -> Readable:
        return self.place.journal

    @property
    def register(self) -> RegisterId:
        return self.place.register

    @property
    def authority(self) -> AuthorityNow:
        return self._now

    def _now(self) -> Authority:
        now = self.place.clock()
        if abs(now - self.read) >= REFRESH_S * 1_000_000:
            self.place.watch.refresh()
            self.read = now
        return self.place.watch.now()


@dataclass(frozen=True, slots=True)
class Desk:
    """A warrant with its answers, on the machine that wants to act."""

    view: StateView
    identity: Identity
    facts: Facts
    warrant: Path
    answers: Sequence[Path]
    machine: KeyFile
    clock: Clock

    def authorise(self, act: Act, order: Digest) -> Authorised:
        """Returns if the quorum allows ``act`` with this order file, at this place, on this machine, now.

        ``NotAuthorised`` if this place does not decide, ``Fenced`` if it does not hold the register's newest epoch;
        else as ``operations.custody.grant``.
        """
        authority = self.identity.authority()
        if not authority.decides:
            why = f": {authority.why}" if authority.why else ""
            raise NotAuthorised(
                f"{authority.place} does not decide about certificates now ({authority.state}){why}",
                hint="Act where the authority is, or move it here first.",
            )
        granted = grant(
            self.view, self.warrant, self.answers, act=act, place=authority.place, machine=self.machine,
            now=self.clock(), object=order,
        )  # fmt: skip
        if not granted.warrant.covers(self.identity.register):
            raise WarrantForeign(f"the warrant does not name register {self.identity.register}, which has the journal")
        epoch = self.view.epoch_chain(self.identity.register).newest
        if epoch.number != authority.epoch or epoch.writer.digest != key_card(self.machine).digest:
            raise Fenced(
                f"epoch {epoch.number} of register {self.identity.register} is with {epoch.writer.name}",
                epoch=epoch.number,
            )
        return Authorised(self, granted, epoch.number)


@dataclass(frozen=True, slots=True)
class Authorised:
    """An act that may go on. Built only by ``Desk.authorise``."""

    desk: Desk
    granted: Granted
    epoch: int

    @property
    def warrant(self) -> ParsedWarrant:
        return self.granted.warrant.warrant

    @property
    def digest(self) -> Digest:
        return self.granted.warrant.digest

    def still(self) -> Instant:
        """The time, if the act may still go on; asked for before each batch. ``WarrantExpired``, ``Fenced``."""
        now, authority = self.desk.clock(), self.desk.identity.authority()
        if now > self.warrant.not_after:
            raise WarrantExpired(f"the warrant held until {instant_text(self.warrant.not_after)}")
        if not authority.decides or authority.epoch != self.epoch:
            raise Fenced(f"{authority.place} does not decide any more", epoch=authority.epoch)
        return now


@contextmanager
def own_copy(path: Path, limit: int) -> Iterator[BinaryIO]:
    """A copy of ``path`` that nobody else can change while it is read several times; at most ``limit`` bytes.

    ``UsageError`` if it cannot be read, ``MalformedError`` if it is longer.
    """
    with tempfile.TemporaryFile() as copy:
        try:
            with open(path, "rb") as file:
                while data := file.read(_COPY_BYTES):
                    if copy.tell() + len(data) > limit:
                        raise MalformedError(f"{path} is longer than {limit} bytes")
                    copy.write(data)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        copy.seek(0)
        yield copy

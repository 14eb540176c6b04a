"""CA software pushes its decisions to this place: who may, and one message at a time, whichever process takes it."""

from __future__ import annotations

import fcntl
import os

from exclave.crypto.jws import MAX_KEY_BYTES, parse_sender_key
from exclave.errors import ConfigError, MalformedError
from exclave.identity.feeding.pushing import PushDesk, Sender, Taken
from exclave.identity.sync import catch_up
from exclave.ids import Label
from exclave.operations.home import read_limited
from exclave.operations.identity_place import IdentityPlace


class PlacePushDesk(PushDesk):
    """Several processes may serve a place: a lock in its folder makes each message wait for the one before."""

    def __init__(self, place: IdentityPlace) -> None:
        """``ConfigError`` for a sender's key that is none."""
        super().__init__(_senders(place), place.store, place.writer, place.clock)
        self._place = place

    def take(self, sender: Sender, content: bytes) -> Taken:
        """As in ``PushDesk``; what another process took just before is known."""
        handle = os.open(self._place.folder / "state" / "push.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            catch_up(self._place.journal, self._place.store)
            return super().take(sender, content)
        finally:
            os.close(handle)


def _senders(place: IdentityPlace) -> dict[Label, Sender]:
    found: dict[Label, Sender] = {}
    for ref in place.config.sender:
        path = place.folder / ref.key
        try:
            key = parse_sender_key(read_limited(path, MAX_KEY_BYTES))
        except MalformedError as error:
            raise ConfigError(f"{path}: {error.message}", hint=f"Correct it, or the [[sender]] {ref.name}.") from error
        found[Label(ref.name)] = Sender(Label(ref.name), key, Label(ref.issuer))
    return found

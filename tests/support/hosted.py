"""A small state whose second site is a host's folder, behind its guard."""

from __future__ import annotations

from pathlib import Path

from exclave.formats.checkpoint import Checkpoint
from exclave.formats.paths import ledger_origin
from exclave.formats.tile import Tile, bundle_key, checkpoint_key, encode_bundle, encode_tile, tile_key
from exclave.ids import Key, sha256
from exclave.ledger.write_guard import Wanted, WriteGuard
from exclave.rules.checkpoints import sign_checkpoint
from exclave.rules.tree import leaf_hash, root_of
from exclave.sites.directory import DirectorySite
from exclave.verify.hosted import HostedView
from support.custody import Actor
from support.small_state import SmallState


class Hosted:
    """A small state whose second site is a host's folder, behind its guard."""

    def __init__(self, root: Path) -> None:
        self.state = SmallState(root, sites=("home", "host"))
        self.folder = self.state.site_folder("host")
        self.site = DirectorySite(str(self.folder))
        self.view = HostedView(str(self.folder), self.site, self.state.state, elapsed_s=lambda: 0.0)
        self.guard = WriteGuard(self.site, self.view, str(self.folder), lambda: self.host_time)
        self.host_time = self.state.time
        for number in range(3):
            self.state.append(f"entry {number}\n".encode())

    @property
    def prefix(self) -> str:
        return self.state.ledger_prefix(self.state.epochs[0])

    @property
    def head_key(self) -> Key:
        return checkpoint_key(self.prefix)

    def put(self, key: Key, data: bytes) -> None:
        """As the gateway does: asks before, asks with the bytes, and stores."""
        for arrived in (None, data):
            self.guard.check_put(Wanted(key, sha256(data), len(data), arrived))
        self.site.put_same(key, data)

    def replace(self, key: Key, data: bytes, expected: str | None = "now") -> None:
        shown = self.site.read_head(key)
        tag = (shown.tag if shown else None) if expected == "now" else expected
        for arrived in (None, data):
            self.guard.check_head(Wanted(key, sha256(data), len(data), arrived), tag)
        self.site.replace_if(key, data, tag)

    def repair(self, key: Key, data: bytes) -> None:
        spoilt = sha256(self.site.get(key))
        for arrived in (None, data):
            self.guard.check_spoilt(Wanted(key, sha256(data), len(data), arrived))
        self.site.replace_spoilt(key, data, spoilt)

    def head(self, entries: list[bytes], by: Actor | None = None) -> bytes:
        """A head over ``entries``, signed by the first epoch's writer or ``by``."""
        origin = ledger_origin(self.state.state, self.state.register, self.state.epochs[0].note.epoch)
        root = root_of([leaf_hash(entry) for entry in entries])
        pair = (by or self.state.epochs[0].by).pair
        return sign_checkpoint(Checkpoint(origin, len(entries), root), pair, self.state.time).encode()

    def lay_out(self, entries: list[bytes], put: bool = True) -> None:
        """The tile and bundle of a log of at most 255 ``entries``."""
        width = len(entries)
        store = self.put if put else self.site.put_same
        store(bundle_key(self.prefix, 0, width), encode_bundle(entries))
        store(tile_key(self.prefix, Tile(0, 0, width)), encode_tile([leaf_hash(e) for e in entries]))


ENTRIES = [f"entry {number}\n".encode() for number in range(3)]
"""What the log has at first."""

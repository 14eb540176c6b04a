"""How a coded site cuts an object across its members. Page: ``docs/spec/coded.md``.

An object longer than ``WHOLE_BYTES`` that is named by its SHA-256 becomes n shards, any k of which give it back: k hold
its bytes in order, the others are Reed-Solomon parity (Cauchy matrix, GF(2^8), as ISA-L makes it). The shards stand
under the SHA-256 of the object's name and that of their bytes; a *descriptor* under that name says which they are. All
else lies whole at every member. What is the coded site's own (shards, votes about names) stands in the folder ``part``
beside the objects that it is for.

Descriptor, 52 + 32 n bytes, numbers big-endian::

    0   8   "EXCLSHD1"
    8   1   k
    9   1   n
    10  2   0
    12  8   bytes of the object
    20  32  SHA-256 of the object
    52  32n SHA-256 of each shard, in order
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exclave.errors import ConfigError, CorruptObject, MalformedError
from exclave.ids import Digest, Key, parse_digest, sha256

if TYPE_CHECKING:
    from pyeclib.ec_iface import ECDriver

MAGIC = b"EXCLSHD1"
WHOLE_BYTES = 64 << 10
"""Up to so many bytes an object lies whole at every member; so does all that is named by its place: ledgers, heads."""
MAX_MEMBERS = 16
PARTS = "part"
"""Folder of the coded site's own names: below an object's first folder, so that each state's are its own."""
_MAX_AREA = 100
_HEAD = struct.Struct(">8sBBHQ32s")
_ALIGN = 16
_MOST = 64 << 20


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Which shards make an object."""

    k: int
    size_bytes: int
    digest: Digest
    """SHA-256 of the object."""
    shards: tuple[Digest, ...]
    """n of them; the first k hold its bytes in order."""

    @property
    def shard_bytes(self) -> int:
        """Length of each shard but the k-th, which ends with the object."""
        return -(-self.size_bytes // (self.k * _ALIGN)) * _ALIGN

    def length_of(self, index: int) -> int:
        """Bytes of shard ``index``."""
        if index == self.k - 1:
            return self.size_bytes - (self.k - 1) * self.shard_bytes
        return self.shard_bytes

    def encode(self) -> bytes:
        head = _HEAD.pack(MAGIC, self.k, len(self.shards), 0, self.size_bytes, self.digest)
        return head + b"".join(self.shards)


def parse_descriptor(data: bytes) -> Descriptor:
    """Strict inverse of ``Descriptor.encode``. Raises ``MalformedError``."""
    if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
        raise MalformedError("this is no descriptor of shards")
    _, k, n, zero, size, digest = _HEAD.unpack_from(data)
    if zero or not 2 <= k < n <= MAX_MEMBERS or not 0 < size <= _MOST or len(data) != _HEAD.size + 32 * n:
        raise MalformedError("a descriptor of shards has impossible numbers")
    shards = tuple(Digest(data[at : at + 32]) for at in range(_HEAD.size, len(data), 32))
    found = Descriptor(k, size, Digest(digest), shards)
    if found.length_of(k - 1) <= 0:
        raise MalformedError("a descriptor of shards has impossible numbers")
    return found


def descriptor_bytes(n: int) -> int:
    """Length of a descriptor of ``n`` shards."""
    return _HEAD.size + 32 * n


def _area(key: Key) -> str:
    first, slash, _ = key.partition("/")
    return f"{first}/{PARTS}/" if slash and len(first) <= _MAX_AREA else f"{PARTS}/"


def part_key(key: Key, shard: Digest) -> Key:
    """Where a shard of the object ``key`` stands at its member. It is that object's alone: whoever has one erased, by a
    descriptor that he made or under another name, takes nothing of the others."""
    owner = sha256(key.encode()).hex()
    return Key(f"{_area(key)}{owner[:2]}/{owner}-{shard.hex()}")


def vote_key(key: Key) -> Key:
    """Where a member keeps its vote about the name ``key``."""
    return Key(f"{_area(key)}vote/{sha256(key.encode()).hex()}/head")


def is_own(name: str) -> bool:
    """Whether a name is the coded site's own, and no object."""
    return PARTS in name.split("/")[:2]


def named_digest(key: Key) -> Digest | None:
    """The SHA-256 that an object must have by its name: of names whose last part is 64 hex digits."""
    try:
        return parse_digest(key.rpartition("/")[2])
    except MalformedError:
        return None


class Code:
    """k of n. Safe for several threads."""

    def __init__(self, k: int, n: int) -> None:
        """``ConfigError`` for impossible numbers, or if the library is not installed."""
        if not 2 <= k < n <= MAX_MEMBERS:
            raise ConfigError(f"a coded site has k of n members with 2 <= k < n <= {MAX_MEMBERS}, not {k} of {n}")
        try:
            from pyeclib.ec_iface import ECDriver  # noqa: PLC0415 - an extra that only coded sites need
        except ImportError as error:
            raise ConfigError("a coded site needs pyeclib", hint="Install it: pip install 'exclave[coded]'.") from error
        self.k, self.n = k, n
        self._driver: ECDriver = ECDriver(k=k, m=n - k, ec_type="isa_l_rs_cauchy")
        self._lock = threading.Lock()

    def cut(self, data: bytes | memoryview) -> tuple[Descriptor, list[bytes]]:
        """The descriptor of ``data`` and its n shards."""
        plan = Descriptor(self.k, len(data), sha256(data), (Digest(bytes(32)),) * self.n)
        padded = bytes(data) + bytes(self.k * plan.shard_bytes - len(data))
        with self._lock:
            fragments = self._driver.encode(padded)
        shards = [fragment[-plan.shard_bytes :] for fragment in fragments]
        shards[self.k - 1] = shards[self.k - 1][: plan.length_of(self.k - 1)]
        names = tuple(sha256(shard) for shard in shards)
        return Descriptor(self.k, len(data), plan.digest, names), shards

    def join(self, plan: Descriptor, shards: Mapping[int, bytes]) -> bytes:
        """The object from any k of its shards, by number. ``CorruptObject`` if they do not give it."""
        size = plan.shard_bytes
        whole = {index: shard + bytes(size - len(shard)) for index, shard in shards.items()}
        if all(index in whole for index in range(self.k)):
            data = b"".join(whole[index] for index in range(self.k))
        else:
            # The library's own fragment headers depend on nothing but the lengths: those of zeros are taken.
            with self._lock:
                blank = self._driver.encode(bytes(self.k * size))
                data = self._driver.decode([blank[at][:-size] + whole[at] for at in sorted(whole)])
        data = data[: plan.size_bytes]
        if hashlib.sha256(data).digest() != plan.digest:
            raise CorruptObject("the shards of this object do not give the bytes that its descriptor names")
        return data


def most_shown(shown: Sequence[bytes]) -> bytes:
    """Of what members show under one name, what most show; of equally many, the first."""
    return max(shown, key=shown.count)

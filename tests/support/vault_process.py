"""One backup or restore in a process of its own, to be killed or measured.

``vault_process.py back-up SITE CACHE SOURCE``, ``back-up-generated SITE CACHE MEGABYTES`` or
``restore SITE MANIFEST TARGET``. Prints ``start``, then what came of it as JSON.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from exclave.formats.entry import Captured, Entry
from exclave.ids import Digest, Label
from exclave.sites.directory import DirectorySite
from support.vault import Vault


class _Noise:
    """A file of ``size`` bytes that no compressor shortens, with a hole of the same length in its middle."""

    def __init__(self, seed: int, size: int) -> None:
        self._seed, self._size = seed, size

    def blocks(self) -> Iterator[bytes | int]:
        noise = random.Random(self._seed)
        for at in range(0, self._size, 1 << 20):
            yield noise.randbytes(min(1 << 20, self._size - at))
            if at == (self._size >> 21) << 20:
                yield self._size


def generated(megabytes: int) -> Iterator[Captured]:
    """Half of it in one file, half in files of 100 KiB."""
    yield Captured(Entry(b"", 1, 0o755, 0, 0, 0))
    half = megabytes << 19
    yield Captured(Entry(b"large", 0, 0o600, 0, 0, 0, 2 * half), None, _Noise(1, half))
    yield Captured(Entry(b"small", 1, 0o755, 0, 0, 0))
    for n in range(half // 200_000):
        yield Captured(Entry(b"small/%08d" % n, 0, 0o600, 0, 0, 0, 200_000), None, _Noise(n, 100_000))


def peak_mib() -> int:
    """Largest resident size of this process. (``ru_maxrss`` would count the one that started it, too.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    raise RuntimeError("/proc/self/status has no VmHWM")


def main(verb: str, site: str, second: str, third: str) -> None:
    sites = {Label("one"): DirectorySite(site)}
    print("start", flush=True)
    told: dict[str, object] = {}
    if verb == "restore":
        Vault(Path("/nonexistent"), dict(sites)).restore(Digest(bytes.fromhex(second)), Path(third))
    else:
        vault = Vault(Path(second), dict(sites))
        version = vault.back_up(Path(third) if verb == "back-up" else generated(int(third)))
        told = {"manifest": version.manifest.hex(), "raw": version.new_raw_bytes}
    told["peak_mib"] = peak_mib()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the hardware allows, measured in the same run: each figure of the table is read beside these.

python bench/limits.py
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from treefiles import MIB, WORK

BUFFER = 16 * MIB
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Rates in MB/s."""

    sha256_one_core: float
    sha256_all_cores: float
    aes_gcm_all_cores: float
    memory_copy_one_core: float
    disk_write_synced: float  # 1 GiB by dd, 16 MiB at a time, each synced (oflag=dsync)


def measure_limits(folder: Path) -> Limits:
    """About ten seconds; ``folder`` is on the disk that is measured."""
    cores = len(os.sched_getaffinity(0))
    buffers = [os.urandom(MIB) * (BUFFER // MIB) for _ in range(cores)]
    return Limits(
        _rate(lambda: _hash(buffers[0]), BUFFER),
        _rate(lambda: _on_all(_hash, buffers), BUFFER * cores),
        _rate(lambda: _on_all(_seal, buffers), BUFFER * cores),
        _rate(lambda: bytearray(buffers[0]), BUFFER),
        _disk(folder),
    )


def sha256_of_files(paths: list[Path], workers: int) -> float:
    """MB/s at which ``workers`` threads read the files from the page cache and hash them: what a verifier must do."""
    for path in paths:
        path.read_bytes()
    return hash_files(paths, workers)


def hash_files(paths: list[Path], workers: int) -> float:
    """As ``sha256_of_files``, in whatever state the page cache is."""
    size = sum(path.stat().st_size for path in paths)
    started = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(_hash_file, paths, chunksize=1))
    return size / MB / (time.monotonic() - started)


def _hash_file(path: Path) -> bytes:
    with path.open("rb", buffering=0) as reader:
        return hashlib.file_digest(reader, "sha256").digest()


def _hash(data: bytes) -> object:
    return hashlib.sha256(data).digest()


def _seal(data: bytes) -> object:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - the benchmark's own measure

    return AESGCM(bytes(32)).encrypt(bytes(12), data, None)


def _on_all(function: Callable[[bytes], object], buffers: list[bytes]) -> None:
    with ThreadPoolExecutor(len(buffers)) as pool:
        list(pool.map(function, buffers))


def _rate(function: Callable[[], object], size: int, seconds: float = 1.0) -> float:
    function()
    started, times = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        function()
        times += 1
    return times * size / MB / (time.monotonic() - started)


def _disk(folder: Path) -> float:
    target = folder / "dd"
    started = time.monotonic()
    try:
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={target}", "bs=16M", "count=64", "oflag=dsync"], check=True, capture_output=True
        )
        return 1024 * MIB / MB / (time.monotonic() - started)
    finally:
        target.unlink(missing_ok=True)


def main() -> int:
    """Print the limits of this machine."""
    WORK.mkdir(exist_ok=True)
    for name, rate in asdict(measure_limits(WORK)).items():
        print(f"{name.replace('_', ' ')}: {rate:.0f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where a stream is cut into chunks: FastCDC (Xia et al., IEEE TPDS 2020) with the register's secret seed.

The seed only decides the cuts; what hides them from a host are padded packs (``docs/threats.md``).
"""

from __future__ import annotations

from typing import Final

from pyfastcdc import FastCDC

from exclave.errors import ConfigError

SMALL_AVERAGE_BYTES: Final = 128 << 10
"""For the stream of small files: a change of one ships little more than that one."""
LARGE_AVERAGE_BYTES: Final = 512 << 10
"""For large files: fewer chunks, which compress better."""
DATABASE_AVERAGE_BYTES: Final = 64 << 10
"""For databases, which change page by page: smaller chunks ship less."""
LARGEST_BYTES: Final = 4 << 20


class Chunker:
    """Cuts buffers. One per thread: the library's object keeps state."""

    __slots__ = ("_cutter",)

    def __init__(self, seed: int, *, average_bytes: int = SMALL_AVERAGE_BYTES) -> None:
        """``seed``: 64 secret bits; the same seed gives the same cuts."""
        if not FastCDC.__module__.startswith("pyfastcdc.cy"):
            raise ConfigError(
                "the compiled part of pyfastcdc is missing; the pure Python one is far too slow",
                hint="Install pyfastcdc from its binary wheel, not from source.",
            )
        self._cutter = FastCDC(
            average_bytes, min_size=average_bytes // 4, max_size=min(8 * average_bytes, LARGEST_BYTES), seed=seed
        )

    def cut(self, data: bytes | bytearray | memoryview) -> list[int]:
        """Ends of the chunks of ``data``, in order; the last one is its length."""
        return [c.offset + c.length for c in self._cutter.cut_buf(data)]

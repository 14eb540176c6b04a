"""SoftHSM tokens in a folder of their own. A process can know one such folder only, so there is one for all tests."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from exclave.keys.pkcs11 import TokenPlace

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "734219"


@dataclass(frozen=True, slots=True)
class SoftToken:
    """An initialised token; ``folder``: where SoftHSM keeps it."""

    place: TokenPlace
    folder: Path


@cache
def _root() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    holder = tempfile.TemporaryDirectory(prefix="softhsm-")
    root = Path(holder.name)
    (root / "tokens").mkdir()
    conf = root / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {root}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    return holder, root


def make_token(label: str, *, pin: str = PIN) -> SoftToken:
    """A new token called ``label``, its PIN in a file of mode 600."""
    root = _root()[1]
    before = set((root / "tokens").iterdir())
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "90817263"],
        check=True, capture_output=True,
    )  # fmt: skip
    (made,) = set((root / "tokens").iterdir()) - before
    pin_file = root / f"{label}.pin"
    pin_file.write_text(f"{pin}\n")
    pin_file.chmod(0o600)
    return SoftToken(TokenPlace(MODULE, label, str(pin_file)), made)

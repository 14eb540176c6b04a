"""A register of a small home, mounted by the command as a process of its own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.small_home import SmallHome, command

PATIENCE_S = 60.0


@dataclass
class Mounted:
    """A mount that runs; ``log`` is what the command says on both streams."""

    folder: Path
    process: subprocess.Popen[bytes]
    log: Path

    def dataset(self, name: str) -> Path:
        """That dataset in the latest version."""
        return self.folder / "latest" / name

    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> int:
        """Ends it as a service manager would; the command's exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@contextmanager
def mounted(home: SmallHome, *options: str, granted: list[str] | None = None) -> Iterator[Mounted]:
    """The latest versions of the home's register, shown in ``home.root/mnt``, which is unmounted afterwards."""
    folder, log = home.root / "mnt", home.root / "mount.log"
    granted = granted or home.granted("restore", name="look")
    with open(log, "wb") as stream:
        arguments = ["mount", str(folder), *granted, *home.where(), *options]
        process = subprocess.Popen(command(*arguments), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while b"Press Ctrl-C" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Mounted(folder, process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()
                subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)

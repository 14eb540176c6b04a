"""A whole state with a public gazette: home, three sites, and its acts in a folder."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exclave.runners.ports import free_port
from support.gazette_room import FIRST, Files, RunningRoom
from support.small_home import Register, SmallHome, start

TITLE = "Riigi Teataja"


@dataclass
class PublicRegister(Register):
    """A register whose charter calls it public."""

    def block(self) -> str:
        block = super().block()
        return block.replace("[[register]]\n", f'[[register]]\npublic = true\ntitle = "{TITLE}"\n', 1)


def put(folder: Path, files: Files) -> None:
    """Writes ``files`` into ``folder``; None removes."""
    for path, content in files.items():
        target = folder / path
        if content is None:
            target.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def gazette_home(root: Path, files: Files = FIRST) -> tuple[SmallHome, Path]:
    """A home in force, and the folder of its gazette; no version yet."""
    acts = root / "gazette"
    put(acts, files)
    home = SmallHome(root, [PublicRegister("gazette", [("acts", "files", {"path": str(acts)})])])
    return home.found(), acts


class WitnessedGazette(SmallHome):
    """A public gazette whose charter needs the one witness ``wit``."""

    def __init__(self, root: Path, acts: Path) -> None:
        super().__init__(root, [PublicRegister("gazette", [("acts", "files", {"path": str(acts)})])])
        self.port = free_port()

    def config(self) -> str:
        if not (self.folder / "cards" / "wit.card").exists():
            return super().config()  # the witness comes with the second step of making it
        text = super().config().replace("threshold = 2", 'threshold = 2\nquorum = "wit"', 1)
        block = f'[[witness]]\nname = "wit"\nurl = "http://127.0.0.1:{self.port}"\ncard = "cards/wit.card"\n\n'
        return text.replace("[[site]]", block + "[[site]]", 1)

    def make(self) -> SmallHome:
        super().make()
        self.ok("custodian", "new", "wit", "--kind", "witness", "--out", str(self.folder / "cards"))
        self.write_config()
        return self

    @contextmanager
    def witness(self) -> Iterator[None]:
        """The witness as a process of its own, once it answers."""
        process = start(
            "serve", "witness", *self.where(), "--key", str(self.key("wit")), "--dir", str(self.root / "memory"),
            "--port", str(self.port),
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", self.port)) != 0:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.communicate(timeout=60)


@contextmanager
def serving(home: SmallHome, folder: Path, *sites: str, every: int = 1) -> Iterator[RunningRoom]:
    """``exclave serve public`` as a process of its own, once it answers."""
    port = free_port()
    process = start(
        "serve", "public", TITLE, "--dir", str(folder), *home.where(*sites), "--port", str(port), "--every", str(every),
        "--place", "Luxembourg",
    )  # fmt: skip
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if b"can be read at" in line:
                break
        else:
            raise AssertionError(f"it ended with {process.wait()}")
        yield RunningRoom(folder, port)
    finally:
        process.terminate()
        process.communicate(timeout=60)

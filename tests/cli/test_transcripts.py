"""The command line as text: what people see, command by command.

Renew the transcripts with ``python tests/cli/test_transcripts.py``, and read what has changed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from exclave.cli import output
from exclave.operations.failover import stop_all
from support.small_home import SmallHome, served
from support.transcript import play

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


class Acts:
    """What transcripts may ask for with ``% name``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = SmallHome(root, [served("gazette", root / "systems")])

    def all(self) -> dict[str, Callable[[], Mapping[str, str] | None]]:
        names = (n for n in vars(type(self)) if not n.startswith("_") and n != "all")
        return {name.replace("_", " "): getattr(self, name) for name in names}

    def the_example_is_filled_in(self) -> None:
        for name in self.home.sites:
            self.home.site(name).mkdir(parents=True, exist_ok=True)
        self.home.write_config()

    def a_charter_is_in_force(self) -> Mapping[str, str]:
        self.home.found()
        return {"FINGERPRINT": self.home.fingerprint, "REGISTER": self.home.id_of()}

    def a_version_is_there(self) -> None:
        self.home.backup()

    def an_act_is_changed(self) -> None:
        (self.root / "systems" / "acts" / "act-2").write_text("a new act")

    def a_pack_is_altered(self) -> None:
        pack = max((p for p in self.home.site("nord").glob("*/*/pack/*/*")), key=lambda p: (p.stat().st_size, p.name))
        data = bytearray(pack.read_bytes())
        data[5000] ^= 1
        pack.chmod(0o644)
        pack.write_bytes(data)

    def home_is_lost(self) -> None:
        shutil.rmtree(self.home.site("home"))
        shutil.rmtree(self.root / "systems")

    def a_site_is_away(self) -> None:
        self.home.site("nord").rename(self.root / "away")

    def the_site_is_back(self) -> None:
        (self.root / "away").rename(self.home.site("nord"))

    def a_demo_was_played(self) -> None:
        (self.root / "demo" / "embassy").mkdir(parents=True)
        (self.root / "demo" / "sites").mkdir()


@contextmanager
def _wide() -> Iterator[None]:
    """Tables and help are not folded; commands run in the transcript's own folder."""
    former = output.out.width, output.err.width, os.environ.get("COLUMNS")
    output.out.width = output.err.width = 300
    os.environ["COLUMNS"] = "120"
    try:
        yield
    finally:
        output.out.width, output.err.width = former[:2]
        if former[2] is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = former[2]


def _played(transcript: Path, root: Path) -> str:
    acts = Acts(root)
    with _wide():
        try:
            return play(transcript.read_text(), root, acts.all())
        finally:
            if (root / "embassy" / "state" / "progress.json").exists():
                stop_all(root / "embassy")


def test_there_are_transcripts() -> None:
    """An empty set of transcripts would pass."""
    assert len(TRANSCRIPTS) >= 5


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(transcript: Path, tmp_path: Path) -> None:
    """Each command says what the transcript says, and ends with its exit code."""
    assert _played(transcript, tmp_path) == transcript.read_text()


if __name__ == "__main__":
    for path in TRANSCRIPTS:
        path.write_text(_played(path, Path(tempfile.mkdtemp(prefix="transcript-"))))

"""Tree (c) over the slow link: a full backup to SeaweedFS on the far side, and a restore from it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trees
from exclave_adapter import Exclave
from link import FAR, Link, made_link
from measuring import Run, RunFailed, differences, measure_all
from rounds import CHANGED, FULL, RESTORE, RUN, Say, put_aside, read_files
from treefiles import Tree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import seaweed

PORTS = [18333, 18334, 18335, 18336, 18337]  # in a namespace of its own


@dataclass(frozen=True, slots=True)
class LinkFigures:
    """What was measured over the link."""

    raw_there: float  # MB/s of plain TCP
    raw_back: float
    tree_bytes: int
    runs: dict[str, Run]


def bench_link(tree: Tree, environment: dict[str, str], say: Say) -> LinkFigures:
    """Raises LinkImpossible, RunFailed or ToolMissing."""
    put_aside(RUN)
    (RUN / "tmp").mkdir(parents=True)
    (RUN / "home").mkdir()
    work, log = RUN / "exclave", RUN / "exclave.log"
    work.mkdir()
    trees.switch(tree, "original")
    read_files(tree.path)
    with made_link() as link:
        there, back = link.raw_rates()
        say(f"link: plain TCP {there:.1f} MB/s there, {back:.1f} MB/s back")
        with _engine(link, RUN / "weed") as url:
            tool = Exclave(environment, url=url, inside=link.inside(link.near))
            state = tool.prepare(work, tree.path)
            runs = {FULL: measure_all(tool.backup(state), environment, log)}
            say(f"link, {FULL}: {runs[FULL].wall_s:.2f} s, CPU {runs[FULL].cpu_s:.2f} s")
            target = RUN / "restored"
            target.mkdir()
            runs[RESTORE] = measure_all(tool.restore(state, target), environment, log)
            say(f"link, {RESTORE}: {runs[RESTORE].wall_s:.2f} s, CPU {runs[RESTORE].cpu_s:.2f} s")
            wrong = differences(tree.path, tool.restored(state, target))
            if wrong:
                raise RunFailed(f"{len(wrong)} differences after the restore, first: {'; '.join(wrong[:3])}")
            trees.switch(tree, "changed")
            runs[CHANGED] = measure_all(tool.again(state), environment, log)
            say(f"link, {CHANGED}: {runs[CHANGED].wall_s:.2f} s")
    size = int(tree.facts()["bytes"])
    trees.switch(tree, "original")
    put_aside(RUN)
    return LinkFigures(there, back, size, runs)


@contextlib.contextmanager
def _engine(link: Link, folder: Path) -> Iterator[str]:
    """SeaweedFS on the far side; the URL of a site in it, for the near side."""
    seaweed.write_files(folder)
    environment = {**os.environ, "TMPDIR": str(folder), "HOME": str(folder), "GOMEMLIMIT": "2GiB"}
    argv = [*link.inside(link.far), *seaweed.weed_command(PORTS, FAR)]
    with (folder / "weed.log").open("wb") as said:
        process = subprocess.Popen(argv, cwd=folder, stdout=said, stderr=said, env=environment)
    try:
        _wait_for(link, folder, process)
        credentials = folder / "credentials.toml"
        credentials.touch(mode=0o600)
        credentials.write_text(f'access_key = "{seaweed.ACCESS_KEY}"\nsecret_key = "{seaweed.SECRET_KEY}"\n')
        yield f"s3://{seaweed.BUCKETS[0]}/bench?endpoint=http://{FAR}:{PORTS[0]}&credentials={credentials}"
    finally:
        process.kill()
        process.wait(30)


def _wait_for(link: Link, folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a PUT works in every bucket."""
    probe = f"""
import sys; sys.path.insert(0, {str(Path(__file__).resolve().parent.parent / "tests")!r})
import obstore
from support.seaweed import open_buckets
for store in open_buckets("http://{FAR}:{PORTS[0]}"): obstore.put(store, "ready", b"")
"""
    deadline = time.monotonic() + 60
    while True:
        argv = [*link.inside(link.near), sys.executable, "-c", probe]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RunFailed(f"SeaweedFS did not come up: {(folder / 'weed.log').read_text(errors='replace')[-500:]}")
        time.sleep(0.2)

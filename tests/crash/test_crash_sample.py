"""A bounded sample of the crash matrix; ``make crash`` plays all of it."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.crashing import VERBS, Backup, Verb, cases, play, sample
from support.fault_table import FaultTable
from support.faults import Faults, Mode, build

SEED = 20261126
SIZE = {"backup": 24, "rekey": 14, "delete": 14, "sync": 12, "evacuate": 12}
_CHANGES = (
    "write,pwrite64,writev,pwritev,fsync,fdatasync,ftruncate,fallocate,rename,renameat,renameat2,link,linkat,symlink,"
    "symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,copy_file_range,sendfile,creat,open,openat"
)
_SEEN = re.compile(r"^(?:\d+ +)?(\w+)\((.*)(?:\) += |<unfinished)")


@pytest.mark.slow
@pytest.mark.parametrize("kind", VERBS, ids=lambda kind: kind.name)
def test_any_durable_call_may_be_the_last(kind: type[Verb], tmp_path: Path, fault_table: FaultTable) -> None:
    """Killed before or after, torn, lost, full, or done and reported as failed: earlier versions are whole, and the
    next run completes.
    """
    verb = kind(tmp_path)
    verb.reset()
    with Faults(tmp_path, verb.roots) as faults:
        calls = faults.run(verb.command()).calls
        chosen = sample(cases(calls), SIZE[kind.name], SEED)
        problems = [
            f"{case.mode.name} at {case.call.number} {case.call.what} {case.call.path}: {problem}"
            for case, _, problem in play(verb, faults, chosen)
            if problem
        ]
    assert len(calls) > 10
    assert problems == []
    fault_table.suite(kind.name, "process or disk fails", len(chosen))


@pytest.mark.slow
def test_no_durable_call_is_overlooked(tmp_path: Path) -> None:
    """What strace sees a backup change below its folders, call by call, is what the injector counted."""
    verb = Backup(tmp_path)
    shim, log, seen = build(tmp_path), tmp_path / "log", tmp_path / "strace"
    roots = "".join(f"{root}:" for root in verb.roots)
    program = (
        "import ctypes, sys; from exclave.cli import main as cli\n"
        f"ctypes.CDLL({str(shim)!r}).faults_arm({roots.encode()!r}, {str(log).encode()!r}, 0, 0, 0)\n"
        "sys.exit(cli.run(sys.argv[1:]))"
    )
    command = ["strace", "-f", "-y", "-qq", "-s", "0", "--seccomp-bpf", "-E", f"LD_PRELOAD={shim}", "-e",
               f"trace={_CHANGES}", "-o", str(seen), sys.executable, "-c", program, *verb.command()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counted = collections.Counter(line.split(" ")[1] for line in log.read_text().splitlines())
    found = collections.Counter(_kernel_calls(seen.read_text(), [str(root) for root in verb.roots]))
    assert found == counted
    assert counted.total() > 100


def _kernel_calls(text: str, roots: list[str]) -> list[str]:
    """Kinds of the calls in a log of strace that could change something below ``roots``."""
    kinds = {"openat": "create", "open": "create", "pwrite64": "pwrite", "linkat": "link", "unlinkat": "unlink",
             "mkdirat": "mkdir", "renameat": "rename", "renameat2": "rename"}  # fmt: skip
    found: list[str] = []
    for line in text.splitlines():
        match = _SEEN.match(line)
        if match is None:
            continue
        name, arguments = match.groups()
        if name in ("open", "openat") and "O_CREAT" not in arguments and "O_TRUNC" not in arguments:
            continue
        if "-shm" in arguments or not any(root in arguments for root in roots):
            continue
        found.append("rmdir" if "AT_REMOVEDIR" in arguments else kinds.get(name, name))
    return found


def test_the_sample_has_every_kind(tmp_path: Path) -> None:
    """The sample takes each kind of call with each thing that can happen to it, before it takes any twice."""
    verb = Backup(tmp_path)
    with Faults(tmp_path, verb.roots) as faults:
        everything = cases(faults.run(verb.command()).calls)
    chosen = sample(everything, 1000, SEED)
    kinds = {(case.call.what, case.mode) for case in everything}
    assert {(case.call.what, case.mode) for case in chosen[: len(kinds)]} == kinds
    assert {mode for _, mode in kinds} == set(Mode) - {Mode.COUNT}

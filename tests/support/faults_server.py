"""Runs ``exclave`` commands in forked children, each with one fault: ``LD_PRELOAD=faults.so python faults_server.py``

One JSON object for each line of standard input; one for each result. The interpreter and the product are loaded once.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from importlib import import_module
from typing import Any

from exclave.cli import main as cli


def _child(shim: ctypes.CDLL, asked: dict[str, Any]) -> None:
    for number, path in ((0, os.devnull), (1, asked["out"]), (2, asked["err"])):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(fd, number)
    roots = "".join(f"{root}:" for root in asked["roots"])
    shim.faults_arm(roots.encode(), asked["log"].encode(), asked["at"], asked["mode"], asked["errno"])
    code = 1
    try:
        code = cli.run(asked["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Until standard input ends."""
    for name in ("backup", "delete", "rekey", "restore", "verify"):
        import_module(f"exclave.cli.{name}")
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(shim, json.loads(line))
        status = os.waitpid(pid, 0)[1]
        sys.stdout.write(json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()

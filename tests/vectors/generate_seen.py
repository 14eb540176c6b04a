"""Writes ``seen/…``: what readers saw, each with its failure class."""

from __future__ import annotations

from pathlib import Path

from exclave.formats.checkpoint import Checkpoint
from exclave.formats.paths import ledger_origin
from exclave.formats.seen import Seen, SeenLog
from exclave.ids import Digest, Epoch, Fingerprint, Instant, RegisterId, sha256
from exclave.rules.checkpoints import sign_checkpoint
from support.custody import writer

STATE = Fingerprint(sha256(b"state").hex())
ONE, TWO = RegisterId("1" * 32), RegisterId("2" * 32)
TIME = Instant(1_790_000_000_000_000)


def log(register: RegisterId, epoch: int, size: int) -> SeenLog:
    checkpoint = Checkpoint(ledger_origin(STATE, register, Epoch(epoch)), size, sha256(bytes([size])))
    note = sign_checkpoint(checkpoint, writer().pair, TIME)
    return SeenLog(register, Epoch(epoch), Digest(sha256(bytes([epoch]))), note.encode())


def main() -> None:
    logs = (log(ONE, 1, 7), log(ONE, 2, 3), log(TWO, 1, 9))
    good = Seen(STATE, TIME, 4, sha256(b"charter"), logs).encode()
    cases = {
        "good": good,
        "no-logs": Seen(STATE, TIME, 1, sha256(b"charter"), ()).encode(),
        "bad-order": Seen(STATE, TIME, 4, sha256(b"charter"), logs[::-1]).encode(),
        "bad-twice": Seen(STATE, TIME, 4, sha256(b"charter"), (logs[0], logs[0])).encode(),
        "bad-version": good.replace(b"/v1", b"/v2", 1),
        "bad-charter-0": good.replace(b"charter 4", b"charter 0"),
        "bad-charter-zero-first": good.replace(b"charter 4", b"charter 04"),
        "bad-time": good.replace(b"time 20", b"time 19x", 1),
        "bad-epoch": good.replace(f"{ONE} 1 ".encode(), f"{ONE} 0 ".encode()),
        "bad-size": good.replace(b"head 7", b"head 07"),
        "bad-no-signature": b"".join(x for x in good.splitlines(keepends=True) if not x.startswith(b"signature")),
        "bad-field": good.replace(b"head 7 ", b"head  7 "),
        "bad-end": good + b"x\n",
        "bad-cut": good[:-1],
        "bad-newline": good + b"\n",
        "bad-bytes": good.replace(b"exclave", b"exclav\xff", 1),
        "bad-nothing": b"",
    }
    folder = Path(__file__).parent / "seen"
    folder.mkdir(exist_ok=True)
    for name, data in cases.items():
        expect = "malformed" if name.startswith("bad-") else "ok"
        if expect == "malformed" and data == good:
            raise SystemExit(f"{name}: changes nothing")
        (folder / name).write_bytes(f"expect: {expect}\n\n".encode() + data)


if __name__ == "__main__":
    main()

"""Writes ``deletion/*.json``: orders to delete and objections, each with its failure class and, if good, its digest."""

from __future__ import annotations

import json
from pathlib import Path

from exclave.formats.deletion import DeletionOrder, Objection, OrderedVersion
from exclave.ids import Digest, Epoch, Fingerprint, Instant, Label, RegisterId, Sequence, sha256

ORDER = DeletionOrder(
    state=Fingerprint("1f" * 32),
    register=RegisterId("ab" * 16),
    epoch=Epoch(2),
    entries=41,
    delay_s=2_592_000,
    objections=1,
    keys=None,
    reason="Archives Act, section 11 — õ",
    versions=(
        OrderedVersion(Sequence(3), Epoch(1), Digest(b"\x33" * 32), Instant(1_795_443_721_000_000)),
        OrderedVersion(Sequence(5), Epoch(2), Digest(b"\x55" * 32), Instant(1_795_443_721_000_001)),
    ),
)
OBJECTION = Objection(
    state=ORDER.state,
    register=ORDER.register,
    charter=Digest(b"\x11" * 32),
    order=ORDER.digest,
    custodian=Label("kaja"),
    time=Instant(1_795_443_721_000_000),
    reason="Case 7/2027 needs them",
)


def cases_of(text: str, good: dict[str, str], bad: dict[str, str]) -> str:
    """Vectors of one format as JSON; ``bad`` must all differ from ``text``."""
    for name, changed in bad.items():
        if changed in (text, *good.values()):
            raise SystemExit(f"{name}: changes nothing")
    cases = [{"name": n, "expect": "ok", "text": t, "digest": sha256(t.encode()).hex()} for n, t in good.items()]
    cases += [{"name": n, "expect": "malformed", "text": t} for n, t in bad.items()]
    return json.dumps({"cases": cases}, indent=1, ensure_ascii=False) + "\n"


def orders() -> str:
    text = ORDER.encode()
    first, second = text.splitlines(True)[-2:]
    with_keys = text.replace("keys none", "keys epoch 1")
    bad = {
        "another header": text.replace("deletion/v1", "deletion/v2"),
        "no versions": text.replace(first + second, ""),
        "versions out of order": text.replace(first + second, second + first),
        "a version twice": text.replace(first, first * 2),
        "no delay": text.replace("delay 2592000", "delay 0"),
        "no objections": text.replace("objections 1", "objections 0"),
        "the newest epoch's key": text.replace("keys none", "keys epoch 2"),
        "an unknown word for keys": text.replace("keys none", "keys all"),
        "a short manifest": text.replace("33" * 32, "33" * 31),
        "an instant without microseconds": text.replace(".000001Z", "Z"),
        "a leading zero": text.replace("version 3 ", "version 03 "),
        "an invisible character": text.replace("section", "sec\u200btion"),
        "no reason": text.replace("reason Archives Act, section 11 — õ\n", ""),
        "an unknown line": text + "also this\n",
        "no newline at the end": text[:-1],
        "nothing": "",
    }
    return cases_of(text, {"two versions": text, "with an epoch's keys": with_keys}, bad)


def objections() -> str:
    text = OBJECTION.encode()
    hold = text.replace(f"order {ORDER.digest.hex()}", "all")
    bad = {
        "another header": text.replace("objection/v1", "objection/v2"),
        "against nothing": text.replace(f"order {ORDER.digest.hex()}", "none"),
        "against two": text.replace("against order", "against order order"),
        "custodian in capitals": text.replace("kaja", "Kaja"),
        "no charter": text.replace(f"charter {'11' * 32}\n", ""),
        "no reason": text.replace("reason Case 7/2027 needs them", "reason "),
        "an unknown line": text + "also this\n",
        "no newline at the end": text[:-1],
        "nothing": "",
    }
    return cases_of(text, {"to one order": text, "to every order": hold}, bad)


def main() -> None:
    folder = Path(__file__).parent / "deletion"
    folder.mkdir(exist_ok=True)
    (folder / "orders.json").write_text(orders())
    (folder / "objections.json").write_text(objections())


if __name__ == "__main__":
    main()

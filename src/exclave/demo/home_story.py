"""The demo's chapters at home: the state and its charter, its protection, and its loss."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

from exclave.demo import attacks
from exclave.demo.gazette import change_gazette
from exclave.demo.hosts_story import bucket_probed, bucket_tried, gateway_opens, hosts_abroad, watched
from exclave.demo.identity_story import found_identities
from exclave.demo.land import change_land
from exclave.demo.reading_story import published
from exclave.demo.stage import Stage
from exclave.demo.state import (
    CUSTODIANS,
    SEED,
    STATE_NAME,
    THRESHOLD,
    config_text,
    copy_home,
    dsn,
    end_home,
    lose_home,
    make_folders,
    make_systems,
    start_services,
)
from exclave.ids import Label, instant_text, now
from exclave.runners.probe import wait_http
from exclave.runners.process import ServiceSpec, start

WITNESS = "embassy-witness"


def a_state_with_a_home(s: Stage) -> None:
    """Three registers, five custodians, sites abroad, a charter, and a citizen who logs in."""
    s.chapter("1. A state with a home")
    s.commands.run("init", str(s.places.home))
    make_folders(s.places)
    s.tell(f"The {STATE_NAME} fills its registers with invented data; meanwhile its people make ready.")
    made = s.beside(make_systems, s.places, s.ports, s.scale)
    hosts_abroad(s)
    probing = bucket_tried(s)
    for name, _ in CUSTODIANS:
        s.commands.run("custodian", "new", name, "--out", str(s.places.custodians / name))
    s.commands.run("custodian", "new", WITNESS, "--kind", "witness", "--out", str(s.places.embassy / "witness"))
    cards = s.places.home / "custodians"
    cards.mkdir()
    for name, _ in CUSTODIANS:
        shutil.copy(s.places.custodians / name / f"{name}.card", cards)
    shutil.copy(s.places.embassy / "witness" / f"{WITNESS}.card", cards)
    config = s.places.home / "exclave.toml"
    config.write_text(config_text(s.places, s.ports, s.scale, s.world, s.hosts))
    s.tell(
        f"The charter says who may do what: of {len(CUSTODIANS)} custodians in {len({c for _, c in CUSTODIANS})}"
        f" countries any {THRESHOLD} together open what lies abroad, and no {THRESHOLD - 1} can."
    )
    proposed, published = _charter(s, s.places.root / "draft")
    s.ids = dict(proposed["registers"])
    s.fingerprint = s.report.fingerprint = published["fingerprint"]
    s.tell("The charter is in force. The state's fingerprint:")
    s.tell(f"F={s.fingerprint}")
    bucket_probed(s, probing)
    gateway_opens(s, s.fingerprint)
    config.write_text(config_text(s.places, s.ports, s.scale, s.world, s.hosts))
    s.tell("South knows the state by its fingerprint now; a second charter lets the registers lie there.")
    _charter(s, s.places.root / "draft-2", *s.sites("north"), *s.pinned)
    _start_witness(s)
    facts = made.result()
    start_services(s.places, s.ports)
    s.tell("Three registers are at work at home, each with its own application:")
    for name, numbers in facts.items():
        s.tell(f"  {name}: {_counts(numbers)}")
    found_identities(s)
    wait_http(f"http://127.0.0.1:{s.ports.witness}/health", 30.0)


def _charter(s: Stage, draft: Path, *where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Drafted at home, signed by three custodians, published: what the first and the last of these commands said."""
    proposed = s.commands.run("charter", "propose", str(draft), *s.home).result
    for name in ("kaja", "luc", "aino"):
        s.commands.run("charter", "sign", str(draft), "--key", str(s.places.custodian_key(name)), "--yes", *where)
    return proposed, s.commands.run("charter", "publish", str(draft), *s.home).result


def _counts(facts: object) -> str:
    """``2112 acts, 4832 versions, 82 MiB``, from a frozen value of numbers."""
    values = dataclasses.asdict(facts) if dataclasses.is_dataclass(facts) and not isinstance(facts, type) else {}
    counts = {name: len(v) if isinstance(v, tuple | list) else v for name, v in values.items() if name != "day"}
    return ", ".join(
        f"{value / 2**20:.0f} MiB" if name == "bytes" else f"{value} {name.replace('_', ' ')}"
        for name, value in counts.items()
        if type(value) is int
    )


def _start_witness(s: Stage) -> None:
    """The witness stands at the embassy and goes by what the site there shows."""
    folder = s.places.embassy / "witness"
    arguments = (
        "serve", "witness", *s.pinned, "--key", str(folder / f"{WITNESS}.key"), "--dir", str(folder / "memory"),
        *s.sites("south", user="public"), "--port", str(s.ports.witness),
    )  # fmt: skip
    s.tell(s.brief_command(arguments) + " &")
    argv = (sys.executable, "-m", "exclave.cli.main", *arguments)
    start(ServiceSpec(Label(WITNESS), argv, s.places.root, {}, s.ports.witness, "/health"), s.places.run / "embassy")


def protection(s: Stage) -> None:
    """Two backups with a day's work between them, the gazette in public, and an auditor's look at it all."""
    s.chapter("2. Protection")
    s.tell("Sealed copies of every register go to four places in four countries; a witness vouches for each version.")
    first = s.commands.run("backup", *s.home).result["receipts"]
    for receipt in first:
        s.tell(receipt_line(receipt))
    head = attacks.checkpoint_of(s.places.sites / "north", s.fingerprint, s.ids["land"])
    (s.places.root / "old-checkpoint").write_bytes(head.read_bytes())
    changed = change_gazette(s.places.systems / "gazette" / "acts", SEED)
    transfers = change_land(dsn(s.places, s.ports), SEED)
    s.tell(f"A day's work: {_counts(changed)} in the gazette; {_counts(transfers)} in the land register.")
    for receipt in s.commands.run("backup", *s.home).result["receipts"]:
        s.receipts[receipt["register"]] = receipt
        s.tell(receipt_line(receipt))
    for before in first:
        after = s.receipts[before["register"]]
        share = after["shipped_bytes"] / max(before["shipped_bytes"], 1)
        s.tell(f"  {before['register']}: the second backup shipped {100 * share:.1f} % of the first one's volume")
    full = sum(r["shipped_bytes"] for r in first)
    second = sum(r["shipped_bytes"] for r in s.receipts.values())
    s.report.promise("a second backup ships only what changed", second < full / 2, f"{second} of {full} bytes")
    s.report.promise(
        "each version is at four sites and witnessed",
        all(len(r["sites"]) == 4 and r["witnesses"] for r in s.receipts.values()),
        ", ".join(f"{n}: {len(r['sites'])} sites" for n, r in s.receipts.items()),
    )
    published(s)
    watched(s)


def receipt_line(receipt: dict[str, Any]) -> str:
    kib = receipt["shipped_bytes"] / 2**10
    size = f"{kib / 1024:.1f} MiB" if kib >= 1024 else f"{kib:.1f} KiB"
    return (
        f"  {receipt['register']}: version {receipt['sequence']}, {size} shipped to"
        f" {', '.join(receipt['sites'])}; witnessed by {', '.join(receipt['witnesses']) or 'nobody'}"
    )


def home_is_lost(s: Stage) -> str:
    """Somebody takes a copy along; then home is gone. When that was."""
    s.chapter("3. Home is lost")
    s.tell("Everything at home ends at once: machines, data, keys, and the copy that lay in the same country.")
    copy_home(s.places)
    lost = s.lost = now()
    ended = end_home(s.places)
    s.clearing.append(s.beside(shutil.rmtree, lose_home(s.places)))
    s.tell(f"{ended} processes were ended; home's folder and the site in the same country are gone:")
    s.tell(f"  {s.places.home} {'IS STILL THERE' if s.places.home.exists() else 'is no longer there'}")
    return instant_text(lost)

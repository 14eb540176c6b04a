"""The demo's chapters abroad: the quorum decides, the embassy starts every register, and life goes on there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx

from exclave.demo import attacks, identity
from exclave.demo.commands import Told
from exclave.demo.enemies_story import revived_home
from exclave.demo.home_story import receipt_line
from exclave.demo.hosts_story import north_rebuilt, own_credentials, stated
from exclave.demo.identity_story import identities_abroad, revived_identities, through_the_crisis
from exclave.demo.reading_story import read_in_exile
from exclave.demo.reference import contains
from exclave.demo.stage import Stage
from exclave.demo.state import REGISTERS, references
from exclave.errors import QuorumMissing
from exclave.ids import parse_instant


def the_quorum(s: Stage) -> list[str]:
    """Custodians sign the order to start abroad, one of them dishonestly; options that name their answers."""
    s.chapter("5. The quorum")
    s.tell(
        "Nobody may bring the registers back alone: three of the five custodians sign, for one machine and one purpose."
    )
    machine = s.places.embassy / "machine"
    machine.mkdir()
    warrant = machine / "failover.warrant"
    where = [*s.sites("south", "north"), *s.pinned]
    s.commands.run(
        "warrant", "request", str(warrant), "--act", "failover", "--place", "south",
        "--key", str(s.world.exile / "machine.key"),
        "--reason", "Home was lost; start the registers in the embassy", *where,
    )  # fmt: skip
    answers: list[str] = []
    for name in ("kaja", "mart"):
        answers += _answer(s, warrant, name, where)
    refused = _run_failover(s, answers, expect=(QuorumMissing.exit_code,))
    s.tell(f"Two custodians are refused: {refused.result['message']}")
    s.refused("two custodians try to open the registers", refused, QuorumMissing)
    answers += _answer(s, warrant, "luc", where)
    attacks.forge_share(machine / "failover-luc.answer", machine / "failover.card", s.places.custodian_key("luc"))
    s.tell("Luc's answer is replaced by one with wrong shares; then Aino answers.")
    answers += _answer(s, warrant, "aino", where)
    return answers


def _answer(s: Stage, warrant: Path, name: str, where: list[str]) -> list[str]:
    done = s.commands.run("warrant", "sign", str(warrant), "--yes", "--key", str(s.places.custodian_key(name)), *where)
    return ["--answer", str(done.result["path"])]


def _run_failover(s: Stage, answers: list[str], *more: str, expect: tuple[int, ...] = (0,)) -> Told:
    machine = s.places.embassy / "machine"
    return s.commands.run(
        "failover", "run", *s.sites("south", "west"), *s.pinned, "--warrant", str(machine / "failover.warrant"),
        *answers, "--key", str(s.world.exile / "machine.key"), "--dir", str(s.places.exile), *more, expect=expect,
    )  # fmt: skip


def failover(s: Stage, answers: list[str], lost: str) -> None:
    """Every register starts in the embassy and is compared with what home said of it."""
    s.chapter("6. Failover")
    s.tell("The embassy in Luxembourg starts every register again, from what its hosts could never read.")
    with identity.names_follow(s.world):
        result = _run_failover(s, answers, "--lost-at", lost).result
    own_credentials(s)
    identities_abroad(s, parse_instant(result["decided"]))
    result["registers"] = [r for r in result["registers"] if r["name"] != identity.REGISTER]
    bad = sorted({name for register in result["registers"] for name in register["bad_shares"]})
    s.report.act("a custodian sends wrong shares", bad == ["luc"], f"named and left out: {', '.join(bad) or 'nobody'}")
    s.report.services = result["services"]
    addresses = {service["name"]: service["address"] for service in result["services"]}
    order = [register["name"] for register in result["registers"]]
    for register in sorted(result["registers"], key=lambda r: REGISTERS.index(r["name"])):
        _compare(s, register, addresses[f"{register['name']}/web"])
    read_in_exile(s)
    restored = sorted(order, key=lambda n: next(r["answered"] for r in result["registers"] if r["name"] == n))
    s.report.promise("registers come back in the order of their dependencies", restored == list(REGISTERS),
                     " → ".join(restored))  # fmt: skip
    same = all(r["digest_home"] == r["digest_embassy"] and r["rows_same"] for r in s.report.registers)
    s.report.promise("digests and row counts equal home's at the captured moment", same, f"{len(order)} registers")
    s.report.promise("each application answers its reference query", all(r["answered"] for r in s.report.registers),
                     ", ".join(addresses[f"{name}/web"] for name in REGISTERS))  # fmt: skip
    for r in s.report.registers:
        s.report.promise(
            f"{r['name']}: RTO within {r['rto_limit_s']} s", r["rto_s"] <= r["rto_limit_s"], f"{r['rto_s']} s"
        )
        s.report.promise(
            f"{r['name']}: RPO within {r['rpo_limit_s']} s", r["rpo_s"] <= r["rpo_limit_s"], f"{r['rpo_s']} s"
        )


def _compare(s: Stage, register: dict[str, Any], address: str) -> None:
    """Home's own receipts against what runs in the embassy."""
    name = register["name"]
    receipt = s.receipts[name]
    at_home = {d["name"]: d for d in receipt["datasets"]}
    here = {d["name"]: d for d in register["datasets"]}
    query = references(s.scale)[name]
    answer = httpx.get(address + query.path, headers={"accept": "application/json"}, timeout=30, trust_env=False)
    right = answer.status_code == 200 and contains(answer.json(), query.expected)
    s.tell(f"  {name} at {address}{query.path}: {'the right answer' if right else 'WRONG'}")
    rows = {f"{d}.{t}": n for d, item in here.items() for t, n in item["rows_embassy"].items()}
    s.report.registers.append({
        "name": name, "version": register["sequence"], "rto_s": round(register["rto_s"], 3),
        "rpo_s": round(register["rpo_s"], 3), "rto_limit_s": 900, "rpo_limit_s": 3600,
        "digest_home": _joined({d: at_home[d]["digest"] for d in at_home}),
        "digest_embassy": _joined({d: here[d]["digest_embassy"] for d in here}),
        "digest_exact": all(d["digest_exact"] for d in at_home.values()),
        "rows": rows,
        "rows_same": all(at_home[d]["rows"] == here[d]["rows_embassy"] for d in here),
        "answered": right, "address": address,
    })  # fmt: skip


def _joined(digests: dict[str, str]) -> str:
    """One digest over a register's datasets."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def after(s: Stage) -> None:
    """The embassy backs up, what comes back from home is refused, and north is built anew."""
    s.chapter("7. After")
    s.tell("The embassy goes on with the work. What comes back from the ruins of home is refused.")
    exile = ["--home", str(s.places.exile)]
    # What is written once cannot be overwritten by the embassy either: only the host can take it away.
    for path in s.spoilt:
        path.unlink()
    s.tell("North's operator takes the spoilt object away; the embassy's next backup brings all that it lacks.")
    for receipt in s.commands.run("backup", *exile).result["receipts"]:
        s.tell(receipt_line(receipt) + f" (epoch {receipt['epoch']})")
        s.receipts[f"exile-{receipt['register']}"] = receipt
    epochs = {name: s.receipts[f"exile-{name}"]["epoch"] for name in (*REGISTERS, identity.REGISTER)}
    s.report.promise("the embassy is the writer now, in the next epoch", set(epochs.values()) == {2},
                     ", ".join(f"{name}: epoch {epoch}" for name, epoch in epochs.items()))  # fmt: skip
    revived_home(s)
    revived_identities(s)
    through_the_crisis(s)
    north_rebuilt(s)
    stated(s)
    last = s.commands.run("snapshots", *s.sites("north", "south", user="public"), *s.pinned).result["registers"]
    for item in last:
        item["last"] = item["versions"][-1]
    good = all(item["last"]["epoch"] == 2 and item["last"]["witnessed"] for item in last)
    latest = ", ".join(f"version {i['last']['sequence']} (epoch {i['last']['epoch']})" for i in last)
    s.report.promise("readers take the embassy's version for the latest", good, latest)
    for clearing in s.clearing:
        clearing.result()

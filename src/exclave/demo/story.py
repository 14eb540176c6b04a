"""The story of ``exclave demo``: a small state loses home and lives on abroad.

Each step is a command that any user has; what is not one (generating the state's data, ending home, the enemies'
acts) is what the world does to it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from exclave.demo import attacks, identity
from exclave.demo.commands import Commands, Told
from exclave.demo.gazette import KNOWN_PHRASE, change_gazette
from exclave.demo.hosts_story import (
    bucket_probed,
    gateway_opens,
    hosts_abroad,
    north_rebuilt,
    own_credentials,
    stated,
    thief_abroad,
    watched,
)
from exclave.demo.identity_story import found_identities, identities_abroad, revived_identities, through_the_crisis
from exclave.demo.land import change_land
from exclave.demo.reading_story import published, read_in_exile
from exclave.demo.reference import contains
from exclave.demo.stage import Report, Stage
from exclave.demo.state import (
    CUSTODIANS,
    REGISTERS,
    SEED,
    STATE_NAME,
    Places,
    Ports,
    config_text,
    copy_home,
    delete_home,
    dsn,
    end_home,
    make_folders,
    make_systems,
    references,
    settle_clerk,
    start_services,
)
from exclave.errors import Bug, ExclaveError, Fenced, QuorumMissing, TargetNotEmpty, UsageError
from exclave.ids import Label, instant_text, now, parse_instant
from exclave.runners.probe import wait_http
from exclave.runners.process import ServiceSpec, running, start, stop

WITNESS = "embassy-witness"


def play(root: Path, *, scale: int, keep: bool, tell: Callable[[str], None], chapter: Callable[[str], None]) -> Report:
    """Plays the whole story below ``root``, a new or empty folder. With ``keep`` the embassy goes on running."""
    if root.exists() and any(root.iterdir()):
        raise TargetNotEmpty(f"the demo's folder {root} is not empty")
    root.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    report = Report(folder=str(root))
    commands = Commands(lambda line: tell(stage.brief(line)))
    stage = Stage(Places(root), Ports(), scale, commands, tell, chapter, report)
    tell(f"D={root}")
    try:
        _a_state_with_a_home(stage)
        _protection(stage)
        lost = _home_is_lost(stage)
        _a_hostile_host(stage)
        answers = _the_quorum(stage)
        _failover(stage, answers, lost)
        _after(stage)
        report.seconds = round(time.monotonic() - begun, 1)
        report.ok = all(p["kept"] for p in report.promises) and all(a["detected"] for a in report.hostile_acts)
    finally:
        if not (keep and report.ok):
            stop_everything(root)
    return report


def stop_everything(root: Path) -> list[str]:
    """Ends every process that a demo in ``root`` left running, by process id; their names."""
    places = Places(root)
    stopped = []
    for folder in (*_run_folders(places.exile), places.run / "world", places.run / "home", places.run / "embassy",
                   places.run / "hosts"):  # fmt: skip
        for process in sorted(running(folder), key=lambda p: p.name == "postgres"):
            if stop(folder, process.name, grace_s=5.0):
                stopped.append(str(process.name))
    return stopped


def _run_folders(exile: Path) -> Iterator[Path]:
    if (exile / "run").is_dir():
        yield from (p for p in sorted((exile / "run").iterdir()) if p.is_dir() and p.name in REGISTERS)


# 1


def _a_state_with_a_home(s: Stage) -> None:
    s.chapter("1. A state with a home")
    s.commands.run("init", str(s.places.home))
    make_folders(s.places)
    hosts_abroad(s)
    made = make_systems(s.places, s.ports, s.scale)
    start_services(s.places, s.ports)
    s.tell(f"{STATE_NAME} has three registers at home, each with its own application:")
    for name, facts in made.items():
        s.tell(f"  {name}: {_counts(facts)}")
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
    bucket_probed(s)
    proposed, published = _charter(s, s.places.root / "draft")
    s.ids = dict(proposed["registers"])
    s.fingerprint = s.report.fingerprint = published["fingerprint"]
    s.tell("The charter is in force. The state's fingerprint:")
    s.tell(f"F={s.fingerprint}")
    gateway_opens(s, s.fingerprint)
    config.write_text(config_text(s.places, s.ports, s.scale, s.world, s.hosts))
    s.tell("South knows the state by its fingerprint now; a second charter lets the registers lie there.")
    _charter(s, s.places.root / "draft-2", *s.sites("north"), *s.pinned)
    _start_witness(s)
    found_identities(s)


def _charter(s: Stage, draft: Path, *where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Drafted at home, signed by three custodians, published: what the first and the last of these commands said."""
    proposed = s.commands.run("charter", "propose", str(draft), *s.home).result
    for name in ("kaja", "luc", "aino"):
        s.commands.run("charter", "sign", str(draft), "--key", str(s.places.custodian_key(name)), "--yes", *where)
    return proposed, s.commands.run("charter", "publish", str(draft), *s.home).result


def _counts(facts: object) -> str:
    """``2112 acts, 4832 versions``, from a frozen value of numbers."""
    values = dataclasses.asdict(facts) if dataclasses.is_dataclass(facts) and not isinstance(facts, type) else {}
    counts = {name: len(v) if isinstance(v, tuple | list) else v for name, v in values.items() if name != "day"}
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if type(value) is int)


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
    wait_http(f"http://127.0.0.1:{s.ports.witness}/health", 30.0)


# 2


def _protection(s: Stage) -> None:
    s.chapter("2. Protection")
    first = s.commands.run("backup", *s.home).result["receipts"]
    for receipt in first:
        s.tell(_told(receipt))
    head = attacks.checkpoint_of(s.places.sites / "north", s.fingerprint, s.ids["land"])
    (s.places.root / "old-checkpoint").write_bytes(head.read_bytes())
    changed = change_gazette(s.places.systems / "gazette" / "acts", SEED)
    transfers = change_land(dsn(s.places, s.ports), SEED)
    s.tell(f"A day's work: {_counts(changed)} in the gazette; {_counts(transfers)} in the land register.")
    settle_clerk(0.5)
    for receipt in s.commands.run("backup", *s.home).result["receipts"]:
        s.receipts[receipt["register"]] = receipt
        s.tell(_told(receipt))
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


def _told(receipt: dict[str, Any]) -> str:
    kib = receipt["shipped_bytes"] / 2**10
    size = f"{kib / 1024:.1f} MiB" if kib >= 1024 else f"{kib:.1f} KiB"
    return (
        f"  {receipt['register']}: version {receipt['sequence']}, {size} shipped to"
        f" {', '.join(receipt['sites'])}; witnessed by {', '.join(receipt['witnesses']) or 'nobody'}"
    )


# 3


def _home_is_lost(s: Stage) -> str:
    s.chapter("3. Home is lost")
    copy_home(s.places)
    lost = s.lost = now()
    ended = end_home(s.places)
    delete_home(s.places)
    s.tell(f"{ended} processes were ended; home's folder and the site in the same country are gone:")
    s.tell(f"  {s.places.home} {'IS STILL THERE' if s.places.home.exists() else 'is no longer there'}")
    return instant_text(lost)


# 4


def _a_hostile_host(s: Stage) -> None:
    s.chapter("4. A hostile host")
    north, south = s.places.sites / "north", s.places.sites / "south"
    gazette, land, business = (s.ids[name] for name in REGISTERS)
    flipped = attacks.packs(north, s.fingerprint, gazette)[0]
    dropped = attacks.packs(north, s.fingerprint, business)[0]
    attacks.flip(flipped)
    s.spoilt.append(flipped)
    dropped.unlink()
    attacks.overwrite(
        attacks.checkpoint_of(north, s.fingerprint, land), (s.places.root / "old-checkpoint").read_bytes()
    )
    s.tell("At north a bit was flipped in one object, another one dropped, and an old checkpoint replayed.")
    found = s.commands.run("verify", *s.sites("north", "south", user="public"), *s.pinned, expect=(20,)).result[
        "findings"
    ]
    for one in found:
        if one["site"] == "?":
            continue  # what follows for the placement rule from the faults at north
        s.tell(f"  {one['site']}: {one['fault']}: {_short(one['what'])}: {one['detail'][:100]}")
    _judge(s, found, "a bit flipped in an object", "corrupt-object", flipped.name)
    _judge(s, found, "an object dropped", "missing-object", dropped.name)
    _judge(s, found, "an old checkpoint replayed", "rolled-back", land)
    thief_abroad(s)
    alone = s.commands.run("verify", *s.sites("south", "west", user="public"), *s.pinned)
    grave = [f for f in alone.result["findings"] if f["grave"]]
    s.report.promise(
        "verify passes at the gateway and at the locked bucket", alone.result["ok"] and not grave, "without any key"
    )
    names = [form for name in REGISTERS for form in attacks.forms_of(name)]
    words = (KNOWN_PHRASE.encode(), *names, b"PRIVATE", b"seed ")
    public = f"/{gazette}/public/"
    plain = attacks.plain_text_at(south, words, public) + attacks.plain_text_at(north, words, public)
    s.report.promise(
        "hosts see no text, name or key but of what is public",
        not plain,
        f"{len(plain)} places found{': ' if plain else ''}{'; '.join(plain[:3])}",
    )


def _short(what: str) -> str:
    """The last two parts of an object's name, long ones cut."""
    return "/".join(part[:16] + "…" if len(part) > 20 else part for part in what.split("/")[-2:])


def _judge(s: Stage, findings: list[dict[str, Any]], act: str, fault: str, mark: str) -> None:
    named = [
        f for f in findings
        if f["site"] == "north" and f["fault"] == fault and mark in (f["what"] + f["detail"] + str(f["register"]))
    ]  # fmt: skip
    s.report.act(f"{act} at north", bool(named), f"verify: {fault} at north")


# 5


def _the_quorum(s: Stage) -> list[str]:
    s.chapter("5. The quorum")
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
    _refused(s, "two custodians try to open the registers", refused, QuorumMissing)
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


# 6


def _failover(s: Stage, answers: list[str], lost: str) -> None:
    s.chapter("6. Failover")
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


# 7


def _after(s: Stage) -> None:
    s.chapter("7. After")
    exile = ["--home", str(s.places.exile)]
    # What is written once cannot be overwritten by the embassy either: only the host can take it away.
    for path in s.spoilt:
        path.unlink()
    s.tell("North's operator takes the spoilt object away; the embassy's next backup brings all that it lacks.")
    for receipt in s.commands.run("backup", *exile).result["receipts"]:
        s.tell(_told(receipt) + f" (epoch {receipt['epoch']})")
        s.receipts[f"exile-{receipt['register']}"] = receipt
    epochs = {name: s.receipts[f"exile-{name}"]["epoch"] for name in (*REGISTERS, identity.REGISTER)}
    s.report.promise("the embassy is the writer now, in the next epoch", set(epochs.values()) == {2},
                     ", ".join(f"{name}: epoch {epoch}" for name, epoch in epochs.items()))  # fmt: skip
    _revived_home(s)
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


def _revived_home(s: Stage) -> None:
    """A copy of home, with all its keys, tries to go on: first openly, then with a host that hides the new epoch."""
    revived = s.places.root / "revived"
    config = revived / "home" / "exclave.toml"
    text = config.read_text().replace(str(s.places.sites / "home"), str(revived / "site"))
    text = text.replace(str(s.places.home), str(revived / "home"))
    config.write_text(text)
    refused = s.commands.run("backup", "gazette", "--home", str(revived / "home"), expect=(Fenced.exit_code,))
    s.tell(f"A revived copy of home is refused: {refused.result['message']}")
    _refused(s, "a revived copy of home tries to back up", refused, Fenced)
    # North hides the new epoch from it, and it does not ask south: the dumb store lets it write.
    blind = text[: text.index('[[site]]\nname = "south"')] + text[text.index("[[witness]]") :]
    blind = blind.replace('south = "Agreement with Luxembourg of 20.06.2017, article 2"\n', "")
    blind = blind.replace('west = "Agreement with Sweden, article 7"\n', "")
    config.write_text(blind)
    known = attacks.epoch_notes(revived / "site", s.fingerprint)
    hiding = attacks.hide_new_epochs(s.places.sites / "north", s.fingerprint, s.places.root / "hidden", known)
    next(hiding)
    told = s.commands.run("backup", "gazette", "--home", str(revived / "home"), expect=(Fenced.exit_code,))
    next(hiding, None)
    s.tell(f"North would let it write, but the witness does not cosign: {told.result['message']}")
    _refused(s, "the revived home writes to a host that hides the new epoch", told, Fenced)
    attacks.carry_over(revived / "site", s.places.sites / "north", s.fingerprint, s.ids["gazette"])
    s.tell("So the thief copies what he wrote into north's store by hand, over its head of epoch 1.")
    found = s.commands.run("verify", *s.sites("north", "south", user="public"), *s.pinned, expect=(20,)).result[
        "findings"
    ]
    fenced = [f for f in found if f["fault"] == "fenced" and f["site"] == "north"]
    for one in fenced:
        s.tell(f"  {one['site']}: {one['fault']}: {one['detail']}")
    s.report.act("fenced entries lie at north", bool(fenced), "verify: fenced at north")


def _refused(s: Stage, act: str, told: Told, error: type[ExclaveError]) -> None:
    s.report.act(act, told.result["error"] == error.code, told.result["message"])


def require_demo(root: Path) -> None:
    """``UsageError`` unless a demo was played in ``root``."""
    if not (root / "embassy").is_dir() or not (root / "sites").is_dir():
        raise UsageError(f"there is no demo in {root}", hint="Name its folder with --dir.")


def require_kept(report: Report) -> None:
    """``Bug`` if the story did not come out as promised."""
    if not report.ok:
        broken = [p["promise"] for p in report.promises if not p["kept"]]
        broken += [a["act"] + " was not detected" for a in report.hostile_acts if not a["detected"]]
        raise Bug(f"the demo did not keep its promises: {'; '.join(broken)}")

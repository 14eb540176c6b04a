"""The demo's chapters about enemies: a host that lies, a thief, and home's copy that comes back from the dead."""

from __future__ import annotations

from typing import Any

from exclave.demo import attacks
from exclave.demo.gazette import KNOWN_PHRASE
from exclave.demo.hosts_story import thief_abroad
from exclave.demo.stage import Stage
from exclave.demo.state import REGISTERS
from exclave.errors import Fenced


def a_hostile_host(s: Stage) -> None:
    """North alters, drops and replays; a thief tries what home's credentials allow."""
    s.chapter("4. A hostile host")
    s.tell(
        "Now north's host lies, and a thief has all of home's credentials. Whoever reads finds out; no key is needed."
    )
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
        detail = one["detail"].replace(one["what"], "it")
        detail = detail if len(detail) <= 100 else detail[:99] + "…"
        s.tell(f"  {one['site']}: {one['fault']}: {_short(one['what'])}: {detail}")
    _judge(s, found, "a bit flipped in an object", "corrupt-object", flipped.name)
    _judge(s, found, "an object dropped", "missing-object", dropped.name)
    _judge(s, found, "an old checkpoint replayed", "rolled-back", land)
    thief_abroad(s)
    alone = s.commands.run("verify", *s.sites("south", "west", user="public"), *s.pinned)
    grave = [f for f in alone.result["findings"] if f["grave"]]
    if alone.result["ok"] and not grave:
        s.tell(f"  nothing is wrong there: {len(alone.result['registers'])} registers, every byte read")
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


def revived_home(s: Stage) -> None:
    """A copy of home, with all its keys, tries to go on: first openly, then with a host that hides the new epoch."""
    revived = s.places.root / "revived"
    config = revived / "home" / "exclave.toml"
    text = config.read_text().replace(str(s.places.sites / "home"), str(revived / "site"))
    text = text.replace(str(s.places.home), str(revived / "home"))
    config.write_text(text)
    refused = s.commands.run("backup", "gazette", "--home", str(revived / "home"), expect=(Fenced.exit_code,))
    s.tell(f"A revived copy of home is refused: {refused.result['message']}")
    s.refused("a revived copy of home tries to back up", refused, Fenced)
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
    s.refused("the revived home writes to a host that hides the new epoch", told, Fenced)
    attacks.carry_over(revived / "site", s.places.sites / "north", s.fingerprint, s.ids["gazette"])
    s.tell("So the thief copies what he wrote into north's store by hand, over its head of epoch 1.")
    found = s.commands.run("verify", *s.sites("north", "south", user="public"), *s.pinned, expect=(20,)).result[
        "findings"
    ]
    fenced = [f for f in found if f["fault"] == "fenced" and f["site"] == "north"]
    for one in fenced:
        s.tell(f"  {one['site']}: {one['fault']}: {one['detail']}")
    s.report.act("fenced entries lie at north", bool(fenced), "verify: fenced at north")

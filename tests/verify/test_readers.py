"""Two readers of one state: a split view is found by either, a rollback by the reader's own memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exclave.cli.main import run
from exclave.errors import MalformedError, RolledBack
from exclave.formats.fact import Fact
from exclave.formats.seen import Seen, parse_seen
from exclave.ids import Digest, Epoch, Instant, Key, Label, RegisterId
from exclave.rules.checkpoints import verify_checkpoint
from exclave.sites.contract import MAX_OBJECT_BYTES, Site
from exclave.verify.command import run as checks
from exclave.verify.embassy import verify_embassy
from exclave.verify.readers import Judged, Readings, Verdict, worst
from exclave.verify.seen_check import ReadersCheck
from support.fault_table import FaultTable
from support.hostile import MissingSite, StaleSite, containing
from support.small_state import HOUR, SmallState

NOW = Instant(1_790_000_000_000_000 + 100 * HOUR)
VECTORS = Path(__file__).parents[1] / "vectors" / "seen"


class Town:
    """One host that shows two readers what it likes: ``state`` and its twin, whose writer's key a thief has."""

    def __init__(self, folder: Path, versions: int = 2) -> None:
        self.state = SmallState(folder / "state")
        (folder / "docs").mkdir()
        self.docs = folder / "docs"
        self.write(versions)

    def write(self, versions: int = 1) -> None:
        for _ in range(versions):
            (self.docs / "act").write_bytes(f"{self.state.sequence}".encode() * 1000)
            self.state.write_version(self.docs)

    def enter(self, facts: int) -> None:
        """So many entries more in the ledger that are no versions."""
        fact = Fact(self.state.register, self.state.epoch.note.epoch, self.state.time, Label("drill")).encode()
        for at in range(0, facts, 100):
            self.state.append(*[fact] * min(100, facts - at))

    def frozen(self) -> Site:
        """The host as it is now, whatever is written later."""
        site = StaleSite(self.state.primary)
        site.freeze()
        return site

    def readings(self, *sites: Site) -> Readings:
        named = {f"site-{n}": site for n, site in enumerate(sites or (self.state.primary,))}
        judged = Judged()
        verify_embassy(named, self.state.state, now=NOW, read_packs=False, judged=judged)
        assert judged.view is not None
        return Readings(named, judged.view, judged.logs, NOW)


def forked(folder: Path, mine: int, theirs: int, facts: tuple[int, int] = (0, 0)) -> tuple[Town, Site, Site]:
    """Two chains from one state of the host, each with the writer's signature; so many versions later each, and so many
    other entries."""
    town = Town(folder)
    before = town.frozen()
    names = {stat.key: before.get(stat.key) for stat in before.list("")}
    sequence, time = town.state.sequence, town.state.time
    town.write(mine)
    town.enter(facts[0])
    first = town.frozen()
    for path in [p for p in town.state.site_folder("home").rglob("*") if p.is_file()]:
        path.unlink()
    for key, data in names.items():
        path = town.state.site_folder("home") / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    town.state.sequence, town.state.time = sequence, Instant(time + 1_000_000)
    town.write(theirs)
    town.enter(facts[1])
    return town, first, town.frozen()


@pytest.mark.parametrize(("mine", "theirs"), [(1, 1), (3, 1), (2, 2)])
def test_a_split_view_is_found(tmp_path: Path, mine: int, theirs: int, fault_table: FaultTable) -> None:
    """A host that shows each reader another chain is convicted by the two heads, which the writer signed."""
    town, first, second = forked(tmp_path, mine, theirs)
    other = parse_seen(town.readings(second).seen().encode())
    found = town.readings(first).compare(other)
    assert worst(found) is Verdict.FORKED
    (evidence,) = [one for one in found if one.verdict is Verdict.FORKED]
    writer = town.readings(first).view.epochs[town.state.register].newest.writer
    heads = []
    for text in (evidence.theirs, evidence.ours):
        origin = text.split("\n")[0]
        heads.append(verify_checkpoint(text.encode(), origin, writer))
    assert heads[0].root != heads[1].root
    fault_table.suite("readers", "split view", 1)


def test_the_reader_with_the_shorter_chain_is_warned(tmp_path: Path) -> None:
    """He cannot prove the fork by his own host, but sees that the other was shown more; the other reader proves it."""
    town, long, short = forked(tmp_path, 3, 1)
    assert worst(town.readings(short).compare(town.readings(long).seen())) in (Verdict.ROLLED_BACK, Verdict.FORKED)
    assert worst(town.readings(long).compare(town.readings(short).seen())) is Verdict.FORKED
    # With both hosts at hand it is proven.
    assert worst(town.readings(short, long).compare(town.readings(long).seen())) is Verdict.FORKED


def test_growth_is_no_fork(tmp_path: Path) -> None:
    """What was seen earlier is a proven beginning of what is shown later, across many entries and epochs."""
    town = Town(tmp_path)
    early = town.readings().seen()
    town.write(2)
    middle = town.readings().seen()
    town.state.new_epoch()
    town.write(1)
    now = town.readings()
    for seen in (early, middle, now.seen()):
        found = now.compare(seen, own=True)
        assert found
        assert {one.verdict for one in found} == {Verdict.AGREES}
    assert len(now.seen().logs) == 2


def test_a_rollback_since_the_last_visit(tmp_path: Path) -> None:
    """The only host shows an old state again: whole and well signed, and less than this reader has seen."""
    town = Town(tmp_path)
    old = town.frozen()
    town.write()
    seen = town.readings().seen()
    assert worst(town.readings(old).compare(seen, own=True)) is Verdict.ROLLED_BACK
    # What was seen before is not forgotten for it.
    assert town.readings(old).seen(seen).logs == seen.logs
    # Beside a host that is behind, one that is not is enough.
    assert worst(town.readings(old, town.state.primary).compare(seen)) is Verdict.AGREES


class Turncoat(StaleSite):
    """Shows an old state until a ledger's head was read, and from then on what it has now."""

    def get(self, key: Key, *, limit: int = MAX_OBJECT_BYTES) -> bytes:
        data = super().get(key, limit=limit)
        if key.endswith("/checkpoint"):
            self.thaw()
        return data


def test_a_host_that_answers_the_comparison_otherwise(tmp_path: Path) -> None:
    """It shows an old state to be verified and the new one to be compared: what was verified is what is compared."""
    town = Town(tmp_path)
    host = Turncoat(town.state.primary)
    host.freeze()
    town.write()
    mine = tmp_path / "mine.seen"
    mine.write_bytes(town.readings().seen().encode())
    kept, check, judged = mine.read_bytes(), ReadersCheck(mine, (), town.state.state), Judged()
    report = verify_embassy({"home": host}, town.state.state, now=NOW, read_packs=False, judged=judged)
    check.run({"home": host}, judged)
    assert report.registers[0].versions == 2
    assert check.exit_code == RolledBack.exit_code
    assert mine.read_bytes() == kept


def test_a_host_that_proves_nothing_takes_no_memory_away(tmp_path: Path) -> None:
    """It shows a longer chain without the tile that would convict it: what was seen before stays, for the day on which
    it is proven."""
    town, first, second = forked(tmp_path, 1, 1, facts=(300, 700))
    mine = town.readings(first).seen()
    hiding = MissingSite(second, containing("tile/0/001"))
    found = town.readings(hiding).compare(mine, own=True)
    assert worst(found) is Verdict.UNTOLD
    assert town.readings(hiding).seen(mine).logs == mine.logs
    assert worst(town.readings(second).compare(mine, own=True)) is Verdict.FORKED


def test_a_register_that_the_charter_leaves_out(tmp_path: Path) -> None:
    """Custodians decided that it is no register any more: nobody has rolled it back."""
    town = Town(tmp_path)
    seen = town.readings().seen()
    other = RegisterId("f" * 32)
    town.state.next_charter(lambda c: replace(c, registers=(replace(c.registers[0], id=other),)))
    assert worst(town.readings().compare(seen, own=True)) is Verdict.AGREES
    (log,) = seen.logs
    never = replace(seen, logs=(replace(log, register=RegisterId("e" * 32)),))
    assert worst(town.readings().compare(never, own=True)) is Verdict.ROLLED_BACK


def test_a_hidden_epoch(tmp_path: Path) -> None:
    """One's own memory counts; another's word for an epoch that nobody shows proves nothing."""
    town = Town(tmp_path)
    old = town.frozen()
    town.state.new_epoch()
    town.write()
    seen = town.readings().seen()
    assert worst(town.readings(old).compare(seen, own=True)) is Verdict.ROLLED_BACK
    assert worst(town.readings(old).compare(seen)) is Verdict.UNTOLD


def test_forged_files_accuse_nobody(tmp_path: Path) -> None:
    """Heads that the writer did not sign, of other epochs or with other notes, prove nothing and hide nothing."""
    town = Town(tmp_path)
    seen = town.readings().seen()
    (log,) = seen.logs
    text = log.checkpoint.decode()
    other_size = text.replace(f"\n{town.readings().view.epochs and text.split(chr(10))[1]}\n", "\n99\n", 1)
    for forged in (
        replace(log, checkpoint=other_size.encode()),
        replace(log, epoch=Epoch(7)),
        replace(log, epoch_note=Digest(bytes(32))),
    ):
        found = town.readings().compare(replace(seen, logs=(forged,)))
        assert [one.verdict for one in found] == [Verdict.UNTOLD]
        assert town.readings().seen(replace(seen, logs=(forged,))).logs == seen.logs
    for forged_file in (replace(seen, charter=9), replace(seen, charter_digest=Digest(bytes(32)))):
        assert worst(town.readings().compare(forged_file)) is Verdict.UNTOLD


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*")), ids=lambda path: path.name)
def test_vectors(path: Path) -> None:
    """Each file does what its vector says, and what parses encodes to the same bytes."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    if head == b"expect: ok":
        assert parse_seen(body).encode() == body
    else:
        assert head == b"expect: malformed"
        with pytest.raises(MalformedError):
            parse_seen(body)


def test_lines_without_end() -> None:
    """A file of empty lines is refused before they fill the memory."""
    with pytest.raises(MalformedError, match="lines"):
        parse_seen(b"exclave/seen/v1" + b"\n" * (1 << 21))


def test_there_are_vectors() -> None:
    """An empty folder would pass."""
    assert len(list(VECTORS.glob("*"))) > 10


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Remembers, compares, says what it means, and keeps what convicts."""
    town, first, second = forked(tmp_path, 1, 1)
    mine, theirs = tmp_path / "mine.seen", tmp_path / "theirs.seen"
    theirs.write_bytes(town.readings(first).seen().encode())
    call = ["verify", "--site", f"home=dir:{town.state.site_folder('home')}", "--fingerprint", town.state.state]
    run([*call, "--remember", str(mine)])
    assert "What was seen stands in" in " ".join(capsys.readouterr().out.split())
    kept = mine.read_bytes()
    assert parse_seen(kept).logs == town.readings(second).seen().logs
    assert run([*call, "--remember", str(mine), "--compare", str(theirs)]) == 24
    assert "TWO HISTORIES" in capsys.readouterr().out
    assert run([*call, "--compare", str(theirs), "--json"]) == 24
    (evidence,) = [one for one in json.loads(capsys.readouterr().out)["compared"] if one["verdict"] == "forked"]
    assert evidence["theirs"].encode() == parse_seen(theirs.read_bytes()).logs[0].checkpoint
    # What contradicts one's own memory never replaces it.
    assert run([*call, "--remember", str(theirs)]) == 24
    assert parse_seen(theirs.read_bytes()).logs == town.readings(first).seen().logs
    theirs.write_bytes(kept.replace(b"exclave/seen/v1", b"exclave/seen/v2"))
    assert run([*call, "--compare", str(theirs)]) == MalformedError.exit_code
    theirs.write_bytes(Seen(type(town.state.state)("0" * 64), NOW, 1, Digest(bytes(32)), ()).encode())
    assert run([*call, "--compare", str(theirs)]) == 2
    assert not (tmp_path / "mine.seen.new").exists()
    # What would be passed over is refused.
    for other in ("--proof", "--statement"):
        assert run([*call, other, str(theirs), "--remember", str(mine)]) == 2
        assert checks([other, str(theirs), "--compare", str(mine), "--fingerprint", town.state.state]) == 2

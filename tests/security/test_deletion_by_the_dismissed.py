"""Orders to delete by who may not give them any more, or who dates them back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from exclave.cli.where import view_of
from exclave.errors import NotAuthorised
from exclave.formats.deletion import DONE, ORDERED, Objection
from exclave.formats.note import ParsedNote
from exclave.formats.paths import deletion_key
from exclave.formats.tile import bundle_key
from exclave.formats.warrant import Act
from exclave.ids import Instant, Key, Label, now, parse_register_id
from exclave.keys.file import KeyFile, load
from exclave.operations.act_fact import RegisterFacts
from exclave.operations.custody import Granted, grant, request_warrant, sign_warrant
from exclave.operations.deletion import read_order_file
from exclave.operations.objecting import put_objection
from exclave.rules.deletion import OrderState
from exclave.rules.signatures import sign_text
from exclave.sites.erasing import DirectoryEraser
from exclave.verify.deletions import Deletions, mark_erased, read_deletions
from exclave.verify.history import RegisterHistory
from support.deleting import DAY, AgeingHome, facts_of
from support.rekeying import People
from support.small_home import Register


class ChangingHome(AgeingHome, People):
    """An ``AgeingHome`` whose custodians are replaced."""

    def replace_all(self) -> None:
        People.change(self, ("kaja", "luc", "dora", "emil"), people=("dora", "emil", "fay"))
        self.backup()


@pytest.fixture
def home(tmp_path: Path) -> ChangingHome:
    home = ChangingHome(tmp_path / "state", sites=("home", "lux"))
    home.found()
    home.grown(3)
    return home


def coerced(home: AgeingHome, order: Path, *, days: float) -> Granted:
    """A warrant to delete that kaja and luc sign, as if it had been asked for so many ``days`` ago."""
    where, writer = view_of(home.folder, None, ""), load(str(home.folder / "keys" / "writer.key"))
    warrant = home.root / "warrants" / "coerced.warrant"
    warrant.parent.mkdir(exist_ok=True)
    then = Instant(now() - int(days * DAY))
    request_warrant(
        where.view, writer, warrant, act=Act.DELETE, registers=[parse_register_id(home.id_of())], place=Label("home"),
        reason="Too old", now=then, valid_s=int((days + 1) * 86400), object=order,
    )  # fmt: skip
    answers = []
    for name in ("kaja", "luc"):
        answers.append(warrant.with_name(f"{name}.answer"))
        sign_warrant(warrant, where.view, where.sites, load(str(home.key(name))), answers[-1], now=now(), object=order)
    wanted = read_order_file(order)
    return grant(
        where.view, warrant, answers, act=Act.DELETE, place=None, machine=writer, now=now(), object=wanted.digest
    )


def enter(home: AgeingHome, order: Path, granted: Granted, kind: Label, *, time: Instant) -> None:
    """What a thief of home enters about ``order``, at whatever ``time`` he claims."""
    wanted, (view, facts, _) = read_order_file(order), facts_of(home)
    for site in facts.sites.values():
        site.put_same(deletion_key(view.state, wanted.register, wanted.digest), wanted.encode().encode())
    said = (wanted.digest.hex(), "1 site holds none of them")
    facts.record(kind, granted, said, again=True, now=time)


def put(home: AgeingHome, said: Objection, key: KeyFile) -> None:
    """An objection, signed with ``key``, at every site."""
    text, (view, facts, _) = said.encode(), facts_of(home)
    note = ParsedNote(text, sign_text(text, key.name, key.signing()))
    put_objection(view, facts.register, note.encode(), facts.sites)


def read(home: AgeingHome, *, days: float = 0) -> tuple[Deletions, RegisterHistory]:
    """What everybody finds ``days`` from now: orders, and the history with the versions that count as erased."""
    time = Instant(now() + int(days * DAY))
    view, facts, history = facts_of(home)
    assert isinstance(facts, RegisterFacts)
    deletions = read_deletions(view, facts.sites, history, now=time)
    return deletions, mark_erased(view, facts.sites, history, time)


def test_dismissed_custodians_order_nothing(home: ChangingHome) -> None:
    """A warrant that was signed before all custodians were replaced makes no order once the ledger names a charter."""
    order = home.propose()
    granted = coerced(home, order, days=0)
    home.replace_all()
    enter(home, order, granted, ORDERED, time=now())
    deletions, history = read(home, days=31)
    assert not deletions.orders
    assert not history.erased
    assert "charter" in deletions.findings[0].detail


def test_an_order_that_is_dated_back_lies_open_all_the_same(home: ChangingHome) -> None:
    """A coerced quorum and a thief of home date it as they like: the ledger's versions tell when it cannot be."""
    order = home.propose()
    granted = coerced(home, order, days=60)
    enter(home, order, granted, ORDERED, time=Instant(now() - 50 * DAY))
    assert not read(home)[1].erased, "due at once"
    assert len(read(home, days=31)[1].erased) == 2, "the delay counts from the version before it"
    enter(home, order, granted, DONE, time=Instant(now() - 10 * DAY))
    assert not read(home)[1].erased, "done at once"


def test_a_thief_who_says_done_too_early_spoils_no_record(home: ChangingHome) -> None:
    """What home enters rightly once the delay is over counts, beside the false word that stands before it."""
    order = home.propose()
    granted = coerced(home, order, days=0)
    enter(home, order, granted, ORDERED, time=now())
    enter(home, order, granted, DONE, time=now())
    assert not read(home, days=20)[1].erased
    assert not read(home, days=40)[0].gone
    enter(home, order, granted, DONE, time=Instant(now() + 31 * DAY))
    deletions, history = read(home, days=40)
    assert len(deletions.gone) == len(history.erased) == 2
    assert [f.grave for f in deletions.findings] == [True], "the false one is told of for ever"


def test_a_key_that_was_replaced_holds_nothing(home: ChangingHome) -> None:
    """A thief of aino's former key speaks for her under the charter of then: no legal hold by it under the newest."""
    home.ordered()
    former = load(str(home.key("aino")))
    home.key("aino").unlink()
    home.key("aino").with_suffix(".card").unlink()
    People.change(home, ("kaja", "luc"), people=("aino", "kaja", "luc"))
    view, facts, _ = facts_of(home)
    said = Objection(view.state, facts.register, view.chain.newest.digest, None, former.name, now(), "A thief has it")
    put(home, said, former)
    assert not read(home)[0].objections
    assert home.erase("lux").verdict.state is OrderState.DUE


def test_a_site_that_knows_nothing_of_a_register_is_no_other_site(tmp_path: Path) -> None:
    """An operator who names a site of other registers is still alone: nothing there tells of objections to this one."""
    home = ChangingHome(tmp_path / "state")
    (tmp_path / "laws").mkdir()
    home.registers[0] = replace(home.registers[0], at=("home", "lux"))
    home.registers.append(Register("laws", [("laws", "files", {"path": str(tmp_path / "laws")})], at=("home", "nord")))
    home.found()
    home.grown(2)
    digest = home.ordered()
    home.object_to("aino", "--order", digest.hex(), sites=["home"])
    with pytest.raises(NotAuthorised, match="alone"):
        home.erase("lux", "nord")
    assert home.erase("lux", "home").verdict.state is OrderState.STOPPED


def test_an_objection_that_is_dated_back_is_told_of(home: ChangingHome) -> None:
    """A limit: one custodian who dates his word back makes a deletion that was right look wrong, gravely."""
    order = home.propose()
    granted = coerced(home, order, days=0)
    enter(home, order, granted, ORDERED, time=now())
    enter(home, order, granted, DONE, time=Instant(now() + 31 * DAY))
    assert len(read(home, days=40)[0].gone) == 2
    view, facts, _ = facts_of(home)
    then, digest = Instant(now() + 10 * DAY), read_order_file(order).digest
    said = Objection(view.state, facts.register, view.chain.newest.digest, digest, Label("aino"), then, "Too late")
    put(home, said, load(str(home.key("aino"))))
    deletions, _ = read(home, days=40)
    assert not deletions.gone
    assert [(f.grave, "objected to by aino" in f.detail) for f in deletions.findings] == [(True, True)]


@dataclass
class Dated:
    """A store where the bundles of entries came twenty days late, but for ``early``."""

    inner: DirectoryEraser
    early: Key

    def shown_since(self, key: Key) -> Instant | None:
        since = self.inner.shown_since(key)
        late = "/tile/entries/" in key and key != self.early
        return Instant(since + 20 * DAY) if late and since is not None else since

    def erase(self, key: Key) -> None:
        self.inner.erase(key)


def test_a_bundle_that_was_planted_tells_no_time(home: ChangingHome) -> None:
    """An object that the writer put in good time under the name of a bundle to come, with other bytes than the log's,
    makes no order older than its entry."""
    home.ordered()
    home.backup()
    view, facts, history = facts_of(home)
    counted = next(f for f in history.facts if f.fact.kind == ORDERED)
    prefix = view.log_reader(history.epochs[0].epoch, facts.sites[Label("lux")]).prefix
    early = bundle_key(prefix, 0, counted.index + 1)
    (home.site("lux") / early).chmod(0o600)
    (home.site("lux") / early).write_bytes(b"planted")
    power = Dated(DirectoryEraser(str(home.site("lux"))), early)
    assert home.erase("lux", power=power, days=31).verdict.state is OrderState.WAITING
    assert home.erase("lux", power=power, days=51).verdict.state is OrderState.DUE


def test_other_bytes_under_the_order_s_name_are_no_order(home: ChangingHome) -> None:
    """A site that shows something else in the place of the order has not laid it open, however long that lies there."""
    digest = home.ordered()
    (path,) = home.objects("deletion")
    assert path.name == digest.hex()
    path.chmod(0o600)
    path.write_bytes(b"planted")
    assert home.erase("lux").verdict.state is OrderState.WAITING
    assert home.erase("home").verdict.state is OrderState.DUE

"""A statement is looked for at the sites: what was found holds, a lie is found, and an old one is said to be old."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exclave.errors import CorruptObject, MalformedError, MissingObject, NotAuthorised, WrongFingerprint
from exclave.formats.note import ParsedNote, parse_note
from exclave.formats.paths import public_statement_key
from exclave.formats.publicstatement import PublicStatement, RegisterLine, Role, SealedTotal, parse_public_statement
from exclave.ids import Digest, Fingerprint, Instant, Key, Label, Sequence, now, sha256
from exclave.keys.file import KeyFile, load
from exclave.operations.home import Home, key_card
from exclave.operations.statement import newest_statement
from exclave.rules.signatures import sign_text
from exclave.sites.contract import ObjectStat, Site
from exclave.sites.opening import open_site
from exclave.verify.state import read_state
from exclave.verify.statements import CheckedStatement, Truth, check_statement
from support.hostile import MissingSite, StaleSite, containing
from support.hostile_town import Silent
from support.rekeying import People
from support.small_home import Register, SmallHome, command, run

HOUR_US = 3_600_000_000


class Public(Register):
    """A register whose title the public may know."""

    def block(self) -> str:
        return super().block().replace("rto_s = 900", 'rto_s = 900\npublic = true\ntitle = "Official <Gazette>"', 1)


class Republic:
    """A public register with two versions, a sealed one, and a statement of its writer."""

    def __init__(self, root: Path) -> None:
        for name in ("acts", "land"):
            (root / name).mkdir()
            (root / name / "one").write_text(name * 100)
        files: dict[str, list[tuple[str, str, dict[str, object]]]] = {
            name: [("files", "files", {"path": str(root / name)})] for name in ("acts", "land")
        }
        registers = [Public("gazette", files["acts"]), Register("land", files["land"])]
        self.home = People(root, registers).found()
        self.home.backup()
        self.then = {Label(name): StaleSite(open_site(url)) for name, url in self.home.urls.items()}
        for site in self.then.values():
            site.freeze()
        (root / "acts" / "two").write_text("two" * 1000)
        self.home.backup("gazette")
        self.out = root / "said"
        self.home.ok("statement", "make", str(self.out), "--publish", *self.home.home)
        self.note = (self.out / "statement.note").read_bytes()
        self.said = parse_public_statement(parse_note(self.note).text)
        self.writer = Home.open(self.home.folder).writer_key()
        self.sites: dict[Label, Site] = {Label(name): open_site(url) for name, url in self.home.urls.items()}

    def signed(self, said: PublicStatement, key: KeyFile | None = None) -> bytes:
        """``said`` as whoever holds ``key`` (the writer's) can sign it with any tool."""
        owner = key or self.writer
        return ParsedNote(said.encode(), sign_text(said.encode(), owner.name, owner.signing())).encode()

    def check(self, note: bytes, sites: dict[Label, Site] | None = None, at: Instant | None = None) -> CheckedStatement:
        pinned = Fingerprint(self.home.fingerprint)
        return check_statement(
            note, self.sites if sites is None else sites, pinned, now=at or now(), choose=lambda n: n - 1
        )


@pytest.fixture(scope="module")
def republic(tmp_path_factory: pytest.TempPathFactory) -> Republic:
    return Republic(tmp_path_factory.mktemp("republic"))


def test_what_was_found_holds(republic: Republic) -> None:
    """A statement names the public register, counts the sealed one, and is found again by anybody."""
    said = republic.said
    (line,) = said.lines
    assert (line.title, line.sequence, line.copies, line.countries) == ("Official <Gazette>", 2, 3, 3)
    assert said.total is not None
    assert (said.total.registers, said.total.within_rpo) == (1, 1)
    assert said.role is Role.WRITER
    assert b"land" not in republic.note, "nobody learns a sealed register's name"
    found = republic.check(republic.note)
    assert (found.truth, found.current) == (Truth.HOLDS, True)
    assert {claim.truth for claim in found.claims} == {Truth.HOLDS}


def line_with(**change: Any) -> Callable[[PublicStatement], PublicStatement]:
    return lambda said: replace(said, lines=(replace(said.lines[0], **change),))


def total_with(**change: Any) -> Callable[[PublicStatement], PublicStatement]:
    return lambda said: replace(said, total=replace(said.total or SealedTotal(1, 0, 0, 0, Instant(0)), **change))


LIES: dict[str, Callable[[PublicStatement], PublicStatement]] = {
    "a version that never was": lambda s: line_with(sequence=Sequence(s.lines[0].sequence + 1))(s),
    "another entry under its number": line_with(leaf=Digest(b"\x66" * 32)),
    "a younger moment": lambda s: line_with(time=Instant(s.lines[0].time + 1))(s),
    "an older version's entry": line_with(sequence=Sequence(1)),
    "one copy more": line_with(copies=4),
    "one country more": line_with(copies=4, countries=4),
    "another title": line_with(title="Secret Gazette"),
    "a longer promise": line_with(rpo_s=7200),
    "a sealed register in public": lambda s: replace(s, lines=(), total=replace(s.total, registers=2)),  # type: ignore[type-var]
    "silence about a public register": lambda s: replace(s, lines=()),
    "nothing at all": lambda s: replace(s, lines=(), total=None),
    "a look in the future": lambda s: replace(
        s, verified=Instant(s.verified + HOUR_US), next_by=Instant(s.next_by + HOUR_US)
    ),
    "data younger than the look": lambda s: replace(s, verified=Instant(s.verified - HOUR_US)),
    "more sealed registers": total_with(registers=2),
    "newer sealed data": lambda s: total_with(time=s.verified)(s),
    "more copies of sealed data": total_with(copies=4),
    "sealed data in more countries": total_with(copies=4, countries=4),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found(republic: Republic, name: str) -> None:
    """Whatever a signer claims beyond what the sites show is false, and no site's word for it is needed."""
    said = LIES[name](republic.said)
    assert said != republic.said
    assert republic.check(republic.signed(said)).truth is Truth.FALSE


def test_more_within_the_promise_than_there_are(republic: Republic) -> None:
    """Hours later the sealed register is late: whoever says that it is within its RPO lies."""
    late = Instant(republic.said.verified + 2 * HOUR_US)
    said = replace(republic.said, verified=late, next_by=Instant(late + HOUR_US))
    assert republic.check(republic.signed(said), at=late).truth is Truth.FALSE
    honest = total_with(within_rpo=0)(said)
    assert republic.check(republic.signed(honest), at=late).truth is Truth.HOLDS


def test_to_claim_less_is_no_lie(republic: Republic) -> None:
    """Fewer copies, no total, nothing at all of a register: all of it holds."""
    said = republic.said
    nothing = RegisterLine(
        said.lines[0].register, 3600, 0, 0, Sequence(0), Instant(0), Digest(bytes(32)), said.lines[0].title
    )
    for modest in (line_with(copies=1, countries=1)(said), replace(said, total=None, lines=(nothing,))):
        assert republic.check(republic.signed(modest)).truth is Truth.HOLDS


def test_lost_packs_make_it_false(republic: Republic) -> None:
    """A site that has lost what was counted there is found out; the ledger alone does not count."""
    sites = republic.sites | {Label("lux"): MissingSite(republic.sites[Label("lux")], containing("/pack/"))}
    found = republic.check(republic.note, sites)
    assert found.truth is Truth.FALSE
    assert any("found at home, nord" in claim.found for claim in found.claims)


def test_a_silent_site_leaves_it_open(republic: Republic) -> None:
    """What only an unread site could show cannot be told."""
    sites = republic.sites | {Label("nord"): Silent(republic.sites[Label("nord")])}
    assert republic.check(republic.note, sites).truth is Truth.UNTOLD
    alone = {Label("lux"): republic.sites[Label("lux")]}
    assert republic.check(republic.note, alone).truth is Truth.UNTOLD
    assert republic.check(republic.signed(line_with(copies=4)(republic.said)), sites).truth is Truth.FALSE


def test_who_names_few_sites_hears_which_are_missing(republic: Republic, tmp_path: Path) -> None:
    """That it cannot be told is then the reader's to mend; neither program contradicts what it could not look for."""
    file = tmp_path / "s.note"
    file.write_bytes(republic.note)
    ends = "1 of the 3 sites was named; the claim is about 3. Name the others with --site: home, nord."
    said = run("verify", "--statement", str(file), *republic.home.where("lux"))
    assert (said.code, said.out.splitlines()[-1]) == (1, ends)
    assert " registers, and " in said.out
    assert "then, not" not in said.out
    both = run("verify", "--statement", str(file), *republic.home.where())
    assert (both.code, "Name the others" in both.out) == (0, False)


def test_sites_that_hide_the_newest(republic: Republic) -> None:
    """If every site that is asked shows only the version before, the statement is false by them; one unread site leaves
    it open."""
    then: dict[Label, Site] = dict(republic.then)
    assert republic.check(republic.note, then).truth is Truth.FALSE
    del then[Label("nord")]
    assert republic.check(republic.note, then).truth is Truth.UNTOLD


def test_an_old_statement_says_that_it_is_old(republic: Republic) -> None:
    """Replayed after its ``next-by`` it is still true of its day, and not current."""
    found = republic.check(republic.note, at=Instant(republic.said.next_by + 1))
    assert (found.truth, found.current) == (Truth.HOLDS, False)


def test_a_stranger_is_not_believed(republic: Republic, tmp_path: Path) -> None:
    """A key that the charter does not know, another role than one's own, or a signature on another text."""
    republic.home.ok("custodian", "new", "mallory", "--out", str(tmp_path))
    mallory = load(str(tmp_path / "mallory.key"))
    card = key_card(mallory)
    forged = replace(republic.said, signer=card.name, card=card.digest)
    with pytest.raises(NotAuthorised):
        republic.check(republic.signed(forged, mallory))
    with pytest.raises(NotAuthorised):
        republic.check(republic.signed(replace(republic.said, role=Role.WITNESS)))
    with pytest.raises(NotAuthorised):
        republic.check(republic.signed(republic.said, mallory))
    note = parse_note(republic.note)
    other = ParsedNote(line_with(copies=1, countries=1)(republic.said).encode(), note.signatures).encode()
    with pytest.raises(CorruptObject):
        republic.check(other)


def test_a_custodian_may_speak(republic: Republic) -> None:
    """Signed by a custodian of the charter it counts as well, and says so."""
    out = republic.home.root / "by-kaja"
    key = str(republic.home.key("kaja"))
    republic.home.ok("statement", "make", str(out), "--key", key, *republic.home.where())
    note = (out / "statement.note").read_bytes()
    found = republic.check(note)
    assert (found.truth, found.statement.role, found.statement.signer) == (Truth.HOLDS, Role.CUSTODIAN, "kaja")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"state": Fingerprint("ab" * 32)}, WrongFingerprint),
        ({"charter_digest": Digest(b"\x01" * 32)}, CorruptObject),
        ({"charter": 2}, CorruptObject),
        ({"name": "Another Republic"}, CorruptObject),
    ],
)
def test_another_states_statement(republic: Republic, change: dict[str, Any], error: type[Exception]) -> None:
    """A statement that does not rest on this state's charters is refused."""
    with pytest.raises(error):
        republic.check(republic.signed(replace(republic.said, **change)))


def test_rubbish(republic: Republic) -> None:
    """What is no statement is malformed, whoever signed it."""
    for note in (
        b"",
        b"x" * 100,
        republic.note[:-9],
        ParsedNote("hello\n", parse_note(republic.note).signatures).encode(),
    ):
        with pytest.raises(MalformedError):
            republic.check(note)


def test_nobody_speaks_for_longer_than_a_month(republic: Republic) -> None:
    """A statement that calls itself a present one for years does not parse, and is not made."""
    long = replace(republic.said, next_by=Instant(republic.said.verified + 32 * 24 * HOUR_US))
    with pytest.raises(MalformedError):
        republic.check(republic.signed(long))
    home = republic.home
    assert home.fails(2, "statement", "make", str(home.root / "no"), "--next-by", "32d", *home.home)["error"] == "usage"


def test_the_dismissed_are_not_believed(tmp_path: Path) -> None:
    """A custodian whom a later charter leaves out names the former one, which knew him.

    With a time after the later one he is refused; dated before it, nobody can tell when he signed.
    """
    old = Republic(tmp_path)
    aino = load(str(old.home.key("aino")))
    card = key_card(aino)
    before = replace(old.said, role=Role.CUSTODIAN, signer=card.name, card=card.digest)
    assert old.check(old.signed(before, aino)).truth is Truth.HOLDS
    old.home.change(["kaja", "luc", "mart"], people=["kaja", "luc", "mart"])
    found = old.check(old.signed(before, aino))
    assert found.truth is Truth.UNTOLD
    assert any("aino is no custodian any more" in claim.found for claim in found.claims)
    late = Instant(now() + HOUR_US)
    after = replace(before, verified=late, next_by=Instant(late + HOUR_US))
    with pytest.raises(NotAuthorised):
        old.check(old.signed(after, aino), at=late)


# Commands


def test_verify_statement(republic: Republic, tmp_path: Path) -> None:
    """``exclave verify --statement`` ends with 0 for a true one, 20 for a false one, 1 for an old one."""
    file, where = tmp_path / "s.note", republic.home.where()
    file.write_bytes(republic.note)
    said = run("verify", "--statement", str(file), *where)
    assert (said.code, "Everything that it claims was found." in said.out) == (0, True)
    assert republic.home.ok("verify", "--statement", str(file), *where)["truth"] == "holds"
    file.write_bytes(republic.signed(line_with(copies=4)(republic.said)))
    assert republic.home.fails(20, "verify", "--statement", str(file), *where)["truth"] == "false"
    past = replace(republic.said, next_by=Instant(republic.said.verified + 1))
    file.write_bytes(republic.signed(past))
    assert republic.home.fails(1, "verify", "--statement", str(file), *where)["current"] is False
    file.write_bytes(b"no note")
    assert republic.home.fails(4, "verify", "--statement", str(file), *where)["error"] == "malformed"


def test_the_latest_at_the_sites(republic: Republic, tmp_path: Path) -> None:
    """The newest statement is found at any site, among forged, foreign and misnamed ones."""
    where = republic.home.where("lux")
    found = republic.home.ok("statement", "latest", str(tmp_path / "got"), *where)
    assert found["signer"] == republic.said.signer
    assert (tmp_path / "got" / "statement.note").read_bytes() == republic.note
    said = run("statement", "latest", str(tmp_path / "got"), *republic.home.where())
    check = shlex.split(said.out.splitlines()[-1])
    assert check[0] == "exclave"
    assert run(*check[1:]).code == 0
    at_home = run("statement", "latest", str(tmp_path / "got"), *republic.home.home).out.splitlines()[-1]
    assert run(*shlex.split(at_home)[1:]).code == 0
    page = (tmp_path / "got" / "index.html").read_text()
    assert "--fingerprint THE-PRINTED-ONE --site NAME=ADDRESS" in page
    day = next(item.key for item in republic.sites[Label("lux")].list(f"{republic.home.fingerprint}/statement/"))
    later = replace(republic.said, verified=Instant(republic.said.verified + 1), signer=Label("mallory"))
    for data in (b"rubbish", republic.signed(later)):
        target = republic.home.site("lux") / day.rpartition("/")[0] / sha256(data).hex()
        target.write_bytes(data)
    again = republic.home.ok("statement", "latest", str(tmp_path / "got"), *where)
    assert again["verified"] == found["verified"]


class Flood:
    """A host that shows any number of statements, for each day."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read = data, 0

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return (ObjectStat(Key(f"{prefix}{number:064x}"), len(self.data)) for number in range(5000))

    def get(self, key: Key, *, limit: int) -> bytes:
        self.read += 1
        return self.data


@pytest.mark.parametrize(("data", "most"), [(b"rubbish", 1000), (bytes(1 << 20), 64)])
def test_a_flood_of_statements_is_not_read_to_its_end(data: bytes, most: int) -> None:
    """A host that shows rubbish for years costs a reader a thousand small objects, or 64 MiB, and no more."""
    flood, view = Flood(data), SimpleNamespace(state="f" * 64)
    with pytest.raises(MissingObject):
        newest_statement({"lux": flood}, view, now=now(), days=365)  # type: ignore[arg-type, dict-item]
    assert flood.read == most


def test_the_pages(republic: Republic) -> None:
    """Text and page say the same, without scripts, and names of registers are no markup."""
    text, page = (republic.out / "statement.txt").read_text(), (republic.out / "index.html").read_text()
    assert "Official <Gazette>\n  Data up to" in text
    assert "Official &lt;Gazette&gt;" in page
    assert "<Gazette>" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    for words in ("3 places in 3 countries", "The next statement comes by"):
        assert words in text
        assert words in page
    assert republic.home.fingerprint in page


def test_bad_news_is_said(republic: Republic, tmp_path: Path) -> None:
    """With a site's packs gone the statement counts fewer places; with too few it says so in red."""
    home = SmallHome(tmp_path).found()
    home.backup()
    assert home.fails(22, "statement", "latest", str(tmp_path / "none"), *home.where())["error"] == "missing-object"
    for name in ("lux", "nord"):
        for pack in home.site(name).rglob("pack/*/*"):
            pack.chmod(0o600)
            pack.unlink()
    found = home.ok("statement", "make", str(tmp_path / "said"), "--sealed", "each", *home.home)
    assert [line["copies"] for line in found["lines"]] == [0]
    page = (tmp_path / "said" / "index.html").read_text()
    assert 'class="verdict bad"' in page
    assert "No version was found whole" in page
    assert (
        home.ok("verify", "--statement", str(tmp_path / "said" / "statement.note"), *home.where())["truth"] == "holds"
    )


def test_by_timetable(republic: Republic, tmp_path: Path) -> None:
    """With --every one follows the other, each with a later time; the folder always holds a whole one."""
    argv = command("statement", "make", str(tmp_path / "said"), "--every", "1s", "--json", *republic.home.home)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        seen: set[Instant] = set()
        end = time.monotonic() + 120
        while len(seen) < 3 and time.monotonic() < end:
            note = tmp_path / "said" / "statement.note"
            if note.exists():
                seen.add(parse_public_statement(parse_note(note.read_bytes()).text).verified)
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    assert len(seen) == 3
    assert json.loads(out[: out.index(b"\n}\n") + 2])["lines"]


def test_wrong_words(republic: Republic, tmp_path: Path) -> None:
    """What was typed wrong is said before anything is read."""
    home, out = republic.home, str(tmp_path / "out")
    for options in (["--sealed", "all"], ["--every", "1h", "--next-by", "30m"], ["--every", "sometimes"]):
        assert home.fails(2, "statement", "make", out, *options, *home.home)["error"] == "usage"
    assert home.fails(2, "statement", "make", out, *home.where())["error"] == "usage"
    home.ok("custodian", "new", "mallory", "--out", str(tmp_path))
    stranger = home.fails(30, "statement", "make", out, "--key", str(tmp_path / "mallory.key"), *home.where())
    assert stranger["error"] == "not-authorised"
    assert not Path(out).exists()


def test_a_statement_of_tomorrow_is_not_the_newest(republic: Republic) -> None:
    """Who has a witness's or the writer's key cannot put a statement before all later ones by its date."""
    view = read_state(republic.sites, Fingerprint(republic.home.fingerprint))
    later = Instant(republic.said.verified + 3 * HOUR_US)
    made = republic.signed(replace(republic.said, verified=later, next_by=Instant(later + HOUR_US)))
    for site in republic.sites.values():
        site.put_same(public_statement_key(view.state, later, made), made)
    found = newest_statement(republic.sites, view, now=now(), days=2)
    assert found.note == republic.note
    assert newest_statement(republic.sites, view, now=later, days=2).note == made

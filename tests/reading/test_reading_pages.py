"""From editions to pages: only what changed, never half a version, and nothing hostile in a page."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from exclave.errors import CorruptObject, Forked, MalformedError, RolledBack
from exclave.ids import sha256
from exclave.serve import reading_build
from exclave.serve.reading_acts import blocks, parse_act, place_of, shown
from exclave.serve.reading_search import Searcher, parse_query
from support.gazette_room import EVIL, FIRST, HOUR, START, STATE, Files, Press, act_files, law


def built(folder: Path, *editions: Files) -> Press:
    press = Press()
    for files in editions:
        press.publish(files)
        bring(press, folder)
    return press


def bring(press: Press, folder: Path) -> bool:
    builder = press.builder(folder)
    try:
        return builder.build(press.editions[-1])
    finally:
        builder.close()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: bytes) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page.decode())
    return parser.found


def test_no_page_holds_what_a_register_smuggles_in(tmp_path: Path) -> None:
    """Scripts, images, handlers, turned directions and template marks of titles, texts and names of files stay text."""
    built(tmp_path, FIRST)
    pages = [data for name, data in tree(tmp_path).items() if name.endswith(".html")]
    assert len(pages) > 12
    for page in pages:
        found = tags(page)
        assert {tag for tag, _ in found}.isdisjoint({"script", "img", "object", "embed", "svg", "style", "b"})
        assert not [name for _, attrs in found for name in attrs if name.startswith("on") or name == "style"]
        for _, attrs in found:
            for name in ("href", "src", "action"):
                assert re.match(r"/|#|https://gazette\.example", attrs.get(name) or "/")
        assert "\u202e" not in page.decode()
    act = (tmp_path / "current" / "act" / "2023" / "0100.html").read_text()
    assert "{{7*7}}" in act
    assert "[U+202E]" in act


def test_no_page_lends_its_trust_to_a_fingerprint(tmp_path: Path) -> None:
    """A forger's page would show a fitting one, so no page shows any: there is a place for it, and the reason why."""
    built(tmp_path, FIRST)
    pages = {name: data.decode() for name, data in tree(tmp_path).items() if name.endswith(".html")}
    assert [name for name, page in pages.items() if STATE in page] == []
    (check,) = (page for name, page in pages.items() if name.endswith("/check.html"))
    assert "--fingerprint FINGERPRINT" in check
    assert "on purpose" in check


def test_every_text_has_a_permanent_address_with_document_and_proof(tmp_path: Path) -> None:
    """Document, proof and page lie under the version that made them public, and under the act's own number."""
    built(tmp_path, FIRST)
    for where in ("v/1/act/2024/0002/v1", "act/2024/0002/v1"):
        base = tmp_path / "permanent" / where
        assert base.with_suffix(".txt").read_bytes() == FIRST["acts/2024/0002/v1.txt"]
        assert base.with_suffix(".proof").read_bytes() == b"proof of acts/2024/0002/v1.txt in 1"
        assert b"Kala p\xc3\xbc\xc3\xbctakse" in base.with_suffix(".html").read_bytes()


def test_a_later_version_changes_only_what_it_must(tmp_path: Path) -> None:
    """Pages of other acts are the very same files; permanent ones keep every byte and their time."""
    press = built(tmp_path, FIRST)
    before = {name: (p.stat().st_ino, p.stat().st_mtime_ns) for name, p in _files(tmp_path / "permanent")}
    other = (tmp_path / "current" / "act" / "2024" / "0002.html").stat().st_ino
    press.publish(act_files("2024/0001", "Fishing Act", [law("Fishing Act", "Fish."), law("Fishing Act", "No fish.")]))
    assert bring(press, tmp_path)
    assert (tmp_path / "current" / "act" / "2024" / "0002.html").stat().st_ino == other
    after = {name: (p.stat().st_ino, p.stat().st_mtime_ns) for name, p in _files(tmp_path / "permanent")}
    touched = {name for name in before if after[name] != before[name]}
    assert {name.split(".")[0] for name in touched} <= {"act/2024/0001/v1", "assets/icon", "assets/style-" + _look()}
    assert b"No fish" in (tmp_path / "current" / "act" / "2024" / "0001.html").read_bytes()
    assert not bring(press, tmp_path)


def _files(root: Path) -> list[tuple[str, Path]]:
    return [(str(p.relative_to(root)), p) for p in root.rglob("*") if p.is_file()]


def _look() -> str:
    return reading_build._look(reading_build.Pages.__init__.__globals__["style_name"]())


def test_two_rooms_make_the_same_bytes(tmp_path: Path) -> None:
    """One that followed every version and one that begins with the last show the same pages, with the same times: also
    of an act that got another title, of one that is gone, and of one whose record came after its text."""
    ice = act_files("2025/0001", "Ice Road Act", [law("Ice Road Act", "Roads.")])
    late = {path: ice.pop(path) for path in list(ice) if path.endswith("act.json")}
    record = json.loads(FIRST["acts/2024/0002/act.json"] or b"") | {"title": "Kalandusseadus", "signed_by": "Kaja"}
    renamed: Files = {"acts/2024/0002/act.json": json.dumps(record).encode()}
    press = built(tmp_path / "a", FIRST, {**ice, **_gone("2024/0001")}, renamed, late)
    (tmp_path / "b").mkdir()
    bring(press, tmp_path / "b")
    assert b"Roads." in (tmp_path / "a" / "current" / "act" / "2025" / "0001.html").read_bytes()
    assert (tmp_path / "a" / "permanent" / "v" / "2" / "act" / "2025" / "0001" / "v1.proof").exists()
    page = (tmp_path / "a" / "permanent" / "v" / "1" / "act" / "2024" / "0002" / "v1.html").read_text()
    assert "Kalapüügiseadus</h1>" in page
    assert "Aino Kask" in page
    for part in ("current", "permanent"):
        here, there = tmp_path / "a" / part, tmp_path / "b" / part
        one, two = tree(here), tree(there)
        one.pop("search.sqlite", None), two.pop("search.sqlite", None)
        assert one == two
        assert {n: p.stat().st_mtime for n, p in _files(here) if "assets" not in n and "sqlite" not in n} == {
            n: p.stat().st_mtime for n, p in _files(there) if "assets" not in n and "sqlite" not in n
        }


def _gone(act: str) -> Files:
    return {path: None for path in FIRST if path.startswith(f"acts/{act}/")}


def test_one_is_not_many(tmp_path: Path) -> None:
    """The front page counts one act and one text in the singular."""
    built(tmp_path / "one", act_files("2026/0001", "Ice Road Act", ["§ 1. Scope\n(1) Ice.\n"]))
    assert b"1 act with 1 text." in (tmp_path / "one" / "current" / "index.html").read_bytes()
    built(tmp_path / "more", FIRST)
    assert re.search(rb"[2-9] acts with [2-9] texts\.", (tmp_path / "more" / "current" / "index.html").read_bytes())


def test_what_left_the_register_keeps_its_addresses(tmp_path: Path) -> None:
    """Its page says so, lists and search no longer have it, its texts stay where they were."""
    built(tmp_path, FIRST, _gone("2024/0001"))
    assert b"no longer in the register" in (tmp_path / "current" / "act" / "2024" / "0001.html").read_bytes()
    assert b"Fishing Act" not in (tmp_path / "current" / "acts" / "2024.html").read_bytes()
    assert (tmp_path / "permanent" / "v" / "1" / "act" / "2024" / "0001" / "v1.txt").exists()
    searcher = Searcher(str(tmp_path / "current" / "search.sqlite"))
    assert searcher.search(parse_query("licence"), 1).hits == ()
    searcher.close()


def test_machines_find_the_newest_version_and_the_newest_acts(tmp_path: Path) -> None:
    """``latest.json`` names the edition that the ledger names; feed and site map are XML with permanent addresses."""
    press = built(tmp_path, FIRST)
    latest = json.loads((tmp_path / "current" / "latest.json").read_bytes())
    assert (latest["version"], latest["edition"]) == (1, sha256(press.editions[0].encode()).hex())
    assert (tmp_path / "current" / "edition.txt").read_bytes() == press.editions[0].encode()
    feed = ET.fromstring((tmp_path / "current" / "feed.atom").read_bytes())
    links = [e.attrib["href"] for e in feed.iter("{http://www.w3.org/2005/Atom}link")]
    assert "https://gazette.example/v/1/act/2024/0002/v2" in links
    titles = [e.text for e in feed.iter("{http://www.w3.org/2005/Atom}title")]
    assert shown(EVIL) in titles
    ET.fromstring((tmp_path / "current" / "sitemap.xml").read_bytes())
    assert b"/act/2024/0002<" in (tmp_path / "current" / "sitemap" / "1.xml").read_bytes()


def test_long_lists_have_pages_and_none_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three acts on two pages; when one leaves, the second page is gone, and its address with it."""
    monkeypatch.setattr(reading_build, "PER_PAGE", 2)
    monkeypatch.setattr(reading_build, "MAP", 2)
    acts = {name: act_files(name, f"Act {name}", [law(name, "x")]) for name in ("2020/1", "2020/2", "2020/3")}
    files: Files = {path: data for act in acts.values() for path, data in act.items()}
    press = built(tmp_path, files)
    group = tmp_path / "current" / "acts" / "2020.html"
    assert b"Page 1 of 2" in group.read_bytes()
    assert b"2020/3" in (tmp_path / "current" / "acts" / "2020" / "p" / "2.html").read_bytes()
    assert (tmp_path / "current" / "sitemap" / "2.xml").exists()
    press.publish({path: None for name in ("2020/2", "2020/3") for path in acts[name]})
    bring(press, tmp_path)
    group = tmp_path / "current" / "acts" / "2020.html"
    assert b"Page 1 of" not in group.read_bytes()
    assert not (tmp_path / "current" / "acts" / "2020" / "p" / "2.html").exists()
    assert not list((tmp_path / "current" / "sitemap").glob("3.xml*"))


def test_no_older_and_no_second_edition_is_shown(tmp_path: Path) -> None:
    """A source that is behind, or tells two stories of one version, changes nothing."""
    press = built(tmp_path, FIRST, act_files("2025/0001", "Ice Road Act", [law("Ice Road Act", "Roads.")]))
    served = os.readlink(tmp_path / "current")
    newest = press.editions.pop()
    with pytest.raises(RolledBack):
        bring(press, tmp_path)
    press.publish(act_files("2025/0001", "Another Act", [law("Another Act", "Lies.")]))
    assert press.editions[-1].sequence == newest.sequence
    with pytest.raises(Forked):
        bring(press, tmp_path)
    assert os.readlink(tmp_path / "current") == served


def test_what_an_epoch_cut_off_is_shown_no_more(tmp_path: Path) -> None:
    """An edition that does not list what was shown before stands in its place: false texts, their addresses and what a
    search finds are gone, also once the other of the two indexes is used again."""
    press = built(tmp_path, FIRST)
    kept = press.editions[-1]
    for number in (2, 3):
        press.publish(act_files("2024/0001", "Fishing Act", [law("Fishing Act", f"False law {number}.")]))
        bring(press, tmp_path)
    press.editions = [kept]
    ice = act_files("2025/0001", "Ice Road Act", [law("Ice Road Act", "Roads.")])
    for sequence in (4, 5):
        press.publish(ice, sequence=sequence)
        assert bring(press, tmp_path)
        ice = act_files("2025/0002", "Fog Act", [law("Fog Act", "Fog.")])
        assert not [name for name, data in tree(tmp_path / "permanent").items() if b"False law" in data]
        assert not [name for name, data in tree(tmp_path / "current").items() if b"False law" in data]
        searcher = Searcher(str(tmp_path / "current" / "search.sqlite"))
        assert searcher.search(parse_query("false"), 1).hits == ()
        assert [hit.act for hit in searcher.search(parse_query("licence"), 1).hits] == ["2024/0001"]
        searcher.close()
    assert (tmp_path / "permanent" / "v" / "1" / "act" / "2024" / "0001" / "v1.txt").exists()


class _Died(Exception):
    pass


@pytest.mark.parametrize("step", ["write", "also_at", "clone", "write_index", "switch", "mark"])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_dying_anywhere_leaves_the_former_version_and_the_next_run_ends_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, at: int
) -> None:
    """Whatever step is the last one before a crash, readers see all of version 1, then all of version 2."""
    second = act_files("2025/0001", "Ice Road Act", [law("Ice Road Act", "Roads.")])
    whole = built(tmp_path / "whole", FIRST, second)
    room = tmp_path / "room"
    press = built(room, FIRST)
    before = tree(room / "current")
    press.editions, press.objects = whole.editions, whole.objects
    calls = 0
    target = reading_build.RoomStore if step == "mark" else reading_build
    real = getattr(target, step)

    def dies(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls > at:
            raise _Died
        return real(*arguments, **named)

    monkeypatch.setattr(target, step, dies)
    try:
        bring(press, room)
    except _Died:
        assert tree(room / "current") == before
    monkeypatch.undo()
    bring(press, room)
    one, two = tree(room / "current"), tree(tmp_path / "whole" / "current")
    one.pop("search.sqlite"), two.pop("search.sqlite")
    assert one == two
    searcher = Searcher(str(room / "current" / "search.sqlite"))
    assert [hit.act for hit in searcher.search(parse_query("roads"), 1).hits] == ["2025/0001"]
    searcher.close()


def test_a_bundle_that_was_damaged_here_is_fetched_again(tmp_path: Path) -> None:
    """The room's own files are a cache: a flipped bit in a bundle is noticed, and another copy is taken."""
    press = built(tmp_path, FIRST)
    (path,) = (tmp_path / "bundles").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    for name in ("room.sqlite", "room.sqlite-wal", "room.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "current").unlink()
    assert bring(press, tmp_path)
    assert sha256(path.read_bytes()).hex() == path.name


def test_a_bundle_of_the_writer_that_lies_stops_the_version(tmp_path: Path) -> None:
    """Bytes that are not what a bundle's table says are not shown, and the former version stays."""
    press = built(tmp_path, FIRST)
    press.publish(act_files("2025/0001", "Ice Road Act", [law("Ice Road Act", "Roads.")]))
    name = press.editions[-1].bundles[-1].name
    press.objects[name] = press.objects[name][:-3]
    with pytest.raises(CorruptObject):
        bring(press, tmp_path)
    assert os.readlink(tmp_path / "current").startswith("releases/0000000000000001-")


def test_records_that_cannot_be_read_hide_nothing_else(tmp_path: Path) -> None:
    """A broken act.json, a text without record, binary texts: noted, and all other acts are there."""
    odd: Files = {
        **FIRST, "acts/2020/0001/act.json": b"{", "acts/2020/0001/v1.txt": b"x", "acts/2020/0002/v1.txt": b"y",
        **act_files("2020/0003", "Bytes", ["\0\x1b[31m"]), "acts/v1/act.json": b"{}", "acts/p/x/act.json": b"{}",
    }  # fmt: skip
    odd["acts/2020/0003/v1.txt"] = b"\xff\xfe\x00 binary"
    press = built(tmp_path, odd)
    builder = press.builder(tmp_path)
    faults = dict(builder.store.db.execute("select path, why from fault").fetchall())
    builder.close()
    assert set(faults) == {"acts/2020/0001/act.json", "acts/2020/0001/v1.txt", "acts/2020/0002/v1.txt"}
    assert (tmp_path / "permanent" / "act" / "2020" / "0003" / "v1.txt").read_bytes() == b"\xff\xfe\x00 binary"
    assert b"[U+0000]" in (tmp_path / "current" / "act" / "2020" / "0003.html").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "acts/../x/act.json", "acts/2020/v1/act.json", "acts/p/act.json",
        "acts/index/act.json", "acts/a/b/c/d/e/act.json", "acts/act.json",
        "acts/2020/0001\u202e/act.json", "x/acts/2020/0001/act.json", "acts/2020/-1/act.json",
    ],
)  # fmt: skip
def test_what_could_be_taken_for_another_address_has_no_page(path: str) -> None:
    """An id that climbs, looks like a version or a page number, or hides characters belongs to no act."""
    assert place_of(path) is None


@pytest.mark.parametrize("data", [b"", b"[]", b'{"title":"x"}', b'{"title":" ","versions":[{"version":1}]}',
                                  b'{"title":"x","versions":[{"version":0}]}', b"\xff", b"[" * 100_000])  # fmt: skip
def test_records_that_are_none(data: bytes) -> None:
    """Wrong JSON, no title, no version, nesting without end: malformed, and nothing worse."""
    with pytest.raises(MalformedError):
        parse_act(data)


def test_sections_get_anchors_and_repeated_numbers_none() -> None:
    """§ 2 can be linked to; where a text has it twice, only the first is."""
    made = blocks("Title\n\n§ 1. One\n(1) a\n\n§ 2. Two\nb\n\n§ 2. Again\nc\n\nplain", "Title")
    assert [(b.anchor, b.heading) for b in made] == [
        ("p1", "§ 1. One"),
        ("p2", "§ 2. Two"),
        ("", "§ 2. Again"),
        ("", ""),
    ]


def test_times_of_pages_are_those_of_their_version(tmp_path: Path) -> None:
    """Every embassy gives a page the same Last-Modified and ETag, whenever it built it."""
    built(tmp_path, FIRST)
    assert int((tmp_path / "current" / "index.html").stat().st_mtime) == (START + HOUR) // 1_000_000

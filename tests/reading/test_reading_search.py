"""Search: what readers type is data, results are right, and no search is endless."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exclave.errors import UsageError
from exclave.serve import reading_search
from exclave.serve.reading_search import (
    CLOSE,
    MAX_PAGE,
    OPEN,
    PER_PAGE,
    Indexed,
    Searcher,
    index_sequence,
    mark,
    parse_query,
    write_index,
)


def act(number: int, body: str, *, title: str = "", day: str = "2020-01-01") -> Indexed:
    return Indexed(f"2020/{number:04d}", title or f"Act {number}", body, "en", day, 1)


@pytest.fixture
def index(tmp_path: Path) -> str:
    path = str(tmp_path / "search.sqlite")
    write_index(
        path, 1,
        [
            act(1, "The harbour master keeps the record.", title="Ports Act"),
            act(2, "Sadama ülem säilitab ärakirja. Õiguslik alus.", title="Sadamaseadus", day="2021-05-01"),
            act(3, "The record of the harbour. The record. The record.", day="2022-01-01"),
            act(4, "Договор о хранении реестров 中文 譯本 اتفاقية", title="Treaty"),
        ],
        [],
    )  # fmt: skip
    return path


def found(path: str, text: str, page: int = 1) -> list[str]:
    searcher = Searcher(path)
    try:
        return [hit.act for hit in searcher.search(parse_query(text), page).hits]
    finally:
        searcher.close()


@pytest.mark.parametrize(
    ("text", "acts"),
    [
        ("record", ["2020/0003", "2020/0001"]),
        ("RECORD harbour", ["2020/0003", "2020/0001"]),
        ('"harbour master"', ["2020/0001"]),
        ('"master harbour"', []),
        ("sad*", ["2020/0002"]),
        ("sad", []),
        ("oiguslik", ["2020/0002"]),
        ("õiguslik", ["2020/0002"]),
        ("o\u0303iguslik", ["2020/0002"]),
        ("реестров", ["2020/0004"]),
        ("اتفاقية", ["2020/0004"]),
        ("ports", ["2020/0001"]),
        ("harbour-master", ["2020/0001"]),
        ('"harbour', ["2020/0001", "2020/0003"]),
    ],
)
def test_words_phrases_and_beginnings(index: str, text: str, acts: list[str]) -> None:
    """All words must occur; quotes ask for neighbours, a star for a beginning; accents and case do not matter."""
    assert found(index, text) == acts


@pytest.mark.parametrize(
    "text",
    [
        "record OR 1=1", "NEAR(record harbour)", "title:record", "record AND", "-record", "^record", "(record",
        "record)", 'record" OR "x', "'; drop table act; --", "record\x00", "* record", "{title}: record", "a" * 200,
        "record + x", "\u202erecord", "💥 record",
    ],
)  # fmt: skip
def test_nothing_typed_is_syntax(index: str, text: str) -> None:
    """Operators, columns, quotes and SQL are words like others: an answer or a sentence, never an error of SQLite."""
    assert found(index, text) in ([], ["2020/0003", "2020/0001"])
    assert index_sequence(index) == 1


@pytest.mark.parametrize("text", ["", "  ", '""', "***", "\u202e", "a" * 201, "word " * 13, "aa* bb* cc* dd*"])
def test_too_little_and_too_much_is_told(text: str) -> None:
    """A reader gets a sentence that says what to do."""
    with pytest.raises(UsageError, match="Please"):
        parse_query(text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.text(alphabet='ab"*():^-+{}é\u202e \n\0', max_size=40))
def test_any_text_is_answered_or_refused_in_a_sentence(index: str, text: str) -> None:
    """Whatever is typed: results whose marks pair up, or a sentence for the reader."""
    searcher = Searcher(index)
    told, hits = "", ()
    try:
        hits = searcher.search(parse_query(text), 1).hits
    except UsageError as error:
        told = error.message
    finally:
        searcher.close()
    assert told.startswith("Please" if told else "")
    for hit in hits:
        assert hit.title.count(OPEN) == hit.title.count(CLOSE)
        assert hit.snippet.count(OPEN) == hit.snippet.count(CLOSE)


@given(st.text(max_size=200), st.lists(st.text(alphabet="abcé*", min_size=1, max_size=5), max_size=4))
def test_marking_changes_no_letter(text: str, words: list[str]) -> None:
    """Without the marks, a marked text is the text."""
    plain = text.replace(OPEN, "").replace(CLOSE, "")
    assert mark(plain, tuple(words)).replace(OPEN, "").replace(CLOSE, "") == plain


def test_what_was_found_is_marked(index: str) -> None:
    """The words stand between marks in the title and in a passage of the text."""
    searcher = Searcher(index)
    (hit,) = searcher.search(parse_query("ports harbour"), 1).hits
    assert hit.title == f"{OPEN}Ports{CLOSE} Act"
    assert f"{OPEN}harbour{CLOSE} master" in hit.snippet
    searcher.close()


def test_a_beginning_is_marked_at_the_same_cost_in_an_act_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marking runs outside of SQLite, where no clock stops it: of a book only the first pages are looked at."""
    path = str(tmp_path / "book.sqlite")
    write_index(path, 1, [act(1, "harbour " + "word " * 100_000)], [])
    looked: list[int] = []
    true_mark = reading_search.mark

    def counting(text: str, words: tuple[str, ...], *, around: int = 0) -> str:
        looked.append(len(text))
        return true_mark(text, words, around=around)

    monkeypatch.setattr(reading_search, "mark", counting)
    searcher = Searcher(path)
    (hit,) = searcher.search(parse_query("harb*"), 1).hits
    searcher.close()
    assert hit.snippet.startswith(f"{OPEN}harbour{CLOSE} word")
    assert max(looked) <= 20_000


def test_pages_of_results_follow_each_other(tmp_path: Path) -> None:
    """25 acts are three pages, none twice, and there is a last page."""
    path = str(tmp_path / "search.sqlite")
    write_index(path, 1, [act(n, "same words") for n in range(25)], [])
    searcher = Searcher(path)
    pages = [searcher.search(parse_query("words"), page) for page in (1, 2, 3)]
    assert [len(p.hits) for p in pages] == [PER_PAGE, PER_PAGE, 5]
    assert [p.more for p in pages] == [True, True, False]
    assert len({hit.act for p in pages for hit in p.hits}) == 25
    assert not searcher.search(parse_query("words"), MAX_PAGE).more
    searcher.close()


def test_words_that_stand_everywhere_give_the_newest_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When ranking takes longer than its share, the newest come first; when that too does, the reader is told."""
    path = str(tmp_path / "search.sqlite")
    write_index(path, 1, [act(n, "law " * 20, day=f"20{10 + n % 15}-01-01") for n in range(3000)], [])
    monkeypatch.setattr(reading_search, "_STEPS", 100)
    ticks = iter(range(10_000_000))
    slow = Searcher(path, clock=lambda: next(ticks) / 1000)
    first = slow.search(parse_query("law"), 1)
    assert (first.ranked, first.complete, len(first.hits)) == (False, True, PER_PAGE)
    assert {hit.date for hit in first.hits} == {"2024-01-01"}
    slow.close()
    endless = Searcher(path, clock=lambda: next(ticks) * 1.0)
    assert not endless.search(parse_query("law act"), MAX_PAGE).complete
    endless.close()


def test_an_index_is_brought_up_to_date(index: str) -> None:
    """Changed acts are found by their new words alone, removed ones not at all; a reader of the old file notices."""
    searcher = Searcher(index)
    assert searcher.search(parse_query("master"), 1).hits
    write_index(index, 2, [act(1, "No fish.")], ["2020/0003"])
    assert not searcher.current()
    searcher.close()
    assert (found(index, "master"), found(index, "fish"), found(index, "record")) == ([], ["2020/0001"], [])
    assert index_sequence(index) == 2


def test_an_interrupted_index_is_the_former_one(index: str) -> None:
    """A crash in the middle of the transaction leaves version 1 whole."""

    def dies():  # type: ignore[no-untyped-def]
        yield act(9, "new")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_index(index, 2, dies(), ["2020/0001"])
    assert index_sequence(index) == 1
    assert found(index, "master") == ["2020/0001"]


def test_searchers_cannot_write(index: str) -> None:
    """The file is opened for reading only."""
    searcher = Searcher(index)
    with pytest.raises(sqlite3.OperationalError):
        searcher._db.execute("delete from act")
    searcher.close()

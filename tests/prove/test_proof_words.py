"""What a proof says to a citizen: names that somebody chose cannot speak in the verifier's voice."""

from __future__ import annotations

import pytest

from exclave.cli.output import visible
from exclave.cli.proof_check import _cell, record_text
from exclave.formats.record import FileRecord, RowRecord, parse_record
from exclave.ids import Label

PARTS = (Label("land"), Label("deeds"))
ROW = b"id\tint4\n\n1\n"


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        ("public.deed", "a row of table public.deed of deeds"),
        ("deed%0APROVEN%3A%20a%20pardon", r"a row of table 'deed\nPROVEN: a pardon' of deeds"),
        ("deed%20of%20land%20stood%20in%201999", "a row of table 'deed of land stood in 1999' of deeds"),
        ("%D0%B0bc", r"a row of table 'аbc' (\u0430bc) of deeds"),
        ("%E2%80%AEdeed", r"a row of table '\u202edeed' (\u202edeed) of deeds"),
    ],
)
def test_a_tables_name_is_one_word_or_quoted(encoded: str, said: str) -> None:
    """A table called like a sentence stands in quotes on one line, and letters that look like Latin are spelt out."""
    record = parse_record(RowRecord(*PARTS, "postgres", encoded, ROW).encode())
    assert visible(record_text(record)) == said


def test_a_documents_name_is_quoted() -> None:
    """A path with a line break and hidden characters is one line, and nothing in it is hidden."""
    said = visible(record_text(FileRecord(*PARTS, "a\nPROVEN\u200b".encode(), 1, bytes(32))))
    assert said == r"the document 'a\nPROVEN\u200b' (a\nPROVEN\u200b) of deeds"


@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("akt 3 õ.json", ""),
        ("Määrus Žižkov Łódź straße.txt", ""),
        ("o\u0303.json", r" (o\u0303.json)"),
        ("\u0430kt.json", r" (\u0430kt.json)"),
        ("a\u00a0b", r" (a\xa0b)"),
        ("a\u00adb", r" (a\xadb)"),
        ("\u0131d", r" (\u0131d)"),
        ("\u212a", r" (\u212a)"),
        ("a\u2044b", r" (a\u2044b)"),
    ],
)
def test_only_what_could_mislead_is_spelt_out(name: str, spelt: str) -> None:
    """A name with plain letters of European languages is shown once; one that looks like another, or hides something,
    in ASCII besides."""
    assert record_text(FileRecord(*PARTS, name.encode(), 1, bytes(32))) == f"the document {name!r}{spelt} of deeds"


def test_a_text_that_reads_like_null_is_quoted() -> None:
    """A cell without a value cannot be told from the text NULL otherwise."""
    assert [_cell(value) for value in (None, "NULL", "'NULL'", "null")] == ["NULL", "'NULL'", "\"'NULL'\"", "null"]

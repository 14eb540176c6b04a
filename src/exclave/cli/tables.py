"""How a table is laid out in a given width: as a table, or as records where a table would tear words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

PIPED_WIDTH: Final = 120
"""Columns of what goes into a file or a pipe, wherever the command was typed; ``COLUMNS`` says otherwise."""
_BETWEEN: Final = 3
"""Width of what stands between two columns."""
_TALLEST: Final = 5
"""Lines of a row from which on a record is easier to read."""
_MOMENT: Final = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_QUANTITY: Final = r"\d[\d.]* (?:[KMGT]i?B|B|d|h|min|s)(?: \d+ (?:h|min|s))?(?!\w)"
_TOGETHER: Final = (re.compile(f"{_MOMENT}|{_QUANTITY}"), re.compile(_QUANTITY), None)
"""What is not broken if there is room: moments and quantities; quantities alone; single words."""
_WORD: Final = re.compile(r"\s*\S+")


class Wrong(str):
    """A cell that has to be seen: in red, where there are colours. Its words say it as well."""

    __slots__ = ()


class Rows:
    """Rows below their columns' names, for ``Console.print``. Cells are no markup, and one line each.

    Cells break between words, a moment between date and time only if it must be, and a word never. Where the words do
    not fit beside each other, or a row would be taller than a few lines, each row becomes a record: a line for each
    cell that says something. Only a word that is longer than the terminal is wide can still be broken, by the terminal.
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self._columns = [Text(column, "bold") for column in columns]
        self._rows = [[Text(cell, "bold red" if isinstance(cell, Wrong) else "") for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[column, *(row[at] for row in self._rows)] for at, column in enumerate(self._columns)]
        widths = _widths(cells, options.max_width - _BETWEEN * (len(cells) - 1))
        if widths is None or self._tallest(widths) > _TALLEST:
            yield from self._records(options.max_width)
            return
        made = Table(header_style="bold", show_edge=False, pad_edge=False)
        for column, width in zip(self._columns, widths, strict=True):
            made.add_column(column, overflow="fold", width=width)
        for row in self._rows:
            made.add_row(*row)
        yield made

    def _tallest(self, widths: Sequence[int]) -> int:
        pairs = (pair for row in self._rows for pair in zip(row, widths, strict=True))
        return max((len(_broken(cell.plain, width)) for cell, width in pairs), default=0)

    def _records(self, room: int) -> Iterable[Text]:
        """Each row as lines ``name  value``, with an empty line between rows; a cell without text is left out."""
        margin = max(column.cell_len for column in self._columns) + 2
        for number, row in enumerate(self._rows):
            if number:
                yield Text()
            for column, cell in zip(self._columns, row, strict=True):
                if cell.plain:
                    yield from _record_lines(column, cell, margin, room)


def _record_lines(column: Text, cell: Text, margin: int, room: int) -> Iterable[Text]:
    if _longest_word(cell.plain, None) > room - margin:
        # A long word has the next line for itself: beside the column's name the terminal would tear it.
        yield column
        yield from (Text("  " + line, cell.style) for line in _broken(cell.plain, room - 2))
        return
    first, *rest = _broken(cell.plain, room - margin)
    yield column + Text(" " * (margin - column.cell_len) + first, cell.style)
    yield from (Text(" " * margin + line, cell.style) for line in rest)


def _broken(text: str, width: int) -> list[str]:
    """``text`` in lines that are no wider than ``width``, but for single words that are."""
    lines = [""]
    for word in _WORD.findall(text):
        if lines[-1] and cell_len(lines[-1] + word) > width:
            lines.append(word.lstrip())
        else:
            lines[-1] += word
    return lines


def _widths(columns: Sequence[Sequence[Text]], room: int) -> list[int] | None:
    """Widths of columns, each from its longest word to its longest cell, that fit into ``room``; None if none do."""
    whole = [max(cell.cell_len for cell in cells) for cells in columns]
    for pattern in _TOGETHER:
        least = [max(_longest_word(cell.plain, pattern) for cell in cells) for cells in columns]
        if sum(least) <= room:
            break
    else:
        return None
    spare = room - sum(least)
    widths = list(least)
    # Those that lack least first: most columns then stand in one line, and the long one takes what is left.
    for at in sorted(range(len(whole)), key=lambda at: whole[at] - least[at]):
        widths[at] += min(spare, whole[at] - least[at])
        spare -= widths[at] - least[at]
    return widths


def _longest_word(text: str, together: re.Pattern[str] | None) -> int:
    """Of the words of ``text``, among them what stands ``together``, the width of the longest; at least 1."""
    if together is not None:
        text = together.sub(lambda found: found[0].replace(" ", "_"), text)
    return max((cell_len(word) for word in text.split()), default=1)

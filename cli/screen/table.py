"""A Markdown table: its cells, and its rows with natural column widths, shrunk and wrapped in a narrow window."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from markdown_it.rules_block.table import escapedSplit

from .inline import inline_spans
from .spans import BOLD, DIM, Row, Span, row_width, wrap

__all__ = ["Alignment", "Cell", "alignments_of", "cells_of", "layout"]

Alignment = Literal["", "left", "center", "right"]
Cell = tuple[Span, ...]

_DELIMITER_ROW = re.compile(r"(?:\||:?-[-:|]|:-|-\Z)[|:\- \t]*\Z")
_DELIMITER = re.compile(r":?-+:?\Z")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)

_GAP = Span(" │ ", DIM)
_NARROWEST = 6
"""Narrowest width of a column; a table that needs narrower ones is written as records."""


def alignments_of(header: str, delimiters: str) -> list[Alignment] | None:
    """The alignments of the columns, if the two lines begin a table."""
    columns = [column.strip() for column in delimiters.strip().strip("|").split("|")]
    if "|" not in header or not _DELIMITER_ROW.match(delimiters) or len(_split(header)) != len(columns):
        return None
    if not all(map(_DELIMITER.match, columns)):
        return None
    kinds: dict[tuple[bool, bool], Alignment] = {
        (True, True): "center",
        (True, False): "left",
        (False, True): "right",
    }
    return [kinds.get((column.startswith(":"), column.endswith(":")), "") for column in columns]


def cells_of(row: str, columns: int) -> list[Cell]:
    """The cells of one line, as many as there are columns. ``<br>`` breaks a line of a cell."""
    texts = [_BREAK.sub("\\\n", cell.strip()) for cell in _split(row)]
    return [inline_spans(text) for text in [*texts, *[""] * columns][:columns]]


def _split(row: str) -> list[str]:
    cells: list[str] = escapedSplit(row.strip())
    cells = cells[1:] if cells and not cells[0] else cells
    return cells[:-1] if cells and not cells[-1] else cells


def layout(cells: Sequence[Sequence[Cell]], alignments: Sequence[Alignment], width: int) -> list[Row]:
    """The rows of a table; the first row of ``cells`` is its header."""
    columns = len(alignments)
    natural = [max(_cell_width(row[column]) for row in cells) for column in range(columns)]
    widths = _fit(natural, width - 3 * (columns - 1))
    if widths is None:
        return _records(cells, width)
    rows: list[Row] = []
    for number, row in enumerate(cells):
        rows += _row(row, widths, alignments, header=number == 0)
        if number == 0:
            rows.append((Span("─┼─".join("─" * cells for cells in widths), DIM),))
    return rows


def _cell_width(cell: Cell) -> int:
    return max((row_width(line.row) for line in wrap(cell, 1 << 20)), default=0)


def _fit(natural: Sequence[int], available: int) -> list[int] | None:
    """Widths that sum to at most ``available``, the widest columns shrunk first; None: not possible."""
    widths = list(natural)
    while sum(widths) > available:
        widest = max(widths)
        if widest <= _NARROWEST:
            return None
        following = max([other for other in widths if other < widest] + [_NARROWEST])
        share = widths.count(widest)
        step = max(1, min(widest - following, (sum(widths) - available) // share))
        widths = [other - step if other == widest else other for other in widths]
    return widths


def _row(row: Sequence[Cell], widths: Sequence[int], alignments: Sequence[Alignment], header: bool) -> list[Row]:
    wrapped = [[line.row for line in wrap(cell, width)] for cell, width in zip(row, widths, strict=True)]
    rows: list[Row] = []
    for number in range(max(map(len, wrapped), default=1) or 1):
        spans: list[Span] = []
        for column, (lines, width) in enumerate(zip(wrapped, widths, strict=True)):
            line = lines[number] if number < len(lines) else ()
            if header:
                line = tuple(Span(span.text, f"{BOLD};{span.style}".rstrip(";")) for span in line)
            spans += [_GAP] if column else []
            last = column == len(widths) - 1
            spans += _align(line, width, alignments[column], pad_right=not last)
        rows.append(tuple(spans))
    return rows


def _align(line: Row, width: int, alignment: Alignment, pad_right: bool) -> list[Span]:
    spare = max(width - row_width(line), 0)
    left = {"right": spare, "center": spare // 2}.get(alignment, 0)
    right = spare - left if pad_right else 0
    return [span for span in (Span(" " * left), *line, Span(" " * right)) if span.text]


def _records(cells: Sequence[Sequence[Cell]], width: int) -> list[Row]:
    """Each row as ``header: value`` lines, where the columns do not fit side by side."""
    header, *body = cells
    rows: list[Row] = []
    for number, row in enumerate(body):
        if number:
            rows.append((Span("─" * min(width, 20), DIM),))
        for name, value in zip(header, row, strict=True):
            label = [Span(span.text, f"{BOLD};{span.style}".rstrip(";")) for span in name]
            rows += [line.row for line in wrap((*label, Span(": ", BOLD), *value), width)]
    return rows or [line.row for name in header for line in wrap(name, width)]

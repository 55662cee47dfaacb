"""Markdown that arrives in pieces, shown so that nothing already shown ever changes.

`MarkdownStream` returns the rows that are final, each once, and a short tail for what is still open. A text gives
the same rows in any pieces.
"""

from __future__ import annotations

import re

from .blocks import LONG, BlockParser, Leaf
from .highlight import Highlighter
from .spans import DIM, Row, Span, cut, plain, row_width, wrap
from .table import layout

__all__ = ["TAIL_ROWS", "MarkdownStream", "render"]

TAIL_ROWS = 6

_AMBIGUOUS = re.compile(r"\s*(?:[-=*+_#>`~|:.)0-9]{0,4}|[-=*_ |:]+)\Z")
"""The start of a line that would be misread on its own, as ``-`` below a paragraph is a heading's underline."""


class MarkdownStream:
    """The rows of one document."""

    def __init__(self) -> None:
        self._parser = BlockParser()
        self._partial = ""
        self._ready: list[Leaf] = []
        self._previous: Leaf | None = None
        self._flow: Row = ()
        """The text of the open paragraph that does not fill a row yet."""
        self._lead: Row = ()
        """The markers before its next row."""
        self._highlighter = (0, Highlighter(""))

    def feed(self, text: str) -> None:
        """Take more of the document."""
        *lines, partial = text.split("\n")
        for line in lines:
            self._ready += self._parser.line((self._partial + line).removesuffix("\r"))
            self._partial = ""
        self._partial += partial

    def rows(self, width: int) -> list[Row]:
        """The rows that became final since the last call."""
        self._settle()
        leaves, self._ready = self._ready, []
        return [row for leaf in leaves for row in self._leaf_rows(leaf, width)]

    def tail(self, width: int, limit: int = TAIL_ROWS) -> list[Row]:
        """The last ``limit`` rows of what is still open, as it looks now."""
        saved = self._previous, self._flow, self._lead, self._highlighter
        partial = self._partial.rstrip("\r")
        partial = "" if _AMBIGUOUS.match(partial) else partial
        leaves = self._parser.open(partial, limit)
        rows = [row for leaf in leaves for row in self._leaf_rows(leaf, width, live=True)]
        self._previous, self._flow, self._lead, self._highlighter = saved
        return rows[-limit:]

    def finish(self, width: int) -> list[Row]:
        """The document is complete: every row not returned yet."""
        if self._partial:
            self.feed("\n")
        self._ready += self._parser.close()
        return self.rows(width)

    def _settle(self) -> None:
        """Take what of the unfinished line is final: a paragraph may be one long line."""
        text = self._partial.rstrip("\r")  # a carriage return may belong to the end of the line
        if not self._parser.inside and len(text) > LONG:
            self._ready += self._parser.enter(text)
        elif self._parser.inside:
            self._parser.extend(text)
        if self._parser.inside:
            self._partial = self._partial[len(text) :]
            self._ready += self._parser.settled()

    # Leaves become rows.

    def _leaf_rows(self, leaf: Leaf, width: int, live: bool = False) -> list[Row]:
        """The rows of ``leaf``, after the gap that separates it from the one before."""
        if leaf.kind == "text":
            return self._text_rows(leaf, width)
        available = _body_width(leaf, width)
        if leaf.kind == "code":
            bodies = [self._code_row(leaf, live)]
        elif leaf.kind == "table":
            bodies = layout(leaf.cells, leaf.alignments, available)
        elif leaf.kind == "rule":
            bodies = [(Span("─" * min(available, 40), DIM),)]
        elif leaf.kind == "definition":
            bodies = [line.row for line in wrap(leaf.spans, available)]
        else:
            bodies = [leaf.spans]
        if live and leaf.kind in ("code", "edge"):
            bodies = [line.row for body in bodies for line in wrap(body, available)] or [()]
        return self._gap(leaf) + [
            _trim((*(leaf.rest if number else leaf.first), *body)) for number, body in enumerate(bodies)
        ]

    def _text_rows(self, leaf: Leaf, width: int) -> list[Row]:
        """The rows that a piece of a paragraph completes; text that fills no row waits for the next piece."""
        gap: list[Row] = []
        if not leaf.continues:
            gap, self._flow, self._lead = self._gap(leaf), (), leaf.first
        spans = (*self._flow, *leaf.spans)
        lines = wrap(spans, _body_width(leaf, width))
        if not leaf.ends:
            lines = lines[:-1]
        self._flow = () if leaf.ends else cut(spans, lines[-1].end if lines else 0, len(plain(spans)))
        bodies = [line.row for line in lines]
        if leaf.ends and not leaf.continues:
            bodies = bodies or [()]
        rows = []
        for body in bodies:
            rows.append(_trim((*self._lead, *body)))
            self._lead = leaf.rest
        return gap + rows

    def _gap(self, leaf: Leaf) -> list[Row]:
        previous, self._previous = self._previous, leaf
        if previous is None or previous.number == leaf.number:
            return []
        if previous.kind == leaf.kind == "definition":
            return []
        if previous.block != leaf.block:
            return [()]
        if previous.container == leaf.container and (leaf.quoted or previous.kind == leaf.kind == "text"):
            return [_trim(leaf.rest)]
        return []

    def _code_row(self, leaf: Leaf, live: bool) -> Row:
        if self._highlighter[0] != leaf.number:
            self._highlighter = leaf.number, Highlighter(leaf.language)
        highlighter = self._highlighter[1]
        text = plain(leaf.spans)
        return highlighter.peek(text) if live else highlighter.line(text)


def _body_width(leaf: Leaf, width: int) -> int:
    """Cells of a row that its markers leave."""
    return max(width - row_width(leaf.rest), 8)


def _trim(row: Row) -> Row:
    """``row`` without trailing spaces."""
    spans = list(row)
    while spans and not (text := spans[-1].text.rstrip(" ")):
        spans.pop()
    if spans:
        spans[-1] = Span(text, spans[-1].style)
    return tuple(spans)


def render(text: str, width: int) -> list[Row]:
    """The rows of a whole document."""
    stream = MarkdownStream()
    stream.feed(text)
    return stream.finish(width)

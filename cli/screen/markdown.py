"""Markdown that arrives in pieces, shown so that nothing already shown ever changes.

`MarkdownStream` gives the rows that are final, each once, and a short tail for what is still open. After every
line it parses only the block that is open; a leaf is final when a later line has closed it. Of an open paragraph
the rows before its last are final as soon as no later character can alter them. Link definitions act on later
text only. The same text in any pieces gives the same rows.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .blocks import Block, Env, Leaf, code_spans, parse_blocks
from .highlight import Highlighter
from .spans import DIM, Row, Span, cut, plain, row_width, wrap
from .table import layout

__all__ = ["TAIL_ROWS", "MarkdownStream", "render"]

TAIL_ROWS = 6

_EARLIEST = 120
"""A paragraph's rows are given early only past so many characters: a shorter first line may yet head a table."""

_AMBIGUOUS = re.compile(r"\s*(?:[-=*+_#>`~|:.)0-9]{0,4}|[-=*_ |:]+)\Z")
"""The start of a line that would be misread on its own, as ``-`` below a paragraph is a heading's underline."""


class MarkdownStream:
    """The rows of one document."""

    def __init__(self) -> None:
        self._partial = ""
        self._lines: list[str] = []
        self._base = 0
        self._block = -1
        self._number = 0
        self._env: Env = {}
        self._given = 0
        self._offset = 0
        self._ready: list[tuple[Leaf, int]] = []
        self._previous: Leaf | None = None
        self._highlighter = (-1, Highlighter(""))
        self._fence: _Fence | None = None
        self._open: list[Leaf] | None = None

    def feed(self, text: str) -> None:
        """Take more of the document."""
        self._open = None
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._add_line(line.removesuffix("\r"))

    def rows(self, width: int) -> list[Row]:
        """The rows that became final since the last call."""
        rows: list[Row] = []
        for leaf, offset in self._ready:
            rows += self._leaf_rows(leaf, offset, width)
        self._ready.clear()
        return rows + self._early_rows(width)

    def tail(self, width: int, limit: int = TAIL_ROWS) -> list[Row]:
        """What is still open, as it looks now: its last ``limit`` rows."""
        saved = self._previous, self._highlighter
        rows: list[Row] = []
        offset = self._offset
        for leaf in self._open_leaves():
            rows += self._leaf_rows(leaf, offset, width, live=True)
            offset = 0
        self._previous, self._highlighter = saved
        return rows[-limit:]

    def finish(self, width: int) -> list[Row]:
        """The document is complete: every row not given yet."""
        if self._partial:
            self.feed("\n")
        leaves, _ = self._parse(self._lines, self._env)
        self._take(leaves[self._given :])
        self._lines.clear()
        self._given, self._fence, self._open = 0, None, None
        return self.rows(width)

    # Lines become leaves.

    def _add_line(self, line: str) -> None:
        self._lines.append(line)
        if self._fence is not None and (code := self._fence.code_line(line)) is not None:
            code.line = self._base + len(self._lines) - 1
            self._take([code])
            self._given += 1
            return
        leaves, blocks = self._parse(self._lines, self._env)
        finished = self._given
        while finished < len(leaves) and leaves[finished].final:
            finished += 1
        self._take(leaves[self._given : finished])
        self._given = finished
        self._drop_closed(leaves, blocks)

    def _parse(self, lines: Sequence[str], env: Env) -> tuple[list[Leaf], list[Block]]:
        leaves, blocks = parse_blocks(lines, len(self._lines), env, self._number)
        for leaf in leaves:
            top = leaf.block == blocks[0].start and self._block >= 0
            leaf.block = self._block if top else leaf.block + self._base
            leaf.start += self._base
            leaf.line += self._base
            leaf.container += self._base if leaf.container >= 0 else 0
        return leaves, blocks

    def _take(self, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            self._ready.append((leaf, self._offset))
            self._offset = 0

    def _drop_closed(self, leaves: Sequence[Leaf], blocks: Sequence[Block]) -> None:
        """Forget the lines that no later line can concern: whole blocks, and all but the last item of a list."""
        self._fence = None
        if not blocks:
            self._cut(len(self._lines), leaves, block=-1, number=0)
            return
        last = blocks[-1]
        if last.open_fence is not None and self._given == len(leaves):
            marker, line = last.open_fence
            self._fence = _Fence.opened(self._lines[line], marker, leaves[-1])
        if last.closed and self._given == len(leaves):
            self._cut(len(self._lines), leaves, block=-1, number=0)
        elif last.item >= 0 and (last.item > last.start or len(blocks) > 1):
            start = self._block if len(blocks) == 1 and self._block >= 0 else self._base + last.start
            self._cut(last.item, leaves, block=start, number=last.item_number)
        elif last.start > 0 and len(blocks) > 1:
            self._cut(last.start, leaves, block=-1, number=0)

    def _cut(self, lines: int, leaves: Sequence[Leaf], block: int, number: int) -> None:
        before = sum(1 for leaf in leaves if leaf.line < self._base + lines)
        if before > self._given:
            return
        del self._lines[:lines]
        self._base += lines
        self._given -= before
        self._block, self._number = block, number

    # Leaves become rows.

    def _open_leaves(self) -> list[Leaf]:
        """The leaves not final yet, the unfinished line among them."""
        if self._open is None:
            self._open = self._parse_open()
        return self._open

    def _parse_open(self) -> list[Leaf]:
        if self._fence is not None:
            code = self._fence.code_line(self._partial)
            if code is not None or not self._partial:
                return [code] if code is not None and self._partial else []
        partial = [] if _AMBIGUOUS.match(self._partial) else [self._partial]
        if not partial and not self._lines:
            return []
        leaves, _ = self._parse([*self._lines, *partial], copy.deepcopy(self._env))
        return leaves[self._given :]

    def _early_rows(self, width: int) -> list[Row]:
        """Rows of the open paragraph that can no longer change."""
        leaves = self._open_leaves()
        if len(leaves) != 1 or leaves[0].kind != "text" or leaves[0].stable < _EARLIEST:
            return []
        leaf = leaves[0]
        text = plain(leaf.spans)
        # The word before which something unstable stands may yet become shorter, and fit the row before.
        end = len(text) if leaf.stable == len(text) else text.rfind(" ", 0, leaf.stable) + 1
        wrapped = wrap(cut(leaf.spans, 0, end), _room(leaf, width), self._offset)
        if len(wrapped) < 2:
            return []
        given = dataclasses.replace(leaf, spans=cut(leaf.spans, 0, wrapped[-2].end))
        rows = self._leaf_rows(given, self._offset, width)
        self._offset = wrapped[-2].end
        return rows

    def _leaf_rows(self, leaf: Leaf, offset: int, width: int, live: bool = False) -> list[Row]:
        """The rows of ``leaf`` from character ``offset``, after the gap that parts it from the one before."""
        gap = self._gap(leaf)
        self._previous = leaf
        first = leaf.first if offset == 0 else leaf.rest
        room = _room(leaf, width)
        if leaf.kind == "code":
            bodies = [self._code_row(leaf, live)]
        elif leaf.kind == "table":
            bodies = layout(leaf.cells, leaf.alignments, room)
        elif leaf.kind == "rule":
            bodies = [(Span("─" * min(room, 40), DIM),)]
        else:
            bodies = [line.row for line in wrap(leaf.spans, room, offset)] or [()]
        if live and leaf.kind in ("code", "edge"):
            bodies = [line.row for body in bodies for line in wrap(body, room)] or [()]
        return gap + [_trim((*(leaf.rest if number else first), *body)) for number, body in enumerate(bodies)]

    def _gap(self, leaf: Leaf) -> list[Row]:
        previous = self._previous
        if previous is None or previous.start == leaf.start:
            return []
        if previous.block != leaf.block:
            return [()]
        if previous.container == leaf.container and (leaf.quoted or previous.kind == leaf.kind == "text"):
            return [_trim(leaf.rest)]
        return []

    def _code_row(self, leaf: Leaf, live: bool) -> Row:
        if self._highlighter[0] != leaf.start:
            self._highlighter = leaf.start, Highlighter(leaf.language)
        highlighter = self._highlighter[1]
        text = "".join(span.text for span in leaf.spans)
        return highlighter.peek(text) if live else highlighter.line(text)


@dataclass(frozen=True)
class _Fence:
    """A fence that is open: its next line of code needs no parse."""

    closing: re.Pattern[str]
    indent: int
    leaf: Leaf

    @classmethod
    def opened(cls, line: str, marker: str, leaf: Leaf) -> _Fence | None:
        """The fence that ``line`` opens; None inside a quotation, whose bars would have to be read."""
        before = line[: line.index(marker)]
        if "\t" in before or leaf.quoted:
            return None
        closing = re.compile(rf"\s*{re.escape(marker[0])}{{{len(marker)},}}\s*\Z")
        return cls(closing, len(before), leaf)

    def code_line(self, line: str) -> Leaf | None:
        """``line`` as code; None where only a parse can tell."""
        before = line[: self.indent]
        if before.strip(" ") or self.closing.match(line):
            return None
        spans = code_spans(line[self.indent :])
        return dataclasses.replace(self.leaf, kind="code", first=self.leaf.rest, spans=spans)


def _room(leaf: Leaf, width: int) -> int:
    """Cells that are left for the body of a row."""
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
    """The rows of a whole document, parsed at once."""
    leaves, _ = parse_blocks(text.replace("\r\n", "\n").removesuffix("\n").split("\n"), 0, {})
    stream = MarkdownStream()
    stream._take(leaves)
    return stream.rows(width)

"""Markdown's block structure, line by line, as leaf blocks with the markers that stand before them.

The algorithm is that of CommonMark's appendix: a line first continues the open containers, then may open new
ones, and what remains is text. So each line is read once, and a leaf is final when a later line has closed it. A
paragraph comes in pieces, each as soon as nothing that follows can change it. Lists are always set tight, and raw
HTML is text.

Pieces need three bounds: a paragraph of more than `LONG` characters is not a heading, a line with `LONG`
characters before its first pipe heads no table, and no inline markup crosses a multiple of `_SPAN` lines. Knows
nothing of streams or terminals.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from .inline import inline_spans, is_settled, split_definitions
from .spans import BOLD, CYAN, DIM, MAGENTA, UNDERLINE, Row, Span, visible
from .table import Alignment, Cell, alignments_of, cells_of

__all__ = ["LONG", "BlockParser", "Leaf"]

LONG = 120
_SPAN = 32
_DEEPEST = 20
"""Containers deeper than this are text."""

LeafKind = Literal["text", "code", "edge", "table", "rule", "definition"]

_PREFIX = re.compile(r"[ \t>*+\-\d.)]*")
"""The part of a line in which a tab may stand for indentation."""
_QUOTE = re.compile(r" {0,3}> ?")
_ITEM = re.compile(r"( {0,3})(([*+-])|(\d{1,9})([.)]))(?= |\t|\Z)")
_HEADING = re.compile(r"(#{1,6})(?:[ \t]+|\Z)(.*)", re.DOTALL)
_HEADING_END = re.compile(r"(?:\A|[ \t]+)#+[ \t]*\Z")
_FENCE = re.compile(r"(`{3,}(?!.*`)|~{3,})(.*)", re.DOTALL)
_UNDERLINE = re.compile(r"(=+|-+)[ \t]*\Z")
_RULE = re.compile(r"(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})\Z")

_HEADING_STYLES = {1: f"{BOLD};{UNDERLINE};{MAGENTA}", 2: f"{BOLD};{MAGENTA}"}


@dataclass(slots=True, kw_only=True)
class Leaf:
    """One leaf block, one line of a code block, or one piece of a paragraph."""

    kind: LeafKind
    first: Row
    """The markers before its first row: bullets, numbers, quotation bars."""
    rest: Row
    """The same before its other rows."""
    block: int
    """Number of its top-level block."""
    number: int
    """Its own number, the same for all lines of a code block."""
    container: int
    """Number of its innermost list item or quotation; 0: none."""
    quoted: bool
    spans: tuple[Span, ...] = ()
    continues: bool = False
    """Whether an earlier piece of the paragraph precedes it."""
    ends: bool = True
    """Whether no further piece follows."""
    language: str = ""
    cells: list[list[Cell]] = field(default_factory=list)
    alignments: list[Alignment] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Container:
    """A quotation, or an item of a list."""

    number: int = 0
    marker: Span
    bullet: str = ""
    """Of an item: the character that all items of its list share."""
    ordinal: int = 0
    indent: int = 0
    """Of an item: columns before its content."""
    sibling: bool = False
    """Whether it is an item of a list that has begun before."""
    filled: bool = False
    """Whether it has any content."""
    begun: bool = False
    """Whether any of its content has been returned as a leaf."""

    def match(self, line: str, column: int) -> int | None:
        """The column at which its content continues in ``line``; None where the line is outside."""
        if not self.bullet:
            found = _QUOTE.match(line, column)
            return found.end() if found else None
        blank = not line[column:].strip()
        if blank and not self.filled:
            return None
        if line.startswith(" " * self.indent, column):
            return column + self.indent
        return len(line) if blank else None

    def row(self, first: bool) -> Span:
        if not self.bullet or (first and not self.begun):
            return self.marker
        return Span(" " * len(self.marker.text))


@dataclass(slots=True)
class _Paragraph:
    source: str
    """The part of it that was not returned yet."""
    length: int
    lines: int = 1
    given: bool = False
    """Whether a piece of it was returned."""

    def extend(self, text: str) -> None:
        self.source += text
        self.length += len(text)


@dataclass(slots=True)
class _Fence:
    closing: re.Pattern[str]
    indent: int
    language: str
    number: int


@dataclass(slots=True)
class _Indented:
    number: int
    blank: int = 0
    """Blank lines that are code only if another line of code follows."""


@dataclass(slots=True)
class _Table:
    alignments: list[Alignment]
    cells: list[list[Cell]]


class BlockParser:
    """The open blocks of one document."""

    def __init__(self) -> None:
        self._containers: list[_Container] = []
        self._leaf: _Paragraph | _Fence | _Indented | _Table | None = None
        self._block = 0
        self._numbers = 0
        self.inside = False
        """Whether the beginning of a line was taken by `enter`, and its end is still to come."""

    def line(self, text: str) -> list[Leaf]:
        """Take a line, or the rest of the one that was entered; returns the leaves that became final."""
        if self.inside:
            self.extend(text)
            self.inside = False
            return []
        prefix = _PREFIX.match(text)
        assert prefix is not None
        return list(self._take(prefix.group().expandtabs(4) + text[prefix.end() :]))

    def enter(self, text: str) -> list[Leaf]:
        """Take the beginning of a line, if its rest can only be text of the same paragraph: see ``inside``."""
        twin = self._twin()
        leaves = twin.line(text)
        if isinstance(twin._leaf, _Paragraph):
            last = twin._leaf.source.rpartition("\n")[2]
            if len(last) > LONG and "|" not in last[: LONG + 1]:
                self.__dict__ = twin.__dict__
                self.inside = True
                return leaves
        return []

    def extend(self, text: str) -> None:
        """Take more of the line that was entered."""
        assert isinstance(self._leaf, _Paragraph)
        self._leaf.extend(text)

    def settled(self) -> list[Leaf]:
        """The piece that is final of the line that was entered, if any."""
        assert isinstance(self._leaf, _Paragraph)
        return self._piece(self._leaf, self._leaf.source.rstrip(" \t").rfind(" "))

    def open(self, partial: str, rows: int) -> list[Leaf]:
        """The leaves that are not final, as if ``partial`` ended the document; of a table its last ``rows``."""
        twin = self._twin()
        if isinstance(twin._leaf, _Table):
            twin._leaf.cells = [*twin._leaf.cells[:1], *twin._leaf.cells[1:][-rows:]]
        return [*(twin.line(partial) if partial else ()), *twin.close()]

    def close(self) -> list[Leaf]:
        """The document is complete: the leaves that were open."""
        self.inside = False
        return list(self._close(0))

    def _twin(self) -> BlockParser:
        """A parser in the same state, which may go on without this one."""
        twin = copy.copy(self)
        twin._containers = [copy.copy(container) for container in self._containers]
        twin._leaf = copy.copy(self._leaf)
        if isinstance(twin._leaf, _Table):
            twin._leaf.cells = list(twin._leaf.cells)
        return twin

    # Lines.

    def _take(self, line: str) -> Iterator[Leaf]:
        column = matched = 0
        for container in self._containers:
            following = container.match(line, column)
            if following is None:
                break
            column, matched = following, matched + 1
        if matched == len(self._containers):
            code = self._code_line(line[column:])
            if code is not None:
                yield from code
                return
        while opened := self._container(line, column, matched):
            container, column = opened
            yield from self._close(matched)
            self._push(container)
            matched += 1
        text = line[column:].lstrip(" ")
        if text.strip():
            yield from self._content(text, len(line) - column - len(text), matched)
        elif matched < len(self._containers) or not isinstance(self._leaf, _Fence):
            yield from self._close(matched)

    def _code_line(self, text: str) -> Iterator[Leaf] | None:
        """The leaves of a line inside a code block; None where it is not inside one."""
        leaf = self._leaf
        if isinstance(leaf, _Fence):
            return self._fence_line(leaf, text)
        if isinstance(leaf, _Indented) and (text.startswith("    ") or not text.strip()):
            return self._indented_line(leaf, text)
        return None

    def _content(self, text: str, indent: int, matched: int) -> Iterator[Leaf]:
        """The leaves of a line's text, after the markers of its containers."""
        leaf = self._leaf
        if indent < 4 and (leaves := self._structure(text, indent, matched)):
            yield from leaves
        elif isinstance(leaf, _Paragraph):
            if leaf.length > LONG or leaf.lines % _SPAN == 0:
                yield from self._piece(leaf, len(leaf.source), force=leaf.lines % _SPAN == 0)
            leaf.lines += 1
            leaf.extend("\n" + text)
        elif indent >= 4:
            yield from self._close(matched)
            self._leaf = _Indented(self._begin())
            yield self._code(" " * (indent - 4) + text, self._leaf.number)
        elif isinstance(leaf, _Table) and matched == len(self._containers):
            leaf.cells.append(cells_of(text, len(leaf.alignments)))
        else:
            yield from self._close(matched)
            self._begin()
            self._leaf = _Paragraph(text, len(text))

    def _structure(self, text: str, indent: int, matched: int) -> Iterator[Leaf] | None:
        """The leaves of a heading, fence, table or rule; None where ``text`` begins none of them."""
        if found := _HEADING.match(text):
            return self._heading(_HEADING_END.sub("", found[2]).strip(), len(found[1]), matched)
        if found := _FENCE.match(text):
            return self._open_fence(found[1], found[2], indent, matched)
        if paragraph := self._continued(matched):
            before, newline, header = paragraph.source.rpartition("\n")
            is_whole = bool(newline) or not paragraph.given
            if is_whole and header.find("|") <= LONG and (alignments := alignments_of(header, text)):
                return self._open_table(paragraph, before, _Table(alignments, [cells_of(header, len(alignments))]))
            found = _UNDERLINE.match(text)
            if found and paragraph.length <= LONG and split_definitions(paragraph.source)[1]:
                return self._underlined(paragraph, 1 if found[1][0] == "=" else 2)
        return self._rule(matched) if _RULE.match(text) else None

    def _continued(self, matched: int) -> _Paragraph | None:
        """The open paragraph, if a line in ``matched`` containers is a line of it without being lazy."""
        return self._leaf if isinstance(self._leaf, _Paragraph) and matched == len(self._containers) else None

    # Containers.

    def _container(self, line: str, column: int, matched: int) -> tuple[_Container, int] | None:
        """The container that begins at ``column``, if one does, and the column of its content."""
        if matched >= _DEEPEST:
            return None
        if quote := _QUOTE.match(line, column):
            return _Container(marker=Span("│ ", DIM)), quote.end()
        found = _ITEM.match(line, column)
        if found is None or _RULE.match(line, found.start(2)):
            return None
        content = line[found.end() :]
        if self._continued(matched) and (not content.strip() or int(found[4] or 1) != 1):
            return None  # neither an empty item nor a number other than 1 interrupts a paragraph
        spaces = len(content) - len(content.lstrip(" "))
        indent = found.end() - column + (1 if not content.strip() or spaces > 4 else spaces)
        item = _Container(marker=Span(""), bullet=found[3] or found[5], ordinal=int(found[4] or 0), indent=indent)
        before = self._containers[matched] if matched < len(self._containers) else None
        if before is not None and before.bullet == item.bullet:
            item.ordinal, item.sibling = before.ordinal + 1, True
        return item, min(column + indent, len(line))

    def _push(self, container: _Container) -> None:
        if container.bullet in (".", ")"):
            container.marker = Span(f"{container.ordinal}{container.bullet} ", CYAN)
        elif container.bullet:
            depth = sum(outer.bullet in ("*", "+", "-") for outer in self._containers)
            container.marker = Span("•◦▪"[min(depth, 2)] + " ", CYAN)
        container.number = self._begin(container.sibling)
        self._containers.append(container)

    def _begin(self, sibling: bool = False) -> int:
        """Count a block that begins in the open containers; returns its number."""
        self._numbers += 1
        for container in self._containers:
            container.filled = True
        if not self._containers and not sibling:
            self._block = self._numbers
        return self._numbers

    def _close(self, depth: int) -> Iterator[Leaf]:
        """Close the open leaf, and all containers but the first ``depth``."""
        leaf, self._leaf = self._leaf, None
        if isinstance(leaf, _Paragraph):
            yield from self._pieces(leaf, leaf.source)
        elif isinstance(leaf, _Table):
            yield self._made("table", cells=leaf.cells, alignments=leaf.alignments)
        while len(self._containers) > depth:
            container = self._containers[-1]
            if container.bullet and not container.begun:
                yield self._made("text")
            self._containers.pop()

    # Leaves.

    def _made(self, kind: LeafKind, number: int = 0, **content: Any) -> Leaf:
        leaf = Leaf(
            kind=kind,
            first=tuple(container.row(first=True) for container in self._containers),
            rest=tuple(container.row(first=False) for container in self._containers),
            block=self._block,
            number=number or self._numbers,
            container=self._containers[-1].number if self._containers else 0,
            quoted=any(not container.bullet for container in self._containers),
            **content,
        )
        for container in self._containers:
            container.begun = True
        return leaf

    def _piece(self, paragraph: _Paragraph, end: int, force: bool = False) -> list[Leaf]:
        """The first ``end`` characters of a paragraph, if they are final or ``force`` makes them so."""
        piece = paragraph.source[: max(end, 0)].rstrip(" \t")  # spaces belong to the line break that follows
        may_define = piece.startswith("[") and not paragraph.given
        if not piece.strip() or not (force or (is_settled(piece) and not may_define)):
            return []
        paragraph.source = paragraph.source[len(piece) :]
        return list(self._pieces(paragraph, piece, ends=False))

    def _pieces(self, paragraph: _Paragraph, source: str, ends: bool = True) -> Iterator[Leaf]:
        """Link definitions, and the text after them."""
        if not paragraph.given:
            definitions, source = split_definitions(source)
            for text in definitions:
                yield self._made("definition", spans=(Span(visible(text), DIM),))
                self._numbers += 1
            source = source.lstrip()
        source = source.rstrip()
        if source or paragraph.given:
            yield self._made("text", spans=inline_spans(source), continues=paragraph.given, ends=ends)
            paragraph.given = True

    def _underlined(self, paragraph: _Paragraph, level: int) -> Iterator[Leaf]:
        """The paragraph turns out to be a heading, but for the definitions that it begins with."""
        self._leaf = None
        definitions, source = split_definitions(paragraph.source)
        yield from self._pieces(_Paragraph("", 0), "\n".join(definitions))
        yield self._made("text", spans=inline_spans(source.strip(), _HEADING_STYLES[level]))

    def _heading(self, content: str, level: int, matched: int) -> Iterator[Leaf]:
        yield from self._close(matched)
        self._begin()
        yield self._made("text", spans=inline_spans(content, _HEADING_STYLES.get(level, BOLD)))

    def _rule(self, matched: int) -> Iterator[Leaf]:
        yield from self._close(matched)
        self._begin()
        yield self._made("rule")

    def _open_table(self, paragraph: _Paragraph, before: str, table: _Table) -> Iterator[Leaf]:
        """The last line of the paragraph turns out to head a table; ``before`` is the rest of the paragraph."""
        if before or paragraph.given:
            paragraph.source = before
            yield from self._close(len(self._containers))
            self._begin()
        self._leaf = table

    def _open_fence(self, marker: str, info: str, indent: int, matched: int) -> Iterator[Leaf]:
        yield from self._close(matched)
        language = visible(info.strip())
        closing = re.compile(rf" {{0,3}}{re.escape(marker[0])}{{{len(marker)},}}[ \t]*\Z")
        self._leaf = _Fence(closing, indent, language, self._begin())
        yield self._made("edge", spans=(Span(f"```{language}", DIM),))

    def _fence_line(self, fence: _Fence, text: str) -> Iterator[Leaf]:
        if fence.closing.match(text):
            self._leaf = None
            yield self._made("edge", fence.number, spans=(Span("```", DIM),))
        else:
            spaces = len(text) - len(text.lstrip(" "))
            yield self._code(text[min(spaces, fence.indent) :], fence.number, fence.language)

    def _indented_line(self, code: _Indented, text: str) -> Iterator[Leaf]:
        if not text.strip():
            code.blank += 1
            return
        for _ in range(code.blank):
            yield self._code("", code.number)
        code.blank = 0
        yield self._code(text[4:], code.number)

    def _code(self, text: str, number: int, language: str = "") -> Leaf:
        return self._made("code", number, spans=(Span(visible(text.expandtabs(4))),), language=language)

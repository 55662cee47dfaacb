"""Markdown source as a flat list of leaf blocks, each with what stands before its rows.

Only the last leaf of a document can still change when a line is added (a paragraph may grow, or turn out
to be a heading or a table); all before it are final. Lists are always set tight. Raw HTML is text, and LaTeX
between ``\\(``, ``\\)`` or ``\\[``, ``\\]`` is kept as written. Knows nothing of streams or terminals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from .spans import BOLD, CYAN, DIM, ITALIC, MAGENTA, STRIKE, UNDERLINE, Row, Span, visible
from .table import Alignment

__all__ = ["Block", "Env", "Leaf", "code_spans", "parse_blocks"]

Env = MutableMapping[str, Any]
"""markdown-it's store of link definitions."""

LeafKind = Literal["text", "code", "edge", "table", "rule"]

_GROWING = ("bullet_list_open", "ordered_list_open", "blockquote_open", "code_block")
"""Blocks that a blank line does not end."""

_HEADINGS = {"h1": f"{BOLD};{UNDERLINE};{MAGENTA}", "h2": f"{BOLD};{MAGENTA}"}

_OPENING = re.compile(
    r"[*`\[\\|]|<(?=[A-Za-z]|\Z)|&(?=[A-Za-z#]|\Z)|~~|~\Z|!\Z|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
)
"""Literal text that something later could still turn into markup."""


@dataclass(slots=True)
class Leaf:
    """One leaf block, or one line of a code block."""

    kind: LeafKind
    first: Row
    """What stands before its first row: list markers, quotation bars."""
    rest: Row
    block: int
    """Line at which its top-level block starts."""
    start: int
    """Line at which it starts itself; all lines of a code block have that of the block."""
    line: int
    """Its own line."""
    container: int
    """Line at which its innermost list item or quotation starts; -1 at the top."""
    quoted: bool
    final: bool
    spans: tuple[Span, ...] = ()
    stable: int = 0
    """Text: so many of its characters can no longer change, whatever follows."""
    language: str = ""
    cells: list[list[tuple[Span, ...]]] = field(default_factory=list)
    alignments: list[Alignment] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    """A top-level block: where it starts, whether it is closed, and the last item of a list."""

    start: int
    closed: bool = False
    item: int = -1
    item_number: int = 0
    open_fence: tuple[str, int] | None = None
    """Of the fence that ends the source unclosed: its marker, and the line it opens on."""


@dataclass(slots=True)
class _Container:
    """A list item or quotation that the walk is in."""

    start: int
    marker: Span
    quote: bool = False
    begun: bool = False

    def row(self, first: bool) -> Span:
        if self.quote or (first and not self.begun):
            return self.marker
        return Span(" " * len(self.marker.text))


def _latex(state: StateInline, silent: bool) -> bool:
    """Inline rule: LaTeX between escaped brackets, as written."""
    opening = state.src[state.pos : state.pos + 2]
    closing = {"\\(": "\\)", "\\[": "\\]"}.get(opening)
    end = state.src.find(closing, state.pos + 2, state.posMax) if closing else -1
    if end < 0:
        return False
    if not silent:
        token = state.push("latex", "", 0)
        token.content = " ".join(state.src[state.pos + 2 : end].split())
    state.pos = end + 2
    return True


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.disable(["html_block", "html_inline"])
    parser.inline.ruler.before("escape", "latex", _latex)
    return parser


_MARKDOWN = _parser()


def parse_blocks(lines: Sequence[str], complete: int, env: Env, number: int = 0) -> tuple[list[Leaf], list[Block]]:
    """Leaves and top-level blocks of ``lines``, the first ``complete`` of which are whole.

    ``number``, where not 0, is the ordinal of the first item: the list began before ``lines``.
    """
    tokens: list[Token] = []
    _MARKDOWN.block.parse("\n".join(lines) + "\n", _MARKDOWN, env, tokens)
    walk = _Walk(lines, complete, env, number)
    return list(walk.leaves(tokens)), walk.blocks


class _Walk:
    """One pass over the flat tokens, with the containers they are in."""

    def __init__(self, lines: Sequence[str], complete: int, env: Env, number: int) -> None:
        self._lines, self._complete, self._env, self._number = lines, complete, env, number
        self._containers: list[_Container] = []
        self._lists: list[int | None] = []
        self.blocks: list[Block] = []

    def leaves(self, tokens: list[Token]) -> Iterator[Leaf]:
        position = 0
        while position < len(tokens):
            token = tokens[position]
            if token.level == 0 and token.nesting >= 0:
                start, end = self._span(token)
                closed = token.type not in _GROWING and end < self._complete
                self.blocks.append(Block(start, closed))
            if token.type == "table_open":
                end = next(i for i in range(position, len(tokens)) if tokens[i].type == "table_close")
                yield self._table(token, tokens[position:end])
                position = end
            else:
                yield from self._one(token, tokens[position + 1] if position + 1 < len(tokens) else None)
            position += 1

    def _one(self, token: Token, following: Token | None) -> Iterator[Leaf]:
        kind = token.type
        if kind in ("bullet_list_open", "ordered_list_open"):
            outermost = len(self.blocks) == 1 and token.level == 0 and self._number
            start = int(token.attrs.get("start", 1))
            self._lists.append(None if kind == "bullet_list_open" else (self._number if outermost else start))
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self._lists.pop()
        elif kind == "list_item_open":
            self._open_item(token)
        elif kind == "blockquote_open":
            self._containers.append(_Container(self._span(token)[0], Span("│ ", DIM), quote=True))
        elif kind in ("list_item_close", "blockquote_close"):
            container = self._containers[-1]
            if not container.begun and not container.quote:  # an empty item
                yield self._leaf("text", container.start, final=False)
            self._containers.pop()
        elif kind in ("paragraph_open", "heading_open"):
            assert following is not None
            yield self._text(token, following.content)
        elif kind in ("fence", "code_block"):
            yield from self._code(token)
        elif kind == "hr":
            yield self._leaf("rule", self._span(token)[0], final=self._span(token)[1] <= self._complete)

    def _span(self, token: Token) -> tuple[int, int]:
        assert token.map is not None
        return token.map[0], token.map[1]

    def _open_item(self, token: Token) -> None:
        start = self._span(token)[0]
        number = self._lists[-1]
        if number is None:
            depth = sum(1 for entry in self._lists if entry is None)
            marker = "•◦▪"[min(depth, 3) - 1] + " "
        else:
            marker = f"{number}{token.markup or '.'} "
            self._lists[-1] = number + 1
        self._containers.append(_Container(start, Span(marker, CYAN)))
        if token.level == 1:
            self.blocks[-1].item = start
            self.blocks[-1].item_number = number or 0

    def _leaf(self, kind: LeafKind, start: int, final: bool, line: int | None = None, **content: Any) -> Leaf:
        leaf = Leaf(
            kind=kind,
            first=tuple(container.row(first=True) for container in self._containers),
            rest=tuple(container.row(first=False) for container in self._containers),
            block=self.blocks[-1].start,
            start=start,
            line=start if line is None else line,
            container=self._containers[-1].start if self._containers else -1,
            quoted=any(container.quote for container in self._containers),
            final=final,
            **content,
        )
        for container in self._containers:
            container.begun = True
        return leaf

    def _text(self, token: Token, source: str) -> Leaf:
        start, end = self._span(token)
        heading = token.type == "heading_open"
        if heading:
            self.blocks[-1].closed |= token.level == 0 and end <= self._complete
        spans, stable = _inline(source, self._env, _HEADINGS.get(token.tag, BOLD) if heading else "")
        final = end <= self._complete if heading else end < self._complete
        return self._leaf("text", start, final, spans=spans, stable=stable)

    def _code(self, token: Token) -> Iterator[Leaf]:
        start, end = self._span(token)
        code = token.content.split("\n")[:-1] if token.content else []
        fenced = token.type == "fence"
        language = visible(token.info.strip())
        if fenced:
            edge = (Span(f"```{language}", DIM),)
            yield self._leaf("edge", start, start < self._complete, spans=edge, language=language)
        for offset, text in enumerate(code):
            line = start + offset + fenced
            final = line < self._complete and (fenced or line < end - 1 or end < self._complete)
            yield self._leaf("code", start, final, line, spans=code_spans(text), language=language)
        if fenced and end - start - 2 >= len(code) and end <= len(self._lines):
            final = end <= self._complete
            self.blocks[-1].closed |= token.level == 0 and final
            yield self._leaf("edge", start, final, end - 1, spans=(Span("```", DIM),))
        elif fenced:
            self.blocks[-1].closed = False
            self.blocks[-1].open_fence = (token.markup, start)

    def _table(self, token: Token, tokens: Sequence[Token]) -> Leaf:
        start, end = self._span(token)
        cells: list[list[tuple[Span, ...]]] = []
        alignments: list[Alignment] = []
        for inner in tokens:
            if inner.type == "tr_open":
                cells.append([])
            elif inner.type == "th_open":
                style = str(inner.attrs.get("style", ""))
                alignments.append(cast(Alignment, style.removeprefix("text-align:")))
            elif inner.type == "inline":
                cells[-1].append(_inline(re.sub(r"<br ?/?>", "\\\n", inner.content), self._env, "")[0])
        return self._leaf("table", start, end < self._complete, cells=cells, alignments=alignments)


def code_spans(text: str) -> tuple[Span, ...]:
    """A line of code as it is shown."""
    return (Span(visible(text.expandtabs(4))),)


def _inline(source: str, env: Env, style: str) -> tuple[tuple[Span, ...], int]:
    """Inline markup as spans, and how many of their characters are stable."""
    tokens: list[Token] = []
    _MARKDOWN.inline.parse(source, _MARKDOWN, env, tokens)
    spans: list[Span] = []
    styles = [style] if style else []
    links: list[tuple[str, int]] = []
    length = 0
    stable = -1

    def add(text: str, *extra: str) -> None:
        nonlocal length
        text = visible(text).replace("\t", "    ")
        spans.append(Span(text, ";".join([*styles, *extra])))
        length += len(text)

    for token in tokens:
        kind = token.type
        if kind in ("text", "text_special"):
            opening = _OPENING.search(token.content)
            if opening and stable < 0:
                stable = length + opening.start()
            add(token.content.replace("\n", " "))
        elif kind in _INLINE_STYLES:
            styles.append(_INLINE_STYLES[kind])
        elif kind in ("em_close", "strong_close", "s_close"):
            styles.pop()
        elif kind == "softbreak":
            add(" ")
        elif kind == "hardbreak":
            add("\n")
        elif kind in ("code_inline", "latex"):
            add(token.content.replace("\n", " "), CYAN)
        elif kind == "link_open":
            styles.append(UNDERLINE)
            links.append((str(token.attrs.get("href", "")), length))
        elif kind == "link_close":
            styles.pop()
            address, begin = links.pop()
            if address not in ("", "".join(span.text for span in spans)[begin:]):
                add(f" ({address})", DIM)
        elif kind == "image":
            add(f"[image: {token.content}] ({token.attrs.get('src', '')})", DIM)
    return tuple(spans), length if stable < 0 else stable


_INLINE_STYLES = {"em_open": ITALIC, "strong_open": BOLD, "s_open": STRIKE}

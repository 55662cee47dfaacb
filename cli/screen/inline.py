"""Inline Markdown as spans: emphasis, code, links, LaTeX. Knows nothing of blocks, streams or terminals.

Reference links stay as they are written, since their definitions may come later; so do raw HTML, and LaTeX between
escaped parentheses or brackets.
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, reference
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from .spans import BOLD, CYAN, DIM, ITALIC, STRIKE, UNDERLINE, Span, visible

__all__ = ["inline_spans", "is_settled", "split_definitions"]

_STYLES = {"em_open": ITALIC, "strong_open": BOLD, "s_open": STRIKE}

_PENDING = re.compile(r"[`\\]|\*(?=\S)|(?<!\w)_(?=\S)|~~|\[(?![^\[\]]*\](?!\(|\Z))")
"""Literal text that later text could still turn into markup: what may open a span and is not closed."""


def _latex(state: StateInline, silent: bool) -> bool:
    """Inline rule: LaTeX between escaped brackets."""
    opening = state.src[state.pos : state.pos + 2]
    closing = {"\\(": "\\)", "\\[": "\\]"}.get(opening)
    end = state.src.find(closing, state.pos + 2, state.posMax) if closing else -1
    if end < 0:
        return False
    if not silent:
        token = state.push("latex", "", 0)
        token.content = " ".join(state.src[state.pos : end + 2].split())
    state.pos = end + 2
    return True


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").disable("html_inline")
    parser.inline.ruler.before("escape", "latex", _latex)
    return parser


_MARKDOWN = _parser()


def _tokens(source: str) -> list[Token]:
    tokens: list[Token] = []
    _MARKDOWN.inline.parse(source, _MARKDOWN, {}, tokens)
    return tokens


def is_settled(source: str) -> bool:
    """Whether the spans of ``source``, which whitespace follows, stay the same whatever comes after it."""
    return not any(
        (token.type == "text" and _PENDING.search(token.content))
        or (token.type == "text_special" and token.markup in ("\\(", "\\["))
        for token in _tokens(source)
    )


def inline_spans(source: str, style: str = "") -> tuple[Span, ...]:
    """``source`` as spans. A line break that Markdown keeps is a newline, any other a space."""
    spans: list[Span] = []
    styles = [style] if style else []
    links: list[tuple[str, int]] = []

    def add(text: str, *extra: str) -> None:
        spans.append(Span(visible(text).replace("\t", "    "), ";".join([*styles, *extra])))

    for token in _tokens(source):
        kind = token.type
        if kind in ("text", "text_special"):
            add(token.content.replace("\n", " "))
        elif kind in _STYLES:
            styles.append(_STYLES[kind])
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
            links.append((str(token.attrs.get("href", "")), len(spans)))
        elif kind == "link_close":
            styles.pop()
            address, begin = links.pop()
            if address not in ("", "".join(span.text for span in spans[begin:])):
                add(f" ({address})", DIM)
        elif kind == "image":
            add(f"[image: {token.content}] ({token.attrs.get('src', '')})", DIM)
    return tuple(spans)


def split_definitions(source: str) -> tuple[list[str], str]:
    """The link definitions that a paragraph begins with, each in one line, and the rest of the paragraph."""
    definitions: list[str] = []
    while source.startswith("["):
        state = StateBlock(source, _MARKDOWN, {}, [])
        if not reference(state, 0, state.lineMax, False):
            break
        lines = source.split("\n")
        definitions.append(" ".join(" ".join(lines[: state.line]).split()))
        source = "\n".join(lines[state.line :]).lstrip(" ")
    return definitions, source

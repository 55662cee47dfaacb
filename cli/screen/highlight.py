"""Syntax colours for fenced code, one line at a time.

Pygments lexes whole texts. Its regular-expression lexers are state machines, so this keeps their stack of states
between lines, and each line is lexed once. A construct that a lexer matches with one expression across lines is
coloured line by line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pygments.lexer import Lexer, RegexLexer  # type: ignore[import-untyped]
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
from pygments.token import Token, _TokenType  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]

from .spans import BLUE, CYAN, DIM, GREEN, MAGENTA, YELLOW, Row, Span

__all__ = ["Highlighter"]

_STYLES: dict[_TokenType, str] = {
    Token.Comment: DIM,
    Token.Keyword: MAGENTA,
    Token.Keyword.Type: CYAN,
    Token.Operator.Word: MAGENTA,
    Token.Literal.String: GREEN,
    Token.Literal.Number: CYAN,
    Token.Name.Function: BLUE,
    Token.Name.Class: YELLOW,
    Token.Name.Builtin: CYAN,
    Token.Name.Decorator: YELLOW,
    Token.Name.Tag: BLUE,
    Token.Name.Attribute: CYAN,
    Token.Name.Variable: YELLOW,
    Token.Generic.Deleted: "31",
    Token.Generic.Inserted: GREEN,
    Token.Generic.Heading: "1",
}


class Highlighter:
    """Colours the lines of one fence, in order."""

    def __init__(self, language: str) -> None:
        self._lexer: Lexer | None = None
        self._stack = ["root"]
        words = language.split()
        try:
            if words:
                self._lexer = get_lexer_by_name(words[0].lower())
        except ClassNotFound:
            pass

    def line(self, text: str) -> Row:
        """The next line, coloured; its text is unchanged."""
        row, self._stack = self._lex(text)
        return row

    def peek(self, text: str) -> Row:
        """An unfinished line, coloured; the state does not change."""
        return self._lex(text)[0]

    def _lex(self, text: str) -> tuple[Row, list[str]]:
        stack = list(self._stack)
        if not text or self._lexer is None:
            return (Span(text),), stack
        if isinstance(self._lexer, RegexLexer):
            pieces = list(_lex_line(self._lexer, text + "\n", stack))
        else:
            pieces = [(kind, piece) for _, kind, piece in self._lexer.get_tokens_unprocessed(text + "\n")]
        spans = tuple(Span(piece.rstrip("\n"), _style(kind)) for kind, piece in pieces if piece.rstrip("\n"))
        if "".join(span.text for span in spans) != text:  # the lexer drops or rewrites text: not used
            return (Span(text),), stack
        return spans, stack


def _style(kind: _TokenType) -> str:
    while kind is not Token:
        if kind in _STYLES:
            return _STYLES[kind]
        assert kind.parent is not None
        kind = kind.parent
    return ""


def _lex_line(lexer: RegexLexer, text: str, stack: list[str]) -> Iterator[tuple[_TokenType, str]]:
    """RegexLexer.get_tokens_unprocessed with the stack as a parameter."""
    states: dict[str, list[Any]] = lexer._tokens
    position = 0
    while position < len(text):
        for match_rule, action, new_state in states[stack[-1]]:
            match = match_rule(text, position)
            if not match:
                continue
            if isinstance(action, _TokenType):
                yield action, match.group()
            elif action is not None:
                yield from ((kind, piece) for _, kind, piece in action(lexer, match))
            position = match.end()
            _change_state(stack, new_state)
            break
        else:
            if text[position] == "\n":
                stack[:] = ["root"]
            yield Token.Text, text[position]
            position += 1


def _change_state(stack: list[str], new_state: Any) -> None:
    """Apply a transition as Pygments writes them: a count to pop, ``#push``, or names to push."""
    if isinstance(new_state, int):
        del stack[max(1, len(stack) - abs(new_state)) :]
        return
    for name in (new_state,) if isinstance(new_state, str) else new_state or ():
        if name == "#pop":
            del stack[max(1, len(stack) - 1) :]
        else:
            stack.append(stack[-1] if name == "#push" else name)

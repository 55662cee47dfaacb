"""Plain text that arrives in pieces, as wrapped rows in one style, each returned as soon as it is final.

For thinking, which is shown as written; the methods are those of `markdown.MarkdownStream`.
"""

from __future__ import annotations

from .spans import Row, Span, visible, wrap

__all__ = ["PlainStream"]


class PlainStream:
    """The rows of one text."""

    def __init__(self, style: str = "") -> None:
        self._style = style
        self._text = ""
        self._last = ""

    def feed(self, text: str) -> None:
        """Take more of the text."""
        self._text += visible(text.replace("\r\n", "\n"), before=self._last).replace("\t", "    ")
        self._last = text[-1:] or self._last

    def rows(self, width: int) -> list[Row]:
        """The rows that became final since the last call."""
        *lines, self._text = self._text.split("\n")
        rows = [row for line in lines for row in self._wrapped(line, width)]
        open_rows = wrap((Span(self._text, self._style),), width)
        if len(open_rows) > 1:
            rows += [wrapped.row for wrapped in open_rows[:-1]]
            self._text = self._text[open_rows[-2].end :]
        return rows

    def tail(self, width: int, limit: int = 6) -> list[Row]:
        """The last ``limit`` rows of what is still open."""
        return self._wrapped(self._text, width)[-limit:] if self._text.strip() else []

    def finish(self, width: int) -> list[Row]:
        """The text is complete: every row not returned yet."""
        rows = self.rows(width) + (self._wrapped(self._text, width) if self._text.strip() else [])
        self._text = ""
        return rows

    def _wrapped(self, line: str, width: int) -> list[Row]:
        return [wrapped.row for wrapped in wrap((Span(line, self._style),), width)] or [()]

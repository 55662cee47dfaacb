"""The one door to the screen: everything that is shown passes through a `Terminal`.

Text from a model, a file, a tool or an error may hold anything. `visible` replaces every character that a terminal
would obey, or that would hide or reorder text, with a symbol. `Terminal` applies it to all it writes, so the only
escape sequences that leave this program are the few in this file. No text is ever read as markup.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from .spans import Row, Span, clip, row_width, visible, wrap

__all__ = ["Terminal"]

_ESC = "\x1b"
_RESET = f"{_ESC}[0m"
_BRACKET_PASTES, _PLAIN_PASTES = f"{_ESC}[?2004h", f"{_ESC}[?2004l"
_HIDE_CURSOR, _SHOW_CURSOR = f"{_ESC}[?25l", f"{_ESC}[?25h"

_REFLOWING = ("TMUX", "VTE_VERSION", "KITTY_WINDOW_ID", "ALACRITTY_WINDOW_ID", "WT_SESSION", "WEZTERM_PANE")
"""Variables of terminals that wrap their content again when their width changes."""


class Terminal:
    """A text stream as a screen: styled rows, and below them a transient tail that is redrawn in place.

    Styles are dropped where the stream is not a terminal, colours where ``NO_COLOR`` is set. The tail is drawn
    only where the cursor can be moved.
    """

    def __init__(self, stream: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self.interactive = stream.isatty() and environ.get("TERM", "") not in ("dumb", "")
        """Whether the stream is a terminal that obeys escape sequences."""
        self._colors = not environ.get("NO_COLOR")
        self._reflows = any(name in environ for name in _REFLOWING) or environ.get("TERM_PROGRAM") in (
            "iTerm.app",
            "Apple_Terminal",
            "ghostty",
            "vscode",
        )
        self._tail: list[int] = []
        self._tail_at = 0
        self._styles: dict[str, str] = {}
        self._last = ""
        """The last character of free text that was written."""

    @property
    def width(self) -> int:
        """Columns of the window at this moment."""
        return self._size().columns

    @property
    def height(self) -> int:
        return self._size().lines

    def _size(self) -> os.terminal_size:
        if self.interactive and "COLUMNS" not in os.environ:
            try:
                size = os.get_terminal_size(self._stream.fileno())
            except (OSError, ValueError):
                size = os.terminal_size((0, 0))
            if size.columns > 0:
                return size
        return shutil.get_terminal_size()

    def write(self, text: str, style: str = "") -> None:
        """Write free text, newlines as they are."""
        first, *others = text.split("\n")
        lines = [self._span(Span(first, style), self._last), *(self._span(Span(line, style)) for line in others)]
        self._last = text[-1:] or self._last
        self._emit(self._erase() + "\n".join(lines))

    def line(self, text: str = "", style: str = "") -> None:
        """Write ``text`` and end its line."""
        self.write(text + "\n", style)

    def paragraph(self, *spans: Span, mark: Span | None = None) -> None:
        """Write rows broken between words; one row where the stream is not a terminal.

        Args:
            mark: stands before the first row; the others are indented by its width.
        """
        first = (mark,) if mark else ()
        rest = (Span(" " * row_width(first)),)
        width = max(self.width - 1 - row_width(first), 10) if self.interactive else 1 << 20
        shown = [Span(visible(span.text), span.style) for span in spans]
        rows = (wrapped.row for wrapped in wrap(shown, width))
        self.rows((*(rest if number else first), *row) for number, row in enumerate(rows))

    def rows(self, rows: Iterable[Row]) -> None:
        """Write finished rows in place of the tail."""
        self.frame(rows, ())

    def frame(self, finished: Iterable[Row], tail: Iterable[Row]) -> None:
        """Replace the tail: ``finished`` rows stay for good, ``tail`` until the next write."""
        text = self._erase() + "".join(self._row(row) + "\n" for row in finished)
        if self.interactive:
            width = self.width
            shown = [clip(row, max(width - 1, 1)) for row in tail][-max(self.height - 1, 1) :]
            text += "\n".join(self._row(row) for row in shown)
            self._tail = [row_width(row) for row in shown]
            self._tail_at = width
        self._emit(text)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Draw frames inside: the cursor is hidden, and shown again however it ends. Pasted text comes in
        brackets, as at a prompt, so that its line ends are not taken for presses of Enter."""
        if not self.interactive:
            yield
            return
        self._emit(_HIDE_CURSOR + _BRACKET_PASTES)
        try:
            yield
        finally:
            self._emit(self._erase() + _PLAIN_PASTES + _SHOW_CURSOR)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside :meth:`live`, leave the window to a prompt."""
        self._emit(self._erase() + _PLAIN_PASTES + _SHOW_CURSOR)
        try:
            yield
        finally:
            self._emit(_HIDE_CURSOR + _BRACKET_PASTES)

    def copy(self, text: str) -> None:
        """Ask the terminal to put ``text`` on its clipboard (OSC 52: base64, so it carries no escapes)."""
        if self.interactive:
            self._emit(f"{_ESC}]52;c;{base64.b64encode(text.encode()).decode()}\x07")

    def _erase(self) -> str:
        """Move to the beginning of the tail and clear from there on."""
        if not self._tail:
            return ""
        rows = len(self._tail)
        width = self.width
        if self._reflows and width < self._tail_at:
            rows = sum(max(1, -(-cells // max(width, 1))) for cells in self._tail)
        self._tail = []
        return "\r" + (f"{_ESC}[{rows - 1}A" if rows > 1 else "") + f"{_ESC}[J"

    def _row(self, row: Row) -> str:
        befores = ("", *(span.text for span in row))
        return "".join(map(self._span, row, befores)).replace("\n", "\u240a")

    def _span(self, span: Span, before: str = "") -> str:
        text = visible(span.text, before)
        style = self._sgr(span.style)
        return f"{_ESC}[{style}m{text}{_RESET}" if style and text else text

    def _sgr(self, style: str) -> str:
        if not style or not self.interactive:
            return ""
        if style not in self._styles:
            codes = [code for code in style.split(";") if self._colors or int(code) < 30]
            self._styles[style] = ";".join(codes)
        return self._styles[style]

    def _emit(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()

"""One answer without a screen: the text on one stream, thinking on another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...events import Done, Event, Reply, Text, Thinking, ToolCall, ToolResult
from ..screen.keyboard import on_interrupt
from ..screen.spans import DIM, Span
from ..screen.terminal import Terminal
from ..settings import ThinkMode

if TYPE_CHECKING:
    from ...chat.stream import Stream

__all__ = ["show_plain"]


def show_plain(stream: Stream, out: Terminal, err: Terminal, think: ThinkMode) -> Reply:
    """Write the answer to ``out`` and, unless hidden, the thinking to ``err`` while they are generated."""
    printer = _Printer(out, err, think)
    with on_interrupt(stream.cancel), stream:
        for event in stream:
            printer.add(event)
    return stream.reply


class _Printer:
    """Writes events, and ends a line of one stream before it writes to the other."""

    def __init__(self, out: Terminal, err: Terminal, think: ThinkMode) -> None:
        self._out, self._err, self._think = out, err, think
        self._thinking_open = False
        self._text_open = False
        self._has_text = False

    def add(self, event: Event) -> None:
        """Write the text of ``event``."""
        if isinstance(event, Thinking):
            if self._think != "hide":
                self._err.write(event.delta, DIM)
                self._thinking_open = not event.delta.endswith("\n")
            return
        if self._thinking_open:
            self._err.line()
            self._thinking_open = False
        if isinstance(event, Text):
            self._write(event.delta)
        elif isinstance(event, ToolCall) and self._think != "hide":
            self._err.rows([(Span(f"→ {event.name} {event.arguments}", DIM),)])
        elif isinstance(event, ToolResult) and self._think != "hide":
            self._err.rows([(Span(f"← {event.output}", DIM),)])
        elif isinstance(event, Done):
            if event.reply.text and not self._has_text:
                self._write(event.reply.text)  # a preamble, which is the answer if there is no other
            if self._text_open:
                self._out.line()

    def _write(self, text: str) -> None:
        self._out.write(text.replace("\r\n", "\n"))
        self._text_open, self._has_text = not text.endswith("\n"), True

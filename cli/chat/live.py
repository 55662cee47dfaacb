"""One answer on the screen while it is generated: final rows scroll up, open ones are redrawn in a short tail.

A thread fetches the model's events; the caller's thread has the screen, the keyboard and the clock.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ...events import Done, Event, Preamble, Progress, Reply, Text, Thinking, ToolCall, ToolResult
from ..screen.keyboard import Keyboard, on_interrupt
from ..screen.markdown import MarkdownStream
from ..screen.plain import PlainStream
from ..screen.spans import BLUE, DIM, ITALIC, RED, Row, Span, shorten, visible
from ..screen.terminal import Terminal
from ..settings import ThinkMode
from .approval import Answer, Question, ask_person

if TYPE_CHECKING:
    from ...chat.stream import Stream
    from .tools import Tools

__all__ = ["TurnView", "show_live"]

TAIL_ROWS = 6
RESULT_ROWS = 10
"""Of the result of a call that is written out."""
_FRAME = 0.05
"""Seconds between frames, at least."""
_SHARE = 50
"""The next frame waits this many times the cost of the last: drawing takes at most 2 % of a core."""
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class TurnView:
    """Turns the events of one answer into rows; draws nothing itself.

    Args:
        think: how thinking is shown.
        apart: whether an answer without thinking starts with a blank row.
        progress: the progress of the call that runs, in a line.
    """

    def __init__(self, think: ThinkMode, *, apart: bool = False, progress: Callable[[], str] = lambda: "") -> None:
        self.think = think
        self._progress = progress
        self._called = 0.0
        """When the call began that runs; 0: none runs."""
        self._apart = apart
        self._section: MarkdownStream | PlainStream | None = None
        self._kind = ""
        self._status = "reading"
        self._rows: list[Row] = []
        self._shown = False
        self._thinking = ""
        self._thinking_tokens = 0
        self._thinking_since = 0.0

    @property
    def expanded(self) -> bool:
        """Whether thinking is written out, rather than shown only while it lasts."""
        return self.think in ("show", "dim")

    def toggle(self) -> None:
        """Ctrl-T: write the thinking out from its beginning, or stop writing it."""
        self.think = "fold" if self.expanded else "dim"
        if self._kind == "thinking":
            self._section = self._thinking_stream() if self.expanded else None
            if self._section is not None:
                self._section.feed(self._thinking)

    def add(self, event: Event, width: int) -> None:
        """Take the next event."""
        if isinstance(event, Progress):
            self._status = f"reading {event.done:,} of {event.total:,} tokens" if event.total > 1 else "reading"
        elif isinstance(event, Thinking):
            self._add_thinking(event.delta, width)
        elif isinstance(event, Text | Preamble):
            self._begin(event.type, width)
            assert self._section is not None
            self._section.feed(event.delta)
        elif isinstance(event, ToolCall):
            self._begin("tool", width)
            self._line(width, Span("→ ", BLUE), Span(f"{event.name} {event.arguments}", DIM))
            self._status, self._called = f"running {event.name.removeprefix('functions.')}", time.monotonic()
        elif isinstance(event, ToolResult):
            self._begin("tool", width)
            self._add_result(event, width)
        elif isinstance(event, Done):
            self._begin("", width)

    def rows(self, width: int) -> list[Row]:
        """The rows that became final since the last call."""
        if self._section is not None:
            self._push(self._section.rows(width))
        rows, self._rows = self._rows, []
        return rows

    def tail(self, width: int, elapsed: float) -> list[Row]:
        """The open rows, or a spinner where there are none."""
        if self._kind == "thinking" and self.think == "fold":
            preview = PlainStream(f"{DIM};{ITALIC}")
            preview.feed(self._thinking[-width * TAIL_ROWS * 2 :])
            return [
                *preview.finish(width)[1 - TAIL_ROWS :],
                _spinner(f"thinking {elapsed:.0f} s · Ctrl-T shows it", elapsed),
            ]
        rows = self._section.tail(width, TAIL_ROWS) if self._section is not None else []
        if not rows and self._kind == "tool" and self._called:
            running = f"{self._status} {time.monotonic() - self._called:.0f} s · Ctrl-C stops it"
            return [_spinner(" · ".join(filter(None, (running, self._progress()))), elapsed)]
        if not rows and self._kind in ("", "tool", "thinking"):
            status = "thinking" if self._kind == "thinking" else self._status
            rows = [_spinner(f"{status} {elapsed:.0f} s" if elapsed >= 1 else status, elapsed)]
        return rows

    def _add_result(self, result: ToolResult, width: int) -> None:
        """The first line of a result, or the first few where thinking is written out; how many it has, and how
        long it took."""
        lines = result.output.rstrip().splitlines() or [""]
        shown = lines[:RESULT_ROWS] if self.expanded else lines[:1]
        arrow = Span("← ", RED if result.error else BLUE)
        for number, line in enumerate(shown):
            self._line(width, Span("  ") if number else arrow, Span(line[: 4 * width], DIM))
        seconds = time.monotonic() - self._called
        parts = [f"{len(lines):,} lines"] if len(lines) > len(shown) else []
        parts += [f"{seconds:.1f} s"] if seconds >= 1 else []
        if parts:
            self._push([(Span(f"  {' · '.join(parts)}", DIM),)])
        self._status, self._called = "working", 0.0

    def _add_thinking(self, delta: str, width: int) -> None:
        if self._kind != "thinking":
            self._begin("thinking", width)
            self._thinking, self._thinking_tokens, self._thinking_since = "", 0, time.monotonic()
            delta = delta.lstrip("\n")  # these separate it from the analysis before a tool call
        self._thinking += delta
        self._thinking_tokens += 1
        if self._section is not None:
            self._section.feed(delta)

    def _begin(self, kind: str, width: int) -> None:
        """Close the open section, if it is of another kind, and open the next."""
        if kind == self._kind and kind != "":
            return
        if self._section is not None:
            self._push(self._section.finish(width))
            self._section = None
        if self._kind == "thinking" and self.think != "hide":
            seconds = time.monotonic() - self._thinking_since
            self._push([(Span(f"thought for {seconds:.1f} s · {self._thinking_tokens} tokens", DIM),)])
        self._kind = kind
        self._status = "working"
        if (self._shown and kind not in ("", "tool")) or (self._apart and kind in ("text", "preamble")):
            self._push([()])
        if kind in ("text", "preamble"):
            self._section = MarkdownStream()
        elif kind == "thinking" and self.expanded:
            self._section = self._thinking_stream()

    def _thinking_stream(self) -> PlainStream:
        return PlainStream(ITALIC if self.think == "show" else f"{DIM};{ITALIC}")

    def _line(self, width: int, *spans: Span) -> None:
        """One row, cut at the width of the window."""
        texts = [" ".join(visible(span.text).split()) for span in spans]
        self._push([shorten((Span(texts[0] + " ", spans[0].style), Span(texts[1], spans[1].style)), width)])

    def _push(self, rows: list[Row]) -> None:
        self._shown = self._shown or bool(rows)
        self._rows += rows


def show_live(
    stream: Stream, terminal: Terminal, keyboard: Keyboard, view: TurnView, tools: Tools | None = None
) -> Reply:
    """Draw ``stream`` until it ends. Ctrl-C cancels it; the rows drawn until then stay.

    Args:
        tools: whose calls are asked about; None: nobody is asked.

    Raises:
        whatever the stream raises; KeyboardInterrupt at the second Ctrl-C.
    """
    interrupts = itertools.count(1)

    def interrupted() -> None:
        stream.cancel()
        if next(interrupts) > 1:
            raise KeyboardInterrupt

    def ask(question: Question) -> None:
        keyboard.toggles()  # keys that were typed before the question are no answer to it
        with terminal.paused():
            terminal.rows(view.rows(_width(terminal)))
            try:
                question.answer(ask_person(question, terminal))
            except KeyboardInterrupt:
                stream.cancel()
                question.answer(Answer(runs=False))

    events: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    fetcher = threading.Thread(target=_fetch, args=(stream, events), daemon=True)
    asking = nullcontext() if tools is None else tools.approval.asks(events.put)
    with on_interrupt(interrupted), keyboard.quiet(), terminal.live(), asking:
        fetcher.start()
        reply = _draw(events, terminal, keyboard, view, ask, stream.cancel)
        terminal.rows(view.rows(_width(terminal)))
    fetcher.join()
    return reply


_Item = Event | Question | BaseException


def _fetch(stream: Stream, events: queue.SimpleQueue[_Item]) -> None:
    try:
        with stream:
            for event in stream:
                events.put(event)
    except BaseException as error:
        events.put(error)


def _draw(
    events: queue.SimpleQueue[_Item],
    terminal: Terminal,
    keyboard: Keyboard,
    view: TurnView,
    ask: Callable[[Question], None],
    stop: Callable[[], None],
) -> Reply:
    """Frame after frame, until the last event."""
    began = time.monotonic()
    due = 0.0
    while True:
        try:
            event = events.get(timeout=max(due - time.monotonic(), 0.001))
        except queue.Empty:
            event = None
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Question):
            ask(event)
        elif event is not None:
            view.add(event, _width(terminal))
            if isinstance(event, Done):
                return event.reply
        now = time.monotonic()
        if now < due:
            continue
        for _ in range(keyboard.toggles()):
            view.toggle()
        if keyboard.stops():
            stop()
        cost = time.thread_time()
        width = _width(terminal)
        terminal.frame(view.rows(width), view.tail(width, now - began))
        cost = time.thread_time() - cost
        due = now + max(_FRAME, cost * _SHARE)


def _width(terminal: Terminal) -> int:
    """Cells of a row, at most: one less than the window has, so that the cursor never stands at its edge."""
    return max(terminal.width - 1, 10)


def _spinner(text: str, elapsed: float) -> Row:
    return (Span(f"{_SPINNER[int(elapsed * 10) % len(_SPINNER)]} {text}", DIM),)

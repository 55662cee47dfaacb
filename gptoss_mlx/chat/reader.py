"""Makes events of what the parser reads in one turn, and the sums of its steps. Knows nothing of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..events import (
    Event,
    FinishReason,
    Preamble,
    Reply,
    Text,
    Thinking,
    Timings,
    TokenLogprob,
    ToolCall,
    Usage,
)
from ..harmony import Change, Channel, Message
from ..harmony.header import Header
from ..tools.calls import called, meant
from ..tools.toolbox import ToolBox

__all__ = ["Reader", "Tally"]


@dataclass(slots=True)
class Tally:
    """The sums over the steps of a turn."""

    text: list[str] = field(default_factory=list)
    preamble: list[str] = field(default_factory=list)
    """Of the last preamble, unless a call follows it."""
    thinking: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    stop_text: str | None = None

    def answer(self, reason: FinishReason) -> str:
        """The final message. A turn that ends without one has its last preamble as the answer."""
        return "".join(self.text or (self.preamble if reason != "tool_calls" else ()))

    def reply(self, reason: FinishReason, parsed: Any = None) -> Reply:
        text = self.answer(reason)
        repairs = [_described(message) for message in self.messages if message.repairs]
        if text and not self.text:
            repairs.append("missing final message: the last preamble is the answer")
        return Reply(
            parsed=parsed,
            logprobs=tuple(self.logprobs) or None,
            text=text,
            thinking="".join(self.thinking),
            tool_calls=tuple(self.calls),
            messages=tuple(self.messages),
            finish_reason=reason,
            stop_text=self.stop_text,
            usage=self.usage,
            timings=self.timings,
            repairs=tuple(repairs),
        )


class Reader:
    """Makes events of the parser's changes, and watches for stop texts in the answer.

    A stop text in the final answer ends it, and so does one on commentary where no tool is declared. With tools a
    text on commentary may be a preamble: from the stop text on it is held back until a call, an answer or another
    preamble shows that it is one.

    Args:
        tally: of the turn.
        stop: the stop texts.
        tools: those that may be called.
    """

    def __init__(self, tally: Tally, stop: tuple[str, ...], tools: ToolBox) -> None:
        self.tokens = 0
        self.reasoning_tokens = 0
        self.stopped: str | None = None
        """The stop text that was found."""
        self.unfinished: list[int] = []
        """The tokens of the message that is being written, its header included."""
        self.written: dict[int, list[int]] = {}
        """The tokens of each finished message, by its identity."""
        self._tally = tally
        self._stop = stop
        self._tools = tools
        self._held = ""  # The end of the text, as long as it may be the beginning of a stop text.
        self._beyond: list[str] = []  # Of a text on commentary that may be the answer: from the stop text on.
        self._current: Header | None = None  # Of the message whose text was streamed last.
        self._lead = ""  # What parts a preamble from the one before.

    @property
    def ended(self) -> bool:
        """Whether a stop text ended the answer, so that nothing more is to be generated."""
        return self.stopped is not None and not self._beyond

    def note(self, token: int, changes: Sequence[Change]) -> None:
        """Counts a token to the message that it belongs to."""
        self.unfinished.append(token)
        for change in changes:
            if change.message is not None:
                self.written[id(change.message)], self.unfinished = self.unfinished, []

    def read(self, changes: Sequence[Change]) -> Iterator[Event]:
        """The events of one token."""
        for change in changes:
            channel = change.header.channel
            if called(change.header, self._tools) is not None:
                yield from self._release()
                if change.message is not None and not change.message.truncated:
                    yield self._call(change.message)
            elif channel is Channel.ANALYSIS:
                if change.delta:
                    yield Thinking(delta=self._added(change.delta, change.header, self._tally.thinking))
            elif channel is Channel.COMMENTARY:
                yield from self._preamble(change)
            else:
                # A message without a channel counts as text: a stray word is better than a lost answer.
                yield from self._answer(change)

    def _preamble(self, change: Change) -> Iterator[Preamble]:
        """The events of a preamble's text; only the text of the last preamble is kept."""
        if change.header is not self._current and change.delta and not self.ended:
            yield from self._release()
            self._current = change.header
            self._lead = "\n\n" if self._tally.preamble else ""
            self._tally.preamble.clear()
        text = self._before_stop(change, may_be_preamble=len(self._tools) > 0)
        if text:
            self._tally.preamble.append(text)
            yield Preamble(delta=self._lead + text)
            self._lead = ""

    def _release(self) -> Iterator[Preamble]:
        """The rest of a text on commentary that turned out to be a preamble, not the answer."""
        if self._beyond:
            text = "".join(self._beyond)
            self._beyond.clear()
            self.stopped = None
            self._tally.preamble.append(text)
            yield Preamble(delta=text)

    def _call(self, message: Message) -> ToolCall:
        """The event of a call, even of one that is refused when it is to run."""
        message = meant(message, self._tools)
        call = ToolCall(name=message.recipient or "", arguments=message.text)
        self._tally.calls.append(call)
        self._tally.preamble.clear()
        return call

    def _answer(self, change: Change) -> Iterator[Preamble | Text]:
        if change.delta:
            yield from self._release()
        text = self._before_stop(change)
        if text:
            yield Text(delta=self._added(text, change.header, self._tally.text))

    def _before_stop(self, change: Change, may_be_preamble: bool = False) -> str:
        """The text up to a stop text, as far as it cannot be the beginning of one."""
        if self.stopped is not None:
            if self._beyond and may_be_preamble:
                self._beyond.append(change.delta)
            return ""
        text = self._held + change.delta
        found = [(place, stop) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            place, self.stopped = min(found)
            self._beyond = [text[place:]] if may_be_preamble else []
            self._held = ""
            return text[:place]
        keep = 0 if change.message is not None else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _added(self, text: str, header: Header, before: list[str]) -> str:
        """``text``, after a blank line if it begins a message that follows another of its kind."""
        if before and header is not self._current:
            text = "\n\n" + text
        self._current = header
        before.append(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` are a beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _described(message: Message) -> str:
    return "; ".join(
        f"{repair.kind}: {repair.text}" if repair.text else str(repair.kind) for repair in message.repairs
    )

"""One turn of a chat: render, generate, parse, call tools, until the model has answered.

The worker generates; everything here runs in the thread that reads the stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import ContextFull, OutputError
from ..events import (
    Done,
    Event,
    FinishReason,
    Preamble,
    Progress,
    Reply,
    Text,
    Thinking,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolResult,
    Usage,
)
from ..harmony import Author, Change, Channel, Message, ParserState, Role, StreamParser
from ..harmony.header import Header
from ..tokenizer import Tokenizer
from .repetition import LoopDetector

if TYPE_CHECKING:
    from ..engine.generation import Generation

__all__ = ["Turn", "TurnPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPlan:
    """What a turn asks of the chat that it belongs to."""

    generate: Callable[[Usage], Generation]
    """Renders the conversation as it stands and starts generating, told what the turn has used so far."""
    add: Callable[[Sequence[Message]], None]
    """Adds messages to the conversation; the first one takes the place of that which goes on."""
    call: Callable[[Message], ToolResult]
    """Answers a tool call."""
    runs: Callable[[Message], bool]
    """Whether ``call`` answers it; otherwise the turn ends and the caller does."""
    max_steps: int
    max_tokens: int | None = None
    """Of all steps together."""
    stop: tuple[str, ...] = ()
    stop_loops: bool = False
    parse: Callable[[str], Any] | None = None
    """What the answer means, where a form was asked for."""
    begun: tuple[int, ...] = ()
    """Tokens of a message that was cut short and now goes on: parsed again, not shown again."""


@dataclass(slots=True)
class _Tally:
    """What the steps of a turn add up to."""

    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def reply(self, reason: FinishReason, parsed: Any = None) -> Reply:
        return Reply(
            parsed=parsed,
            logprobs=tuple(self.logprobs) or None,
            text="".join(self.text),
            thinking="".join(self.thinking),
            tool_calls=tuple(self.calls),
            messages=tuple(self.messages),
            finish_reason=reason,
            usage=self.usage,
            timings=self.timings,
            repairs=tuple(_described(message) for message in self.messages if message.repairs),
        )


class Turn:
    """Runs one turn. Iterate :meth:`events`; :meth:`cancel` may come from any thread.

    Args:
        plan: what to do.
        tokenizer: the model's.
        stop_tokens: those that end a generation.
        on_end: called with the reply before Done.
    """

    def __init__(
        self,
        plan: TurnPlan,
        tokenizer: Tokenizer,
        stop_tokens: frozenset[int],
        on_end: Callable[[Reply], None] = lambda reply: None,
    ) -> None:
        self._on_end = on_end
        self._plan = plan
        self._tokenizer = tokenizer
        self._stop_tokens = stop_tokens
        self._tally = _Tally()
        self._generation: Generation | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Makes :meth:`events` end at once with what there is."""
        self._cancelled = True
        if self._generation is not None:
            self._generation.cancel()

    def events(self) -> Iterator[Event]:
        """Everything that happens, then Done."""
        reason: FinishReason = "stop"
        for step in range(self._plan.max_steps):
            try:
                messages, reason = yield from self._generate(self._plan.begun if step == 0 else ())
            except ContextFull:
                # A tool's result was too long; before the first step the request itself was refused.
                reason = "length"
                break
            calls = [message for message in messages if _is_call(message) and not message.truncated]
            if reason != "stop" or not calls:
                break
            reason = "tool_calls"
            for call in filter(self._plan.runs, calls):
                yield from self._answer(call)
            if self._cancelled:
                reason = "cancelled"
            if self._cancelled or not all(map(self._plan.runs, calls)):
                break
            if self._spent():
                reason = "length"
                break
        reply = self._tally.reply(reason, self._parsed(reason))
        self._on_end(reply)
        yield Done(reply=reply)

    def _spent(self) -> bool:
        """Whether no token is left for another step."""
        limit = self._plan.max_tokens
        return limit is not None and self._tally.usage.completion_tokens >= limit

    def _parsed(self, reason: FinishReason) -> Any:
        """The answer as what was asked for.

        Raises:
            OutputError: it was cut short before it was of the form.
        """
        if self._plan.parse is None or reason in ("tool_calls", "cancelled"):
            return None
        text = "".join(self._tally.text)
        if reason in ("length", "loop"):
            raise OutputError(
                "the answer was cut short before it was complete; raise max_tokens, or lower effort or "
                f"max_thinking_tokens; it begins {text[:80]!r}",
                text,
            )
        return self._plan.parse(text)

    def _answer(self, call: Message) -> Iterator[Event]:
        result = self._plan.call(call)
        self._keep([call.answer(result.output)])
        yield result

    def _generate(self, begun: Sequence[int]) -> Generator[Event, None, tuple[Sequence[Message], FinishReason]]:
        """One request to the model. Returns its messages and why it ended. They are kept however it ends: also if
        the request fails, or nobody reads on."""
        parser = StreamParser(self._tokenizer, role="assistant")
        for token in begun:
            parser.process(token)
        reader = _Reader(self._tally, self._plan.stop)
        self._generation = generation = self._plan.generate(self._tally.usage)
        if self._cancelled:
            generation.cancel()
        try:
            reason = yield from self._read(generation, parser, reader)
            yield from reader.read(parser.close())
        finally:
            parser.close()
            self._count(generation, reader)
            stored = (_stored(message, reader) for message in parser.messages)
            messages = self._keep([message for message in stored if message is not None])
        return messages, reason or ("cancelled" if generation.cancelled else "length")

    def _read(
        self, generation: Generation, parser: StreamParser, reader: _Reader
    ) -> Generator[Event, None, FinishReason | None]:
        """The events of a generation's tokens. Returns why it ended, where a token says so."""
        loops, looping = LoopDetector() if self._plan.stop_loops else None, False
        reason: FinishReason | None = None
        for item in generation.items():
            if isinstance(item, Progress):
                yield item
                continue
            reader.tokens += 1
            if generation.logprobs:
                logprob = generation.logprobs[reader.tokens - 1]
                text = self._tokenizer.decode([item])
                self._tally.logprobs.append(TokenLogprob(token=item, text=text, logprob=logprob))
            if item in self._stop_tokens:
                reason = "stop"
            if item != self._tokenizer.special["<|endoftext|>"]:
                changes = parser.process(item)
                thinking = self._is_thinking(parser, item)
                reader.reasoning_tokens += thinking
                looping = thinking and loops is not None and loops.advance(item)
                yield from reader.read(changes)
            if reader.stopped:
                generation.cancel()
                return "stop"
            if looping:
                generation.cancel()
                return "loop"
        return reason

    def _is_thinking(self, parser: StreamParser, token: int) -> bool:
        """Whether the parser's last token was text of analysis, be it half a character."""
        inside = parser.state is ParserState.CONTENT and parser.channel is Channel.ANALYSIS
        return inside and not self._tokenizer.is_special(token)

    def _keep(self, messages: Sequence[Message]) -> Sequence[Message]:
        self._plan.add(messages)
        self._tally.messages.extend(messages)
        return messages

    def _count(self, generation: Generation, reader: _Reader) -> None:
        now, usage, timings = time.perf_counter(), self._tally.usage, self._tally.timings
        first = generation.first_token or now
        self._tally.usage = Usage(
            prompt_tokens=usage.prompt_tokens + len(generation.prompt),
            cached_tokens=usage.cached_tokens + generation.cached_tokens,
            completion_tokens=usage.completion_tokens + reader.tokens,
            reasoning_tokens=usage.reasoning_tokens + reader.reasoning_tokens,
        )
        self._tally.timings = Timings(
            first_token=timings.first_token or first - generation.started,
            prefill=timings.prefill + first - generation.started,
            decode=timings.decode + now - first,
        )


class _Reader:
    """Turns what the parser found into events, and watches for stop texts in the final answer."""

    def __init__(self, tally: _Tally, stop: tuple[str, ...]) -> None:
        self.tokens = 0
        self.reasoning_tokens = 0
        self.stopped: str | None = None
        """The stop text that was met."""
        self._tally = tally
        self._stop = stop
        self._held = ""  # The end of the answer, as long as it may be the beginning of a stop text.
        self._shown: Header | None = None  # Of the message whose text was given last.

    def read(self, changes: Sequence[Change]) -> Iterator[Event]:
        """The events of one token."""
        for change in changes:
            channel, recipient = change.header.channel, _recipient(change.header.author, change.header.recipient)
            if recipient is not None:
                if change.message is not None and not change.message.truncated:
                    # One with an unfinished header is shown too, and refused when it is to run.
                    call = ToolCall(name=recipient, arguments=change.message.text)
                    self._tally.calls.append(call)
                    yield call
            elif channel is Channel.ANALYSIS:
                if change.delta:
                    yield Thinking(delta=self._parted(change.delta, change.header, self._tally.thinking))
            elif channel is Channel.COMMENTARY:
                if change.delta:
                    yield Preamble(delta=change.delta)
            else:
                # A message without a channel is shown: better a stray word than a lost answer.
                yield from self._answer(change)

    def _answer(self, change: Change) -> Iterator[Event]:
        if self.stopped is not None:
            return
        text = self._held + change.delta
        found = [(place, stop) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            place, self.stopped = min(found)
            text, self._held = text[:place], ""
        else:
            ended = change.message is not None
            keep = 0 if ended else max((_overlap(text, stop) for stop in self._stop), default=0)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        if text:
            yield Text(delta=self._parted(text, change.header, self._tally.text))

    def _parted(self, text: str, header: Header, before: list[str]) -> str:
        """``text`` added to those before it; a message that follows another of its kind begins a paragraph."""
        if before and header is not self._shown:
            text = "\n\n" + text
        self._shown = header
        before.append(text)
        return text


def _overlap(text: str, stop: str) -> int:
    """How much of the end of ``text`` is a beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _recipient(author: Author, recipient: str | None) -> str | None:
    """Whom the model calls. A message that it wrote in another's name, such as a tool's, calls nobody."""
    return recipient if author.role is Role.ASSISTANT else None


def _is_call(message: Message) -> bool:
    return message.role is Role.ASSISTANT and message.recipient is not None


def _stored(message: Message, reader: _Reader) -> Message | None:
    """A generated message as it belongs into the history: always the assistant's, and on a channel."""
    if not message.text and message.recipient is None:
        return None
    text, recipient = message.text, _recipient(message.author, message.recipient)
    channel = message.channel or (Channel.FINAL if recipient is None else Channel.COMMENTARY)
    if reader.stopped is not None and channel is Channel.FINAL:
        text = text.partition(reader.stopped)[0]
    plain = Message.assistant(text, channel=channel, recipient=recipient, content_type=message.content_type)
    return replace(plain, repairs=message.repairs, truncated=message.truncated and reader.stopped is None).stored()


def _described(message: Message) -> str:
    return "; ".join(
        f"{repair.kind}: {repair.text}" if repair.text else str(repair.kind) for repair in message.repairs
    )

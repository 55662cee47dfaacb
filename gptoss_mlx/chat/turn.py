"""One turn of a chat: render, generate, parse, call tools, until the model has answered.

The engine's worker generates; everything here runs in the thread that reads the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..arguments import checked_flag, checked_hook, checked_integer
from ..engine.generation import Generation
from ..errors import ContextFull, ModelClosed, OutputError
from ..events import (
    Done,
    Event,
    FinishReason,
    Progress,
    Reply,
    Timings,
    TokenLogprob,
    ToolResult,
    Usage,
)
from ..harmony import Channel, Message, ParserState, StreamParser
from ..sampling import SamplingParams
from ..structured.guide import GuidePlan, guide_for
from ..tools.calls import meant
from ..tools.toolbox import Cancellation
from .options import ChatSettings, TurnOptions, guide_plan, sampling_of
from .prompt import Prompt
from .reader import Reader, Tally
from .repetition import LoopDetector

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.generate import LogitsProcessor

__all__ = ["TOOL_LOOP", "RunningTurn", "Step", "Turn"]

TOOL_LOOP: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("TOOL_LOOP", default=None)
"""Where the async tools of a turn run; without it, and while it does not run, each call has a loop of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One generation of a turn. Each call of a tool leads to one more."""

    sampling: SamplingParams
    plan: GuidePlan = field(default_factory=GuidePlan)
    """The form that the answer must have."""
    logprobs: bool = False
    top_logprobs: int = 0
    logits_processor: LogitsProcessor | None = None
    begun: tuple[int, ...] = ()
    """The tokens of an unfinished message that is continued: parsed again, not streamed again."""

    @classmethod
    def of(cls, options: TurnOptions, settings: ChatSettings) -> Step:
        """The first step of a turn.

        Args:
            options: of the turn, as they were given.
            settings: of the chat; the options replace its sampling.

        Raises:
            InvalidRequest: an option is unknown or out of its range. SchemaError: the form cannot be compiled.
        """
        return cls(
            sampling=sampling_of(options, settings.sampling),
            plan=guide_plan(options, settings.toolbox.schemas),
            logprobs=checked_flag("logprobs", options.get("logprobs", False)),
            top_logprobs=checked_integer("top_logprobs", options.get("top_logprobs", 0), 0, 20),
            logits_processor=checked_hook("logits_processor", options.get("logits_processor")),
        )

    def start(self, engine: Engine, prompt: Prompt) -> Generation:
        """Renders a prompt and queues its generation.

        Args:
            engine: a loaded model.
            prompt: the conversation so far, without the message that is continued.

        Raises:
            InvalidRequest: the conversation no longer fits the context.
            ModelClosed: the model was closed.
        """
        form = self.plan.constraint.response_format if self.plan.constraint else None
        next_role = None if self.begun else "assistant"
        rendering = replace(prompt, response_format=form).rendered(engine.tokenizer, next_role)
        return engine.generate(
            [*rendering.tokens, *self.begun],
            self.sampling,
            boundaries=rendering.boundaries,
            guide=guide_for(self.plan, engine.tokenizer, engine.config.vocab_size),
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
            logits_processor=self.logits_processor,
        )

    def after_a_call(self, used: Usage) -> Step:
        """The next step of the turn, with what is left of its bounds.

        Args:
            used: by all steps so far.
        """
        sampling = self.sampling
        if sampling.max_tokens is not None:
            sampling = replace(sampling, max_tokens=sampling.max_tokens - used.completion_tokens)
        return replace(self, sampling=sampling, plan=self.plan.after_a_call(used.reasoning_tokens), begun=())


class RunningTurn(Protocol):
    """A turn of a chat, wherever it is computed."""

    messages: list[Message]
    """The conversation; it grows while the turn runs."""

    def cancel(self) -> None:
        """Makes :meth:`events` end at once with what there is. May come from any thread."""

    def events(self) -> Iterator[Event]:
        """Everything that happens, then Done."""


class Turn:
    """One turn of a chat, running. Iterate :meth:`events`; :meth:`cancel` may come from any thread.

    The first generation is queued when the turn is made, so that a refusal leaves the chat unchanged.

    Args:
        engine: a loaded model.
        settings: of the chat.
        messages: the conversation so far.
        step: the first one.
        unfinished: the message that is continued; it stays until the one that it becomes replaces it.

    Raises:
        InvalidRequest: the conversation no longer fits the context.
        ModelClosed: the model was closed.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ChatSettings,
        messages: Sequence[Message],
        step: Step,
        *,
        unfinished: Message | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._step = step
        self._unfinished = unfinished
        self._tally = Tally()
        self._cancelled = False
        self._calling = Cancellation()
        self._generation = step.start(engine, Prompt.of(settings, messages))
        self.messages = [*messages, *([] if unfinished is None else [unfinished])]
        """The conversation; it grows while the turn runs."""

    @property
    def prompt_tokens(self) -> int:
        """The length of the present generation's prompt."""
        return len(self._generation.prompt)

    def cancel(self) -> None:
        """Makes :meth:`events` end at once with what there is."""
        self._cancelled = True
        self._generation.cancel()
        self._calling.cancel()

    def events(self) -> Iterator[Event]:
        """Everything that happens, then Done."""
        reason = yield from self._steps()
        try:
            reply = self._tally.reply(reason, self._parsed(reason))
        except OutputError as error:
            error.reply = self._tally.reply(reason)
            raise
        self._prepare_next(reply)
        yield Done(reply=reply)

    def _steps(self) -> Generator[Event, None, FinishReason]:
        """Generates and calls tools until the model has answered. Returns why that ended."""
        for count in range(self._settings.max_steps):
            if count:
                self._step = self._step.after_a_call(self._tally.usage)
                try:
                    self._generation = self._step.start(self._engine, Prompt.of(self._settings, self.messages))
                except ContextFull:
                    return "length"  # a tool's result was too long
                if self._cancelled:
                    self._generation.cancel()
            messages, reason = yield from self._generate()
            calls = [message for message in messages if message.callee is not None and not message.truncated]
            if reason != "stop" or not calls:
                return reason
            for call in filter(self._runs, calls):
                if self._cancelled:
                    return "cancelled"
                yield from self._answer(call)
            if self._cancelled:
                return "cancelled"
            if not all(map(self._runs, calls)):
                return "tool_calls"
            if self._spent():
                return "length"
        return "tool_calls"

    def _spent(self) -> bool:
        """Whether no token is left for another step."""
        limit = self._step.sampling.max_tokens
        return limit is not None and self._tally.usage.completion_tokens >= limit

    def _parsed(self, reason: FinishReason) -> Any:
        """The answer in the form that was asked for.

        Raises:
            OutputError: it was cut short before it had the form.
            ModelClosed: the model was closed before it had the form.
        """
        constraint = self._step.plan.constraint
        if constraint is not None and reason == "cancelled" and not self._cancelled:
            raise ModelClosed("the model was closed before the answer was complete; load it again")
        if constraint is None or reason in ("tool_calls", "cancelled"):
            return None
        text = self._tally.answer(reason)
        if reason in ("length", "loop"):
            raise OutputError(
                "the answer was cut short before it was complete; raise max_tokens, or lower effort or "
                f"max_thinking_tokens; it begins {text[:80]!r}",
                text,
            )
        return constraint.parse(text)

    def _runs(self, call: Message) -> bool:
        """Whether a call is answered here; otherwise the turn ends and the caller answers it."""
        return not self._settings.toolbox.leaves(call.recipient or "", call.text)

    def _answer(self, call: Message) -> Iterator[Event]:
        assert call.recipient is not None
        settings = self._settings
        outcome = settings.toolbox.call(
            call.recipient, call.text, settings.before_call, settings.after_call, TOOL_LOOP.get(), self._calling
        )
        result = ToolResult(name=call.recipient, output=outcome.output, error=outcome.error)
        self._keep([call.answer(result.output)])
        yield result

    def _generate(self) -> Generator[Event, None, tuple[Sequence[Message], FinishReason]]:
        """Reads one generation. Returns its messages and why it ended. The messages are kept however it ends, also
        when it fails or nobody reads on."""
        parser = StreamParser(self._engine.tokenizer, role="assistant")
        for token in self._step.begun:
            parser.process(token)
        tools, generation = self._settings.toolbox, self._generation
        reader = Reader(self._tally, tuple(self._step.sampling.stop), tools)
        special, encode = self._engine.tokenizer.special, self._engine.tokenizer.encode
        reader.unfinished += self._step.begun or (special["<|start|>"], *encode("assistant"))
        try:
            reason = yield from self._read(generation, parser, reader)
            yield from reader.read(parser.close())
            self._tally.stop_text = reader.stopped
        finally:
            parser.close()
            self._count(generation, reader)
            messages = self._keep(self._stored(parser.messages, reader))
        if reason is None and generation.cancelled:
            return messages, "cancelled"
        return messages, reason or ("length" if reader.stopped is None else "stop")

    def _read(
        self, generation: Generation, parser: StreamParser, reader: Reader
    ) -> Generator[Event, None, FinishReason | None]:
        """The events of a generation's tokens. Returns why it ended, if a token says so."""
        tokenizer = self._engine.tokenizer
        loops, looping = LoopDetector() if self._step.sampling.stop_loops else None, False
        reason: FinishReason | None = None
        for item in generation.items():
            if isinstance(item, Progress):
                yield item
                continue
            reader.tokens += 1
            if item in self._engine.stop_tokens:
                reason = "stop"
            if item != tokenizer.special["<|endoftext|>"]:
                changes = parser.process(item)
                reader.note(item, changes)
                thinking = self._is_thinking(parser, item)
                reader.reasoning_tokens += thinking
                looping = thinking and loops is not None and loops.advance(item)
                yield from reader.read(changes)
            if generation.logprobs:
                self._tally.logprobs.append(self._logprob(generation, reader.tokens - 1, item, parser))
            if reader.ended:
                generation.cancel()
                return "stop"
            if looping:
                generation.cancel()
                return "loop"
        return reason

    def _logprob(self, generation: Generation, position: int, token: int, parser: StreamParser) -> TokenLogprob:
        """The log-probabilities of a token that the parser has read."""
        tokenizer = self._engine.tokenizer
        inside = parser.state is ParserState.CONTENT and not tokenizer.is_special(token)
        channel = str(parser.channel) if inside and parser.channel else None

        def made(token: int, logprob: float, others: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
            text = tokenizer.token_bytes(token).decode(errors="replace")
            return TokenLogprob(token=token, text=text, logprob=logprob, channel=channel, top_logprobs=others)

        most_likely = tuple(made(*pair) for pair in generation.top_logprobs[position])
        return made(token, generation.logprobs[position], most_likely)

    def _is_thinking(self, parser: StreamParser, token: int) -> bool:
        """Whether the parser's last token was text of analysis, even if only a part of a character."""
        inside = parser.state is ParserState.CONTENT and parser.channel is Channel.ANALYSIS
        return inside and not self._engine.tokenizer.is_special(token)

    def _keep(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Adds messages to the conversation; the first ones replace the unfinished one."""
        if messages and self._unfinished is not None:
            del self.messages[-1]
            self._unfinished = None
        self.messages.extend(messages)
        self._tally.messages.extend(messages)
        return messages

    def _stored(self, generated: Sequence[Message], reader: Reader) -> list[Message]:
        """Generated messages as the history has them: always the assistant's, on a channel, and not empty.

        Args:
            generated: complete or truncated ones.
            reader: has their tokens, and the stop text that ended the last message that is neither thinking nor a
                call.
        """
        tools, stop, stored = self._settings.toolbox, reader.stopped, list[Message]()
        for written in reversed(generated):
            message = meant(written, tools)
            tool, text, truncated = message.callee, message.text, message.truncated
            if not text and tool is None:
                continue
            channel = message.channel or (Channel.FINAL if tool is None else Channel.COMMENTARY)
            if tool in tools.schemas:
                channel = Channel.COMMENTARY
            if stop is not None and tool is None and channel is not Channel.ANALYSIS:
                text, truncated, stop = text.partition(stop)[0], False, None
            plain = Message.assistant(text, channel=channel, recipient=tool, content_type=message.content_type)
            plain = replace(plain, repairs=message.repairs, truncated=truncated).stored()
            stored.append(self._as_written(plain, written, reader))
        return stored[::-1]

    def _as_written(self, message: Message, generated: Message, reader: Reader) -> Message:
        """A message with the tokens that the model wrote, if it is complete and nothing was changed in it."""
        tokens = reader.written.get(id(generated))
        if tokens is None or message != generated or message.repairs or generated.truncated:
            return message
        end = "<|end|>" if message.callee is None else "<|call|>"
        return message.written_as([*tokens[:-1], self._engine.tokenizer.special[end]])

    def _prepare_next(self, reply: Reply) -> None:
        """Once the answer is complete its analysis is dropped: has the history computed as the next turn will read
        it, while the user reads the answer."""
        if reply.finish_reason == "stop" and any(part.channel is Channel.FINAL for part in reply.messages):
            tokens, boundaries = Prompt.of(self._settings, self.messages).history(self._engine.tokenizer)
            self._engine.prefill_when_idle(tokens, boundaries=boundaries)

    def _count(self, generation: Generation, reader: Reader) -> None:
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

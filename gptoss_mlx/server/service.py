"""Answers questions with a loaded model, a few at a time, in the order they came.

Knows the model and the writers; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from ..aio import AsyncStream
from ..arguments import Effort
from ..chat.options import MAX_STEPS, ChatSettings, ToolOptions
from ..chat.stream import Stream
from ..chat.turn import Step, Turn
from ..errors import GptOssError, ModelClosed, OutputError
from ..events import Done, Event, Preamble, Reply, Text, Thinking, ToolCall, ToolResult
from ..harmony import Message
from ..tools.toolbox import ToolBox
from .bounded import Bounded
from .errors import Refused
from .metrics import Metrics
from .openai_responses import Stored
from .question import Question, Said
from .writer import Call, Frame, PartKind, Writer, new_id

if TYPE_CHECKING:
    from ..api import GptOss

__all__ = ["Answer", "Service"]

_LOGGER: Final = logging.getLogger(__name__)
_BODY_SECONDS: Final = 60.0
_MAX_REMEMBERED: Final = 16_384
_REMEMBERED_CHARACTERS: Final = 64 * 2**20


class Service:
    """A model, and what is remembered between requests.

    Args:
        model: a loaded model; the caller closes it.
        effort: where a request names none.
        hide_thinking: whether no answer shows the analysis.
        max_waiting: the most requests that run or wait at a time.
        tools: those that run here, beside the tools of a request.
        hooks: the ``before_call`` and ``after_call`` of these tools.
    """

    def __init__(
        self,
        model: GptOss,
        *,
        effort: Effort,
        hide_thinking: bool,
        max_waiting: int,
        tools: ToolBox,
        hooks: ToolOptions,
    ) -> None:
        self.model = model
        self.effort = effort
        self.responses = Bounded[str, Stored](count=_MAX_REMEMBERED, size=_REMEMBERED_CHARACTERS)
        """The responses that were kept, by id."""
        self.metrics = Metrics()
        self._said = Bounded[str, Said](count=_MAX_REMEMBERED, size=_REMEMBERED_CHARACTERS)
        self._hides_thinking = hide_thinking
        self._max_waiting = max_waiting
        self._tools = tools
        self._hooks = hooks
        self._running: set[Answer] = set()
        self._reading: set[asyncio.Timeout] = set()
        self._closing = False

    def with_tools(self, settings: ChatSettings) -> ChatSettings:
        """The settings of a request, with the tools that run here."""
        if not len(self._tools):
            return settings
        tools = settings.toolbox.joined(self._tools)
        return settings.changed({"tools": tools, "max_steps": MAX_STEPS, **self._hooks})

    def runs(self, name: str) -> bool:
        """Whether the tool of this full name runs here."""
        return name in self._tools.names

    def recall(self, identity: str) -> Said | None:
        """What the model said when it made a call, by the call's id."""
        return self._said.get(identity)

    def remember(self, calls: Mapping[str, ToolCall], messages: tuple[Message, ...], *, rejected: bool) -> None:
        """Keeps what the model said when it made calls.

        Args:
            calls: those that the client runs, in their order, by their ids.
            messages: of the reply.
            rejected: whether no tool could take the only call: the error that follows it is not its result.
        """
        begin = 0
        for number, (identity, call) in enumerate(calls.items(), 1):
            begin += len(_up_to(call, messages[begin:]))
            whole = number == len(calls) and not rejected
            said = Said(messages=messages, place=begin - 1, end=len(messages) if whole else begin)
            self._said.put(identity, said, said.size)

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[None]:
        """Surrounds the reading of a body, and ends it when that takes long, or when the server ends.

        Raises:
            Refused: it was ended.
        """
        try:
            async with asyncio.timeout(_BODY_SECONDS) as limit:
                self._reading.add(limit)
                try:
                    yield
                finally:
                    self._reading.discard(limit)
        except TimeoutError:
            if self._closing:
                raise _ending() from None
            raise Refused(408, "the body did not come in time") from None

    async def answer(
        self, question: Question, writer: Writer, then: Callable[[Answer], None] = lambda answer: None
    ) -> Answer:
        """Queues a question.

        Args:
            question: what is asked.
            writer: writes the answer.
            then: is called when it is complete.

        Raises:
            Refused: too many requests wait.
            GptOssError: the model cannot be asked this.
        """
        if self._closing:
            raise _ending()
        if len(self._running) >= self._max_waiting:
            raise Refused(429, f"{len(self._running)} requests run or wait already; try again later")
        answer = Answer(self, question, writer, then)
        self._running.add(answer)
        try:
            await answer.start()
        except BaseException:
            self._running.discard(answer)
            raise
        return answer

    def ended(self, answer: Answer) -> None:
        """An answer came to its end, or nobody reads it any more."""
        self._running.discard(answer)

    async def close(self) -> None:
        """Ends what runs and refuses what comes."""
        self._closing = True
        for limit in self._reading:
            limit.reschedule(asyncio.get_running_loop().time())
        await asyncio.gather(*(answer.close() for answer in tuple(self._running)))

    @property
    def closing(self) -> bool:
        """Whether no more answers are made."""
        return self._closing

    @property
    def counts(self) -> tuple[int, int]:
        """How many requests run, and how many wait."""
        waiting = sum(answer.waits for answer in self._running)
        return len(self._running) - waiting, waiting

    def kind_of(self, event: Thinking | Preamble | Text, question: Question) -> PartKind | None:
        """The kind of part that an event is, or None if it is not shown."""
        if isinstance(event, Text):
            return PartKind.ANSWER
        if isinstance(event, Preamble) and not question.has_form:
            return PartKind.PREAMBLE
        return None if self._hides_thinking or not question.asks_thinking else PartKind.THINKING


@dataclass(eq=False, slots=True)
class Answer:
    """One answer, from its question to its last event."""

    service: Service
    question: Question
    writer: Writer
    then: Callable[[Answer], None]
    """Is called when the answer is complete, before its last event."""
    waits: bool = True
    """Whether the model has not begun with it."""
    prompt_tokens: int = 0
    reply: Reply | None = None
    calls: dict[str, str] = field(default_factory=dict)
    """The recipients of the calls that the client is to run, by their ids."""
    _stream: AsyncStream | None = None
    _held: list[ToolCall] = field(default_factory=list)
    """Calls that the turn may still answer itself, because no tool can take them."""
    _rejected: ToolCall | None = None
    _tools: ToolBox = field(default_factory=lambda: ToolBox([]))
    """Of the client, and those that run here."""

    async def start(self) -> None:
        """Queues the question. Rendering a long one takes a moment, so another thread does it."""
        model, question = self.service.model, self.question
        settings = self.service.with_tools(question.settings)
        self._tools = settings.toolbox

        def begin() -> Stream:
            step = Step.of(question.options, settings)
            turn = Turn(model, settings, question.messages, step)
            self.prompt_tokens = turn.prompt_tokens
            return Stream(turn.events(), turn.cancel)

        self._stream = AsyncStream(begin)
        await self._stream.begin()

    async def frames(self) -> AsyncGenerator[Frame]:
        """The events of the API, in order. Ending the iteration ends the generation."""
        try:
            async with aclosing(self._frames()) as frames:
                async for frame in frames:
                    yield frame
        except Exception as error:
            if not isinstance(error, GptOssError):
                _LOGGER.exception("a bug ended an answer")
                error = GptOssError("the server has a bug; its log shows where")
            for frame in self.writer.fail(error):
                yield frame

    async def result(self) -> dict[str, Any]:
        """The whole object.

        Raises:
            GptOssError: the answer failed.
        """
        async with aclosing(self._frames()) as frames:
            async for _ in frames:
                pass
        return self.writer.result

    async def _frames(self) -> AsyncGenerator[Frame]:
        assert self._stream is not None
        try:
            for frame in self.writer.begin(self.prompt_tokens):
                yield frame
            async for event in self._stream:
                for frame in self._written(event):
                    yield frame
            if self.reply is None:
                raise ModelClosed("the server is ending; ask again")
        except OutputError as error:
            # The answer was cut short before it had its form: it is what it is.
            for frame in self._ended(error.reply):
                yield frame

    @property
    def figures(self) -> dict[str, object]:
        """For the log: the tokens of the answer."""
        if self.reply is None:
            return {"prompt": self.prompt_tokens}
        used, timings = self.reply.usage, self.reply.timings
        return {
            "prompt": used.prompt_tokens,
            "cached": used.cached_tokens,
            "generated": used.completion_tokens,
            "reasoning": used.reasoning_tokens,
            "first_token": f"{timings.first_token:.3f}",
            "finish": self.reply.finish_reason,
        }

    async def close(self) -> None:
        """Ends the generation, if it still runs. May be called twice."""
        self.service.ended(self)
        if self._stream is not None:
            await self._stream.aclose()

    def _written(self, event: Event) -> Iterable[Frame]:
        """What one event of the turn adds to the answer."""
        if self.waits:
            self.waits = False
        if isinstance(event, Thinking | Preamble | Text):
            kind = self.service.kind_of(event, self.question)
            return () if kind is None else self.writer.text(kind, event.delta)
        if isinstance(event, ToolCall):
            self._held.append(event)
        elif isinstance(event, ToolResult):
            # The calls before it that are not answered here are the client's.
            answered = (call for call in self._held if not self._tools.leaves(call.name, call.arguments))
            call = next(answered, self._held[0])
            self._held.remove(call)
            self._rejected = self._rejected if self.service.runs(call.name) else call
        elif isinstance(event, Done):
            return self._ended(event.reply)
        return ()

    def _ended(self, reply: Reply) -> Iterable[Frame]:
        if reply.finish_reason == "cancelled":  # by the end of the server, or by a client that is gone
            raise ModelClosed("the server is ending; ask again")
        self.reply = reply
        if reply.finish_reason == "tool_calls" and not self._held and self._rejected is not None:
            self._held.append(self._rejected)  # the model did not write a better one
        if reply.finish_reason == "tool_calls" and not self._held:
            reply = self.reply = replace(reply, finish_reason="length")  # its steps went to tools that run here
        held: dict[str, ToolCall] = {}
        if self.question.one_call and self._held:
            del self._held[1:]
            reply = self.reply = replace(reply, messages=_up_to(self._held[0], reply.messages))
        for event in self._held:
            call = self._call(event)
            held[call.identity], self.calls[call.identity] = event, event.name
            yield from self.writer.call(call)
        self.service.remember(held, reply.messages, rejected=self._rejected in self._held)
        self.service.metrics.count(reply)
        last = list(self.writer.end(reply))
        self.then(self)
        yield from last

    def _call(self, event: ToolCall) -> Call:
        tool = self.question.settings.toolbox.declared(event.name)
        namespace, _, name = event.name.partition(".")
        if tool is not None:
            namespace, name = tool.namespace, tool.declared_name
        elif not name:
            namespace, name = "functions", namespace
        return Call(
            identity=new_id(self.writer.call_kind),
            namespace=namespace,
            name=name,
            arguments=event.arguments.strip() or "{}",
        )


def _up_to(call: ToolCall, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages up to the first one that makes a call; all of them, if none does."""
    for place, message in enumerate(messages):
        if (message.callee, message.text) == (call.name, call.arguments):
            return messages[: place + 1]
    return messages


def _ending() -> Refused:
    return Refused(503, "the server is ending")

"""One turn of a remote chat: the server generates, and the tools run here."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..chat.options import ChatSettings
from ..chat.turn import TOOL_LOOP, Step
from ..errors import GptOssError, HarmonyError, OutputError
from ..events import (
    Done,
    Event,
    FinishReason,
    Preamble,
    Reply,
    Text,
    Thinking,
    Timings,
    ToolCall,
    ToolResult,
    Usage,
)
from ..harmony import Channel, Message, Role
from ..tools.toolbox import Cancellation
from .connection import Responding, as_object, reason_of
from .requests import request_body

__all__ = ["RemoteTurn"]

_EVENTS: Mapping[Channel, type[Thinking | Preamble | Text]] = {
    Channel.ANALYSIS: Thinking,
    Channel.COMMENTARY: Preamble,
    Channel.FINAL: Text,
}


@dataclass(slots=True)
class _Part:
    """An item of an answer while it comes."""

    channel: Channel
    texts: list[str] = field(default_factory=list)
    call: Message | None = None
    identity: str = ""
    """Of the call."""

    @property
    def message(self) -> Message:
        return self.call or Message.assistant("".join(self.texts), channel=self.channel)


class RemoteTurn:
    """One turn of a remote chat, running; as :class:`~gptoss_mlx.chat.turn.Turn`.

    Args:
        respond: sends a request.
        count: takes the length of the conversation in tokens, after each response.
        settings: of the chat.
        messages: the conversation so far.
        step: the first one.

    Raises:
        InvalidRequest: the server refuses the request.
        GptOssError: the server cannot be reached.
    """

    def __init__(
        self,
        respond: Callable[[Mapping[str, Any]], Responding],
        count: Callable[[int], None],
        settings: ChatSettings,
        messages: Sequence[Message],
        step: Step,
    ) -> None:
        self.messages = list(messages)
        """The conversation; it grows while the turn runs."""
        self._begin = len(self.messages)
        self._respond_to = respond
        self._count_used = count
        self._settings = settings
        self._step = step
        self._identities: dict[int, str] = {}
        self._cancelled = False
        self._calling = Cancellation()
        self._started = time.perf_counter()
        self._first: float | None = None
        self._usage = Usage()
        self._calls: list[ToolCall] = []
        self._responding = self._ask()

    def cancel(self) -> None:
        """Makes :meth:`events` end at once with what there is."""
        self._cancelled = True
        self._responding.cancel()
        self._calling.cancel()

    def events(self) -> Iterator[Event]:
        """Everything that happens, then Done."""
        reason = yield from self._steps()
        reply = self._reply(reason)
        if self._step.plan.constraint is not None and reason in ("length", "loop"):
            advice = "raise max_tokens, or lower effort"
            short = OutputError(f"the answer was cut short before it was complete; {advice}", reply.text)
            short.reply = reply
            raise short
        yield Done(reply=reply)

    def _ask(self) -> Responding:
        return self._respond_to(request_body(self._settings, self.messages, self._step, self._identities))

    def _steps(self) -> Generator[Event, None, FinishReason]:
        """Asks, and calls tools, until the model has answered. Returns why that ended."""
        for count in range(self._settings.max_steps):
            if count:
                self._step = self._step.after_a_call(self._usage)
                self._responding = self._ask()
                if self._cancelled:
                    self._responding.cancel()
            reason, calls = yield from self._respond()
            if reason != "stop" or not calls:
                return reason
            for call in filter(self._runs, calls):
                if self._cancelled:
                    return "cancelled"
                yield self._answer(call)
            if self._cancelled:
                return "cancelled"
            if not all(map(self._runs, calls)):
                return "tool_calls"
            limit = self._step.sampling.max_tokens
            if limit is not None and self._usage.completion_tokens >= limit:
                return "length"
        return "tool_calls"

    def _respond(self) -> Generator[Event, None, tuple[FinishReason, list[Message]]]:
        """Reads one response. Returns why it ended, and its calls; its messages are kept however it ends."""
        reason: FinishReason = "cancelled"
        parts: list[_Part] = []
        try:
            for event in self._responding:
                kind = event.get("type")
                if kind in ("response.completed", "response.incomplete"):
                    reason = "stop" if kind == "response.completed" else "length"
                    self._count(as_object(as_object(event.get("response")).get("usage")))
                elif kind in ("response.failed", "error"):
                    raise GptOssError(reason_of(event.get("response", event)))
                else:
                    yield from self._read(kind, event, parts)
        finally:
            self._responding.close()
            for part in parts:
                if part.call is not None:
                    self._identities[len(self.messages)] = part.identity
                self.messages.append(part.message)
        return reason, [part.call for part in parts if part.call is not None]

    def _read(self, kind: Any, event: Mapping[str, Any], parts: list[_Part]) -> Iterator[Event]:
        item = as_object(event.get("item"))
        if kind == "response.output_item.added" and item.get("type") != "function_call":
            channel = Channel.COMMENTARY if item.get("phase") == "commentary" else Channel.FINAL
            parts.append(_Part(Channel.ANALYSIS if item.get("type") == "reasoning" else channel))
        elif kind == "response.output_item.done" and item.get("type") == "function_call":
            parts.append(_called(item))
            call = parts[-1].message
            self._calls.append(ToolCall(name=call.recipient or "", arguments=call.text))
            yield self._calls[-1]
        elif kind in ("response.reasoning_text.delta", "response.output_text.delta") and parts:
            self._first = self._first or time.perf_counter()
            delta = str(event.get("delta", ""))
            parts[-1].texts.append(delta)
            yield _EVENTS[parts[-1].channel](delta=delta)

    def _runs(self, call: Message) -> bool:
        """Whether a call is answered here; otherwise the turn ends and the caller answers it."""
        return not self._settings.toolbox.leaves(call.recipient or "", call.text)

    def _answer(self, call: Message) -> ToolResult:
        settings, name = self._settings, call.recipient or ""
        outcome = settings.toolbox.call(
            name, call.text, settings.before_call, settings.after_call, TOOL_LOOP.get(), self._calling
        )
        self.messages.append(call.answer(outcome.output))
        return ToolResult(name=name, output=outcome.output, error=outcome.error)

    def _count(self, usage: Mapping[str, Any]) -> None:
        def number(value: object) -> int:
            return value if type(value) is int and value >= 0 else 0

        prompt, made = number(usage.get("input_tokens")), number(usage.get("output_tokens"))
        cached = number(as_object(usage.get("input_tokens_details")).get("cached_tokens"))
        thinking = number(as_object(usage.get("output_tokens_details")).get("reasoning_tokens"))
        self._count_used(prompt + made)
        self._usage = Usage(
            prompt_tokens=self._usage.prompt_tokens + prompt,
            cached_tokens=self._usage.cached_tokens + cached,
            completion_tokens=self._usage.completion_tokens + made,
            reasoning_tokens=self._usage.reasoning_tokens + thinking,
        )

    def _reply(self, reason: FinishReason) -> Reply:
        messages = self.messages[self._begin :]
        last = max((place for place, part in enumerate(messages) if part.callee is not None), default=-1)

        def texts(channel: Channel, begin: int = 0) -> list[str]:
            own = [part for part in messages[begin:] if part.role is Role.ASSISTANT and part.callee is None]
            return [part.text for part in own if part.channel is channel]

        text = "\n\n".join(texts(Channel.FINAL)) or "".join(texts(Channel.COMMENTARY, last + 1)[-1:])
        now = time.perf_counter()
        first = (self._first or now) - self._started
        constraint = self._step.plan.constraint
        return Reply(
            text=text,
            thinking="\n\n".join(texts(Channel.ANALYSIS)),
            tool_calls=tuple(self._calls),
            parsed=constraint.parse(text) if constraint is not None and reason == "stop" else None,
            messages=tuple(messages),
            finish_reason=reason,
            usage=self._usage,
            timings=Timings(first_token=first, prefill=first, decode=now - self._started - first),
        )


def _called(item: Mapping[str, Any]) -> _Part:
    """A call as the server sends it.

    Raises:
        GptOssError: it is none.
    """
    fields = [item.get(name, "") for name in ("name", "arguments", "call_id", "namespace")]
    name, arguments, identity, namespace = (value if isinstance(value, str) else "" for value in fields)
    try:
        call = Message.assistant(
            arguments,
            channel=Channel.COMMENTARY,
            recipient=f"{namespace or 'functions'}.{name}",
            content_type="<|constrain|>json",
        )
    except HarmonyError as error:
        raise GptOssError(f"the server called a tool that cannot be: {error}") from None
    return _Part(Channel.COMMENTARY, call=call, identity=identity)

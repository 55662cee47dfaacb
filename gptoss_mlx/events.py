"""The events of a request and its reply.

All are frozen. Each event has a literal ``type``, and ``to_dict()`` returns it as plain JSON data, the form in
which ``gptoss run --jsonl`` prints it. Knows nothing of models or terminals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, get_type_hints

import pydantic_core
from typing_extensions import TypeVar

from .errors import InvalidRequest, RenderError
from .files.read import short_repr
from .harmony import Message

__all__ = [
    "Done",
    "Event",
    "FinishReason",
    "Parsed",
    "Preamble",
    "Progress",
    "Reply",
    "Text",
    "Thinking",
    "Timings",
    "TokenLogprob",
    "ToolCall",
    "ToolResult",
    "Usage",
]

FinishReason = Literal["stop", "length", "loop", "tool_calls", "cancelled"]
"""Why an answer ended: the model stopped; ``max_tokens`` or the end of the context was reached; the analysis
repeated itself (``SamplingParams.stop_loops``); calls wait for the caller's results; ``cancel()`` was called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The number of tokens of one request. ``prompt_tokens`` includes the cached ones.

    Example:
        >>> usage = model.ask("Yes or no?", choices=["yes"], max_thinking_tokens=0).usage
        >>> usage.prompt_tokens > usage.completion_tokens > usage.reasoning_tokens == 0
        True
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """The prompt's tokens that were in the prompt cache and were not computed again."""
    completion_tokens: int = 0
    """Every generated token: headers, analysis, answer, stop token."""
    reasoning_tokens: int = 0
    """The completion's tokens that were analysis text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Wall time of one request, in seconds.

    Example:
        >>> timings = model.ask("Yes or no?", choices=["yes"], max_thinking_tokens=0).timings
        >>> 0 < timings.first_token <= timings.prefill
        True
    """

    first_token: float = 0.0
    """From the request to the first generated token."""
    prefill: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One generated token and its probability.

    Example:
        >>> reply = model.ask("Yes or no?", choices=["yes"], max_thinking_tokens=0, logprobs=True)
        >>> reply.logprobs[-1].text, reply.logprobs[-1].logprob <= 0
        ('<|return|>', True)
        >>> reply = model.ask("Yes or no?", choices=["yes"], max_thinking_tokens=0, top_logprobs=3)
        >>> "".join(entry.text for entry in reply.logprobs if entry.channel == "final")
        'yes'
        >>> [len(entry.top_logprobs) for entry in reply.logprobs][-1]
        3
    """

    token: int
    text: str
    logprob: float
    """Natural logarithm of the probability at temperature 1, before any filter or constraint."""
    channel: str | None = None
    """Of the message whose text it is: ``analysis``, ``commentary`` or ``final``. None for a header's tokens."""
    top_logprobs: tuple[TokenLogprob, ...] = ()
    """The most likely tokens in its place, the most likely first, if ``top_logprobs`` was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    def to_dict(self) -> dict[str, Any]:
        """The event as plain JSON data.

        Example:
            >>> Text(delta="Hi.").to_dict()
            {'type': 'text', 'delta': 'Hi.'}
        """
        return _fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(_Event):
    """The prompt is being read: ``done`` of ``total`` tokens that were not cached.

    Example:
        >>> with model.stream("Yes or no?", choices=["yes"], max_thinking_tokens=0) as stream:
        ...     progress = [event for event in stream if isinstance(event, Progress)]
        >>> usage = stream.reply.usage
        >>> progress[0].done, progress[-1].total == usage.prompt_tokens - usage.cached_tokens
        (0, True)
    """

    type: Literal["progress"] = "progress"
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking(_Event):
    """A piece of analysis. It is not trained to the safety standard of final answers: do not show it as one.

    Example:
        >>> with model.stream("Yes or no?", choices=["yes"], max_thinking_tokens=9) as stream:
        ...     thoughts = [event.delta for event in stream if isinstance(event, Thinking)]
        >>> "".join(thoughts) == stream.reply.thinking
        True
    """

    type: Literal["thinking"] = "thinking"
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preamble(_Event):
    """A piece of text for the user before a tool call, or of an answer without a final message (`Reply.text`).

    Example:
        >>> Preamble(delta="Let me look.").to_dict()
        {'type': 'preamble', 'delta': 'Let me look.'}
    """

    type: Literal["preamble"] = "preamble"
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(_Event):
    """A piece of the final answer.

    Example:
        >>> with model.stream("Yes or no?", choices=["yes"], max_thinking_tokens=0) as stream:
        ...     "".join(event.delta for event in stream if isinstance(event, Text))
        'yes'
    """

    type: Literal["text"] = "text"
    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall(_Event):
    """A complete tool call. ``name`` is the recipient, for example ``functions.get_weather``.

    Example:
        >>> lamp = {"name": "lamp", "function": lambda: "on"}
        >>> model.chat(tools=[lamp]).send("Is it on?", tool_choice="lamp", max_thinking_tokens=0).tool_calls[0]
        ToolCall(type='tool_call', name='functions.lamp', arguments='{}')
    """

    type: Literal["tool_call"] = "tool_call"
    name: str
    arguments: str
    """As the model wrote them: JSON, unless the model made a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult(_Event):
    """The result of a tool call as the model reads it: the event after a tool has run. ``after_call`` may change
    it, and ``chat.send_results`` accepts it.

    Example:
        >>> ToolResult(name="functions.get_weather", output="4 degrees, rain").to_dict()["error"]
        False
    """

    type: Literal["tool_result"] = "tool_result"
    name: str
    """The tool's name as in the call: ``functions.get_weather``."""
    output: str
    """The function's text, any other value as JSON, or the error."""
    error: bool = False
    """Whether the call failed: wrong arguments, an unknown tool, an exception, a veto."""


Parsed = TypeVar("Parsed", default=Any)
_NOTHING: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[Parsed]):
    """One finished answer. ``Reply[City]`` is one whose ``parsed`` is a ``City``, as ``schema=City`` asks for.

    Example:
        >>> reply = model.ask("How old is Ada?", regex="[0-9]{2}", max_thinking_tokens=0)
        >>> len(reply.text), reply.thinking, reply.finish_reason, reply.to_dict()["finish_reason"]
        (2, '', 'stop', 'stop')
        >>> Reply.from_dict(reply.to_dict()) == reply
        True
    """

    text: str
    """The final channel, or the last preamble after all calls if the turn ended without a final message. Empty if
    the model stopped for a tool call, was cut short before the answer, or wrote only analysis or nothing."""
    thinking: str = ""
    """The analysis channel. It is not trained to the safety standard of final answers."""
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: Parsed = _NOTHING
    """The answer as the object, data or text that ``schema``, ``regex`` or ``choices`` requires. None without
    these, and if the turn ended in calls or was cancelled."""
    messages: tuple[Message, ...] = ()
    """Everything the request added to the conversation, tool results included."""
    finish_reason: FinishReason = "stop"
    stop_text: str | None = None
    """The one of the texts ``stop`` that ended the answer."""
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    repairs: tuple[str, ...] = ()
    """The repairs of malformed output, one text for each repaired message."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of every generated token, including headers and analysis, if ``logprobs=True`` was given."""

    def to_dict(self) -> dict[str, Any]:
        """The reply as plain JSON data; messages in openai-harmony's form."""
        return _fields(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reply:
        """The reply that :meth:`to_dict` wrote; ``parsed`` is plain data.

        Raises:
            InvalidRequest: a field is missing, unknown or of another kind; names it.
        """
        if not isinstance(data, Mapping) or "text" not in data:
            raise InvalidRequest(f"the reply is {short_repr(data)}; a dict as of Reply.to_dict() is needed")
        kinds = get_type_hints(cls)
        unknown = [name for name in data if name not in kinds]
        if unknown:
            raise InvalidRequest(f"the reply has {short_repr(unknown[0])}; it may have {', '.join(kinds)}")
        return cls(**{name: _read(name, kinds[name], value) for name, value in data.items()})

    def _repr_markdown_(self) -> str:
        """The answer, or the calls, as notebooks show it."""
        return self.text or "\n\n".join(f"`{call.name}({call.arguments})`" for call in self.tool_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(_Event):
    """The last event of every stream, with the whole answer. A stream that ends in an error does not have it.

    Example:
        >>> Done(reply=Reply(text="Hi.")).to_dict()["reply"]["finish_reason"]
        'stop'
    """

    type: Literal["done"] = "done"
    reply: Reply
    """The sum of all events before it, the same as ``stream.reply``."""


Event = Progress | Thinking | Preamble | ToolCall | ToolResult | Text | Done


def _fields(value: Any) -> dict[str, Any]:
    return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}


def _read(name: str, kind: Any, value: Any) -> Any:
    """A field of a reply, from plain data."""
    import pydantic  # Only here: the command line reads no reply, and starts without it.

    if name == "parsed":
        return value
    try:
        if name == "messages":
            return tuple(map(Message.from_dict, value))
        return pydantic.TypeAdapter(kind).validate_python(value)
    except (pydantic.ValidationError, RenderError, TypeError) as error:
        reason = " ".join(str(error).partition("[type=")[0].split())
        raise InvalidRequest(f"{name} of the reply is {short_repr(value)}: {reason}") from None


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and messages as JSON data."""
    if isinstance(value, Message):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | dict):
        return value
    return pydantic_core.to_jsonable_python(value, serialize_unknown=True)

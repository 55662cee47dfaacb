"""Whether an object that the server sent is what the APIs' own clients expect.

Each object is validated, strictly, by the pydantic type that openai-python or anthropic-python reads it with.
These types leave keys optional that OpenAI's OpenAPI document requires, and others that every answer of OpenAI's
and Anthropic's servers has and clients read: the tables below list them. No text that the model wrote may hold the
name of a control token.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import pydantic
from anthropic.types import (
    Message,
    MessageTokensCount,
    ModelInfo,
    RawMessageStreamEvent,
)
from anthropic.types.shared import ErrorResponse
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from gptoss_mlx.tokenizer import CONTROL_TOKENS

__all__ = [
    "anthropic_error",
    "anthropic_model",
    "chat_chunk",
    "chat_completion",
    "message",
    "message_event",
    "openai_error",
    "openai_model",
    "response",
    "response_event",
    "token_count",
]

Keys: TypeAlias = Mapping[str, tuple[str, ...]]

CHAT: Final[Keys] = {
    "": ("id", "object", "created", "model", "choices", "usage"),
    "choices[]": ("index", "message", "finish_reason", "logprobs"),
    "choices[].logprobs": ("content", "refusal"),
    "choices[].logprobs.content[]": ("token", "logprob", "bytes", "top_logprobs"),
    "choices[].logprobs.content[].top_logprobs[]": ("token", "logprob", "bytes"),
    "choices[].message": ("role", "content", "refusal"),
    "choices[].message.tool_calls[]": ("id", "type", "function"),
    "choices[].message.tool_calls[].function": ("name", "arguments"),
    "usage": (
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
    ),
    "usage.prompt_tokens_details": ("cached_tokens",),
    "usage.completion_tokens_details": ("reasoning_tokens",),
}
"""The keys that an object must have, by its place. Those of an object that is absent or null do not count."""

CHUNK: Final[Keys] = {
    "": ("id", "object", "created", "model", "choices"),
    "choices[]": ("index", "delta", "finish_reason"),
    "choices[].logprobs": ("content", "refusal"),
    "choices[].logprobs.content[]": ("token", "logprob", "bytes", "top_logprobs"),
    "choices[].delta.tool_calls[]": ("index",),
    "usage": CHAT["usage"],
    "usage.prompt_tokens_details": ("cached_tokens",),
    "usage.completion_tokens_details": ("reasoning_tokens",),
}

_ITEMS: Final = ("id", "type", "status")
_RESPONSE: Final[Keys] = {
    # Required by the document.
    "": (
        *("id", "object", "created_at", "error", "incomplete_details", "instructions", "model", "tools", "output"),
        *("parallel_tool_calls", "metadata", "tool_choice", "temperature", "top_p"),
        # Optional there, and read by clients.
        *("status", "usage", "text", "reasoning", "truncation", "previous_response_id", "max_output_tokens"),
        *("background", "store", "top_logprobs"),
    ),
    "error": ("code", "message"),
    "incomplete_details": ("reason",),
    "text": ("format",),
    "reasoning": ("effort", "summary"),
    "usage": ("input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"),
    "usage.input_tokens_details": ("cached_tokens", "cache_write_tokens"),
    "usage.output_tokens_details": ("reasoning_tokens",),
    "output[]": _ITEMS,
    "output[].content[]": ("type", "text"),
    "output[]:message": (*_ITEMS, "role", "content"),
    "output[]:message.content[]": ("type", "text", "annotations", "logprobs"),
    "output[]:reasoning": (*_ITEMS, "summary", "content"),
    "output[]:function_call": (*_ITEMS, "call_id", "name", "arguments"),
    "tools[]:function": ("type", "name", "strict", "parameters"),
}
RESPONSE: Final = _RESPONSE

_PLACE: Final = ("type", "sequence_number", "item_id", "output_index")
EVENTS: Final[Mapping[str, Keys]] = {
    **{
        f"response.{name}": {
            "": ("type", "sequence_number", "response"),
            **{f"response.{place}".rstrip("."): keys for place, keys in _RESPONSE.items()},
        }
        for name in ("created", "in_progress", "completed", "incomplete", "failed")
    },
    **{
        f"response.output_item.{name}": {
            "": ("type", "sequence_number", "output_index", "item"),
            **{
                place.replace("output[]", "item"): keys for place, keys in _RESPONSE.items() if "output[]" in place
            },
        }
        for name in ("added", "done")
    },
    **{
        f"response.content_part.{name}": {
            "": (*_PLACE, "content_index", "part"),
            "part:output_text": ("type", "text", "annotations", "logprobs"),
            "part:reasoning_text": ("type", "text"),
        }
        for name in ("added", "done")
    },
    "response.reasoning_text.delta": {"": (*_PLACE, "content_index", "delta")},
    "response.reasoning_text.done": {"": (*_PLACE, "content_index", "text")},
    "response.output_text.delta": {"": (*_PLACE, "content_index", "delta", "logprobs")},
    "response.output_text.done": {"": (*_PLACE, "content_index", "text", "logprobs")},
    "response.function_call_arguments.delta": {"": (*_PLACE, "delta")},
    "response.function_call_arguments.done": {"": (*_PLACE, "name", "arguments")},
    "error": {"": ("type", "sequence_number", "code", "message", "param")},
}
"""The events that gpt-oss leads to, and their keys."""

MESSAGE: Final[Keys] = {
    "": ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"),
    "content[]:thinking": ("type", "thinking", "signature"),
    "content[]:text": ("type", "text"),
    "content[]:tool_use": ("type", "id", "name", "input"),
    "usage": ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
}

MESSAGE_EVENTS: Final[Mapping[str, Keys]] = {
    "message_start": {
        "": ("type", "message"),
        **{f"message.{place}".rstrip("."): keys for place, keys in MESSAGE.items()},
    },
    "content_block_start": {
        "": ("type", "index", "content_block"),
        **{place.replace("content[]", "content_block"): keys for place, keys in MESSAGE.items() if ":" in place},
    },
    "content_block_delta": {"": ("type", "index", "delta")},
    "content_block_stop": {"": ("type", "index")},
    "message_delta": {
        "": ("type", "delta", "usage"),
        "delta": ("stop_reason", "stop_sequence"),
        "usage": ("output_tokens",),
    },
    "message_stop": {"": ("type",)},
    "ping": {"": ("type",)},
}


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _check(kind: Any, data: Any, keys: Keys, *, quotes: bool = False) -> None:
    """Validates an object by a client's type, and by a table of keys.

    Args:
        kind: the type.
        data: the object.
        keys: those that it must have.
        quotes: whether its texts may repeat the request, which may have the names of control tokens.
    """
    assert isinstance(data, dict), f"{data!r} is no object"
    try:
        _adapter(kind).validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        raise AssertionError(
            f"{json.dumps(data)[:2000]}\nis no {getattr(kind, '__name__', kind)}: {error}"
        ) from None
    for place, names in keys.items():
        for found in _at(data, place):
            missing = [name for name in names if name not in found]
            assert not missing, f"{place or 'the object'} has no {', '.join(missing)}: {json.dumps(data)[:2000]}"
    for text in () if quotes else _texts(data):
        forged = [name for name in CONTROL_TOKENS if name in text]
        assert not forged, f"{text[:200]!r} has {', '.join(forged)}"


def _at(value: Any, place: str) -> Iterator[dict[str, Any]]:
    """The objects at a place, such as ``choices[].message`` or, of one ``type``, ``output[]:reasoning``."""
    step, _, rest = place.partition(".")
    name, _, kind = step.partition(":")
    if not place:
        if isinstance(value, dict):
            yield value
        return
    found = value.get(name.removesuffix("[]")) if isinstance(value, dict) else None
    for each in found if name.endswith("[]") and isinstance(found, list) else [found]:
        if not kind or (isinstance(each, dict) and each.get("type") == kind):
            yield from _at(each, rest)


def _texts(value: Any, key: str = "") -> Iterator[str]:
    """The texts that a model wrote: all but those that repeat the request."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name not in ("instructions", "tools", "metadata", "text.format"):
                yield from _texts(each, name)


def _checker(kind: Any, keys: Keys) -> Callable[[Any], None]:
    def check(data: Any) -> None:
        _check(kind, data, keys)

    return check


chat_completion = _checker(ChatCompletion, CHAT)
chat_chunk = _checker(ChatCompletionChunk, CHUNK)
response = _checker(Response, RESPONSE)
message = _checker(Message, MESSAGE)
token_count = _checker(MessageTokensCount, {"": ("input_tokens",)})
openai_model = _checker(Model, {"": ("id", "object", "created", "owned_by")})
anthropic_model = _checker(ModelInfo, {"": ("id", "type", "display_name", "created_at")})


def response_event(data: Any) -> None:
    """An event of a stream of Responses."""
    assert data.get("type") in EVENTS, f"{data} is of no kind that is expected"
    _check(ResponseStreamEvent, data, EVENTS[data["type"]])


def message_event(data: Any) -> None:
    """An event of a stream of Anthropic's messages."""
    kind = data.get("type")
    if kind == "error":
        anthropic_error(data)
        return
    assert kind in MESSAGE_EVENTS, f"{data} is of no kind that is expected"
    if kind != "ping":  # the client skips it before it reads its type
        _check(RawMessageStreamEvent, data, MESSAGE_EVENTS[kind])


def openai_error(data: Any) -> None:
    """The body of OpenAI's errors."""
    assert set(data) == {"error"}, data
    error = data["error"]
    assert {"message", "type", "param", "code"} <= set(error), error
    for name in ("message", "type"):
        assert isinstance(error[name], str), error
        assert error[name], error
    for name in ("param", "code"):
        assert isinstance(error[name], str | None), error
    _one_line(error["message"])


def anthropic_error(data: Any) -> None:
    """The body of Anthropic's errors."""
    _check(ErrorResponse, data, {"": ("type", "error"), "error": ("type", "message")}, quotes=True)
    _one_line(data["error"]["message"])


def _one_line(text: str) -> None:
    assert "\n" not in text, text
    assert "Traceback" not in text, text

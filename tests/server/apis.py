"""The three APIs with one interface, so that a test can say the same thing to each of them.

    api = CHAT
    history = api.user("How warm is it in Oslo?")
    reply = ask(client, api, history, tools=[WEATHER], stream=True)
    history += api.said(reply) + api.results(reply, "4 C")

Everything that comes back is checked with :mod:`tests.server.valid` and :mod:`tests.server.order` before it is
read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tests.server import order, valid
from tests.server.serving import Event, events_of

__all__ = ["APIS", "CHAT", "MESSAGES", "RESPONSES", "WEATHER", "Answer", "Api", "Call", "ask"]

WEATHER: Final[Mapping[str, Any]] = {
    "name": "get_weather",
    "description": "Get the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
"""A function's declaration: name, description, parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a function."""

    id: str
    name: str
    arguments: Any
    """JSON, or the text if it is no JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, whichever API gave it."""

    thinking: str
    text: str
    calls: tuple[Call, ...]
    reason: str
    """``stop``, ``length`` or ``tool_calls``."""
    prompt_tokens: int
    """With the cached ones."""
    cached_tokens: int
    completion_tokens: int
    items: Any
    """As the API wrote it: a client that returns everything sends this back."""

    @property
    def meaning(self) -> tuple[str, str, list[tuple[str, Any]], str]:
        """Everything but ids and counts."""
        return self.thinking, self.text, [(call.name, call.arguments) for call in self.calls], self.reason


class Api(Protocol):
    """One API: how a request is written, and an answer read."""

    name: str
    path: str

    def body(
        self, history: Sequence[Any], tools: Sequence[Mapping[str, Any]], instructions: str | None
    ) -> dict[str, Any]:
        """A request."""
        ...

    def user(self, text: str) -> list[Any]:
        """A question, as a piece of a history."""
        ...

    def said(self, answer: Answer, *, reasoning: bool = True) -> list[Any]:
        """An answer, as a piece of a history, with or without its thinking."""
        ...

    def results(self, answer: Answer, *texts: str) -> list[Any]:
        """The results of an answer's calls, as a piece of a history."""
        ...

    def whole(self, data: dict[str, Any]) -> Answer:
        """Reads an answer without a stream."""
        ...

    def streamed(self, events: Sequence[Event]) -> Answer:
        """Reads an answer's stream."""
        ...

    def error(self, data: Any) -> str:
        """Reads an error's message."""
        ...


def ask(
    client: Any,
    api: Api,
    history: Sequence[Any],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    instructions: str | None = None,
    stream: bool = False,
    **fields: Any,
) -> Answer:
    """Sends a request and reads the answer.

    Args:
        client: of httpx, or the one that ``serving`` makes.
        api: to use.
        history: pieces that the API wrote.
        tools: declarations as :data:`WEATHER`.
        instructions: the system message.
        stream: whether the answer is streamed.
        fields: added to the body.
    """
    body = api.body(history, tools, instructions) | {"stream": stream} | fields
    response = client.post(api.path, json=body)
    assert response.status_code == 200, f"{response.status_code}: {response.text[:1000]}"
    if not stream:
        assert response.headers["content-type"] == "application/json", response.headers
        return api.whole(response.json())
    assert response.headers["content-type"].startswith("text/event-stream"), response.headers
    return api.streamed(events_of(response.text))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class _Chat:
    name, path = "chat", "/v1/chat/completions"

    def body(
        self, history: Sequence[Any], tools: Sequence[Mapping[str, Any]], instructions: str | None
    ) -> dict[str, Any]:
        first = [] if instructions is None else [{"role": "system", "content": instructions}]
        declared = [{"type": "function", "function": tool} for tool in tools]
        body: dict[str, Any] = {"model": "gpt-oss", "messages": [*first, *history]}
        return body | ({"tools": declared} if declared else {})

    def user(self, text: str) -> list[Any]:
        return [{"role": "user", "content": text}]

    def said(self, answer: Answer, *, reasoning: bool = True) -> list[Any]:
        dropped = () if reasoning else ("reasoning", "reasoning_content")
        return [{name: value for name, value in answer.items.items() if name not in dropped and value}]

    def results(self, answer: Answer, *texts: str) -> list[Any]:
        pairs = zip(answer.calls, texts, strict=True)
        return [{"role": "tool", "tool_call_id": call.id, "content": text} for call, text in pairs]

    def whole(self, data: dict[str, Any]) -> Answer:
        valid.chat_completion(data)
        choice = data["choices"][0]
        return self._answer(choice["message"], choice["finish_reason"], data["usage"])

    def streamed(self, events: Sequence[Event]) -> Answer:
        usage = any(event.data != "[DONE]" and not event.data["choices"] for event in events)
        message = order.chat_stream(events, usage=usage)
        return self._answer(message, message.pop("finish_reason"), message.pop("usage", None))

    def _answer(self, message: dict[str, Any], reason: str, usage: dict[str, Any] | None) -> Answer:
        assert message.get("reasoning") == message.get("reasoning_content", message.get("reasoning")), message
        return Answer(
            thinking=message.get("reasoning") or "",
            text=message["content"] or "",
            calls=tuple(
                Call(id=call["id"], name=call["function"]["name"], arguments=_json(call["function"]["arguments"]))
                for call in message.get("tool_calls") or ()
            ),
            reason=reason,
            prompt_tokens=usage["prompt_tokens"] if usage else -1,
            cached_tokens=usage["prompt_tokens_details"]["cached_tokens"] if usage else -1,
            completion_tokens=usage["completion_tokens"] if usage else -1,
            items=message,
        )

    def error(self, data: Any) -> str:
        valid.openai_error(data)
        return str(data["error"]["message"])


class _Responses:
    name, path = "responses", "/v1/responses"

    def body(
        self, history: Sequence[Any], tools: Sequence[Mapping[str, Any]], instructions: str | None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": "gpt-oss", "input": list(history), "instructions": instructions}
        declared = [{"type": "function", "strict": False, **tool} for tool in tools]
        return body | ({"tools": declared} if declared else {})

    def user(self, text: str) -> list[Any]:
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]

    def said(self, answer: Answer, *, reasoning: bool = True) -> list[Any]:
        return [item for item in answer.items if reasoning or item["type"] != "reasoning"]

    def results(self, answer: Answer, *texts: str) -> list[Any]:
        pairs = zip(answer.calls, texts, strict=True)
        return [{"type": "function_call_output", "call_id": call.id, "output": text} for call, text in pairs]

    def whole(self, data: dict[str, Any]) -> Answer:
        valid.response(data)
        texts: dict[str, list[str]] = {"reasoning": [], "message": []}
        calls = []
        for item in data["output"]:
            if item["type"] == "function_call":
                calls.append(Call(id=item["call_id"], name=item["name"], arguments=_json(item["arguments"])))
            else:
                texts[item["type"]] += [part["text"] for part in item["content"]]
        reasons = {"completed": "tool_calls" if calls else "stop", "incomplete": "length"}
        return Answer(
            thinking="\n\n".join(texts["reasoning"]),
            text="\n\n".join(texts["message"]),
            calls=tuple(calls),
            reason=reasons[data["status"]],
            prompt_tokens=data["usage"]["input_tokens"],
            cached_tokens=data["usage"]["input_tokens_details"]["cached_tokens"],
            completion_tokens=data["usage"]["output_tokens"],
            items=data["output"],
        )

    def streamed(self, events: Sequence[Event]) -> Answer:
        return self.whole(order.response_stream(events))

    def error(self, data: Any) -> str:
        valid.openai_error(data)
        return str(data["error"]["message"])


class _Messages:
    name, path = "messages", "/v1/messages"

    def body(
        self, history: Sequence[Any], tools: Sequence[Mapping[str, Any]], instructions: str | None
    ) -> dict[str, Any]:
        thinking = {"type": "enabled", "budget_tokens": 2048}
        body: dict[str, Any] = {"model": "gpt-oss", "max_tokens": 4096, "messages": list(history)}
        body["thinking"] = thinking
        if instructions is not None:
            body["system"] = instructions
        declared = [
            {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
            for tool in tools
        ]
        return body | ({"tools": declared} if declared else {})

    def user(self, text: str) -> list[Any]:
        return [{"role": "user", "content": text}]

    def said(self, answer: Answer, *, reasoning: bool = True) -> list[Any]:
        blocks = [block for block in answer.items if reasoning or block["type"] != "thinking"]
        return [{"role": "assistant", "content": blocks}]

    def results(self, answer: Answer, *texts: str) -> list[Any]:
        pairs = zip(answer.calls, texts, strict=True)
        blocks = [{"type": "tool_result", "tool_use_id": call.id, "content": text} for call, text in pairs]
        return [{"role": "user", "content": blocks}]

    def whole(self, data: dict[str, Any]) -> Answer:
        valid.message(data)
        content, usage = data["content"], data["usage"]
        reasons = {
            "end_turn": "stop",
            "stop_sequence": "stop",
            "max_tokens": "length",
            "tool_use": "tool_calls",
        }
        return Answer(
            thinking="\n\n".join(block["thinking"] for block in content if block["type"] == "thinking"),
            text="\n\n".join(block["text"] for block in content if block["type"] == "text"),
            calls=tuple(
                Call(id=block["id"], name=block["name"], arguments=block["input"])
                for block in content
                if block["type"] == "tool_use"
            ),
            reason=reasons[data["stop_reason"]],
            prompt_tokens=usage["input_tokens"]
            + usage["cache_read_input_tokens"]
            + usage["cache_creation_input_tokens"],
            cached_tokens=usage["cache_read_input_tokens"],
            completion_tokens=usage["output_tokens"],
            items=content,
        )

    def streamed(self, events: Sequence[Event]) -> Answer:
        return self.whole(order.message_stream(events))

    def error(self, data: Any) -> str:
        valid.anthropic_error(data)
        return str(data["error"]["message"])


CHAT: Final[Api] = _Chat()
RESPONSES: Final[Api] = _Responses()
MESSAGES: Final[Api] = _Messages()
APIS: Final = (CHAT, RESPONSES, MESSAGES)

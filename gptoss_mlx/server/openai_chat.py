"""OpenAI's ``/v1/chat/completions``: its requests as questions, and its chunks and completions.

Beside OpenAI's fields an answer has ``reasoning`` and ``reasoning_content``, the two names under which clients
look for the analysis. A client may send either back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..arguments import Effort
from ..chat.options import TurnOptions
from ..errors import GptOssError
from ..events import Reply, TokenLogprob
from ..tokenizer import Tokenizer
from ..tools.toolbox import ToolBox
from .errors import openai_error
from .fields import Fields, text_parts
from .question import (
    EFFORTS,
    History,
    Question,
    Recall,
    declared_tools,
    ignore_once,
    offered_tools,
    sampling,
    settings,
    tool_choice,
)
from .writer import Call, Frame, PartKind, Writer, new_id

__all__ = ["ChatWriter", "function_tool", "logprobs", "named_schema", "read"]

_REFUSED: Final = {
    "n": "only one answer can be generated at a time; leave it out",
    "audio": "gpt-oss answers with text only; leave it out",
    "functions": "it is replaced by tools; declare them there",
}
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_REASONING: Final = ("reasoning_content", "reasoning", "thinking")
_FINISH: Final = {"stop": "stop", "length": "length", "loop": "length", "tool_calls": "tool_calls"}


def read(body: Fields, recall: Recall, effort: Effort) -> Question:
    """The question of a request.

    Args:
        body: of the request.
        recall: what the model said when it made a call.
        effort: where the request names none.

    Raises:
        InvalidRequest: a field is wrong, or asks for something that this server cannot do; names its path.
    """
    if body.integer("n", 1) != 1:
        body.refuse({"n": _REFUSED["n"]})
    body.refuse({name: reason for name, reason in _REFUSED.items() if name != "n"})
    tools = declared_tools(_tools(body))
    choice: str = "auto"
    if "tool_choice" in body:
        choice, tools = _choice(body, tools)
    history = History(tools, recall)
    messages = body.objects("messages")
    if not messages:
        raise body.refused("messages", "at least one message is needed")
    for message in messages:
        _read_message(message, history)
    options = TurnOptions(tool_choice=choice)
    form = body.fields("response_format")
    if form is not None and form.choice("type", ("text", "json_object", "json_schema")) != "text":
        options["schema"] = _schema(form)
    if body.flag("logprobs"):
        options["logprobs"] = True
        options["top_logprobs"] = body.integer("top_logprobs") or 0
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    asked = EFFORTS.get(body.choice("reasoning_effort", EFFORTS) or "", effort)
    return Question(
        settings=settings(
            instructions=history.instructions, effort=asked, tools=tools, chosen=sampling(body, limit)
        ),
        messages=history.messages,
        options=options,
        one_call="parallel_tool_calls" in body and not body.flag("parallel_tool_calls"),
    )


def _tools(body: Fields) -> Iterator[Mapping[str, Any]]:
    for tool in body.objects("tools"):
        function = tool.fields("function")
        if tool.text("type") != "function" or function is None:
            ignore_once(f"a tool of the type {tool.text('type')}")
            continue
        yield function_tool(function)


def function_tool(function: Fields) -> dict[str, Any]:
    """A declaration of a function, as :func:`declared_tools` takes it."""
    parameters = function.fields("parameters")
    return {
        "name": function.required_text("name"),
        "description": function.text("description") or "",
        "inputSchema": {"type": "object", "properties": {}} if parameters is None else dict(parameters.values),
    }


def _choice(body: Fields, tools: ToolBox) -> tuple[str, ToolBox]:
    """The tool choice, and the tools that are left by it."""
    if isinstance(body.values["tool_choice"], str):
        return body.choice("tool_choice", ("auto", "none", "required")) or "auto", tools
    choice = body.required_fields("tool_choice")
    kind = choice.choice("type", ("function", "allowed_tools"))
    if kind == "function":
        function = choice.required_fields("function")
        return tool_choice(function.required_text("name"), tools, function.at("name")), tools
    allowed = choice.required_fields("allowed_tools")
    names = [
        tool_choice(entry.required_fields("function").required_text("name"), tools, entry.at("function.name"))
        for entry in allowed.objects("tools")
    ]
    return allowed.choice("mode", ("auto", "required")) or "auto", offered_tools(tools, names)


def _schema(form: Fields) -> Any:
    if form.text("type") == "json_object":
        return {"type": "object"}
    described = form.required_fields("json_schema")
    return named_schema(described)


def named_schema(described: Fields) -> dict[str, Any]:
    """A JSON schema with its name, as ``TurnOptions`` takes it."""
    schema = dict(described.required_fields("schema").values)
    title = described.text("name")
    return {"title": title, **schema} if title else schema


def _read_message(message: Fields, history: History) -> None:
    role = message.choice("role", _ROLES)
    if role is None:
        raise message.refused("role", f"one of {', '.join(_ROLES)} is needed")
    text = "".join(text_parts(message, "content", ("text",)))
    if role in ("system", "developer"):
        history.instruct(text)
    elif role == "user":
        history.ask(text)
    elif role == "tool":
        history.answer(message.text("tool_call_id") or "", text, message.at("tool_call_id"))
    else:
        history.think(next((found for name in _REASONING if (found := message.text(name))), ""))
        history.say(text)
        for call in message.objects("tool_calls"):
            function = call.required_fields("function")
            history.call(
                call.required_text("id"), function.required_text("name"), function.text("arguments") or "{}"
            )


class ChatWriter(Writer):
    """Chunks, and a completion.

    Args:
        model: the name of the model.
        tokenizer: has the bytes of tokens.
        with_usage: whether a last chunk has the usage.
    """

    call_kind = "call"

    def __init__(self, *, model: str, tokenizer: Tokenizer, with_usage: bool = False) -> None:
        super().__init__()
        self._head = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": model}
        self._tokenizer = tokenizer
        self._with_usage = with_usage
        self._thinking: list[str] = []
        self._content: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._reply = Reply(text="")

    def begin(self, prompt_tokens: int) -> Iterator[Frame]:
        yield self._chunk({"role": "assistant", "content": ""})

    def _opened(self, kind: PartKind) -> Iterator[Frame]:
        if kind is not PartKind.THINKING and self._content:
            yield from self._added(kind, "\n\n")

    def _added(self, kind: PartKind, delta: str) -> Iterator[Frame]:
        if kind is PartKind.THINKING:
            self._thinking.append(delta)
            yield self._chunk({"reasoning": delta, "reasoning_content": delta})
        else:
            self._content.append(delta)
            yield self._chunk({"content": delta})

    def _closed(self, kind: PartKind) -> Iterator[Frame]:
        return iter(())

    def _called(self, call: Call) -> Iterator[Frame]:
        index = len(self._calls)
        function = {"name": call.name, "arguments": call.arguments}
        made = {"id": call.identity, "type": "function", "function": function}
        self._calls.append(made)
        yield self._chunk({"tool_calls": [{"index": index, **made, "function": {**function, "arguments": ""}}]})
        arguments = {"index": index, "function": {"arguments": call.arguments}}
        yield self._chunk({"tool_calls": [arguments]})

    def end(self, reply: Reply) -> Iterator[Frame]:
        self._reply = reply
        found = logprobs(reply, self._tokenizer)
        yield self._chunk({}, finish_reason=self._finish, logprobs=found)
        if self._with_usage:
            yield Frame({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(reply)})
        yield Frame("[DONE]")

    def fail(self, error: GptOssError) -> Iterator[Frame]:
        yield Frame(openai_error(error))
        yield Frame("[DONE]")

    @property
    def result(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self._content) if self._content or not self._calls else None,
            "refusal": None,
            "annotations": [],
        }
        thinking = "".join(self._thinking)
        if thinking:
            message |= {"reasoning": thinking, "reasoning_content": thinking}
        if self._calls:
            message["tool_calls"] = self._calls
        found = logprobs(self._reply, self._tokenizer)
        choice = {"index": 0, "message": message, "finish_reason": self._finish, "logprobs": found}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(self._reply)}

    @property
    def _finish(self) -> str:
        return "tool_calls" if self._calls else _FINISH.get(self._reply.finish_reason, "stop")

    def _chunk(self, delta: dict[str, Any], **choice: Any) -> Frame:
        made = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None, **choice}
        data = {**self._head, "object": "chat.completion.chunk", "choices": [made]}
        return Frame({**data, "usage": None} if self._with_usage else data)


def _usage(reply: Reply) -> dict[str, Any]:
    """The tokens of a reply."""
    used = reply.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
    }


def logprobs(reply: Reply, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The log-probabilities of the answer's tokens, if they were asked for."""
    if reply.logprobs is None:
        return None

    def entry(found: TokenLogprob) -> dict[str, Any]:
        return {
            "token": found.text,
            "logprob": found.logprob,
            "bytes": list(tokenizer.token_bytes(found.token)),
        }

    content = [
        {**entry(found), "top_logprobs": list(map(entry, found.top_logprobs))}
        for found in reply.logprobs
        if found.channel == "final"
    ]
    return {"content": content, "refusal": None}

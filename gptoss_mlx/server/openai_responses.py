"""OpenAI's ``/v1/responses``: its requests as questions, and its events and response objects.

The events come in the order that Codex and OpenAI's own clients need:

    response.created, response.in_progress
    for each item: output_item.added, content_part.added, deltas, done, content_part.done, output_item.done
    response.completed, .incomplete or .failed
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..arguments import Effort
from ..chat.options import TurnOptions
from ..errors import GptOssError, InvalidRequest
from ..events import Reply
from ..harmony import Channel, Message
from ..tokenizer import Tokenizer
from ..tools.toolbox import ToolBox
from .fields import Fields, text_parts
from .openai_chat import function_tool, logprobs, named_schema
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

__all__ = ["ResponsesWriter", "Stored", "read"]

_REFUSED: Final = {
    "background": "answers in the background are not supported; leave it out",
    "conversation": "conversations are not kept here; give previous_response_id, or the whole input",
    "prompt": "stored prompts are not supported; give instructions and input",
}
_TEXTS: Final = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_ROLES: Final = ("system", "developer", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A response that was kept, and the conversation up to its end."""

    response: dict[str, Any]
    messages: tuple[Message, ...]
    names: Mapping[str, str]
    """The recipients of the calls in the conversation, by id."""


def read(body: Fields, recall: Recall, effort: Effort, previous: Stored | None) -> tuple[Question, History]:
    """The question of a request, and the conversation that it was made of.

    Args:
        body: of the request.
        recall: what the model said when it made a call.
        effort: where the request names none.
        previous: the response that it continues.

    Raises:
        InvalidRequest: a field is wrong, or asks for something that this server cannot do; names its path.
    """
    body.refuse(_REFUSED)
    tools = declared_tools(_tools(body))
    choice: str = "auto"
    if "tool_choice" in body:
        choice, tools = _choice(body, tools)
    before = () if previous is None else previous.messages
    history = History(tools, recall, before, {} if previous is None else previous.names)
    instructions = body.text("instructions")
    if isinstance(body.values.get("input"), str):
        history.ask(body.values["input"])
    else:
        for item in body.objects("input"):
            _read_item(item, history)
    if not history.messages:
        raise body.refused("input", "text or a list of items is needed")
    texts = [text for text in (instructions, history.instructions) if text]
    options = TurnOptions(tool_choice=choice)
    text = body.fields("text")
    form = None if text is None else text.fields("format")
    if form is not None and form.choice("type", ("text", "json_object", "json_schema")) != "text":
        options["schema"] = {"type": "object"} if form.text("type") == "json_object" else named_schema(form)
    if "message.output_text.logprobs" in body.texts("include"):
        options["logprobs"] = True
        options["top_logprobs"] = body.integer("top_logprobs") or 0
    reasoning = body.fields("reasoning")
    asked = None if reasoning is None else reasoning.choice("effort", EFFORTS)
    question = Question(
        settings=settings(
            instructions="\n\n".join(texts) or None,
            effort=EFFORTS.get(asked or "", effort),
            tools=tools,
            chosen=sampling(body, "max_output_tokens"),
            date=body.text("date"),
        ),
        messages=history.messages,
        options=options,
        one_call="parallel_tool_calls" in body and not body.flag("parallel_tool_calls"),
    )
    return question, history


def _tools(body: Fields) -> Iterator[Mapping[str, Any]]:
    for tool in body.objects("tools"):
        kind = tool.text("type")
        if kind == "function":
            yield function_tool(tool)
        elif kind == "namespace":
            members = [entry for entry in tool.objects("tools") if entry.text("type") == "function"]
            yield {
                "type": "namespace",
                "name": tool.required_text("name"),
                "description": tool.text("description"),
                "tools": list(map(function_tool, members)),
            }
        else:
            ignore_once(f"a tool of the type {kind}")


def _choice(body: Fields, tools: ToolBox) -> tuple[str, ToolBox]:
    """The tool choice, and the tools that are left by it."""
    if isinstance(body.values["tool_choice"], str):
        return body.choice("tool_choice", ("auto", "none", "required")) or "auto", tools
    choice = body.required_fields("tool_choice")
    if choice.text("type") == "function":
        return tool_choice(choice.required_text("name"), tools, choice.at("name"), _namespace(choice)), tools
    if choice.text("type") != "allowed_tools":
        ignore_once(f"a tool choice of the type {choice.text('type')}")
        return "auto", tools
    names = [
        tool_choice(entry.required_text("name"), tools, entry.at("name"), _namespace(entry))
        for entry in choice.objects("tools")
        if entry.text("type") == "function"
    ]
    return choice.choice("mode", ("auto", "required")) or "auto", offered_tools(tools, names)


def _namespace(item: Fields) -> str:
    return item.text("namespace") or "functions"


def _read_item(item: Fields, history: History) -> None:
    kind = item.text("type") or "message"
    if kind == "message":
        _read_message(item, history)
    elif kind == "reasoning":
        history.think("\n\n".join(text_parts(item, "content", _TEXTS)))
    elif kind == "function_call":
        history.call(
            item.required_text("call_id"),
            item.required_text("name"),
            item.text("arguments") or "{}",
            _namespace(item),
        )
    elif kind == "function_call_output":
        text = "".join(text_parts(item, "output", _TEXTS))
        history.answer(item.required_text("call_id"), text, item.at("call_id"))
    elif kind == "item_reference":
        raise item.refused("type", "items are not kept here; give the item itself, or previous_response_id")
    else:
        ignore_once(f"an item of the type {kind}")


def _read_message(item: Fields, history: History) -> None:
    role = item.choice("role", _ROLES)
    text = "".join(text_parts(item, "content", _TEXTS))
    if role in ("system", "developer"):
        history.instruct(text)
    elif role == "user":
        history.ask(text)
    elif role == "assistant":
        is_preamble = item.text("phase") == "commentary"
        history.say(text, channel=Channel.COMMENTARY if is_preamble else Channel.FINAL)
    else:
        raise item.refused("role", f"one of {', '.join(_ROLES)} is needed")


class ResponsesWriter(Writer):
    """Events, and a response.

    Args:
        model: the name of the model.
        body: of the request, some of whose settings are repeated.
        effort: that the answer has.
        tokenizer: has the bytes of tokens.
    """

    call_kind = "call"

    def __init__(self, *, model: str, body: Fields, effort: Effort, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.identity = new_id("resp")
        self._tokenizer = tokenizer
        self._count = 0
        self._output: list[dict[str, Any]] = []
        self._deltas: list[str] = []
        self._is_cut = False
        self._response = self._described(model, body, effort)

    def _described(self, model: str, body: Fields, effort: Effort) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": model,
            "output": self._output,
            "reasoning": {"effort": effort, "summary": None},
            "service_tier": "default",
            "truncation": "disabled",
            "usage": None,
            **_echoed(body),
        }

    def begin(self, prompt_tokens: int) -> Iterator[Frame]:
        yield self._event("response.created", response=self._snapshot())
        yield self._event("response.in_progress", response=self._snapshot())

    def _opened(self, kind: PartKind) -> Iterator[Frame]:
        self._deltas = []
        yield from self._item_added(_empty_item(kind))
        yield self._event("response.content_part.added", part=_part(kind, ""), **self._place)

    def _added(self, kind: PartKind, delta: str) -> Iterator[Frame]:
        self._deltas.append(delta)
        fields: dict[str, Any] = {} if kind is PartKind.THINKING else {"logprobs": []}
        yield self._event(f"response.{_TYPE[kind]}.delta", delta=delta, **fields, **self._place)

    def _closed(self, kind: PartKind) -> Iterator[Frame]:
        text = "".join(self._deltas)
        part = _part(kind, text)
        fields: dict[str, Any] = {} if kind is PartKind.THINKING else {"logprobs": part["logprobs"]}
        yield self._event(f"response.{_TYPE[kind]}.done", text=text, **fields, **self._place)
        yield self._event("response.content_part.done", part=part, **self._place)
        yield from self._item_done(content=[part])

    def _called(self, call: Call) -> Iterator[Frame]:
        item = {
            "id": new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.identity,
            "name": call.name,
            "arguments": "",
        }
        if call.namespace != "functions":
            item["namespace"] = call.namespace
        yield from self._item_added(item)
        place = {"item_id": item["id"], "output_index": len(self._output) - 1}
        yield self._event("response.function_call_arguments.delta", delta=call.arguments, **place)
        yield self._event(
            "response.function_call_arguments.done", arguments=call.arguments, name=call.name, **place
        )
        yield from self._item_done(arguments=call.arguments)

    def end(self, reply: Reply) -> Iterator[Frame]:
        is_cut = reply.finish_reason in ("length", "loop")
        open_kind = self._kind
        if open_kind is PartKind.PREAMBLE and reply.text and not is_cut:
            # The turn ended without a final message: the preamble is the answer.
            self._output[-1]["phase"] = "final_answer"
        self._is_cut = is_cut
        yield from self._end_part()
        self._add_logprobs(reply)
        status = "incomplete" if is_cut else "completed"
        self._response |= {
            "status": status,
            "completed_at": int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": _usage(reply),
        }
        yield self._event(f"response.{status}", response=self._snapshot())

    def _add_logprobs(self, reply: Reply) -> None:
        found = logprobs(reply, self._tokenizer)
        answers = [item for item in self._output if item["type"] == "message"]
        if found is not None and answers:
            answers[-1]["content"][0]["logprobs"] = found["content"]

    def fail(self, error: GptOssError) -> Iterator[Frame]:
        message = " ".join(str(error).split())
        code = "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"
        self._response |= {"status": "failed", "error": {"code": code, "message": message}}
        yield self._event("response.failed", response=self._snapshot())

    @property
    def result(self) -> dict[str, Any]:
        return self._response

    @property
    def _place(self) -> dict[str, Any]:
        index = len(self._output) - 1
        return {"item_id": self._output[index]["id"], "output_index": index, "content_index": 0}

    def _item_added(self, item: dict[str, Any]) -> Iterator[Frame]:
        self._output.append(item)
        yield self._event("response.output_item.added", item=dict(item), output_index=len(self._output) - 1)

    def _item_done(self, **fields: Any) -> Iterator[Frame]:
        item = self._output[-1]
        item |= {"status": "incomplete" if self._is_cut else "completed", **fields}
        yield self._event("response.output_item.done", item=dict(item), output_index=len(self._output) - 1)

    def _snapshot(self) -> dict[str, Any]:
        return {**self._response, "output": [dict(item) for item in self._output]}

    def _event(self, kind: str, **fields: Any) -> Frame:
        frame = Frame({"type": kind, "sequence_number": self._count, **fields}, kind)
        self._count += 1
        return frame


_TYPE: Final = {
    PartKind.THINKING: "reasoning_text",
    PartKind.PREAMBLE: "output_text",
    PartKind.ANSWER: "output_text",
}
_KNOWN_TOOLS: Final = ("function", "namespace")


def _empty_item(kind: PartKind) -> dict[str, Any]:
    if kind is PartKind.THINKING:
        return {"id": new_id("rs"), "type": "reasoning", "status": "in_progress", "summary": [], "content": []}
    phase = "commentary" if kind is PartKind.PREAMBLE else "final_answer"
    fields = {"type": "message", "role": "assistant", "status": "in_progress", "content": [], "phase": phase}
    return {"id": new_id("msg"), **fields}


def _part(kind: PartKind, text: str) -> dict[str, Any]:
    if kind is PartKind.THINKING:
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _echoed(body: Fields) -> dict[str, Any]:
    """The settings of a request that a response repeats."""
    text, metadata, choice = body.fields("text"), body.fields("metadata"), body.values.get("tool_choice")
    form = None if text is None else text.fields("format")
    known = isinstance(choice, str) or (choice or {}).get("type") in ("function", "allowed_tools")
    return {
        "instructions": body.text("instructions"),
        "max_output_tokens": body.integer("max_output_tokens"),
        "max_tool_calls": body.integer("max_tool_calls"),
        "metadata": {} if metadata is None else dict(metadata.values),
        "parallel_tool_calls": body.values.get("parallel_tool_calls") is not False,
        "previous_response_id": body.text("previous_response_id"),
        "prompt_cache_key": body.text("prompt_cache_key"),
        "safety_identifier": body.text("safety_identifier"),
        "store": body.values.get("store") is not False,
        "temperature": _or(body.number("temperature"), 1.0),
        "text": {"format": {"type": "text"} if form is None else dict(form.values)},
        "tool_choice": choice if known else "auto",
        "tools": [_tool(tool) for tool in body.objects("tools") if tool.text("type") in _KNOWN_TOOLS],
        "top_logprobs": body.integer("top_logprobs") or 0,
        "top_p": _or(body.number("top_p"), 1.0),
        "user": body.text("user"),
    }


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _tool(tool: Fields) -> dict[str, Any]:
    """A declared tool, with the keys that a response's tools must have."""
    named = {"type": tool.text("type"), "name": tool.text("name"), "description": tool.text("description")}
    if tool.text("type") == "function":
        parameters = tool.fields("parameters")
        return {
            **named,
            "parameters": None if parameters is None else dict(parameters.values),
            "strict": tool.flag("strict"),
        }
    members = [_tool(entry) for entry in tool.objects("tools") if entry.text("type") == "function"]
    return {**named, "description": named["description"] or "", "tools": members}


def _usage(reply: Reply) -> dict[str, Any]:
    used = reply.usage
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }

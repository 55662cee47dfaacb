"""Anthropic's ``/v1/messages``: its requests as questions, and its events and messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..arguments import Effort
from ..chat.options import TurnOptions
from ..errors import GptOssError, InvalidRequest
from ..events import Reply
from ..files.read import finite_number
from ..harmony import Role
from ..tools.toolbox import ToolBox
from .errors import Refused, anthropic_error
from .fields import Fields
from .question import (
    EFFORTS,
    History,
    Question,
    Recall,
    declared_tools,
    ignore_once,
    sampling,
    settings,
    tool_choice,
)
from .writer import Call, Frame, PartKind, Writer, new_id

__all__ = ["MessagesWriter", "read"]

_BILLING: Final = "x-anthropic-billing-header:"
"""Begins a line of Claude Code's system prompt that differs in every session, so that no cache would serve."""
_UNREADABLE: Final = ("image", "document")
_STOP: Final = {"stop": "end_turn", "length": "max_tokens", "loop": "max_tokens", "tool_calls": "tool_use"}


def read(body: Fields, recall: Recall, effort: Effort) -> Question:
    """The question of a request.

    Args:
        body: of the request.
        recall: what the model said when it made a call.
        effort: where the request names none.

    Raises:
        InvalidRequest: a field is wrong, or asks for something that this server cannot do; names its path.
    """
    if "thread" in body:
        # Anthropic's own client then sends the whole conversation.
        details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
        raise Refused(400, "thread: conversations are not kept here; send all messages", details)
    tools = declared_tools(_tools(body))
    history = History(tools, recall)
    for text in _texts(body, "system"):
        kept = [line for line in text.split("\n") if not line.startswith(_BILLING)]
        history.instruct("\n".join(kept).strip("\n"))
    messages = body.objects("messages")
    if not messages:
        raise body.refused("messages", "at least one message is needed")
    for message in messages:
        _read_message(message, history)
    if history.messages and history.messages[-1].role is Role.ASSISTANT:
        raise InvalidRequest(
            f"{messages[-1].at('role')} is 'assistant'; the last message must be the user's: gpt-oss begins its "
            "answers itself"
        )
    choice = body.fields("tool_choice")
    options = TurnOptions(tool_choice=_choice(choice, tools))
    output = body.fields("output_config")
    form = body.fields("output_format") if output is None or "format" not in output else output.fields("format")
    if form is not None:
        form.choice("type", ("json_schema",))
        options["schema"] = dict(form.required_fields("schema").values)
    thinking = body.fields("thinking")
    asked = None if output is None else output.choice("effort", EFFORTS)
    kind = None if thinking is None else thinking.choice("type", ("enabled", "adaptive", "disabled"))
    if kind == "disabled" and asked is None:
        asked = "low"
    return Question(
        settings=settings(
            instructions=history.instructions,
            effort=EFFORTS.get(asked or "", effort),
            tools=tools,
            chosen=sampling(body, "max_tokens", "stop_sequences"),
        ),
        messages=history.messages,
        options=options,
        asks_thinking=kind in ("enabled", "adaptive"),
        one_call=choice is not None and choice.flag("disable_parallel_tool_use"),
    )


def _tools(body: Fields) -> Iterator[Mapping[str, Any]]:
    for tool in body.objects("tools"):
        if tool.text("type") not in (None, "custom"):
            ignore_once(f"a tool of the type {tool.text('type')}")
            continue
        schema = tool.required_fields("input_schema")
        yield {
            "name": tool.required_text("name"),
            "description": tool.text("description") or "",
            "inputSchema": dict(schema.values),
        }


def _choice(choice: Fields | None, tools: ToolBox) -> str:
    if choice is None:
        return "auto"
    kind = choice.choice("type", ("auto", "any", "tool", "none"))
    if kind == "tool":
        return tool_choice(choice.required_text("name"), tools, choice.at("name"))
    return {"any": "required", "none": "none"}.get(kind or "", "auto")


def _texts(fields: Fields, name: str) -> Iterator[str]:
    """The texts of a field that is text or a list of blocks."""
    if not isinstance(fields.values.get(name), list):
        yield fields.text(name) or ""
        return
    for block in fields.objects(name):
        if block.text("type") != "text":
            raise block.refused("type", "text is needed: gpt-oss reads only text")
        yield block.required_text("text")


def _read_message(message: Fields, history: History) -> None:
    role = message.choice("role", ("user", "assistant", "system"))
    if role is None:
        raise message.refused("role", "user or assistant is needed")
    if not isinstance(message.values.get("content"), list):
        text = message.required_text("content")
        {"user": history.ask, "assistant": history.say, "system": history.instruct}[role](text)
    elif role == "system":
        history.instruct("\n\n".join(_texts(message, "content")))
    elif role == "user":
        _read_user(message.objects("content"), history)
    else:
        for block in message.objects("content"):
            _read_said(block, history)


def _read_user(blocks: list[Fields], history: History) -> None:
    texts = []
    for block in blocks:
        kind = block.text("type")
        if kind == "text":
            texts.append(block.required_text("text"))
        elif kind == "tool_result":
            history.answer(block.required_text("tool_use_id"), _result(block), block.at("tool_use_id"))
        elif kind in _UNREADABLE:
            raise block.refused("type", "text is needed: gpt-oss reads only text; leave images and documents out")
        else:
            ignore_once(f"a block of the type {kind}")
    if texts or not any(block.text("type") == "tool_result" for block in blocks):
        history.ask("\n\n".join(texts))


def _result(block: Fields) -> str:
    """The text of a tool's result. A picture in it is named, so that the model knows what it cannot see."""
    if isinstance(block.values.get("content"), list):
        parts = block.objects("content")
        texts = [
            part.text("text") or "" if part.text("type") == "text" else f"[{part.text('type')}: not shown]"
            for part in parts
        ]
        text = "\n".join(texts)
    else:
        text = block.text("content") or ""
    return f"Error: {text}" if block.flag("is_error") else text


def _read_said(block: Fields, history: History) -> None:
    kind = block.text("type")
    if kind == "text":
        history.say(block.required_text("text"))
    elif kind == "thinking":
        history.think(block.required_text("thinking"))
    elif kind == "tool_use":
        arguments = json.dumps(dict(block.required_fields("input").values), ensure_ascii=False)
        history.call(block.required_text("id"), block.required_text("name"), arguments)
    else:
        ignore_once(f"a block of the type {kind}")


class MessagesWriter(Writer):
    """Events, and a message.

    Args:
        model: the name of the model.
    """

    call_kind = "toolu"
    keep_alive = 'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self, *, model: str) -> None:
        super().__init__()
        self._content: list[dict[str, Any]] = []
        self._message: dict[str, Any] = {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": self._content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Reply(text="")),
        }

    def begin(self, prompt_tokens: int) -> Iterator[Frame]:
        usage = {**self._message["usage"], "input_tokens": prompt_tokens}
        yield self._event("message_start", message={**self._message, "content": [], "usage": usage})

    def _opened(self, kind: PartKind) -> Iterator[Frame]:
        if kind is PartKind.THINKING:
            # A signature marks thinking that may come back; this server needs none.
            yield from self._start({"type": "thinking", "thinking": "", "signature": ""})
        else:
            yield from self._start({"type": "text", "text": ""})

    def _added(self, kind: PartKind, delta: str) -> Iterator[Frame]:
        name = "thinking" if kind is PartKind.THINKING else "text"
        self._content[-1][name] += delta
        yield self._delta({"type": f"{name}_delta", name: delta})

    def _closed(self, kind: PartKind) -> Iterator[Frame]:
        if kind is PartKind.THINKING:
            self._content[-1]["signature"] = self._message["id"]
            yield self._delta({"type": "signature_delta", "signature": self._message["id"]})
        yield self._stop()

    def _called(self, call: Call) -> Iterator[Frame]:
        block = {"type": "tool_use", "id": call.identity, "name": call.name, "input": {}}
        yield from self._start(block)
        self._content[-1]["input"] = _object(call.arguments)
        yield self._delta({"type": "input_json_delta", "partial_json": json.dumps(_object(call.arguments))})
        yield self._stop()

    def end(self, reply: Reply) -> Iterator[Frame]:
        yield from self._end_part()
        calls = any(block["type"] == "tool_use" for block in self._content)
        reason = "tool_use" if calls else _STOP.get(reply.finish_reason, "end_turn")
        if reply.stop_text is not None and not calls:
            reason = "stop_sequence"
        ending = {"stop_reason": reason, "stop_sequence": reply.stop_text}
        self._message |= {**ending, "usage": _usage(reply)}
        yield self._event("message_delta", delta=ending, usage=_usage(reply))
        yield self._event("message_stop")

    def fail(self, error: GptOssError) -> Iterator[Frame]:
        yield Frame(anthropic_error(error), "error")

    @property
    def result(self) -> dict[str, Any]:
        return self._message

    def _start(self, block: dict[str, Any]) -> Iterator[Frame]:
        self._content.append(dict(block))
        yield self._event("content_block_start", index=len(self._content) - 1, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> Frame:
        return self._event("content_block_delta", index=len(self._content) - 1, delta=delta)

    def _stop(self) -> Frame:
        return self._event("content_block_stop", index=len(self._content) - 1)

    def _event(self, kind: str, **fields: Any) -> Frame:
        return Frame({"type": kind, **fields}, kind)


def _object(arguments: str) -> dict[str, Any]:
    """The arguments of a call as an object; whatever the model wrote instead is empty."""
    try:
        value = json.loads(arguments, parse_float=finite_number, parse_constant=finite_number)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _usage(reply: Reply) -> dict[str, Any]:
    used = reply.usage
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
    }

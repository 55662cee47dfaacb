"""A conversation and its settings as the body of a request to the Responses API.

``date`` and ``stop_loops`` are known to ``gptoss serve`` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..chat.options import ChatSettings
from ..chat.turn import Step
from ..harmony import Channel, Message, Role
from ..tools.tool import FUNCTIONS, Tool
from ..tools.toolbox import ToolBox

__all__ = ["request_body"]


def request_body(
    settings: ChatSettings, messages: Sequence[Message], step: Step, identities: Mapping[int, str]
) -> dict[str, Any]:
    """The body of a request.

    Args:
        settings: of the chat.
        messages: the conversation so far.
        step: the next one.
        identities: the server's ids of the calls that it made in this turn, by their positions in ``messages``.
    """
    sampling, plan = step.sampling, step.plan
    format_ = None if plan.constraint is None else plan.constraint.response_format
    tools = settings.toolbox
    optional = {
        "instructions": settings.instructions,
        "date": settings.date,
        "max_output_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()} or None,
        "text": None if format_ is None else {"format": _format(format_.name, format_.schema)},
        "tools": list(_declarations(tools)) or None,
        "tool_choice": _tool_choice(plan.tool_choice, tools) if len(tools) else None,
    }
    return {
        "stream": True,
        "store": False,
        "input": list(_items(messages, identities)),
        "reasoning": {"effort": settings.effort},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_loops": sampling.stop_loops,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "name": name, "schema": dict(schema)}


def _declarations(tools: ToolBox) -> Iterator[dict[str, Any]]:
    for namespace in tools.namespaces():
        declared = [
            _declaration(tool)
            for tool in map(tools.declared, sorted(tools.names))
            if tool is not None and tool.namespace == namespace.name
        ]
        if namespace.name == FUNCTIONS:
            yield from declared
        else:
            described = {"name": namespace.name, "description": namespace.description or ""}
            yield {"type": "namespace", **described, "tools": declared}


def _declaration(tool: Tool) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {}} if tool.parameters is None else dict(tool.parameters)
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": parameters}


def _tool_choice(choice: str, tools: ToolBox) -> Any:
    tool = tools.declared(choice)
    if tool is None:
        return choice
    return {"type": "function", "name": tool.name, "namespace": tool.namespace}


def _items(messages: Sequence[Message], identities: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """The messages as items of the API. The results of a call follow it under its id."""
    waiting: list[tuple[str, Message]] = []
    for position, message in enumerate(messages):
        if message.role is Role.TOOL:
            place = next((n for n, (_, call) in enumerate(waiting) if call.answer("").author == message.author), 0)
            if waiting:
                yield {"type": "function_call_output", "call_id": waiting.pop(place)[0], "output": message.text}
        elif message.callee is not None:
            identity = identities.get(position, f"call_{position}")
            namespace, _, name = message.callee.partition(".")
            where = {"name": name, "namespace": namespace} if name else {"name": namespace}
            waiting.append((identity, message))
            yield {"type": "function_call", "call_id": identity, **where, "arguments": message.text}
        else:
            yield _item(message)


def _item(message: Message) -> dict[str, Any]:
    if message.role is Role.USER:
        return {"type": "message", "role": "user", "content": message.text}
    if message.channel is Channel.ANALYSIS:
        content = [{"type": "reasoning_text", "text": message.text}]
        return {"type": "reasoning", "summary": [], "content": content}
    phase = "commentary" if message.channel is Channel.COMMENTARY else "final_answer"
    return {"type": "message", "role": "assistant", "content": message.text, "phase": phase}

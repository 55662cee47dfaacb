"""Tells which tool a message calls, finds the calls that have no result yet, and answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import InvalidRequest
from ..events import ToolResult
from ..harmony import Author, Message, Repair, RepairKind, Role
from ..harmony.header import Header
from .recipients import declared_tool
from .toolbox import ToolBox, result_text

__all__ = ["answers", "called", "meant", "pending"]


def called(part: Header | Message, tools: ToolBox) -> str | None:
    """The tool that a message of the model calls, as the model wrote its name: the recipient, or a role that is
    the name of a declared tool. None if the message is not a call."""
    name = part.author.name
    if part.author.role is not Role.TOOL or part.recipient is not None or name is None:
        return part.callee
    return name if declared_tool(name, tools.names) is not None else None


def meant(message: Message, tools: ToolBox) -> Message:
    """The same message if it calls a declared tool or none, otherwise a call of the tool that it means.

    A call by another name means a tool only if the arguments are valid for it (:meth:`ToolBox.meant`). Otherwise
    the call keeps its name, and its result is an error.
    """
    name = called(message, tools)
    tool = None if name is None else tools.meant(name, message.text) or name
    if tool is None or tool == message.callee:
        return message
    repair = Repair(kind=RepairKind.OTHER_NAME, text=name or "")
    author = Author(role=Role.ASSISTANT)
    return replace(message, author=author, recipient=tool, repairs=(*message.repairs, repair))


def pending(messages: Sequence[Message]) -> list[Message]:
    """The calls since the last user message that no tool message has answered, in order."""
    waiting: list[Message] = []
    for message in messages:
        if message.role is Role.USER:
            waiting.clear()
        elif message.callee is not None and not message.truncated:
            waiting.append(message)
        elif message.role is Role.TOOL:
            answered = next((call for call in waiting if call.answer("").author == message.author), None)
            if answered is not None:
                waiting.remove(answered)
    return waiting


def answers(calls: Sequence[Message], results: Sequence[Any]) -> list[Message]:
    """Makes the tool messages that answer calls.

    Args:
        calls: the calls without a result.
        results: one for each call, in the same order: text, a ToolResult, or any value that JSON can represent.

    Raises:
        InvalidRequest: the number of results differs from that of the calls, or a result is for another tool.
    """
    if not calls:
        raise InvalidRequest("no call waits for a result; continue_stream() goes on, send() asks something")
    names = ", ".join(call.recipient or "" for call in calls)
    if len(results) != len(calls):
        raise InvalidRequest(
            f"{len(results)} results for {len(calls)} waiting calls; give one for each, in order: {names}"
        )
    made = []
    for call, result in zip(calls, results, strict=True):
        if isinstance(result, ToolResult) and result.name != call.recipient:
            raise InvalidRequest(f"a result is for {result.name!r}; give one for each call, in order: {names}")
        made.append(call.answer(result_text(result.output if isinstance(result, ToolResult) else result)))
    return made

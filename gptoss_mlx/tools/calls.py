"""Finds the tool calls that have no result yet, and answers them with results the caller supplies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InvalidRequest
from ..events import ToolResult
from ..harmony import Message, Role
from .toolbox import result_text

__all__ = ["answers", "pending"]


def pending(messages: Sequence[Message]) -> list[Message]:
    """The calls since the last user message that no tool message has answered, in order."""
    waiting: list[Message] = []
    for message in messages:
        if message.role is Role.USER:
            waiting.clear()
        elif message.role is Role.ASSISTANT and message.recipient is not None and not message.truncated:
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

"""Tool calls that wait for their result, and results from outside. Knows conversations, not functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InvalidRequest
from ..events import ToolResult
from ..harmony import Message, Role
from .toolbox import result_text

__all__ = ["answers", "pending"]


def pending(messages: Sequence[Message]) -> list[Message]:
    """The calls since the last question that no tool message answers, in order."""
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
    """The tool messages that answer calls.

    Args:
        calls: those that wait.
        results: one for each call, in the same order: text, a ToolResult, or anything that JSON can hold.

    Raises:
        InvalidRequest: there are more or fewer results than calls, or one is another call's.
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
            raise InvalidRequest(f"a result is of {result.name!r}; one for each is needed, in order: {names}")
        made.append(call.answer(result_text(result.output if isinstance(result, ToolResult) else result)))
    return made

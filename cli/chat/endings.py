"""The reasons that an answer ended other than by itself, and the commands that go on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...events import Reply

__all__ = ["ending", "remedy"]


def ending(reply: Reply, max_tokens: int | None) -> str:
    """The reason that the answer is cut short or missing; empty: it is whole."""
    if reply.finish_reason == "cancelled":
        return "interrupted"
    if reply.finish_reason == "length" and max_tokens is None:
        return "the context is full (finish_reason: length)"
    if reply.finish_reason == "length":
        return f"cut off at {max_tokens:,} tokens (finish_reason: length)"
    if reply.finish_reason == "loop":
        return "stopped: the thinking repeated itself (finish_reason: loop)"
    if reply.finish_reason == "tool_calls":
        return "stopped: the steps for calls of tools are used up (finish_reason: tool_calls)"
    return "" if reply.text else "no answer: the model wrote no text (finish_reason: stop)"


def remedy(reply: Reply, max_tokens: int | None) -> str:
    """The commands that help."""
    if reply.finish_reason == "cancelled":
        return "/continue goes on, /retry starts again" if reply.messages else "/retry asks again"
    if reply.finish_reason == "length" and max_tokens is None:
        return "/undo takes a turn back, /new starts a new chat"
    if reply.finish_reason == "length":
        return "/continue goes on, /max-tokens changes the limit"
    if reply.finish_reason == "tool_calls":
        return "/continue goes on, the setting max_steps changes the limit"
    return "/retry starts again"

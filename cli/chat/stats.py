"""The line of figures after each answer, and the sums of a session."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...files.units import format_bytes

if TYPE_CHECKING:
    from ...events import Reply

__all__ = ["FULL_LINE", "SessionStats", "full_line", "memory_in_use", "short_line"]

FULL_LINE = """In the full line, which a narrow window shortens:
TTFT is the time to the first token;
prefill, or in: tokens of the prompt read per second;
decode, or out: tokens written per second;
thinking + answer: how many tokens were written of each;
cached: tokens of the prompt that were not read again;
context: tokens of this chat, and the most that it may have;
memory: what MLX holds."""
"""The words of the full line, for ``/help``."""


@dataclass
class SessionStats:
    """The answers of one session, and their sums."""

    replies: list[Reply] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The sums, one line each."""
        usages = [reply.usage for reply in self.replies]
        prefill = sum(reply.timings.prefill for reply in self.replies)
        decode = sum(reply.timings.decode for reply in self.replies)
        prompt = sum(usage.prompt_tokens for usage in usages)
        cached = sum(usage.cached_tokens for usage in usages)
        completion = sum(usage.completion_tokens for usage in usages)
        reasoning = sum(usage.reasoning_tokens for usage in usages)
        return [
            f"answers     {len(usages)}",
            f"prompts     {prompt:,} tokens, {cached:,} of them cached",
            f"generated   {completion:,} tokens, {reasoning:,} of them thinking",
            f"prefill     {prefill:.1f} s, {_rate(prompt - cached, prefill)} tokens/s",
            f"decode      {decode:.1f} s, {_rate(completion, decode)} tokens/s",
        ]


def short_line(reply: Reply) -> str:
    """The seconds that an answer took, and how fast it was written."""
    seconds = reply.timings.prefill + reply.timings.decode
    return f"{seconds:.1f} s · {_rate(reply.usage.completion_tokens, reply.timings.decode)} tok/s"


def full_line(reply: Reply, context_used: int, context_limit: int, memory: int, width: int) -> str:
    """The figures of one answer in one line of at most ``width`` cells, with fewer words or figures if need be.

    TTFT is the time to the first token; ``8+76 tok`` are thinking and answer; in and out are prefill and decode.
    """
    usage, timings = reply.usage, reply.timings
    thinking, answer = usage.reasoning_tokens, usage.completion_tokens - usage.reasoning_tokens
    cached, limit = usage.cached_tokens, f"{context_limit // 1024}k"
    prefill = _rate(usage.prompt_tokens - cached, timings.prefill)
    decode = _rate(usage.completion_tokens, timings.decode)
    held = format_bytes(memory)
    first = f"TTFT {timings.first_token:.2f} s" if timings.first_token < 1 else f"TTFT {timings.first_token:.1f} s"
    long = (
        first,
        f"prefill {prefill} tok/s",
        f"decode {decode} tok/s",
        f"thinking {thinking:,} + answer {answer:,} tok",
        f"{cached:,} cached",
        f"context {context_used:,} of {limit}",
        f"memory {held}",
    )
    short = (
        first,
        f"prefill {prefill}/s",
        f"decode {decode}/s",
        f"{thinking:,}+{answer:,} tok",
        f"{cached:,} cached",
        f"{context_used:,}/{limit}",
        held,
    )
    terse = [
        first,
        f"in {prefill}/s",
        f"out {decode}/s",
        f"{_thousands(thinking)}+{_thousands(answer)} tok",
        f"{_thousands(cached)} cached",
        f"{_thousands(context_used)}/{limit}",
        held,
    ]
    for parts in (long, short, terse):
        if len(line := " · ".join(parts)) <= width:
            return line
    terse[3] = terse[3].removesuffix(" tok")
    while len(terse) > 1 and len(" · ".join(terse)) > width:
        terse.pop()
    return " · ".join(terse)[:width]


def memory_in_use() -> int:
    """Bytes that MLX holds; 0 before MLX is imported."""
    mlx = sys.modules.get("mlx.core")
    return int(mlx.get_active_memory()) if mlx is not None else 0


def _rate(tokens: int, seconds: float) -> str:
    if seconds <= 0 or tokens <= 0:
        return "0"
    rate = tokens / seconds
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _thousands(tokens: int) -> str:
    return f"{tokens:,}" if tokens < 1000 else f"{tokens / 1000:.{0 if tokens >= 9950 else 1}f}k"

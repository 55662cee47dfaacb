"""A chat of ten turns with tool calls, written by hand: every engine is asked the same and answers the same.

The chat is in ``chat.json``, in openai-harmony's JSON. What an engine would have said itself does not matter:
the recorded reply takes its place in the cache, and the next prompt goes on from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ..harmony import Channel, Conversation, Message, Role, render_segments
from ..tokenizer import Tokenizer

__all__ = ["RecordedReply", "recorded_chat", "recorded_replies"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedReply:
    """One request to the model: a turn has one more for every tool call."""

    turn: int
    """From 1; a user message begins each."""
    prompt: list[int]
    boundaries: list[int]
    """Positions of the prompt worth returning to."""
    prefix: int
    """Where the system and developer messages end."""
    tokens: list[int]
    """What the model said, its stop token included."""
    history: list[int] | None
    """After a final answer: all that the next prompt will begin with."""
    history_boundaries: list[int]


@cache
def recorded_chat() -> Conversation:
    """All messages of the fixed chat."""
    text = resources.files(__package__).joinpath("chat.json").read_text(encoding="utf-8")
    return Conversation.from_dict(json.loads(text))


def recorded_replies(tokenizer: Tokenizer, conversation: Conversation | None = None) -> Iterator[RecordedReply]:
    """Every request of a chat, in order.

    Args:
        tokenizer: the model's.
        conversation: by default the recorded one.
    """
    messages = (conversation or recorded_chat()).messages
    turn = 0
    for begin, message in enumerate(messages):
        turn += message.role is Role.USER
        if message.role is not Role.ASSISTANT or messages[begin - 1].role is Role.ASSISTANT:
            continue
        end = next((n for n in range(begin, len(messages)) if messages[n].role is not Role.ASSISTANT), None)
        yield _reply(tokenizer, turn, messages[:begin], messages[:end])


def _reply(tokenizer: Tokenizer, turn: int, before: Sequence[Message], after: Sequence[Message]) -> RecordedReply:
    asked = render_segments(Conversation(messages=tuple(before)), tokenizer)
    answered = render_segments(Conversation(messages=tuple(after)), tokenizer, next_role=None)
    prompt, tokens = asked.tokens, answered.tokens
    history, boundaries = None, []
    if after[-1].channel is Channel.FINAL:
        tokens[-1] = tokenizer.special["<|return|>"]
        # Only a following user message makes harmony drop the turn's analysis.
        following = Conversation(messages=(*after, Message.user("")))
        settled = render_segments(following, tokenizer, next_role=None)
        end = settled.segments[-1].start
        history = settled.tokens[:end]
        boundaries = [boundary for boundary in settled.boundaries if boundary <= end]
    return RecordedReply(
        turn=turn,
        prompt=prompt,
        boundaries=asked.boundaries,
        prefix=asked.prefix,
        tokens=tokens[len(prompt) :],
        history=history,
        history_boundaries=boundaries,
    )

"""A fixed chat of ten turns with tool calls: every engine gets the same prompts and the same replies.

The chat is in ``chat.json``, in openai-harmony's JSON. An engine's own replies do not matter: the recorded reply
enters its cache instead, and the next prompt continues from that.
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
    """One request to the model and its reply; a turn has one more request for every tool call."""

    turn: int
    """From 1; each turn begins with a user message."""
    prompt: list[int]
    boundaries: list[int]
    """Positions at which a later prompt may part from this one."""
    prefix: int
    """The length of the system and developer messages."""
    tokens: list[int]
    """The reply, with its stop token."""
    history: list[int] | None
    """After a final answer: the tokens that the next prompt begins with."""
    history_boundaries: list[int]


@cache
def recorded_chat() -> Conversation:
    """All messages of the fixed chat."""
    text = resources.files(__package__).joinpath("chat.json").read_text(encoding="utf-8")
    return Conversation.from_dict(json.loads(text))


def recorded_replies(tokenizer: Tokenizer, conversation: Conversation | None = None) -> Iterator[RecordedReply]:
    """Yields every request of a chat, in order.

    Args:
        tokenizer: the model's.
        conversation: the chat, by default the recorded one.
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
        # harmony drops the turn's analysis only when another user message follows.
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

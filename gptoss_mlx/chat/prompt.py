"""A chat as the model reads it: the system and developer messages of its settings, then its messages.

Knows harmony; knows nothing of generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..arguments import Effort
from ..harmony import (
    Conversation,
    DeveloperContent,
    Message,
    ReasoningEffort,
    Rendering,
    ResponseFormat,
    SystemContent,
    ToolNamespace,
    render_segments,
)
from ..tokenizer import Tokenizer
from .options import ChatSettings

__all__ = ["Prompt", "TraceEntry", "trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry:
    """One message of the next prompt."""

    message: Message
    tokens: int
    kept: bool
    """False for the analysis of a finished turn, which harmony drops."""
    cached: bool
    """Whether its tokens are in the prompt cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A chat at one moment. The identity, the date and the effort are in the system message, which ranks first;
    the instructions, the tools and the answer's form are in the developer message, which ranks second."""

    messages: Sequence[Message]
    effort: Effort
    instructions: str | None = None
    date: str | None = None
    tools: tuple[ToolNamespace, ...] = ()
    builtins: tuple[ToolNamespace, ...] = ()
    """The tools that the model was trained with; these are in the system message."""
    response_format: ResponseFormat | None = None

    @classmethod
    def of(cls, settings: ChatSettings, messages: Sequence[Message]) -> Prompt:
        """The prompt of a chat."""
        return cls(
            messages=messages,
            effort=settings.effort,
            instructions=settings.instructions,
            date=settings.date,
            tools=settings.toolbox.namespaces(),
            builtins=settings.toolbox.builtins(),
        )

    @property
    def conversation(self) -> Conversation:
        """The whole prompt as harmony's messages."""
        system = SystemContent(
            reasoning_effort=ReasoningEffort(self.effort),
            conversation_start_date=self.date,
            tools=self.builtins,
        )
        head = [Message.system(system)]
        developer = DeveloperContent(
            instructions=self.instructions or None,
            tools=self.tools,
            response_formats=() if self.response_format is None else (self.response_format,),
        )
        if developer != DeveloperContent():
            head.append(Message.developer(developer))
        return Conversation(messages=(*head, *self.messages))

    def rendered(self, tokenizer: Tokenizer, next_role: str | None = None) -> Rendering:
        """Its tokens.

        Args:
            tokenizer: the model's.
            next_role: of the message that is to be generated, if there is one.
        """
        return render_segments(self.conversation, tokenizer, next_role)

    def followed_by_a_question(self, tokenizer: Tokenizer) -> Rendering:
        """Its tokens as the next turn will have them: without the analysis of finished turns, and with an empty
        question at the end."""
        return replace(self, messages=(*self.messages, Message.user(""))).rendered(tokenizer)

    def history(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """The tokens with which the next turn's prompt begins, whatever the user says, and their boundaries."""
        rendering = self.followed_by_a_question(tokenizer)
        end = rendering.segments[-1].start
        return rendering.tokens[:end], [boundary for boundary in rendering.boundaries if boundary <= end]


def trace(rendering: Rendering, cached: int) -> list[TraceEntry]:
    """A rendered conversation message by message, without the last one.

    Args:
        rendering: of the conversation.
        cached: how many of its tokens are in the prompt cache.
    """
    return [
        TraceEntry(
            message=segment.message,
            tokens=len(segment.tokens),
            kept=not segment.dropped,
            cached=not segment.dropped and segment.end <= cached,
        )
        for segment in rendering.segments[:-1]
        if segment.message is not None
    ]

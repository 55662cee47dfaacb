"""What a model reads of a chat: its messages behind the system and developer messages that its settings make.

Knows harmony and nothing of generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from ..sampling import Effort
from ..tokenizer import Tokenizer

__all__ = ["Prompt", "TraceEntry", "trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry:
    """One message of the next prompt."""

    message: Message
    tokens: int
    kept: bool
    """False for analysis that harmony drops once its turn is over."""
    cached: bool
    """Whether its tokens are in the prompt cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A chat as it stands. The identity, the date and the effort are the system message's, which ranks first; the
    instructions, the tools and the answer's form are the developer message's, which ranks second."""

    messages: Sequence[Message]
    effort: Effort
    instructions: str | None = None
    date: str | None = None
    functions: ToolNamespace | None = None
    response_format: ResponseFormat | None = None

    @property
    def conversation(self) -> Conversation:
        """All of it, as harmony's messages."""
        system = SystemContent(reasoning_effort=ReasoningEffort(self.effort), conversation_start_date=self.date)
        head = [Message.system(system)]
        developer = DeveloperContent(
            instructions=self.instructions or None,
            tools=() if self.functions is None else (self.functions,),
            response_formats=() if self.response_format is None else (self.response_format,),
        )
        if developer != DeveloperContent():
            head.append(Message.developer(developer))
        return Conversation(messages=(*head, *self.messages))

    def rendered(self, tokenizer: Tokenizer, next_role: str | None = None) -> Rendering:
        """Its tokens.

        Args:
            tokenizer: the model's.
            next_role: who is to speak next, if someone is.
        """
        return render_segments(self.conversation, tokenizer, next_role)

    def followed_by_a_question(self, tokenizer: Tokenizer) -> Rendering:
        """Its tokens as the next turn will have them: without analysis that is over, an empty question last."""
        return replace(self, messages=(*self.messages, Message.user(""))).rendered(tokenizer)


def trace(rendering: Rendering, cached: int) -> list[TraceEntry]:
    """A rendered conversation message by message, without the last one.

    Args:
        rendering: of the conversation.
        cached: how many of its tokens are computed already.
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

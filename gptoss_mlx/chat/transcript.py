"""What was said in a chat and the settings that it stands under: everything of it that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..arguments import (
    checked_date,
    checked_effort,
    checked_messages,
    checked_path,
    checked_question,
    checked_text,
)
from ..errors import InvalidRequest
from ..events import ToolCall
from ..files.read import short_repr
from ..harmony import Conversation, Message, Role
from ..sampling import Effort
from ..tools import calls
from ..tools.toolbox import ToolBox
from . import file as chatfile
from .prompt import Prompt

__all__ = ["Transcript"]


class Transcript:
    """The messages of a chat and its settings; a :class:`~gptoss_mlx.Chat` is one with a model.

    Args:
        instructions: the developer message.
        effort: how long the model thinks.
        tools: functions the model may call.
        date: the current date, YYYY-MM-DD.
        messages: what was said before.
        title: for lists of chats.

    Raises:
        InvalidRequest: an argument out of its range.
        ToolError: a tool that cannot be declared.
    """

    def __init__(
        self,
        *,
        instructions: str | None = None,
        effort: Effort = "medium",
        tools: Sequence[Any] = (),
        date: str | None = None,
        messages: Sequence[Message] = (),
        title: str | None = None,
    ) -> None:
        self.instructions = checked_text("instructions", instructions)
        self.effort = effort
        self.date = checked_date(date)
        self.title = checked_text("title", title)
        self._tools = ToolBox(tools)
        self._messages = checked_messages(messages)

    @property
    def effort(self) -> Effort:
        """How long the model thinks: ``low``, ``medium`` or ``high``. Changing it makes the next turn read the
        whole conversation again, because it stands in the system message: :meth:`tokens_to_prefill` tells how
        much that is."""
        return self._effort

    @effort.setter
    def effort(self, effort: Effort) -> None:
        self._effort: Effort = checked_effort(effort)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What was said, in order; the system and developer messages are not among it."""
        return tuple(self._messages)

    @property
    def conversation(self) -> Conversation:
        """Everything that the model reads, the system and developer messages included."""
        return self._prompt().conversation

    @property
    def pending_calls(self) -> tuple[ToolCall, ...]:
        """The calls that wait for :meth:`send_results`, in order."""
        waiting = calls.pending(self._messages)
        return tuple(ToolCall(name=call.recipient or "", arguments=call.text) for call in waiting)

    def undo(self) -> str:
        """Takes the last question and its answer back.

        Returns:
            The question.

        Raises:
            InvalidRequest: nothing was asked yet.

        Example:
            >>> chat = model.chat()
            >>> reply = chat.send("Yes or no?", choices=["yes", "no"], max_thinking_tokens=0)
            >>> chat.undo(), chat.messages
            ('Yes or no?', ())
        """
        position = self._last_question()
        question = self._messages[position].text
        self._messages = self._messages[:position]  # a stream that is still read adds to the other list
        return question

    def save(self, path: str | Path) -> None:
        """Writes the chat to a file of its own (JSON, readable by its owner alone).

        Raises:
            FileWriteError: it cannot be written; what stood there before is unchanged.
            InvalidRequest: a title, instructions or a date that were changed to something that is none.

        Example:
            >>> path = directory / "chat.json"
            >>> model.chat(instructions="Be terse.").save(path)
            >>> model.load_chat(path).instructions
            'Be terse.'
        """
        content = chatfile.ChatContent(
            title=checked_text("title", self.title),
            effort=self.effort,
            instructions=checked_text("instructions", self.instructions),
            date=checked_date(self.date),
            messages=self.messages,
        )
        chatfile.write(checked_path(path), content)

    def _prompt(self) -> Prompt:
        """What the model reads of the chat as it stands."""
        return Prompt(
            messages=self._messages,
            effort=self.effort,
            instructions=self.instructions,
            date=self.date,
            functions=self._tools.namespace(),
        )

    def _last_question(self) -> int:
        """Its position in the messages."""
        for position in range(len(self._messages) - 1, -1, -1):
            if self._messages[position].role is Role.USER:
                return position
        raise InvalidRequest("nothing was asked yet")

    def _edited(self, index: int, text: str) -> list[Message]:
        """The messages up to the user's at ``index``, which says something else."""
        count = len(self._messages)
        users = [position for position, message in enumerate(self._messages) if message.role is Role.USER]
        if type(index) is not int or not (index in users or index + count in users):
            raise InvalidRequest(f"message {short_repr(index)} is not the user's; those are {users}")
        return [*self._messages[: index % count], Message.user(checked_question(text))]

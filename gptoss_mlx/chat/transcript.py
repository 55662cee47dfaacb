"""The messages of a chat and its settings: the part of a chat that needs no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arguments import Effort, checked_path, checked_question
from ..errors import InvalidRequest
from ..events import ToolCall
from ..files.read import short_repr
from ..harmony import Conversation, Message, Role
from ..sampling import SamplingParams
from ..tools import calls
from ..tools.toolbox import AfterCall, BeforeCall
from . import file as chatfile
from . import openai
from .options import ChatSettings, Setting, checked_text
from .prompt import Prompt

__all__ = ["Transcript"]


class Transcript:
    """The messages of a chat and its settings; a :class:`~gptoss_mlx.Chat` is one with a model.

    Args:
        settings: of the chat.
        messages: of the conversation so far: ``Message``, without system and developer messages, or OpenAI's dicts
            (``role``, ``content``, ``tool_calls``, ``tool_call_id``, ``reasoning``), of which the first may give
            the instructions.
        title: for lists of chats.

    Raises:
        InvalidRequest: an argument out of its range.
    """

    __slots__ = ("_messages", "settings", "title")

    def __init__(
        self,
        settings: ChatSettings,
        messages: Sequence[Message | Mapping[str, Any]] = (),
        title: str | None = None,
    ) -> None:
        dialogue = openai.read(messages)
        if dialogue.instructions is not None:
            if settings.instructions is not None:
                raise InvalidRequest("messages[0] and instructions both give instructions; leave one of them out")
            settings = settings.changed({"instructions": dialogue.instructions})
        self.settings = settings
        self.title = checked_text("title", title)
        self._messages = dialogue.messages

    def __setattr__(self, name: str, value: object) -> None:
        if not hasattr(type(self), name):
            raise AttributeError(
                f"a chat has no {name!r} to assign; its settings are {', '.join(ChatSettings.__slots__)}, and "
                "sampling = SamplingParams(...) holds how tokens are chosen"
            )
        super().__setattr__(name, value)

    instructions = Setting[str | None]()
    """The developer message."""
    effort = Setting[Effort]()
    """How long the model thinks: ``low``, ``medium`` or ``high``. It is part of the system message, so after a
    change the next turn computes the whole conversation again: ``tokens_to_prefill`` says how much that is."""
    tools = Setting[Sequence[Any]]()
    """Functions that the model may call. A change has the conversation computed again."""
    sampling = Setting[SamplingParams]()
    """How tokens are chosen."""
    date = Setting[str | None]()
    """The current date, YYYY-MM-DD. It does not follow the clock: a date that changed at midnight would have the
    whole conversation computed again."""
    before_call = Setting[BeforeCall | None]()
    """Is called with every call before it runs and may change or veto it."""
    after_call = Setting[AfterCall | None]()
    """Is called with every result and may change it."""
    max_steps = Setting[int]()
    """How often the model may generate in one turn; each time but the last it may call tools."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages in order, without the system and developer messages."""
        return tuple(self._messages)

    @property
    def conversation(self) -> Conversation:
        """Everything that the model reads, the system and developer messages included."""
        return self.prompt.conversation

    @property
    def pending_calls(self) -> tuple[ToolCall, ...]:
        """The calls that wait for ``send_results``, in order."""
        waiting = calls.pending(self._messages)
        return tuple(ToolCall(name=call.recipient or "", arguments=call.text) for call in waiting)

    def undo(self) -> str:
        """Removes the last question and its answer.

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
        self._messages = self._messages[
            :position
        ]  # a new list, because a stream that is still read adds to the old one
        return question

    def to_openai(self) -> list[dict[str, Any]]:
        """The instructions and messages as OpenAI's message list, which ``model.chat(messages=...)`` reads again.

        Example:
            >>> chat = model.chat(instructions="Be terse.", messages=[{"role": "user", "content": "Yes or no?"}])
            >>> chat.send(choices=["yes"], max_thinking_tokens=0).text
            'yes'
            >>> chat.to_openai()[1:]
            [{'role': 'user', 'content': 'Yes or no?'}, {'role': 'assistant', 'content': 'yes'}]
        """
        return openai.write(self._messages, self.instructions)

    def save(self, path: str | Path) -> None:
        """Writes the chat to a file of its own (JSON, readable by its owner alone).

        Raises:
            FileWriteError: it cannot be written; the previous content, if any, is unchanged.
            InvalidRequest: a title that is not text.

        Example:
            >>> path = directory / "chat.json"
            >>> model.chat(instructions="Be terse.").save(path)
            >>> model.load_chat(path).instructions
            'Be terse.'
        """
        chatfile.write(checked_path(path), self._content())

    def _content(self) -> chatfile.ChatContent:
        return chatfile.ChatContent(
            title=checked_text("title", self.title),
            effort=self.effort,
            instructions=self.instructions,
            date=self.date,
            messages=self.messages,
        )

    @property
    def prompt(self) -> Prompt:
        """The chat as the model reads it."""
        return Prompt.of(self.settings, self._messages)

    def _last_question(self) -> int:
        """The position of the last user message."""
        for position in range(len(self._messages) - 1, -1, -1):
            if self._messages[position].role is Role.USER:
                return position
        raise InvalidRequest("nothing was asked yet")

    def _edited(self, index: int, text: str) -> list[Message]:
        """The messages up to the user's at ``index``, which has another text."""
        count = len(self._messages)
        users = [position for position, message in enumerate(self._messages) if message.role is Role.USER]
        if type(index) is not int or not (index in users or index + count in users):
            raise InvalidRequest(f"message {short_repr(index)} is not the user's; those are {users}")
        return [*self._messages[: index % count], Message.user(checked_question(text))]

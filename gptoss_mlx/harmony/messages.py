"""A conversation as data: Author, Message and Conversation, frozen and checked when made.

Each reads and writes openai-harmony's own JSON, so that either library loads the other's files. Knows nothing of
tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ..errors import RenderError
from .content import Content, DeveloperContent, SystemContent, TextContent, content_from_dict
from .fields import (
    Channel,
    Role,
    as_choice,
    callee,
    check_content_type,
    check_name,
    check_object,
    check_recipient,
    check_tool_name,
    is_sequence,
    required_list,
)

__all__ = ["Author", "Conversation", "Message", "Repair", "RepairKind"]


class RepairKind(StrEnum):
    """The kinds of repairs: in the recovering parser, or when a call is matched with the declared tools."""

    MISSING_START = "missing start"
    DOUBLED_START = "doubled start"
    MISSING_ROLE = "missing role"
    DOUBLED_ROLE = "doubled role"
    UNKNOWN_ROLE = "unknown role"
    BAD_NAME = "bad name"
    MISSING_END = "missing end"
    MISSING_CHANNEL = "channel marker without a name"
    MISSING_MARKER = "channel without its marker"
    DOUBLED_CHANNEL = "doubled channel"
    UNKNOWN_CHANNEL = "unknown channel"
    DOUBLED_RECIPIENT = "doubled recipient"
    BAD_RECIPIENT = "bad recipient"
    NO_TOOL = "recipient that is not a tool"
    OTHER_NAME = "call by another name"
    DOUBLED_CONTENT_TYPE = "doubled content type"
    BAD_CONTENT_TYPE = "bad content type"
    ODD_ORDER = "header words in odd order"
    GLUED_WORDS = "glued header words"
    STRAY_WORD = "stray header word"
    STRAY_TOKEN = "stray control token"
    STRAY_WHITESPACE = "whitespace between messages"
    UNFINISHED_HEADER = "header without a message token"
    FRAGMENT = "fragment of a header"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """One repair: its kind and the text that was repaired."""

    kind: RepairKind
    position: int | None = None
    """The token in the stream; None if the repair concerns the whole message."""
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """A role and a name. A tool must have a name; for the other roles it is optional."""

    role: Role
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "role", as_choice(Role, self.role, "role"))
        if self.role is Role.TOOL:
            if not self.name:
                raise RenderError("name: a tool message needs its tool's name, such as 'functions.get_weather'")
            check_tool_name(self.name, "name")
        elif self.name is not None:
            check_name(self.name, "name")


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The tokens of a generated message, which need not be those that its text is encoded as."""

    tokens: tuple[int, ...]
    """From the start token to the end token."""
    fields: tuple[Any, ...] = field(repr=False)
    """Of the message that they are. With other fields a message has other tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message. `system`, `developer`, `user`, `assistant` and `tool` make the common ones.

    Example:
        >>> question = Message.user("2+3?")
        >>> Message.from_dict(question.to_dict()) == question, question.text, str(question.role)
        (True, '2+3?', 'user')
        >>> call = Message.assistant("{}", channel="commentary", recipient="functions.lamp")
        >>> call.answer("on") == Message.tool("functions.lamp", "on")
        True
        >>> call.callee, call.stored() == call
        ('functions.lamp', True)
        >>> [str(message.role) for message in (Message.system("Obey."), Message.developer("Be terse."))]
        ['system', 'developer']
        >>> question.written_as([200006, 1428, 200008, 17, 10, 18, 30, 200007]).written.tokens[0]
        200006
    """

    author: Author
    content: tuple[Content, ...] = ()
    channel: Channel | None = None
    recipient: str | None = None
    content_type: str | None = None
    repairs: tuple[Repair, ...] = field(default=(), compare=False)
    """The parser's repairs. They are neither compared nor saved: they do not belong to the conversation."""
    truncated: bool = field(default=False, compare=False)
    """The stream ended before the message did: such a call must not run."""
    written: Written | None = field(default=None, compare=False, repr=False)
    """Of a generated message: its tokens. It is rendered with them, so that what was computed is found again."""

    def __post_init__(self) -> None:
        if not isinstance(self.author, Author):
            raise RenderError("author: an Author is needed")
        if self.channel is not None:
            object.__setattr__(self, "channel", as_choice(Channel, self.channel, "channel"))
        if self.author.role is Role.TOOL and self.channel is Channel.FINAL:
            # With a name that resembles a role it could be taken for an answer.
            raise RenderError("channel: a tool message on final is not allowed; allowed: analysis, commentary")
        if self.recipient is not None:
            check_recipient(self.recipient, "recipient")
        if self.content_type is not None:
            check_content_type(self.content_type, "content_type")
        self._check_content()
        if self.written is not None and self.written.fields != self._fields():
            object.__setattr__(self, "written", None)

    def _fields(self) -> tuple[Any, ...]:
        return self.author, self.content, self.channel, self.recipient, self.content_type

    def written_as(self, tokens: Sequence[int]) -> Message:
        """The same message, to be rendered as these tokens.

        Args:
            tokens: from the start token to the end token.
        """
        return replace(self, written=Written(tokens=tuple(tokens), fields=self._fields()))

    def _check_content(self) -> None:
        if not is_sequence(self.content):
            raise RenderError("content: a sequence of contents is needed; TextContent(text=...) holds a string")
        object.__setattr__(self, "content", tuple(self.content))
        homes = {TextContent: None, SystemContent: Role.SYSTEM, DeveloperContent: Role.DEVELOPER}
        for content in self.content:
            if type(content) not in homes:
                raise RenderError(
                    f"content: {type(content).__name__} is not one of {', '.join(kind.__name__ for kind in homes)}"
                )
            home = homes[type(content)]
            if home is not None and self.author.role is not home:
                raise RenderError(
                    f"content: {type(content).__name__} under the role {self.author.role}; allowed: {home}"
                )

    @classmethod
    def system(cls, content: SystemContent | str) -> Message:
        """The system message."""
        return cls(author=Author(role=Role.SYSTEM), content=(_as_content(content),))

    @classmethod
    def developer(cls, content: DeveloperContent | str) -> Message:
        """The developer message; a string becomes its instructions."""
        holder = DeveloperContent(instructions=content) if isinstance(content, str) else content
        return cls(author=Author(role=Role.DEVELOPER), content=(holder,))

    @classmethod
    def user(cls, text: str, *, name: str | None = None) -> Message:
        """A message of the user."""
        return cls(author=Author(role=Role.USER, name=name), content=(TextContent(text=text),))

    @classmethod
    def assistant(
        cls,
        text: str,
        *,
        channel: Channel | str | None = None,
        recipient: str | None = None,
        content_type: str | None = None,
    ) -> Message:
        """A message of the model: thinking, a preamble, a tool call or the answer, by channel and recipient."""
        return cls(
            author=Author(role=Role.ASSISTANT),
            content=(TextContent(text=text),),
            channel=None if channel is None else as_choice(Channel, channel, "channel"),
            recipient=recipient,
            content_type=content_type,
        )

    @classmethod
    def tool(cls, name: str, text: str, *, channel: Channel | str | None = Channel.COMMENTARY) -> Message:
        """A tool's result, addressed to the model."""
        return cls(
            author=Author(role=Role.TOOL, name=name),
            content=(TextContent(text=text),),
            channel=None if channel is None else as_choice(Channel, channel, "channel"),
            recipient=Role.ASSISTANT.value,
        )

    def answer(self, text: str) -> Message:
        """The tool message that answers this call, on the call's channel, or on commentary for a call on final.

        A model may call a tool by any name. If no tool message may have that name, the nearest allowed name is
        used.
        """
        if self.recipient is None:
            raise RenderError("recipient: only a message with a recipient can be answered")
        channel = Channel.COMMENTARY if self.channel is Channel.FINAL else self.channel
        return Message.tool(as_tool_name(self.recipient), text, channel=channel)

    def stored(self) -> Message:
        """The message for the history: a function call on analysis, and any call on final, moves to commentary.

        Analysis is dropped after the turn, but a call and its result must stay. A message on final ends the turn,
        but a call does not. A message of the assistant to a role or to all is not a call and has no recipient.
        """
        tool = self.callee
        if tool is None:
            addressed = self.role is Role.ASSISTANT and self.recipient is not None
            return replace(self, recipient=None) if addressed else self
        if self.channel is Channel.FINAL or (self.channel is Channel.ANALYSIS and tool.startswith("functions.")):
            return replace(self, channel=Channel.COMMENTARY)
        return self

    @property
    def role(self) -> Role:
        """The author's role."""
        return self.author.role

    @property
    def callee(self) -> str | None:
        """The tool that the message calls. None if it is not a call: only the assistant calls tools, and neither a
        role nor ``all`` is a tool."""
        return callee(self.author.role, self.recipient)

    @property
    def text(self) -> str:
        """The text contents, joined."""
        return "".join(content.text for content in self.content if isinstance(content, TextContent))

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        data: dict[str, Any] = {"role": self.author.role.value}
        if self.author.name is not None:
            data["name"] = self.author.name
        data["content"] = [content.to_dict() for content in self.content]
        for name in ("channel", "recipient", "content_type"):
            value = getattr(self, name)
            if value is not None:
                data[name] = str(value)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Message:
        """From openai-harmony's JSON; a plain string as content is one text.

        Raises:
            RenderError: names the field and what is allowed.
        """
        check_object(data, "message")
        if "role" not in data:
            raise RenderError("role: missing")
        content = data.get("content")
        contents = (
            [{"type": "text", "text": content}] if isinstance(content, str) else required_list(data, "content")
        )
        return cls(
            author=Author(role=data["role"], name=data.get("name")),
            content=tuple(content_from_dict(entry) for entry in contents),
            channel=data.get("channel"),
            recipient=data.get("recipient"),
            content_type=data.get("content_type"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages in order."""

    messages: tuple[Message, ...] = ()

    def __post_init__(self) -> None:
        if not is_sequence(self.messages):
            raise RenderError("messages: a sequence of Message is needed")
        for position, message in enumerate(self.messages):
            if not isinstance(message, Message):
                raise RenderError(f"messages[{position}]: a Message is needed, not {type(message).__name__}")
        object.__setattr__(self, "messages", tuple(self.messages))

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)

    def adding(self, *messages: Message) -> Conversation:
        """A new conversation: this one and further messages."""
        return Conversation(messages=(*self.messages, *messages))

    def to_dict(self) -> dict[str, Any]:
        """openai-harmony's JSON."""
        return {"messages": [message.to_dict() for message in self.messages]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Conversation:
        """From openai-harmony's JSON.

        Raises:
            RenderError: names the message's position, the field and what is allowed.
        """
        messages = []
        for position, entry in enumerate(required_list(data, "messages")):
            try:
                messages.append(Message.from_dict(entry))
            except RenderError as error:
                raise RenderError(f"messages[{position}].{error}") from None
        return cls(messages=tuple(messages))


def as_tool_name(text: str) -> str:
    """The text itself if it is a valid name of a tool, else the nearest name that is."""
    try:
        return check_tool_name(text, "name")
    except RenderError:
        kept = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:64]
        return f"unknown.{kept}"[:64] if kept else "unknown"


def _as_content(content: SystemContent | DeveloperContent | str) -> Content:
    return TextContent(text=content) if isinstance(content, str) else content

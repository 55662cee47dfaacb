"""A conversation to tokens: a prompt for the model, or an example to train on.

Every piece of text is encoded separately as ordinary text and control tokens are inserted by id between the
pieces, so no text of a user, a tool or a schema can become a control token.

A message's tokens depend only on the message (the system message's also on whether the conversation has
functions), so they are cached: rendering turn N encodes only the messages after turn N - 1.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from .content import Content, DeveloperContent, ResponseFormat, SystemContent, TextContent
from .fields import CONSTRAIN, Channel, Role, as_choice
from .messages import Conversation, Message
from .typescript import compact_json, lines_of, tools_section

__all__ = ["Rendering", "Segment", "TokenCodec", "render", "render_for_training", "render_segments"]

# Tokens cached for each tokenizer: about 4 MB, eight times the longest context.
CACHED_TOKENS = 2**20


class TokenCodec(Protocol):
    """The part of a tokenizer that harmony uses."""

    @property
    def special(self) -> Mapping[str, int]:
        """The id of each control token by name, such as ``<|start|>``."""

    def encode(self, text: str) -> list[int]:
        """Encodes ordinary text, never to a control token."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """The tokens of one message, and their position in the rendering."""

    index: int | None
    """The message's position in the conversation; None for the header that the model continues."""
    message: Message | None
    tokens: tuple[int, ...]
    start: int
    """The position of the first token in the rendering; a dropped message has the position it would have had."""
    dropped: bool = False
    """Whether it is analysis of a finished turn: its tokens can be inspected, but are not in the rendering."""

    @property
    def end(self) -> int:
        """The position after the segment's last rendered token."""
        return self.start if self.dropped else self.start + len(self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendering:
    """A rendered conversation, message by message."""

    segments: tuple[Segment, ...]
    reply_header: int
    """The number of tokens in ``<|start|>assistant``."""

    @property
    def tokens(self) -> list[int]:
        """The tokens of the prompt."""
        return [token for segment in self.segments if not segment.dropped for token in segment.tokens]

    @property
    def prefix(self) -> int:
        """The position after the leading system and developer messages."""
        position = 0
        for segment in self.segments:
            if segment.message is None or segment.message.role not in (Role.SYSTEM, Role.DEVELOPER):
                break
            position = segment.end
        return position

    @property
    def boundaries(self) -> list[int]:
        """Positions where later prompts can part from this one, ascending: after the prefix, after every
        ``<|start|>assistant`` (the start of a reply) and after every tool message."""
        found = {self.prefix} if self.prefix else set()
        for segment in self.segments:
            role = segment.message.role if segment.message else None
            if segment.dropped:
                continue
            if role is Role.ASSISTANT:
                found.add(segment.start + self.reply_header)
            elif role is Role.TOOL or segment.message is None:
                found.add(segment.end)
        return sorted(found)


def render(
    conversation: Conversation,
    tokenizer: TokenCodec,
    next_role: Role | str | None = "assistant",
    drop_analysis: bool = True,
) -> list[int]:
    """The prompt for the next message of a conversation.

    Args:
        conversation: the messages so far.
        tokenizer: encodes the text.
        next_role: the author of the next message, whose header ends the prompt. None adds no header.
        drop_analysis: leave out the analysis of every earlier turn that has a final message, as in the model's
            training. False renders everything.

    Raises:
        RenderError: ``next_role`` is not a role.
    """
    return _Encoder(tokenizer).render(conversation, next_role, drop_analysis)


def render_for_training(
    conversation: Conversation, tokenizer: TokenCodec, drop_analysis: bool = True
) -> list[int]:
    """The conversation as a training example: a last message on final ends in ``<|return|>``."""
    tokens = render(conversation, tokenizer, None, drop_analysis)
    last = conversation.messages[-1] if conversation.messages else None
    if last is not None and _is_final(last):
        tokens[-1] = tokenizer.special["<|return|>"]
    return tokens


def render_segments(
    conversation: Conversation,
    tokenizer: TokenCodec,
    next_role: Role | str | None = "assistant",
    drop_analysis: bool = True,
) -> Rendering:
    """The result of `render` message by message, including the dropped messages. The arguments are the same."""
    return _Encoder(tokenizer).segments(conversation, next_role, drop_analysis)


def dropped_messages(messages: Sequence[Message]) -> set[int]:
    """The positions of the messages that `render` leaves out.

    A turn runs from one user message to the next. When a turn is over and has a final message, all its messages
    on analysis are dropped, of any author: a built-in tool's call is dropped with its result. A turn that was
    interrupted before its final message keeps everything, and so does the last turn, which is not over.
    """
    dropped: set[int] = set()
    analysis: list[int] = []
    finished = False
    for position, message in enumerate(messages):
        if message.role is Role.USER:
            if finished:
                dropped.update(analysis)
            analysis, finished = [], False
        elif message.channel is Channel.ANALYSIS:
            analysis.append(position)
        finished = finished or _is_final(message)
    return dropped


def _is_final(message: Message) -> bool:
    return message.role is Role.ASSISTANT and message.channel is Channel.FINAL


class _TokenCache:
    """An LRU cache of messages' tokens. It has no reference to the tokenizer, so it does not keep one alive."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[Message, bool], array[int]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[Message, bool]) -> array[int] | None:
        with self._lock:
            tokens = self._entries.get(key)
            if tokens is not None:
                self._entries.move_to_end(key)
            return tokens

    def put(self, key: tuple[Message, bool], tokens: array[int]) -> None:
        with self._lock:
            if key not in self._entries:
                self._entries[key] = tokens
                self._size += len(tokens)
            while self._size > CACHED_TOKENS and len(self._entries) > 1:
                self._size -= len(self._entries.popitem(last=False)[1])


_caches: WeakKeyDictionary[TokenCodec, _TokenCache] = WeakKeyDictionary()


class _Encoder:
    """Encodes messages with one tokenizer."""

    def __init__(self, tokenizer: TokenCodec) -> None:
        self._cache = _caches.setdefault(tokenizer, _TokenCache())
        self._encode = tokenizer.encode
        special = tokenizer.special
        self._start, self._channel = special["<|start|>"], special["<|channel|>"]
        self._message, self._constrain = special["<|message|>"], special[CONSTRAIN]
        self._end, self._call = special["<|end|>"], special["<|call|>"]

    def render(self, conversation: Conversation, next_role: Role | str | None, drop: bool) -> list[int]:
        messages = conversation.messages
        dropped = dropped_messages(messages) if drop else set()
        functions = _has_functions(messages)
        tokens: list[int] = []
        for position, message in enumerate(messages):
            if position not in dropped:
                tokens.extend(self.message(message, functions))
        return tokens + self._next_header(next_role)

    def segments(self, conversation: Conversation, next_role: Role | str | None, drop: bool) -> Rendering:
        messages = conversation.messages
        dropped = dropped_messages(messages) if drop else set()
        functions = _has_functions(messages)
        segments: list[Segment] = []
        start = 0
        for index, message in enumerate(messages):
            tokens, out = tuple(self.message(message, functions)), index in dropped
            segments.append(Segment(index=index, message=message, tokens=tokens, start=start, dropped=out))
            start = segments[-1].end
        if next_role is not None:
            header = tuple(self._next_header(next_role))
            segments.append(Segment(index=None, message=None, tokens=header, start=start))
        reply_header = len(self._next_header(Role.ASSISTANT))
        return Rendering(segments=tuple(segments), reply_header=reply_header)

    def message(self, message: Message, functions: bool) -> Sequence[int]:
        """The tokens of one message: as it was written, or from the cache if they are there."""
        if message.written is not None:
            return message.written.tokens
        key = (message, functions and message.role is Role.SYSTEM)
        tokens = self._cache.get(key)
        if tokens is None:
            tokens = array("I", self._encode_message(message, key[1]))
            self._cache.put(key, tokens)
        return tokens

    def _next_header(self, role: Role | str | None) -> list[int]:
        if role is None:
            return []
        return [self._start, *self._encode(as_choice(Role, role, "next_role"))]

    def _encode_message(self, message: Message, functions: bool) -> Iterable[int]:
        yield self._start
        yield from self._header(message)
        yield self._message
        for content in message.content:
            yield from self._encode(_content_text(content, functions))
        calls = message.role is Role.ASSISTANT and message.recipient is not None
        yield self._call if calls else self._end

    def _header(self, message: Message) -> Iterable[int]:
        author = message.author
        if author.role is Role.TOOL:
            yield from self._encode(author.name or "")
        else:
            yield from self._encode(author.role)
            if author.name is not None:
                yield from self._encode(f":{author.name}")
        if message.recipient is not None and message.recipient != "all":
            yield from self._encode(f" to={message.recipient}")
        if message.channel is not None:
            yield self._channel
            yield from self._encode(message.channel)
        if message.content_type is not None:
            rest = message.content_type.removeprefix(CONSTRAIN)
            if rest == message.content_type:
                yield from self._encode(f" {rest}")
            else:
                yield from self._encode(" ")
                yield self._constrain
                yield from self._encode(rest)


def _has_functions(messages: Sequence[Message]) -> bool:
    """Whether the developer message has functions: the system message then has a line about them."""
    return any(
        namespace.name == "functions" and namespace.tools
        for message in messages
        for content in message.content
        if isinstance(content, DeveloperContent)
        for namespace in content.tools
    )


def _content_text(content: Content, functions: bool) -> str:
    if isinstance(content, TextContent):
        return content.text
    if isinstance(content, SystemContent):
        return _system_text(content, functions)
    return _developer_text(content)


def _system_text(content: SystemContent, functions: bool) -> str:
    top = [] if content.model_identity is None else [content.model_identity]
    if content.knowledge_cutoff is not None:
        top.append(f"Knowledge cutoff: {content.knowledge_cutoff}")
    if content.conversation_start_date is not None:
        top.append(f"Current date: {content.conversation_start_date}")
    sections = ["\n".join(top)] if top else []
    if content.reasoning_effort is not None:
        sections.append(f"Reasoning: {content.reasoning_effort}")
    if content.tools:
        sections.append(tools_section(content.tools))
    config = content.channel_config
    if config is not None and config.valid_channels:
        line = f"# Valid channels: {', '.join(config.valid_channels)}."
        if config.channel_required:
            line += " Channel must be included for every message."
        if functions:
            line += "\nCalls to these tools must go to the commentary channel: 'functions'."
        sections.append(line)
    return "\n\n".join(sections)


def _developer_text(content: DeveloperContent) -> str:
    sections = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    if content.tools:
        sections.append(tools_section(content.tools))
    if content.response_formats:
        sections += ["# Response Formats", *map(_format_text, content.response_formats)]
    return "\n\n".join(sections)


def _format_text(entry: ResponseFormat) -> str:
    lines = [f"// {line}" for line in lines_of(entry.description or "")]
    return "\n".join([f"## {entry.name}\n", *lines, compact_json(dict(entry.schema))])

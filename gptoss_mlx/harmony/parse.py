"""Tokens to messages, one token at a time.

                       start                     message
    ┌──────────────┐ ─────────→ ┌──────────┐ ─────────────→ ┌───────────┐
    │ EXPECT_START │            │  HEADER  │                │  CONTENT  │
    └──────────────┘ ←──┐       └──────────┘                └───────────┘
                        └──────── end, return, call ──────────────┘

Strict parsing has only these transitions. Recovering parsing adds three and records each on the message:

* text or a channel in place of a start begins a header without a start;
* a header that a terminator or another start ends, or that has too many stray words, becomes a message: its
  fields, and the remaining words as content;
* in content, a start or a channel begins the next message, and no other control token is text.

Where strict parsing succeeds and no content has a control token, recovering parsing gives the same messages.
The cost of a token is constant on every stream: a header has at most 512 tokens, and each is read at most a few
times before it is a field or content.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final, NamedTuple

from ..errors import InvalidRequest, ParseError
from .content import TextContent
from .control import MARKERS, Control, Item, controls_of, items_of
from .fields import Channel, Role, as_choice, is_punctuation
from .header import Header, HeaderError, Notes, printable, read_strictly
from .messages import Author, Message, Repair, RepairKind
from .recovery import HeaderText, read_leniently, read_unfinished
from .render import TokenCodec

__all__ = ["Change", "ParserState", "StreamParser", "parse"]

# No real header has as many.
MAX_HEADER_TOKENS: Final = 512


class ParserState(StrEnum):
    """The part of a message that the parser expects."""

    EXPECT_START = "expect start"
    HEADER = "header"
    CONTENT = "content"


class Change(NamedTuple):
    """The effect of one token on one message."""

    header: Header
    delta: str
    """The added text; never half a character."""
    message: Message | None
    """The message, if the token ended it."""


# A header with one of these repairs has text beside a role and a channel.
_HAVE_TEXT: Final = frozenset(
    {
        *(RepairKind.BAD_NAME, RepairKind.BAD_RECIPIENT, RepairKind.BAD_CONTENT_TYPE),
        *(RepairKind.UNKNOWN_CHANNEL, RepairKind.UNKNOWN_ROLE, RepairKind.STRAY_WORD),
    }
)


class StreamParser:
    """Reads messages from a stream of tokens.

    Args:
        tokenizer: has the bytes of tokens and the ids of control tokens.
        role: the role with which the prompt ended (``<|start|>assistant``); None if the stream has its own first
            start token.
        strict: raise where openai-harmony raises. Otherwise never raise, but repair and record it in
            `Message.repairs`.

    The terminator must be processed too, but not ``<|endoftext|>``, which would be text. At the end, call `close`.
    """

    def __init__(self, tokenizer: TokenCodec, role: Role | str | None = "assistant", strict: bool = False) -> None:
        self._role = None if role is None else as_choice(Role, role, "role")
        if self._role is Role.TOOL:
            raise InvalidRequest("role: a tool message needs a name, which no prompt gives; use None")
        self._token_bytes = tokenizer.token_bytes
        self._controls = controls_of(tokenizer)
        self._strict = strict
        self._messages: list[Message] = []
        self._state = ParserState.EXPECT_START if self._role is None else ParserState.HEADER
        self._position = -1
        self._closed = False
        self._error: ParseError | None = None
        # The header being read.
        self._header_text = HeaderText(self._role)
        # The message being read.
        self._header: Header | None = None
        self._text: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._guessed = False
        """Whether the message has no message token."""
        self._has_fields = False
        """Whether it is a message even without text."""
        self._interrupted: Channel | None = None
        """The channel of a message that a start or a channel ended, until the next header."""
        # Repairs of the current message, or of the next one between messages.
        self._repairs: list[Repair] = []
        self._skipped: list[str] = []
        """Punctuation that is not a message, unless the stream has no other."""
        self._pending: deque[Item] = deque()
        self._changes: list[Change] = []

    @property
    def messages(self) -> Sequence[Message]:
        """The finished messages."""
        return self._messages

    @property
    def state(self) -> ParserState:
        """The part of a message that the parser expects."""
        return self._state

    @property
    def role(self) -> Role | None:
        """The role of the current message, or of the message that the last token ended."""
        if self._header is not None:
            return self._header.author.role
        return self._role

    @property
    def channel(self) -> Channel | None:
        """The channel of the same message."""
        return self._header.channel if self._header else None

    @property
    def recipient(self) -> str | None:
        """The recipient of the same message."""
        return self._header.recipient if self._header else None

    @property
    def content_type(self) -> str | None:
        """The content type of the same message."""
        return self._header.content_type if self._header else None

    @property
    def text(self) -> str:
        """The text so far of the current message."""
        return "".join(self._text)

    @property
    def last_delta(self) -> str:
        """The text that the last token added, usually to the current message."""
        return self._changes[-1].delta if self._changes else ""

    def process(self, token: int) -> Sequence[Change]:
        """Parses one token and returns its changes: usually one, with some text.

        Raises:
            ParseError: only if strict, where openai-harmony raises too.
            InvalidRequest: the parser was closed.
        """
        self._begin_step()
        self._position += 1
        control = self._controls.get(token)
        if control is None and self._state is ParserState.CONTENT:
            self._write(self._token_bytes(token))
        else:
            self._take(control, self._token_bytes(token))
            self._take_pending()
        return tuple(self._changes)

    def close(self) -> Sequence[Change]:
        """Ends the stream. A message without its terminator is kept, as truncated.

        Raises:
            ParseError: only if strict and inside a header.
        """
        if self._closed:
            return ()
        self._begin_step()
        self._closed = True
        cut = self._state is not ParserState.EXPECT_START
        if self._state is ParserState.HEADER:
            if self._strict:
                self._refuse("the stream ends inside a header")
            self._end_headers()
        if self._skipped and not self._messages and self._state is ParserState.EXPECT_START:
            self._open(Header(author=Author(role=Role.ASSISTANT)), [], guessed=True)
            self._write("".join(self._skipped).encode())
        if self._state is ParserState.CONTENT:
            self._finish(truncated=cut)
        if self._repairs and self._messages:
            last = self._messages[-1]
            self._messages[-1] = replace(last, repairs=(*last.repairs, *self._repairs))
        return tuple(self._changes)

    def _begin_step(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise InvalidRequest("the parser was closed; a new stream needs a new parser")
        self._changes.clear()
        if self._state is not ParserState.CONTENT:
            self._header = None

    def _take_pending(self) -> None:
        while self._pending:
            self._take(*self._pending.popleft())

    def _take(self, control: Control | None, data: bytes) -> None:
        if self._state is ParserState.EXPECT_START:
            self._take_before_start(control, data)
        elif self._state is ParserState.HEADER:
            self._take_in_header(control, data)
        else:
            self._take_in_content(control, data)

    def _take_before_start(self, control: Control | None, data: bytes) -> None:
        if control is Control.START:
            self._begin_header(named=True)
        elif self._strict:
            self._refuse(f"{_named(data)} where <|start|> is expected")
        elif control is Control.STOP or control is Control.OTHER:
            self._note(RepairKind.STRAY_TOKEN, _as_text(data))
        else:
            self._begin_header(named=False)
            self._pending.appendleft((control, data))

    def _take_in_header(self, control: Control | None, data: bytes) -> None:
        if control is None:
            self._add_to_header(data)
        elif control in MARKERS:
            self._add_to_header(b"", MARKERS[control])
        elif control is Control.MESSAGE:
            self._begin_content()
        elif self._strict:
            self._refuse(f"{_named(data)} inside a header")
        elif control is Control.START:
            self._restart_header()
        elif control is Control.STOP:
            self._end_header((control, data))
        else:
            self._note(RepairKind.STRAY_TOKEN, _as_text(data))

    def _take_in_content(self, control: Control | None, data: bytes) -> None:
        if control is Control.STOP:
            self._finish()
        elif control is None or self._strict:
            self._write(data)
        elif control is Control.START or control is Control.CHANNEL:
            self._interrupt()
            self._pending.appendleft((control, data))
        else:
            self._note(RepairKind.STRAY_TOKEN, _as_text(data))

    def _begin_header(self, named: bool) -> None:
        self._state = ParserState.HEADER
        self._header_text = HeaderText(self._role, named)

    def _restart_header(self) -> None:
        """Handles a start inside a header: a doubled one, unless the text before it is a message of its own."""
        self._header_text.end()
        text = str(self._header_text)
        if text.strip():
            self._end_header((Control.START, b""))
            return
        if text:
            self._note(RepairKind.STRAY_WHITESPACE, text)
        elif self._header_text.has_beginning:
            self._note(RepairKind.DOUBLED_START)
        self._role = None
        self._begin_header(named=True)

    def _add_to_header(self, data: bytes, marker: str = "") -> None:
        header = self._header_text
        header.add(data, marker)
        too_long = header.length > MAX_HEADER_TOKENS
        if self._strict:
            if too_long:
                self._refuse(f"a header of more than {MAX_HEADER_TOKENS} tokens")
        elif too_long or header.is_text():
            self._end_header()

    def _begin_content(self) -> None:
        """Reads the complete header."""
        header = self._header_text
        header.end()
        read: tuple[Header, Notes] | None = None
        try:
            if header.has_beginning:
                read = read_strictly(str(header), self._role)
        except HeaderError as error:
            if self._strict:
                self._refuse(f"header: {error}")
        if read is None:
            read = read_leniently(header)
        if read is None:
            self._end_header((Control.MESSAGE, Control.MESSAGE.value.encode()))
            return
        if not header.has_beginning:
            self._note(RepairKind.MISSING_START)
        self._open(*read, guessed=False)

    def _end_headers(self) -> None:
        """Ends the header at the end of the stream, and any other header in its text."""
        while self._state is ParserState.HEADER:
            self._end_header()
            self._take_pending()

    def _end_header(self, after: Item | None = None) -> None:
        """Ends a header that has no message token: everything beside its fields becomes content.

        Args:
            after: the token that ended it.
        """
        self._header_text.end()
        header, notes, rest = read_unfinished(self._header_text, cut=self._closed)
        without_text = not rest or (header.channel is not Channel.FINAL and is_punctuation(rest))
        truncated = self._closed and header.channel is not None
        if without_text and not truncated and _is_empty(header, notes):
            self._skip(rest)
            if after is not None and after[0] is Control.START:
                self._pending.appendleft(after)
            return
        if not self._header_text.has_beginning:
            self._note(RepairKind.MISSING_START)
        self._note(RepairKind.UNFINISHED_HEADER)
        if self._interrupted and header.channel is None and header.author.role is Role.ASSISTANT:
            header = replace(header, channel=self._interrupted)
        self._open(header, notes, guessed=True)
        if after is not None:
            self._pending.appendleft(after)
        self._pending.extendleft(reversed(items_of(rest)))

    def _skip(self, rest: str) -> None:
        """Ends a header without a message: it has nothing but a role, a channel and punctuation."""
        text = str(self._header_text)
        if text.strip():
            self._note(RepairKind.FRAGMENT, text)
        elif text:
            self._note(RepairKind.STRAY_WHITESPACE, text)
        if rest:
            self._skipped.append(rest)
        self._state, self._role = ParserState.EXPECT_START, None

    def _open(self, header: Header, notes: Notes, guessed: bool) -> None:
        for kind, text in notes:
            self._note(kind, text)
        if header.calls_nobody:
            self._note(RepairKind.NO_TOOL, header.recipient or "")
        self._state = ParserState.CONTENT
        self._role = self._interrupted = None
        self._header = header
        self._guessed = guessed
        self._has_fields = not _is_empty(header, notes)
        self._text = []
        self._decoder.reset()

    def _write(self, data: bytes) -> None:
        delta = self._decoder.decode(data)
        if delta and self._header is not None:
            self._text.append(delta)
            self._changes.append(Change(self._header, delta, None))

    def _interrupt(self) -> None:
        """Ends a message that has no terminator. With neither text nor a recipient it is not a message."""
        header = self._header
        if header is None:
            return
        has_text = self._text or self._decoder.getstate()[0]
        is_message = self._guessed or has_text or self._has_fields
        if not self._guessed:
            fields = [header.author.role, header.recipient, header.channel]
            self._note(RepairKind.MISSING_END, "" if is_message else " ".join(filter(None, fields)))
        if is_message:
            self._finish()
        self._interrupted = header.channel
        self._state = ParserState.EXPECT_START

    def _finish(self, truncated: bool = False) -> None:
        """Ends the message; an incomplete character at its end becomes U+FFFD."""
        header = self._header
        if header is None:
            return
        delta = self._decoder.decode(b"", True)
        message = Message(
            author=header.author,
            content=(TextContent(text="".join(self._text) + delta),),
            channel=header.channel,
            recipient=header.recipient,
            content_type=header.content_type,
            repairs=tuple(self._repairs),
            truncated=truncated,
        )
        self._messages.append(message)
        self._changes.append(Change(header, delta, message))
        self._state = ParserState.EXPECT_START
        self._text, self._repairs = [], []

    def _note(self, kind: RepairKind, text: str = "") -> None:
        self._repairs.append(Repair(kind=kind, position=self._position, text=printable(text)))

    def _refuse(self, problem: str) -> None:
        self._error = ParseError(f"token {self._position}: {problem}")
        raise self._error


def parse(
    tokens: Iterable[int], tokenizer: TokenCodec, role: Role | str | None = "assistant", strict: bool = False
) -> list[Message]:
    """The messages of a whole stream. The arguments are those of `StreamParser`."""
    parser = StreamParser(tokenizer, role, strict)
    for token in tokens:
        parser.process(token)
    parser.close()
    return list(parser.messages)


def _is_empty(header: Header, notes: Notes) -> bool:
    """Whether a header has nothing but a role, a channel and a recipient that is not a tool."""
    return header.is_empty and not any(kind in _HAVE_TEXT for kind, _ in notes)


def _as_text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _named(data: bytes) -> str:
    """A token in an error message of one line."""
    text = _as_text(data)
    return text if text.isprintable() else repr(text)

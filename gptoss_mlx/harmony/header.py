"""A header's words to its fields, as openai-harmony reads them. `recovery` reads what real models write.

A header is the text between ``<|start|>`` and ``<|message|>``. The two control tokens that may occur in it are
represented by one character each that no decoded text contains, so that a header that only spells ``<|channel|>``
differs from one that has the token.

    assistant to=functions.f ⟨channel⟩commentary ⟨constrain⟩json
    └ role ─┘ └ recipient ─┘└──── channel ────┘ └content type─┘
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..errors import RenderError
from .fields import CHANNELS, CONSTRAIN, ROLES, Channel, Role, callee, check_content_type, check_recipient, repeats
from .messages import Author, RepairKind

__all__ = ["Header", "HeaderError", "Notes", "read_strictly"]

# Halves of surrogate pairs: UTF-8 cannot encode them, so no decoded text contains them.
CHANNEL_MARKER: Final = "\ud800"
CONSTRAIN_MARKER: Final = "\ud801"
MARKERS: Final = CHANNEL_MARKER + CONSTRAIN_MARKER

# White space and ASCII white space as Rust defines them: openai-harmony trims by one and splits by the other.
_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_TRIM = re.compile(f"^[{_WHITE}]+|[{_WHITE}]+$")
_ASCII_SPACE = re.compile("[ \t\n\f\r]+")
_CHANNEL_NAME = re.compile(f"[^{_WHITE}<{MARKERS}]*")

# Bytes that are not valid UTF-8, as the decoder writes them.
_BYTES = re.compile("[\udc80-\udcff]+")

# Content types that models write without a marker. Any other word is a content type only at a header's end.
CONTENT_TYPES: Final = frozenset({"json", "code", "text"})

Notes = list[tuple[RepairKind, str]]


class HeaderError(Exception):
    """The header cannot be read strictly."""

    def __str__(self) -> str:
        text = super().__str__()
        for mark, name in ((CHANNEL_MARKER, "<|channel|>"), (CONSTRAIN_MARKER, CONSTRAIN)):
            text = text.replace(repr(mark)[1:-1], name)
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The fields of a header."""

    author: Author
    channel: Channel | None = None
    recipient: str | None = None
    content_type: str | None = None

    @property
    def callee(self) -> str | None:
        """The tool that the message calls, if it is a call."""
        return callee(self.author.role, self.recipient)

    @property
    def calls_nobody(self) -> bool:
        """Whether the assistant addresses a role or all."""
        return self.author.role is Role.ASSISTANT and self.recipient is not None and self.callee is None

    @property
    def is_empty(self) -> bool:
        """Whether there are only a role, a channel, and a recipient that is not a tool."""
        no_recipient = self.recipient is None or self.calls_nobody
        return no_recipient and self.author.name is None and self.content_type is None


def read_strictly(text: str, role: Role | None) -> tuple[Header, Notes]:
    """Reads a header as openai-harmony does, except that a word without ``to=`` is never a recipient.

    In openai-harmony a lone word is a recipient, and so is the first of two words. Here a lone word and the last
    of two are the content type, and the first of two is a stray word.

    Args:
        text: the header, with control tokens as markers.
        role: the header's role if the prompt ended with it; None if the first word of the header is the role.

    Raises:
        HeaderError: openai-harmony refuses the header, or it has a field that no message may have.
    """
    text, channel = _take_channel(text)
    text = _TRIM.sub("", text).replace(CONSTRAIN_MARKER, f" {CONSTRAIN_MARKER}")
    words = [word for word in _ASCII_SPACE.split(text) if word]
    author, words = _take_author(words, role)
    recipient, content_type, notes = None, None, Notes()
    if words and words[-1].startswith("to="):
        recipient = words.pop()[3:]
    elif words:
        content_type = words.pop()
        if words and words[-1].startswith("to="):
            recipient = words.pop()[3:]
        elif words:
            notes.append((RepairKind.STRAY_WORD, _checked_word(words.pop())))
        elif repeats(content_type, author.role):
            notes.append((RepairKind.DOUBLED_ROLE, content_type))
            content_type = None
    if words:
        raise HeaderError(f"words that are not fields: {' '.join(words)!r}")
    if content_type is not None and not content_type.startswith(CONSTRAIN_MARKER) and recipient is None:
        notes += _note_unmarked(content_type)
    return _checked(author, channel, recipient, content_type), notes


def _take_channel(text: str) -> tuple[str, str | None]:
    """The header without its first channel, and that channel."""
    before, mark, after = text.partition(CHANNEL_MARKER)
    if not mark:
        return text, None
    found = _CHANNEL_NAME.match(after)
    name = found.group() if found else ""
    if not name:
        raise HeaderError("a channel marker without a channel")
    return before + after[len(name) :], name


def _take_author(words: list[str], role: Role | None) -> tuple[Author, list[str]]:
    try:
        if role is not None:
            return Author(role=role), words[1:] if words and words[0] == role else words
        if not words:
            raise HeaderError("no role")
        first, rest = words[0], words[1:]
        if first in ROLES and first != Role.TOOL:
            return Author(role=Role(first)), rest
        if not rest:
            raise HeaderError(f"unknown role {first!r}")
        # The word "tool" after a tool's name repeats its role.
        return Author(role=Role.TOOL, name=first), rest[1:] if rest[0] == Role.TOOL else rest
    except RenderError as error:
        raise HeaderError(str(error)) from None


def _note_unmarked(word: str) -> Notes:
    return [] if word in CONTENT_TYPES else [(RepairKind.STRAY_WORD, word)]


def _checked_word(word: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in word):
        raise HeaderError("a control token or half a character inside a word")
    return word


def _checked(author: Author, channel: str | None, recipient: str | None, content_type: str | None) -> Header:
    try:
        if channel is not None and channel not in CHANNELS:
            raise RenderError(f"channel: {channel!r} is not one of {', '.join(Channel)}")
        if author.role is Role.TOOL and channel == Channel.FINAL:
            raise RenderError("channel: a tool on final")
        if recipient is not None:
            check_recipient(recipient, "recipient")
        if content_type is not None:
            content_type = check_content_type(content_type.replace(CONSTRAIN_MARKER, CONSTRAIN), "content_type")
    except RenderError as error:
        raise HeaderError(str(error)) from None
    return Header(
        author=author,
        channel=None if channel is None else Channel(channel),
        recipient=recipient,
        content_type=content_type,
    )


def without_bytes(text: str) -> str:
    """Replaces bytes that were not valid UTF-8 by the replacement character."""
    return text if text.isascii() else _BYTES.sub("\ufffd", text)


def printable(text: str) -> str:
    """A part of a header in printable form, with its markers by name."""
    if text.isascii():
        return text
    return without_bytes(text.replace(CHANNEL_MARKER, "<|channel|>").replace(CONSTRAIN_MARKER, CONSTRAIN))

"""A header's words to its fields: strictly as openai-harmony reads them, or leniently as real models write them.

A header is the text between ``<|start|>`` and ``<|message|>``. The two control tokens that may occur in it are
represented by one character each that no decoded text contains, so that a header that only spells ``<|channel|>``
differs from one that has the token.

    assistant to=functions.f ⟨channel⟩commentary ⟨constrain⟩json
    └ role ─┘ └ recipient ─┘└──── channel ────┘ └content type─┘
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

from ..errors import RenderError
from .fields import CONSTRAIN, Channel, Role, check_content_type, check_recipient, repeats
from .messages import Author, RepairKind, as_tool_name

__all__ = ["Header", "HeaderError", "Notes", "read_leniently", "read_strictly", "read_unfinished"]

# Halves of surrogate pairs: UTF-8 cannot encode them, so no decoded text contains them.
CHANNEL_MARKER: Final = "\ud800"
CONSTRAIN_MARKER: Final = "\ud801"
_MARKERS = CHANNEL_MARKER + CONSTRAIN_MARKER

# White space and ASCII white space as Rust defines them: openai-harmony trims by one and splits by the other.
_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_TRIM = re.compile(f"^[{_WHITE}]+|[{_WHITE}]+$")
_ASCII_SPACE = re.compile("[ \t\n\f\r]+")
_CHANNEL_NAME = re.compile(f"[^{_WHITE}<{_MARKERS}]*")

# One item of a header: a channel marker, a content type with its marker, or a word.
_ITEM = re.compile(rf"{CHANNEL_MARKER}|{CONSTRAIN_MARKER}\s*(?!to=)[^\s{_MARKERS}]*|[^\s{_MARKERS}]+")
_GLUED_RECIPIENT = re.compile(rf"({'|'.join([*Role, *Channel])})(to=.*)")

# Content types that models write without a marker. Any other word is a content type only at a header's end.
_CONTENT_TYPES = frozenset({"json", "code", "text"})

# A header with a third word that is no field is not a header but an answer without one.
MAX_STRAY_WORDS: Final = 2

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
    def is_bare(self) -> bool:
        """Whether the role is the only field."""
        fields = (self.author.name, self.channel, self.recipient, self.content_type)
        return all(field is None for field in fields)


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
        raise HeaderError(f"words that are no field: {' '.join(words)!r}")
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
        if first in tuple(Role) and first != Role.TOOL:
            return Author(role=Role(first)), rest
        if not rest:
            raise HeaderError(f"unknown role {first!r}")
        # The word "tool" after a tool's name repeats its role.
        return Author(role=Role.TOOL, name=first), rest[1:] if rest[0] == Role.TOOL else rest
    except RenderError as error:
        raise HeaderError(str(error)) from None


def _note_unmarked(word: str) -> Notes:
    return [] if word in _CONTENT_TYPES else [(RepairKind.STRAY_WORD, word)]


def _checked_word(word: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in word):
        raise HeaderError("a control token or half a character inside a word")
    return word


def _checked(author: Author, channel: str | None, recipient: str | None, content_type: str | None) -> Header:
    try:
        if channel is not None and channel not in tuple(Channel):
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


@dataclass(slots=True)
class _Reader:
    """Reads a header's items one after another; never refuses one."""

    role: Role | None
    named: bool
    """Whether a start token precedes the header, so that its first word may be a tool's name."""
    finished: bool = True
    """Whether a message token ends the header; otherwise an unmarked content type is text and not a field."""
    first: str | None = None
    channel: Channel | None = None
    recipient: str | None = None
    content_type: str | None = None
    expects_channel: bool = False
    notes: Notes = field(default_factory=list)
    stray: list[str] = field(default_factory=list)

    def note(self, kind: RepairKind, text: str = "") -> None:
        self.notes.append((kind, text))

    def take(self, item: str) -> bool:
        """Reads one item. False if it is a word that belongs to no field."""
        if self.expects_channel and not item.startswith(("to=", CONSTRAIN_MARKER, CHANNEL_MARKER)):
            return self._take_channel(item)
        if self.expects_channel:
            self.expects_channel = False
            self.note(RepairKind.MISSING_CHANNEL)
        if item == CHANNEL_MARKER:
            self.expects_channel = True
        elif item.startswith(CONSTRAIN_MARKER):
            self.take_content_type(CONSTRAIN + item[1:].strip())
        elif item.startswith("to="):
            self._take_recipient(item[3:])
        else:
            return self._take_word(item)
        return True

    def _take_channel(self, word: str) -> bool:
        self.expects_channel = False
        glued = _GLUED_RECIPIENT.fullmatch(word)
        name = glued.group(1) if glued else word
        if name not in tuple(Channel):
            self.note(RepairKind.UNKNOWN_CHANNEL, word)
            return False
        if self.channel is not None:
            self.note(RepairKind.DOUBLED_CHANNEL, self.channel.value)
        self.channel = Channel(name)
        if glued:
            self.note(RepairKind.ODD_ORDER, word)
            self._take_recipient(glued.group(2)[3:])
        return True

    def _take_recipient(self, name: str) -> None:
        try:
            check_recipient(name, "recipient")
        except RenderError:
            self.note(RepairKind.BAD_RECIPIENT, name)
            return
        if self.recipient is not None:
            self.note(RepairKind.DOUBLED_RECIPIENT, self.recipient)
        if self.content_type is not None:
            self.note(RepairKind.ODD_ORDER, f"to={name}")
        self.recipient = name

    def take_content_type(self, word: str) -> None:
        try:
            check_content_type(word, "content_type")
        except RenderError:
            self.note(RepairKind.BAD_CONTENT_TYPE, word)
            return
        if self.content_type is not None:
            self.note(RepairKind.DOUBLED_CONTENT_TYPE, self.content_type)
        self.content_type = word

    def _take_word(self, word: str) -> bool:
        glued = _GLUED_RECIPIENT.fullmatch(word)
        if glued:
            self.note(RepairKind.ODD_ORDER, word)
            self._take_recipient(glued.group(2)[3:])
            word = glued.group(1)
        if self._is_author(word):
            return True
        if self.finished and self.content_type is None and word in _CONTENT_TYPES:
            self.take_content_type(word)
            return True
        self.note(RepairKind.STRAY_WORD, word)
        self.stray.append(word)
        return False

    def _is_author(self, word: str) -> bool:
        """Whether the word is the author, or repeats the author."""
        author = self.role if self.first is None else self.first
        if author and repeats(word, author):
            if self.first is not None or word != author:
                self.note(RepairKind.DOUBLED_ROLE, word)
            self.first = author
            return True
        if self.first is not None or self.role is not None or self.channel is not None:
            return False
        repeated = next((role for role in Role if repeats(word, role)), None)
        if repeated is not None and word != repeated:
            self.note(RepairKind.DOUBLED_ROLE, word)
        if repeated or self.named or word.partition(":")[0] in tuple(Role):
            self.first = repeated or word
            return True
        return False

    def header(self) -> Header:
        """The fields read so far."""
        if self.expects_channel:
            self.note(RepairKind.MISSING_CHANNEL)
        return Header(
            author=self._author(),
            channel=self.channel,
            recipient=self.recipient,
            content_type=self.content_type,
        )

    def _author(self) -> Author:
        if self.role is not None:
            return Author(role=self.role)
        if self.first is None:
            self.note(RepairKind.MISSING_ROLE)
            return Author(role=Role.ASSISTANT)
        role, colon, name = self.first.partition(":")
        if role in tuple(Role) and role != Role.TOOL:
            return self._named_author(Role(role), name if colon else None)
        if self.channel is Channel.FINAL:
            # No tool writes on final: this is an answer with a misspelt role.
            self.note(RepairKind.UNKNOWN_ROLE, self.first)
            return Author(role=Role.ASSISTANT)
        tool = as_tool_name(self.first)
        if tool != self.first:
            self.note(RepairKind.BAD_NAME, self.first)
        return Author(role=Role.TOOL, name=tool)

    def _named_author(self, role: Role, name: str | None) -> Author:
        try:
            return Author(role=role, name=name)
        except RenderError:
            self.note(RepairKind.BAD_NAME, f"{role}:{name}")
            return Author(role=role)


def read_leniently(text: str, role: Role | None, named: bool) -> tuple[Header, Notes] | None:
    """Reads a header of any form; None if it has so many stray words that it is text."""
    reader = _Reader(role=role, named=named)
    items = _ITEM.findall(_printable(text))
    for item in items:
        reader.take(item)
    if len(reader.stray) > MAX_STRAY_WORDS:
        return None
    if reader.content_type is None and items and reader.stray == items[-1:]:
        # The only stray word is in the place of a content type.
        reader.take_content_type(items[-1])
    return reader.header(), reader.notes


def read_unfinished(text: str, role: Role | None, named: bool, cut: bool) -> tuple[Header, Notes, str]:
    """Reads a header that no message token ends: the fields before the first word that is no field, and the rest.

    Args:
        text: as in `read_strictly`.
        role: as in `read_strictly`.
        named: whether a start token precedes the header.
        cut: whether the stream ended here, so that the last word may be the beginning of a field.
    """
    if named and not _starts_with_role(text):
        # A first word that is no role is a tool's name if the rest is header, otherwise an answer starts there.
        read = _read_fields(text, _Reader(role=role, named=True, finished=False), cut)
        name = read[0].author.name
        if not read[2] and name is not None and "." in name:
            return read
        named = False
    return _read_fields(text, _Reader(role=role, named=named, finished=False), cut)


def _read_fields(text: str, reader: _Reader, cut: bool) -> tuple[Header, Notes, str]:
    rest = ""
    for found in _ITEM.finditer(text):
        before = replace(reader, notes=list(reader.notes))
        if not reader.take(_printable(found.group())):
            reader, rest = before, text[found.start() :]
            reader.expects_channel = False
            if cut and _begins_field(rest):
                reader.note(RepairKind.STRAY_WORD, rest)
                rest = ""
            break
    return reader.header(), reader.notes, rest


def is_text(text: str, role: Role | None, named: bool) -> bool:
    """Whether an unfinished header already has so many stray words that it is text."""
    words = _ITEM.findall(text)
    if not text[-1:].isspace():
        words = words[:-1]
    if len(words) <= MAX_STRAY_WORDS:
        return False
    reader = _Reader(role=role, named=named)
    for word in words:
        reader.take(word)
    return len(reader.stray) > MAX_STRAY_WORDS


def _begins_field(word: str) -> bool:
    fields = (*Channel, *Role, *_CONTENT_TYPES, "to=")
    return any(field.startswith(word) for field in fields)


def _starts_with_role(text: str) -> bool:
    found = _ITEM.search(text)
    return found is not None and found.group().partition(":")[0] in tuple(Role)


def _printable(text: str) -> str:
    """Replaces bytes that were not valid UTF-8 by the replacement character."""
    return re.sub("[\udc80-\udcff]+", "\ufffd", text)


def printable(text: str) -> str:
    """A part of a header in printable form, with its markers by name."""
    return _printable(text.replace(CHANNEL_MARKER, "<|channel|>").replace(CONSTRAIN_MARKER, CONSTRAIN))

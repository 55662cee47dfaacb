"""A header's words to its fields, as real models write them: in any order, doubled, glued or unfinished."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import Final

from ..errors import RenderError
from .fields import (
    CHANNELS,
    CONSTRAIN,
    ROLES,
    Channel,
    Role,
    callee,
    check_content_type,
    check_recipient,
    header_words,
    repeats,
)
from .header import CHANNEL_MARKER, CONSTRAIN_MARKER, CONTENT_TYPES, MARKERS, Header, Notes, without_bytes
from .messages import Author, RepairKind, as_tool_name

__all__ = ["HeaderText", "read_leniently", "read_unfinished"]

# One item of a header: a channel marker, a content type with its marker, or a word.
_ITEM = re.compile(rf"{CHANNEL_MARKER}|{CONSTRAIN_MARKER}\s*(?!to=)[^\s{MARKERS}]*|[^\s{MARKERS}]+")
# In a header without a message token an item ends where JSON begins.
_UNFINISHED_ITEM = re.compile(
    rf"{CHANNEL_MARKER}|{CONSTRAIN_MARKER}\s*(?!to=)[^\s{MARKERS}{{]*|[^\s{MARKERS}{{]+|{{[^\s{MARKERS}]*"
)
_ENDS_WORD = re.compile(rf"[\s{MARKERS}]")
_NOTHING_OR_JSON = re.compile(r"\s*(?:\{|\Z)")
_RECIPIENT_OR_JSON = re.compile(r"\s*(?:\{|to=)")
_NO_CHANNEL_NAME = ("to=", CONSTRAIN_MARKER, CHANNEL_MARKER)

_UTF8: Final = codecs.getincrementaldecoder("utf-8")
_AUTHORS: Final[dict[Role, Author]] = {role: Author(role=role) for role in Role if role is not Role.TOOL}

# With more words or channels that are not fields, it is not a header but an answer without one.
MAX_STRAY_WORDS: Final = 2
MAX_UNKNOWN_CHANNELS: Final = 1


class HeaderText:
    """The text of a header while it is read. Every word is looked at once, however long the header grows.

    Args:
        role: the header's role if the prompt ended with it.
        named: whether a start token precedes the header, so that its first word may be a tool's name.
    """

    def __init__(self, role: Role | None = None, named: bool = False) -> None:
        self.role = role
        self.named = named
        self.length = 0
        """In tokens."""
        self._decoder = _UTF8("surrogateescape")
        self._pieces: list[str] = []
        self._unread = ""
        self._reader = _Reader(role=role, named=named)

    def __str__(self) -> str:
        return "".join(self._pieces)

    def add(self, data: bytes, marker: str = "") -> None:
        """Adds a token: the bytes of text, or a marker."""
        piece = self._decoder.decode(data, bool(marker)) + marker
        self.length += 1
        self._pieces.append(piece)
        self._unread += piece

    def end(self) -> None:
        """Adds the bytes of an incomplete character."""
        self._pieces.append(self._decoder.decode(b"", True))

    @property
    def has_beginning(self) -> bool:
        """Whether a start token or the prompt began the header."""
        return self.named or self.role is not None

    def is_text(self) -> bool:
        """Whether the header, after a token, has so many stray words that it is text."""
        if not _ENDS_WORD.search(self._pieces[-1]):
            return False
        text, self._unread = self._unread, ""
        items = _ITEM.findall(text)
        is_open = not text[-1].isspace() or text.rstrip().endswith(CONSTRAIN_MARKER)
        if items and is_open and items[-1] != CHANNEL_MARKER:
            self._unread = items.pop()
        for item in items:
            self._reader.take(item)
        return self._reader.is_text


def read_leniently(header: HeaderText) -> tuple[Header, Notes] | None:
    """Reads a header of any form; None if it has so many stray words that it is text."""
    reader = _Reader(role=header.role, named=header.named)
    items = _ITEM.findall(without_bytes(str(header)))
    for item in items:
        reader.take(item)
    if reader.is_text:
        return None
    if reader.content_type is None and items and reader.stray == items[-1:]:
        # The only stray word is in the place of a content type.
        reader.take_content_type(items[-1])
    return reader.header(), reader.notes


def read_unfinished(header: HeaderText, cut: bool) -> tuple[Header, Notes, str]:
    """Reads a header that no message token ends: the fields before JSON or the first word that is not a field, and
    the rest.

    Args:
        header: the text so far.
        cut: whether the stream ended here, so that the last word may be the beginning of a field.
    """
    text, named = str(header), header.named
    if named and not _starts_with_role(text):
        # A first word that is not a role is a tool's name if the rest is header, otherwise an answer starts there.
        reader = _Reader(role=header.role, named=True, finished=False)
        read = _read_fields(text, reader, cut)
        name, rest = read[0].author.name, read[2]
        has_json = rest.startswith("{")
        if name is not None and ((has_json and reader.marked) or ("." in name and (has_json or not rest))):
            return read
        named = False
    return _read_fields(text, _Reader(role=header.role, named=named, finished=False), cut)


def _read_fields(text: str, reader: _Reader, cut: bool) -> tuple[Header, Notes, str]:
    rest = ""
    for found in _UNFINISHED_ITEM.finditer(text):
        notes, item = len(reader.notes), without_bytes(found.group())
        if item in CONTENT_TYPES and reader.calls and _NOTHING_OR_JSON.match(text, found.end()):
            reader.take_content_type(item)
        elif item in CHANNELS and not reader.expects_channel and _RECIPIENT_OR_JSON.match(text, found.end()):
            reader.take_unmarked_channel(item)
        elif not reader.take(item):
            rest = text[found.start() :]
            del reader.notes[notes:]
            if cut and _begins_field(rest):
                reader.note(RepairKind.STRAY_WORD, rest)
                rest = ""
            break
    return reader.header(), reader.notes, rest


@dataclass(slots=True)
class _Reader:
    """Reads a header's items one after another; never refuses one."""

    role: Role | None
    named: bool
    """Whether a start token precedes the header, so that its first word may be a tool's name."""
    finished: bool = True
    """Whether a message token ends the header; otherwise an unmarked content type or channel is text."""
    first: str | None = None
    channel: Channel | None = None
    marked: bool = False
    """Whether the channel had its marker: then an unmarked word does not replace it."""
    recipient: str | None = None
    content_type: str | None = None
    expects_channel: bool = False
    notes: Notes = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    """The words that belong to no field."""
    unknown_channels: int = 0

    @property
    def is_text(self) -> bool:
        """Whether there are too many words that belong to no field."""
        return len(self.stray) > MAX_STRAY_WORDS or self.unknown_channels > MAX_UNKNOWN_CHANNELS

    @property
    def calls(self) -> bool:
        """Whether the fields so far are of a call, by its recipient or by a tool's name as the role."""
        if self.recipient is not None:
            return callee(Role.ASSISTANT, self.recipient) is not None
        return self.first is not None and self.first.partition(":")[0] not in ROLES

    def note(self, kind: RepairKind, text: str = "") -> None:
        self.notes.append((kind, text))

    def take(self, item: str) -> bool:
        """Reads one item. False, without any effect on the fields, if it is a word that belongs to no field."""
        if self.expects_channel and not item.startswith(_NO_CHANNEL_NAME):
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
        name, glued, recipient = word.partition("to=")
        channels = [part for part in header_words(name) if part in CHANNELS]
        if not channels:
            self.note(RepairKind.UNKNOWN_CHANNEL, word)
            self.unknown_channels += 1
            return False
        if self.channel is not None:
            self.note(RepairKind.DOUBLED_CHANNEL, self.channel.value)
        self.channel, self.marked = Channel(channels[-1]), True
        if name != self.channel:
            self.note(RepairKind.GLUED_WORDS, name)
        if glued:
            self.note(RepairKind.ODD_ORDER, word)
            self._take_recipient(recipient)
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
        name, glued, recipient = word.partition("to=")
        if glued and header_words(name) and (self._is_author(name) or self.take_unmarked_channel(name)):
            self.note(RepairKind.ODD_ORDER, word)
            self._take_recipient(recipient)
            return True
        # In an unfinished header a lone "analysis" is more likely the first word of a text.
        is_word = not self.finished and word in CHANNELS
        if self._is_author(word) or (not is_word and self.take_unmarked_channel(word)):
            return True
        if self.finished and self.content_type is None and word in CONTENT_TYPES:
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
        words = header_words(word)
        if not words:
            is_name = self.named or word.partition(":")[0] in ROLES
            self.first = word if is_name else None
            return is_name
        if words[0] not in ROLES or not repeats(word, words[0]):
            return False
        self.first = words[0]
        if word != self.first:
            self.note(RepairKind.DOUBLED_ROLE, word)
        return True

    def take_unmarked_channel(self, word: str) -> bool:
        """Reads a channel without a marker, alone or glued to the role (``assistantcommentary``), if the word has
        one."""
        words = header_words(word)
        channels = [part for part in words if part in CHANNELS]
        if not channels:
            return False
        roles = [part for part in words if part in ROLES]
        if roles and self.first is None and self.role is None:
            self.first = roles[0]
        self.note(RepairKind.GLUED_WORDS if word != channels[0] else RepairKind.MISSING_MARKER, word)
        if not self.marked:
            self.channel = Channel(channels[-1])
        return True

    def header(self) -> Header:
        """The fields read so far."""
        if self.expects_channel:
            self.expects_channel = False
            self.note(RepairKind.MISSING_CHANNEL)
        return Header(
            author=self._author(),
            channel=self.channel,
            recipient=self.recipient,
            content_type=self.content_type,
        )

    def _author(self) -> Author:
        if self.role is not None:
            return _AUTHORS[self.role]
        if self.first is None:
            self.note(RepairKind.MISSING_ROLE)
            return _AUTHORS[Role.ASSISTANT]
        role, colon, name = self.first.partition(":")
        if role in ROLES and role != Role.TOOL:
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


def _begins_field(word: str) -> bool:
    fields = (*Channel, *Role, *CONTENT_TYPES, "to=")
    return any(field.startswith(word) for field in fields)


def _starts_with_role(text: str) -> bool:
    found = _ITEM.search(text)
    return found is not None and found.group().partition(":")[0] in ROLES

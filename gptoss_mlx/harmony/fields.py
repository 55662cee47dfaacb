"""The roles, channels and efforts of harmony, and the rules for names, recipients, content types and JSON fields.

A header is a line of words between control tokens, so a field that could hold a space or the text of a
control token could forge another header. The rules make that impossible.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, TypeVar

from ..errors import RenderError

__all__ = ["Channel", "ReasoningEffort", "Role"]


class Role(StrEnum):
    """The author of a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Channel(StrEnum):
    """The purpose of a message: thinking, tool calls and preambles, or the answer."""

    ANALYSIS = "analysis"
    COMMENTARY = "commentary"
    FINAL = "final"


class ReasoningEffort(StrEnum):
    """How long the model thinks. openai-harmony's spelling, ``ReasoningEffort("High")``, is accepted too."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @classmethod
    def _missing_(cls, value: object) -> ReasoningEffort | None:
        return next((effort for effort in cls if isinstance(value, str) and effort == value.lower()), None)


ROLES: Final = frozenset(Role)
CHANNELS: Final = frozenset(Channel)
MAX_RECIPIENT = 256
MAX_CONTENT_TYPE = 256
CONSTRAIN = "<|constrain|>"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,64}\.)?[A-Za-z0-9_.-]{1,64}")

# Punctuation that models write between and after header words; none of it may occur in a tool's name.
_GLUE: Final = r"""!"#$%&'()*+,/;>?@\[\\\]^`{|}~\u2010-\u2027\u2030-\u205e"""
_HEADER_WORD = re.compile("|".join([*Role, *Channel]))
_GLUED_WORDS = re.compile(rf"(?:{_HEADER_WORD.pattern}|[{_GLUE}])+")
_PUNCTUATION = re.compile(rf"[{_GLUE}\s]+")

_E = TypeVar("_E", bound=StrEnum)


def as_choice(kind: type[_E], value: Any, field: str) -> _E:
    """The member of an enumeration, from the member or its string."""
    try:
        return kind(value)
    except ValueError:
        raise RenderError(f"{field}: {value!r} is not one of {', '.join(kind)}") from None


def check_text(value: Any, field: str) -> str:
    """Accepts any text that UTF-8 can encode."""
    if not isinstance(value, str):
        raise RenderError(f"{field}: a string is needed, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RenderError(
                f"{field}: half a surrogate pair ({value[error.start]!r}) at position {error.start} is not text; "
                "decode the input with errors='replace'"
            ) from None
    return value


def check_name(value: Any, field: str) -> str:
    """Accepts the name of a user, an assistant or one function."""
    return _check_pattern(value, _NAME, "1 to 64 of A-Z a-z 0-9 _ . -", field)


def check_namespace(value: Any, field: str) -> str:
    """Accepts the name of a tool namespace."""
    _check_pattern(value, _NAMESPACE, "1 to 64 of A-Z a-z 0-9 _ -", field)
    return _check_not_reserved(value, field)


def check_tool_name(value: Any, field: str) -> str:
    """Accepts the name of a tool as an author: ``functions.get_weather``, ``python``."""
    allowed = "1 to 64 of A-Z a-z 0-9 _ . - after an optional namespace and a dot"
    _check_pattern(value, _TOOL_NAME, allowed, field)
    return _check_not_reserved(value, field)


def check_recipient(value: Any, field: str) -> str:
    """Accepts any printable word without the brackets of control tokens: models also call unknown tools."""
    return _check_word(value, MAX_RECIPIENT, field)


def check_content_type(value: Any, field: str) -> str:
    """Accepts one word, optionally after ``<|constrain|>``, that could not be read as another field."""
    rest = value.removeprefix(CONSTRAIN) if isinstance(value, str) else value
    if rest == "" and value:
        return CONSTRAIN
    _check_word(rest, MAX_CONTENT_TYPE, field)
    if "to=" in rest or header_words(rest):
        raise RenderError(
            f"{field}: {_short(value)} would read as a recipient, a role or a channel; allowed: any other word"
        )
    return str(value)


def repeats(word: str, role: str) -> bool:
    """Whether a word is a role, written once or several times: ``assistantassistant``."""
    return word == role * (len(word) // len(role))


@lru_cache(maxsize=256)
def header_words(word: str) -> tuple[str, ...]:
    """The roles and channels of a word that has nothing else but punctuation, such as ``assistant––final``."""
    return tuple(_HEADER_WORD.findall(word)) if _GLUED_WORDS.fullmatch(word) else ()


def is_punctuation(text: str) -> bool:
    """Whether a text has nothing but the punctuation of `header_words` and white space."""
    return _PUNCTUATION.fullmatch(text) is not None


def callee(role: Role, recipient: str | None) -> str | None:
    """The tool that a message calls. Only the assistant calls, and neither a role nor ``all`` is a tool."""
    if role is not Role.ASSISTANT or recipient is None or recipient == "all" or header_words(recipient):
        return None
    return recipient


def check_object(value: Any, field: str) -> None:
    """Accepts a JSON object."""
    if not isinstance(value, Mapping):
        raise RenderError(f"{field}: a JSON object is needed, not {type(value).__name__}")


def is_sequence(value: Any) -> bool:
    """Whether a value is a list, a tuple or the like; a string is not a sequence here."""
    # The first comparison only saves time: a check against an abstract class is slow.
    return type(value) is tuple or (isinstance(value, Sequence) and not isinstance(value, str | bytes))


def required(data: Mapping[str, Any], key: str, field: str) -> Any:
    """A key that a JSON object must have."""
    if key not in data:
        raise RenderError(f"{field}: {key} is missing")
    return data[key]


def required_list(data: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    """A key that a JSON object must have, with a list as its value."""
    check_object(data, key)
    value: Any = data.get(key)
    if not is_sequence(value):
        raise RenderError(f"{key}: a list is needed, not {type(value).__name__}")
    return tuple(value)


def _check_pattern(value: Any, pattern: re.Pattern[str], allowed: str, field: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise RenderError(f"{field}: {_short(value)} is not allowed; allowed: {allowed}")
    return value


def _check_not_reserved(value: str, field: str) -> str:
    # A tool's name is rendered in the place of the role: a role or a channel would not read as a name.
    if header_words(value.lower()):
        raise RenderError(
            f"{field}: {value!r} is reserved, it would read as a role or a channel and not as a tool; "
            f"not allowed: {', '.join([*Role, *Channel])}"
        )
    return value


def _check_word(value: Any, limit: int, field: str) -> str:
    printable = isinstance(value, str) and value.isprintable() and " " not in value
    if not printable or not 1 <= len(value) <= limit or "<|" in value or "|>" in value:
        raise RenderError(
            f"{field}: {_short(value)} is not allowed; allowed: one printable word of 1 to {limit} characters "
            "without spaces or control tokens"
        )
    return str(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

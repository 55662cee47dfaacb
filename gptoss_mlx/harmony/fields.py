"""The closed sets and the field rules of harmony: what a role, channel, name, recipient or content type may be.

A header is a line of words between control tokens, so a field that could hold a space or the text of a
control token could forge another header. Every rule here exists to make that impossible.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, TypeVar

from ..errors import RenderError

__all__ = ["Channel", "ReasoningEffort", "Role"]


class Role(StrEnum):
    """Who wrote a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Channel(StrEnum):
    """Where a message goes: thinking, tool calls and preambles, or the answer."""

    ANALYSIS = "analysis"
    COMMENTARY = "commentary"
    FINAL = "final"


class ReasoningEffort(StrEnum):
    """How long the model thinks. ``ReasoningEffort("High")``, openai-harmony's spelling, works too."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @classmethod
    def _missing_(cls, value: object) -> ReasoningEffort | None:
        return next((effort for effort in cls if isinstance(value, str) and effort == value.lower()), None)


MAX_RECIPIENT = 256
MAX_CONTENT_TYPE = 256
CONSTRAIN = "<|constrain|>"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,64}\.)?[A-Za-z0-9_.-]{1,64}")

_E = TypeVar("_E", bound=StrEnum)


def as_choice(kind: type[_E], value: Any, field: str) -> _E:
    """The member of a closed set, from the member or its string."""
    try:
        return kind(value)
    except ValueError:
        raise RenderError(f"{field}: {value!r} is not one of {', '.join(kind)}") from None


def check_text(value: Any, field: str) -> str:
    """Any text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise RenderError(f"{field}: a string is needed, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RenderError(
                f"{field}: half a surrogate pair ({value[error.start]!r}) at position {error.start} is no text; "
                "decode the input with errors='replace'"
            ) from None
    return value


def check_name(value: Any, field: str) -> str:
    """The name of a user, an assistant or one function."""
    return _check_pattern(value, _NAME, "1 to 64 of A-Z a-z 0-9 _ . -", field)


def check_namespace(value: Any, field: str) -> str:
    """The name of a tool namespace."""
    _check_pattern(value, _NAMESPACE, "1 to 64 of A-Z a-z 0-9 _ -", field)
    return _check_not_reserved(value, field)


def check_tool_name(value: Any, field: str) -> str:
    """The name of a tool as an author: ``functions.get_weather``, ``python``."""
    allowed = "1 to 64 of A-Z a-z 0-9 _ . - after an optional namespace and a dot"
    _check_pattern(value, _TOOL_NAME, allowed, field)
    return _check_not_reserved(value, field)


def check_recipient(value: Any, field: str) -> str:
    """Any one printable word without the brackets of control tokens: models also address unknown tools."""
    return _check_word(value, MAX_RECIPIENT, field)


def check_content_type(value: Any, field: str) -> str:
    """One word, with or without ``<|constrain|>`` glued before it, that reads as no other field."""
    rest = value.removeprefix(CONSTRAIN) if isinstance(value, str) else value
    if rest == "" and value:
        return CONSTRAIN
    _check_word(rest, MAX_CONTENT_TYPE, field)
    if "to=" in rest or any(repeats(rest, role) for role in Role):
        raise RenderError(f"{field}: {_show(value)} would read as a recipient or a role; allowed: any other word")
    return str(value)


def repeats(word: str, role: str) -> bool:
    """Whether a word is a role, once or more often: ``assistantassistant``."""
    return word == role * (len(word) // len(role))


def _check_pattern(value: Any, pattern: re.Pattern[str], allowed: str, field: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise RenderError(f"{field}: {_show(value)} is not allowed; allowed: {allowed}")
    return value


def _check_not_reserved(value: str, field: str) -> str:
    # A tool's name stands where a role stands: one that spells a role would render as that role.
    if any(repeats(value.lower(), role) for role in Role):
        raise RenderError(
            f"{field}: {value!r} is reserved, a tool of that name would speak as that role; "
            f"not allowed: {', '.join(Role)}"
        )
    return value


def _check_word(value: Any, limit: int, field: str) -> str:
    printable = isinstance(value, str) and value.isprintable() and " " not in value
    if not printable or not 1 <= len(value) <= limit or "<|" in value or "|>" in value:
        raise RenderError(
            f"{field}: {_show(value)} is not allowed; allowed: one printable word of 1 to {limit} characters "
            "without spaces or control tokens"
        )
    return str(value)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

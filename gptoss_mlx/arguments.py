"""What the arguments of chats and requests may be: each is checked before any work.

Every function returns the value it was given, or raises InvalidRequest with the value, the reason and the remedy.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast, get_args

from .errors import InvalidRequest, RenderError
from .files.read import short_repr
from .harmony import Message, Role
from .harmony.fields import check_text
from .sampling import Effort, SamplingParams

__all__ = [
    "checked_date",
    "checked_effort",
    "checked_flag",
    "checked_hook",
    "checked_messages",
    "checked_path",
    "checked_question",
    "checked_sampling",
    "checked_steps",
    "checked_text",
    "checked_tokens",
]

Hook = TypeVar("Hook")


def checked_effort(effort: object) -> Effort:
    """How long the model thinks."""
    if effort not in get_args(Effort):
        raise InvalidRequest(
            f"effort is {short_repr(effort)}; low, medium or high is needed "
            "(gpt-oss always thinks: low is the least)"
        )
    return cast(Effort, effort)


def checked_date(date: object) -> str | None:
    """A date as YYYY-MM-DD, or None."""
    if date is None:
        return None
    try:
        if not isinstance(date, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
            raise ValueError
        datetime.date.fromisoformat(date)
    except ValueError:
        raise InvalidRequest(f"date is {short_repr(date)}; a date as YYYY-MM-DD is needed") from None
    return date


def checked_question(text: object) -> str:
    """What the user says: text that is not empty."""
    if not isinstance(text, str):
        raise InvalidRequest(f"the message is {short_repr(text)}; text is needed")
    if not text.strip():
        raise InvalidRequest("the message is empty; say something")
    return text


def checked_text(name: str, text: object) -> str | None:
    """Text, or None."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} is {short_repr(text)}; text or None is needed")
    try:
        return check_text(text, name)
    except RenderError as error:
        raise InvalidRequest(str(error)) from None


def checked_flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {short_repr(value)}; True or False is needed")
    return value


def checked_steps(max_steps: object) -> int:
    """How many steps a turn may take."""
    if type(max_steps) is not int or max_steps < 1:
        raise InvalidRequest(f"max_steps is {short_repr(max_steps)}; a whole number from 1 is needed")
    return max_steps


def checked_sampling(sampling: object) -> SamplingParams:
    """How tokens are chosen; None is the default."""
    if sampling is None:
        return SamplingParams()
    if not isinstance(sampling, SamplingParams):
        raise InvalidRequest(
            f"sampling is {short_repr(sampling)}; SamplingParams is needed, such as SamplingParams(temperature=0)"
        )
    return sampling


def checked_hook(name: str, hook: Hook) -> Hook:
    """A function, or None."""
    if hook is not None and not callable(hook):
        raise InvalidRequest(f"{name} is {short_repr(hook)}, which cannot be called; give a function or None")
    return hook


def checked_path(path: object) -> Path:
    """The path of a file."""
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise InvalidRequest(f"path is {short_repr(path)}; a path is needed")
    try:
        named = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        named = False
    if not named:
        raise InvalidRequest(f"path is {short_repr(path)}; no file can have that name")
    return Path(path)


def checked_tokens(tokens: object) -> list[int]:
    """A prompt; what each token may be is checked by the engine."""
    if isinstance(tokens, str) or not isinstance(tokens, Sequence):
        raise InvalidRequest(
            f"tokens is {short_repr(tokens)}; a list of token ids is needed: tokenizer.encode gives one"
        )
    return list(tokens)


def checked_messages(messages: object) -> list[Message]:
    """What was said before, without the system and developer messages: a chat makes those itself."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InvalidRequest(f"messages is {short_repr(messages)}; a list of Message is needed")
    for position, message in enumerate(messages):
        if not isinstance(message, Message):
            raise InvalidRequest(f"messages[{position}] is {short_repr(message)}; a Message is needed")
        if message.role in (Role.SYSTEM, Role.DEVELOPER):
            raise InvalidRequest(
                f"messages[{position}] is a {message.role} message; give its text as instructions instead"
            )
    return list(messages)

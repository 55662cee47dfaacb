"""Checks of arguments, made before any work. Light: imports neither MLX nor harmony.

Every function returns its value, or raises InvalidRequest with the value, the reason and what to write instead.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast, get_args

from .errors import InvalidRequest
from .files.read import short_repr

__all__ = [
    "DEFAULT_PARALLEL",
    "MAX_PARALLEL",
    "Effort",
    "checked_date",
    "checked_effort",
    "checked_flag",
    "checked_hook",
    "checked_integer",
    "checked_number",
    "checked_path",
    "checked_question",
    "checked_tokens",
]

Effort = Literal["low", "medium", "high"]
"""How long the model thinks; gpt-oss cannot be told not to."""
DEFAULT_PARALLEL: Final = 4
"""Requests that run together."""
MAX_PARALLEL: Final = 32
"""The transformer is compiled anew for each number of them."""
Hook = TypeVar("Hook")


def checked_effort(effort: object) -> Effort:
    """How long the model thinks."""
    if effort not in get_args(Effort):
        raise InvalidRequest(
            f"effort is {short_repr(effort)}; low, medium or high is needed "
            "(gpt-oss always thinks: low is the least)"
        )
    return cast(Effort, effort)


def checked_integer(name: str, value: object, low: int, high: int | None = None) -> int:
    """A whole number in a range, its ends included; a scalar of NumPy or MLX counts as its number."""
    value = _plain(value)
    if type(value) is not int or value < low or (high is not None and value > high):
        upper = "" if high is None else f" to {high}"
        raise InvalidRequest(f"{name} is {short_repr(value)}; a whole number from {low}{upper} is needed")
    return value


def checked_number(name: str, value: object, low: float, high: float) -> float:
    """A number in a range, its ends included; NaN is in none. A scalar of NumPy or MLX counts as its number."""
    value = _plain(value)
    if type(value) not in (int, float) or not low <= cast(float, value) <= high:
        raise InvalidRequest(f"{name} is {short_repr(value)}; a number from {low:g} to {high:g} is needed")
    return cast(float, value)


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


def checked_flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {short_repr(value)}; True or False is needed")
    return value


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
    """Token ids: a sequence, or an array of one dimension. The range of the ids is checked by the engine."""
    dimensions = len(getattr(tokens, "shape", (None,)))
    listed = cast(Any, tokens).tolist() if hasattr(tokens, "tolist") and dimensions == 1 else tokens
    if isinstance(listed, str | bytes) or not isinstance(listed, Sequence) or dimensions != 1:
        raise InvalidRequest(
            f"tokens is {short_repr(tokens)}; a list of token ids is needed: tokenizer.encode gives one"
        )
    return [token if type(token) is int else _plain(token) for token in listed]


def _plain(value: Any) -> Any:
    """The Python number of a NumPy or MLX scalar; any other value unchanged."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value

"""A JSON body read field by field; every refusal names the path of the field.

Unknown fields are ignored: clients send many that say nothing to this model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import pydantic_core

from ..errors import InvalidRequest
from ..files.read import has_more_containers, short_repr

__all__ = ["Fields", "parse", "text_parts"]

_MAX_LIST: Final = 20_000
_MAX_CONTAINERS: Final = 2**18
_MAYBE_INFINITE: Final = re.compile(rb"\d[eE]\+?\d{2}|\d{300}")


def parse(body: bytes) -> Fields:
    """The object of a request's body.

    Raises:
        InvalidRequest: it is not JSON, is nested more than 200 deep, has more than 262,144 lists and objects or a
            number that is too large, or is not an object.
    """
    try:
        if has_more_containers(body, _MAX_CONTAINERS):
            raise ValueError(f"more than {_MAX_CONTAINERS:,} lists and objects")
        value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON that can be read: {error}") from None
    fields = Fields(value, "")
    if _MAYBE_INFINITE.search(body):
        _check_finite(value)
    return fields


def _check_finite(value: Any, path: str = "") -> None:
    """Refuses numbers such as 1e400, which pydantic reads as infinity and no JSON can hold."""
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        infinite = isinstance(part, float) and math.isinf(part)
        if not infinite and not isinstance(part, dict | list):
            continue
        place = f"{path}[{name}]" if isinstance(value, list) else f"{path}.{name}" if path else str(name)
        if infinite:
            raise InvalidRequest(f"{place[:200]} is a number that is too large")
        _check_finite(part, place)


class Fields:
    """A JSON object and its path in the body.

    Raises:
        InvalidRequest: the value is not an object.

    Example:
        >>> body = parse(b'{"stop": ["a"], "tools": [{"name": 3}]}')
        >>> body.texts("stop"), body.text("model")
        (['a'], None)
        >>> body.objects("tools")[0].text("name")
        Traceback (most recent call last):
        gptoss_mlx.errors.InvalidRequest: tools[0].name is 3; text is needed
    """

    __slots__ = ("path", "values")

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise InvalidRequest(f"{path or 'the body'} is {short_repr(value)}; an object is needed")
        self.values: Mapping[str, Any] = value
        self.path = path

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def refused(self, name: str, needed: str) -> InvalidRequest:
        """The error of a field with a wrong value."""
        return InvalidRequest(f"{self.at(name)} is {short_repr(self.values.get(name))}; {needed}")

    def text(self, name: str) -> str | None:
        """Text, or None where there is none."""
        value: str | None = self._of(name, str, "text is needed")
        return value

    def required_text(self, name: str) -> str:
        """Text."""
        value = self.text(name)
        if value is None:
            raise InvalidRequest(f"{self.at(name)} is missing; text is needed")
        return value

    def texts(self, name: str) -> list[str]:
        """One text or a list of texts; empty where there is none."""
        value = self.values.get(name)
        value = [value] if isinstance(value, str) else value or []
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.refused(name, "text or a list of texts is needed")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false where there is none."""
        return bool(self._of(name, bool, "true or false is needed"))

    def number(self, name: str) -> float | None:
        """A number."""
        value: float | None = self._of(name, int | float, "a number is needed")
        return value

    def integer(self, name: str, least: int = 0) -> int | None:
        """A whole number from ``least`` on."""
        value: int | None = self._of(name, int, f"a whole number from {least} on is needed")
        if value is not None and value < least:
            raise self.refused(name, f"a whole number from {least} on is needed")
        return value

    def choice(self, name: str, allowed: Collection[str]) -> str | None:
        """One of several texts."""
        value = self.text(name)
        if value is not None and value not in allowed:
            raise self.refused(name, f"one of {', '.join(allowed)} is needed")
        return value

    def fields(self, name: str) -> Fields | None:
        """An object."""
        return Fields(self.values[name], self.at(name)) if name in self else None

    def required_fields(self, name: str) -> Fields:
        """An object that must be there."""
        return Fields(self.values.get(name), self.at(name))

    def objects(self, name: str) -> list[Fields]:
        """A list of objects; empty where there is none."""
        value = self.values.get(name) or []
        if not isinstance(value, list) or len(value) > _MAX_LIST:
            raise self.refused(name, f"a list of at most {_MAX_LIST} objects is needed")
        return [Fields(entry, f"{self.at(name)}[{position}]") for position, entry in enumerate(value)]

    def refuse(self, names: Mapping[str, str]) -> None:
        """Refuses fields that ask for something else than this server does.

        Args:
            names: of the fields, and why they are refused.
        """
        for name, reason in names.items():
            if self.values.get(name):
                raise self.refused(name, reason)

    def _of(self, name: str, kind: Any, needed: str) -> Any:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.refused(name, needed)
        return value


def text_parts(message: Fields, name: str, kinds: Collection[str]) -> Iterator[str]:
    """The texts of a content field, which is text or a list of parts.

    Args:
        message: has the field.
        name: of the field.
        kinds: the ``type`` of the parts that have a text.

    Raises:
        InvalidRequest: a part is of another type.
    """
    if not isinstance(message.values.get(name), list):
        yield message.text(name) or ""
        return
    for part in message.objects(name):
        kind = part.text("type")
        if kind == "refusal":
            yield part.required_text("refusal")
        elif kind in kinds:
            yield part.required_text("text")
        else:
            raise part.refused("type", f"{' or '.join(kinds)} is needed: gpt-oss reads only text")

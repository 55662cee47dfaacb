"""Python types for pydantic. Knows nothing of schemas."""

from __future__ import annotations

import sys
import types
import typing
from typing import Any, Literal, Union

import typing_extensions

__all__ = ["with_typed_dicts"]


def with_typed_dicts(hint: Any) -> Any:
    """Replaces every ``typing.TypedDict`` in a type with that of typing_extensions, the only one that pydantic
    accepts before Python 3.12."""
    return hint if sys.version_info >= (3, 12) else _replaced(hint)


def _replaced(hint: Any) -> Any:
    if typing.is_typeddict(hint) and type(hint).__module__ == "typing":
        hints = typing.get_type_hints(hint, include_extras=True)
        optional = typing_extensions.NotRequired
        fields = {key: _replaced(part) for key, part in hints.items()}
        keys = {key: part if key in hint.__required_keys__ else optional[part] for key, part in fields.items()}
        made: Any = typing_extensions.TypedDict(hint.__name__, keys)  # type: ignore[misc]
        made.__doc__ = hint.__doc__
        return made
    parts = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if not parts or origin is Literal:
        return hint
    if origin is typing.Annotated:
        return typing.Annotated[(_replaced(parts[0]), *hint.__metadata__)]
    replaced = tuple(map(_replaced, parts))
    if replaced == parts:
        return hint
    if origin is types.UnionType:
        return Union[replaced]  # noqa: UP007 - of a tuple
    return hint.copy_with(replaced) if hasattr(hint, "copy_with") else origin[replaced]

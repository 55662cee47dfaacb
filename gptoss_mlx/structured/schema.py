"""JSON schemas for constrained answers: checked, generated from Python types, translated for the engine.

Knows nothing of tokens, and of the engine only which keywords it can enforce.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pydantic
import pydantic_core
import typing_extensions

from ..errors import RenderError, SchemaError
from ..harmony.content import Schema

__all__ = ["check_schema", "engine_schema", "schema_of", "subschemas"]

# Keywords that cannot be enforced token by token.
_UNSUPPORTED: Final = frozenset(
    {
        *("not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies"),
        *("contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
        *("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"),
    }
)
# Values with which they forbid nothing.
_HARMLESS: Final[Mapping[str, Any]] = {"uniqueItems": False, "minContains": 0}

_IN_MAPPING: Final = ("properties", "patternProperties", "$defs", "definitions")
_IN_LIST: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_ALONE: Final = ("items", "additionalProperties", "additionalItems")

# The engine's patterns allow 30 February and leap seconds, which Python cannot read.
_YEAR: Final = r"(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP: Final = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DATE: Final = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_ZONE: Final = r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_PATTERNS: Final = {
    "date": f"^{_DATE}$",
    "time": f"^{_CLOCK}{_ZONE}$",
    "date-time": f"^{_DATE}T{_CLOCK}{_ZONE}$",
}


def check_schema(schema: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """Checks a JSON schema; returns it as plain data, with the parser of its answers.

    Raises:
        SchemaError: the schema is invalid, or has a keyword that cannot be enforced.
    """
    # Imported here because most requests need neither.
    import jsonschema  # type: ignore[import-untyped]
    import referencing

    plain = _plain(schema)
    kind = jsonschema.Draft202012Validator
    try:
        kind.check_schema(plain)
    except jsonschema.SchemaError as error:
        raise SchemaError(f"schema: at {error.json_path}: {error.message}; correct the schema") from None
    _check_keywords(plain)
    # With an empty registry no reference leads out of the schema or to the network.
    validator = kind(plain, registry=referencing.Registry())

    def parse(text: str) -> Any:
        value = json.loads(text)
        problem = next(validator.iter_errors(value), None)
        if problem is not None:
            raise ValueError(f"{problem.json_path}: {problem.message}")
        return value

    return plain, parse


def schema_of(kind: Any) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """The schema of a Python type, and the parser that makes its objects.

    Raises:
        SchemaError: pydantic cannot make a schema of it, or makes one with a keyword that cannot be enforced.
    """
    try:
        adapter = pydantic.TypeAdapter[Any](_known_typed_dict(kind))
        schema = adapter.json_schema()
    except (pydantic.errors.PydanticUserError, pydantic_core.SchemaError, TypeError, NameError) as error:
        reason = " ".join(str(error).partition("\nFor further information")[0].split())
        raise SchemaError(
            f"schema is {kind!r}: {reason}; a pydantic model, a TypedDict or a JSON schema is needed"
        ) from None
    schema = _plain(schema)
    for _, part in subschemas(schema):
        # No keys beyond those of the type.
        if "properties" in part:
            part.setdefault("additionalProperties", False)
        # Variants with different tags exclude each other, so anyOf allows the same.
        if "discriminator" in part and "oneOf" in part:
            part["anyOf"] = part.pop("oneOf")
    _check_keywords(schema)
    return schema, adapter.validate_json


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as plain dicts, lists and scalars."""
    try:
        return Schema(dict(schema)).to_dict()
    except RenderError as error:
        raise SchemaError(str(error)) from None


def _known_typed_dict(kind: Any) -> Any:
    """Replaces typing.TypedDict, which pydantic refuses before Python 3.12, with that of typing_extensions."""
    if sys.version_info >= (3, 12) or not typing.is_typeddict(kind):
        return kind
    hints = typing.get_type_hints(kind, include_extras=True)
    optional = typing_extensions.NotRequired
    keys = {key: hint if key in kind.__required_keys__ else optional[hint] for key, hint in hints.items()}
    return typing_extensions.TypedDict(kind.__name__, keys)  # type: ignore[operator]


def subschemas(schema: Any, place: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a schema and every schema inside it, each with its place as a JSON path."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for key in _IN_MAPPING:
        for name, part in schema[key].items() if isinstance(schema.get(key), dict) else ():
            yield from subschemas(part, f"{place}.{key}.{name}")
    for key in _IN_LIST:
        for position, part in enumerate(schema[key] if isinstance(schema.get(key), list) else ()):
            yield from subschemas(part, f"{place}.{key}[{position}]")
    for key in _ALONE:
        yield from subschemas(schema.get(key), f"{place}.{key}")


def engine_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema for the engine: dates as patterns, without keywords that forbid nothing."""
    copy: dict[str, Any] = json.loads(json.dumps(schema))
    for _, part in subschemas(copy):
        for key, value in _HARMLESS.items():
            if part.get(key, ...) == value:
                del part[key]
        pattern = _PATTERNS.get(str(part.get("format")))
        if pattern is not None and "pattern" not in part:
            del part["format"]
            part["pattern"] = pattern
    return copy


def _check_keywords(schema: dict[str, Any]) -> None:
    for place, part in subschemas(schema):
        for key in part:
            if key in _UNSUPPORTED and part[key] != _HARMLESS.get(key, ...):
                raise SchemaError(
                    f"schema: the keyword {key} at {place} is not supported; leave it out and check the answer "
                    "yourself"
                )

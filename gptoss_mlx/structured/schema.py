"""Reads the schemas of constrained answers: JSON schemas, OpenAI's response formats and Python types.

Knows nothing of tokens and engines.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic
import pydantic_core

from ..errors import RenderError, SchemaError
from ..files.read import parse_json, short_repr
from ..harmony.content import Schema
from .effort import limited
from .keywords import ANNOTATIONS, ASSERTIONS
from .references import subschemas
from .types import with_typed_dicts
from .validator import Validator

__all__ = ["AnswerSchema", "read_schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSchema:
    """The schema of an answer, and how its text becomes a value."""

    schema: dict[str, Any]
    parse: Callable[[str], Any]
    """Raises ValueError or pydantic.ValidationError if the text does not have the form."""
    name: str | None = None
    description: str | None = None
    is_type: bool = False
    """Whether the schema is that of a Python type, so that ``parse`` checks more than the schema says."""


def read_schema(source: Any) -> AnswerSchema:
    """Reads a schema.

    Args:
        source: a JSON schema as a mapping or as JSON text, OpenAI's ``{"name", "schema", "strict"}`` or
            ``{"type": "json_schema", ...}`` around one, or a Python type that pydantic supports.

    Raises:
        SchemaError: it is none of these, or the schema is invalid.
    """
    if isinstance(source, str | bytes):
        # Pydantic would evaluate text as a forward reference: as Python code.
        source = _from_text(source)
    return _from_mapping(source) if isinstance(source, Mapping) else _from_type(source)


def _from_text(text: str | bytes) -> Mapping[str, Any]:
    try:
        schema = parse_json(text.encode() if isinstance(text, str) else text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(
            f"schema is the text {short_repr(text)}, which is not JSON ({error}); give a JSON schema or a type"
        ) from None
    if not isinstance(schema, Mapping):
        raise SchemaError(f"schema is the JSON {short_repr(schema)}; an object is needed")
    return schema


def _from_mapping(source: Mapping[str, Any]) -> AnswerSchema:
    schema, named = _unwrapped(source)
    validator = Validator(schema, formats=True)
    unknown = [key for key in validator.schema if key not in ANNOTATIONS and not key.startswith("x-")]
    if unknown and not ASSERTIONS & validator.schema.keys():
        raise SchemaError(
            f"schema: {short_repr(unknown[0])} is not a keyword of JSON schema, and nothing beside it "
            'restricts the answer; write {} if any JSON is allowed, or a schema such as {"type": "object", '
            '"properties": ...}'
        )

    def parse(text: str) -> Any:
        value = json.loads(text)
        problems = validator.problems(value, len(text))
        if problems:
            raise ValueError(problems[0])
        return value

    name, description = named.get("name"), named.get("description")
    return AnswerSchema(
        schema=validator.schema,
        parse=parse,
        name=name if isinstance(name, str) else None,
        description=description if isinstance(description, str) else None,
    )


def _unwrapped(source: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The JSON schema in one of OpenAI's response formats, and what holds its name; a plain schema as it is."""
    named = source
    if source.get("type") == "json_schema":
        named = source.get("json_schema", source)
        if not isinstance(named, Mapping) or not isinstance(named.get("schema"), Mapping):
            raise SchemaError(
                'schema: "type" is "json_schema" without a schema; write {"type": "json_schema", "json_schema": '
                '{"name": ..., "schema": ...}}'
            )
    elif not isinstance(source.get("schema"), Mapping) or ASSERTIONS & source.keys():
        return source, {}
    return named["schema"], named


def _from_type(kind: Any) -> AnswerSchema:
    if not isinstance(kind, type) and (dataclasses.is_dataclass(kind) or isinstance(kind, pydantic.BaseModel)):
        raise SchemaError(f"schema is {short_repr(kind)}, an object; give its class {type(kind).__name__}")
    if inspect.isroutine(kind) or isinstance(kind, functools.partial):
        # Pydantic would call it with what the model wrote.
        raise SchemaError(f"schema is {short_repr(kind)}, a function; give a type, or the function as a tool")
    try:
        adapter = pydantic.TypeAdapter[Any](with_typed_dicts(kind))
        schema = Schema(adapter.json_schema()).to_dict()
    except (pydantic.errors.PydanticUserError, pydantic_core.SchemaError, TypeError, NameError) as error:
        reason = " ".join(str(error).partition("\nFor further information")[0].split())
        raise SchemaError(
            f"schema is {short_repr(kind)}: {reason}; a pydantic model, a TypedDict or a JSON schema is needed"
        ) from None
    except RenderError as error:
        raise SchemaError(str(error)) from None
    for _, part in subschemas(schema):
        # No keys beyond those of the type.
        if "properties" in part:
            part.setdefault("additionalProperties", False)
        # Variants with different tags exclude each other, so anyOf allows the same.
        if "discriminator" in part and "oneOf" in part:
            part["anyOf"] = part.pop("oneOf")
    name = getattr(kind, "__name__", None) or schema.get("title")
    return AnswerSchema(schema=schema, parse=limited(adapter.validate_json, schema), name=name, is_type=True)

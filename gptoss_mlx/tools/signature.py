"""The JSON schema of a function's parameters, and the check of arguments against a schema.

Knows nothing of calls or messages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias, cast, get_type_hints

import docstring_parser
import pydantic
import pydantic_core
from pydantic.json_schema import GenerateJsonSchema

from ..errors import RenderError, ToolError
from ..files.read import short_repr
from ..harmony.content import Schema

__all__ = ["ArgumentCheck", "Declaration", "check_by_schema", "declare"]

ArgumentCheck: TypeAlias = Callable[[str], dict[str, Any]]
"""Turns JSON text into keyword arguments. The message of its ToolError is what the model reads."""

_REMEDY: Final = "define it with named parameters that have type hints, such as def f(city: str, days: int = 1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A function's description, the schema of its parameters and the check of its arguments."""

    description: str
    parameters: dict[str, Any]
    check: ArgumentCheck


class _Schema(GenerateJsonSchema):
    # A default that JSON cannot represent is left out without a warning.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as in the base class


def declare(function: Callable[..., Any], name: str) -> Declaration:
    """Reads a function's signature and docstring.

    Raises:
        ToolError: a parameter cannot be passed by name, or pydantic cannot check a type.
    """
    description, documented = read_docstring(inspect.getdoc(function) or "")
    try:
        signature = inspect.signature(function)
        target = function if inspect.isroutine(function) else type(function).__call__
        hints = get_type_hints(target, include_extras=True)
    except (TypeError, ValueError, NameError, AttributeError) as error:
        raise ToolError(f"tool {name}: its signature cannot be read ({error}); {_REMEDY}") from None
    parameters = [_parameter(name, entry, hints, documented) for entry in signature.parameters.values()]

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    # pydantic validates arguments against the signature of ``collect``, which returns them.
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    try:
        adapter = pydantic.TypeAdapter[dict[str, Any]](cast(Any, collect))
        schema = adapter.json_schema(schema_generator=_Schema)
    except (pydantic.errors.PydanticUserError, pydantic_core.SchemaError, NameError) as error:
        reason = " ".join(str(error).partition("\nFor further information")[0].split())
        raise ToolError(
            f"tool {name}: {reason}; use types that pydantic knows, or give the schema yourself"
        ) from None

    def check(text: str) -> dict[str, Any]:
        if text.lstrip().startswith("["):
            # pydantic would read a list as positional arguments.
            raise ToolError("arguments: a JSON object is needed")
        try:
            return adapter.validate_json(text.strip() or "{}")
        except pydantic.ValidationError as error:
            raise ToolError("; ".join(map(_problem, error.errors(include_url=False)))) from None

    return Declaration(description=description, parameters=as_notation(schema), check=check)


def _parameter(
    name: str, entry: inspect.Parameter, hints: Mapping[str, Any], documented: Mapping[str, str]
) -> inspect.Parameter:
    if entry.kind not in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY):
        raise ToolError(f"tool {name}: {entry} is a parameter that cannot be passed by name; {_REMEDY}")
    annotation = hints.get(entry.name, Any)
    if entry.name in documented:
        described = pydantic.Field(description=documented[entry.name])
        # First, so that a description in the annotation itself takes precedence.
        extras = getattr(annotation, "__metadata__", ())
        inner = annotation.__origin__ if extras else annotation
        annotation = Annotated[(inner, described, *extras)]
    return entry.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY)


_MESSAGES: Final = {
    "missing_keyword_only_argument": "this argument is missing",
    "unexpected_keyword_argument": "there is no such argument",
}


def _problem(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    message = _MESSAGES.get(error["type"], error["msg"])
    return f"{place}: {message}" if place else f"arguments: {message}"


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description, and the text on each parameter, in one line.

    Args:
        text: a docstring in the style of Google, NumPy, Sphinx or Epytext.
    """
    try:
        parsed = docstring_parser.parse(text)
    except (docstring_parser.ParseError, LookupError, ValueError):
        # On some malformed fields, such as ": x:", the parser itself fails.
        return text.strip(), {}
    parameters = {
        name.strip(): " ".join(entry.description.split())
        for entry in parsed.params
        # NumPy's style documents several parameters in one entry: "a, b : int".
        for name in entry.arg_name.split(",")
        if entry.description
    }
    return (parsed.description or "").strip(), parameters


def as_notation(schema: Mapping[str, Any]) -> dict[str, Any]:
    """pydantic's schema in the words that harmony's notation has: references in their place, no titles made
    from names, and unions as ``type`` lists or ``oneOf``. It is what the model reads, not what is checked."""
    definitions = schema.get("$defs", {})

    def walk(node: Any, above: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [walk(item, above) for item in node]
        if not isinstance(node, Mapping):
            return node
        reference = str(node.get("$ref", "")).removeprefix("#/$defs/")
        if reference:
            beside = {key: value for key, value in node.items() if key != "$ref"}
            # A type that contains itself has no end: beyond the first level it may be anything.
            inlined = {} if reference in above else walk(definitions.get(reference, {}), (*above, reference))
            return {**inlined, **walk(beside, above)}
        made: dict[str, Any] = {}
        for key, value in node.items():
            if key == "properties" and isinstance(value, Mapping):
                made[key] = {name: walk(entry, above) for name, entry in value.items()}
            elif key not in ("title", "$defs"):
                made[key] = value if key in ("default", "const", "enum", "examples") else walk(value, above)
        return _union(made)

    plain: dict[str, Any] = walk(schema, ())
    return plain


def _union(node: dict[str, Any]) -> dict[str, Any]:
    """``anyOf``, which the notation does not know, as what it does."""
    if "const" in node and isinstance(node["const"], str):
        node = {**node, "type": "string", "enum": [node["const"]]}
        del node["const"]
    variants = node.pop("anyOf", None)
    if variants is None:
        return node
    others = [variant for variant in variants if variant != {"type": "null"}]
    if len(others) == 1 and len(variants) == 2 and isinstance(others[0].get("type"), str):
        plain = set(others[0]) <= {"type", "format"}
        merged = {"type": [others[0]["type"], "null"]} if plain else {**others[0], "nullable": True}
        return {**merged, **node}
    if all(set(variant) == {"type"} and isinstance(variant["type"], str) for variant in variants):
        return {"type": [variant["type"] for variant in variants], **node}
    return {"oneOf": variants, **node}


def check_by_schema(schema: Mapping[str, Any] | None, name: str) -> ArgumentCheck:
    """The check of arguments against a JSON schema (draft 2020-12); None allows no arguments.

    Raises:
        ToolError: the schema is invalid, does not describe an object, or is nested too deeply.
    """
    if schema is not None and (not isinstance(schema, Mapping) or schema.get("type", "object") != "object"):
        raise ToolError(
            f'tool {name}: parameters is {short_repr(schema)}; a JSON schema with "type": "object" is needed'
        )
    # Imported here because only tools with an explicit schema need it.
    import jsonschema  # type: ignore[import-untyped]
    import referencing

    plain = dict(schema) if schema is not None else {"additionalProperties": False}
    kind = jsonschema.Draft202012Validator
    try:
        Schema(plain, f"tool {name}: parameters")
        kind.check_schema(plain)
    except RenderError as error:
        raise ToolError(str(error)) from None
    except RecursionError:
        raise ToolError(f"tool {name}: parameters: nested too deeply; make them flatter") from None
    except jsonschema.SchemaError as error:
        raise ToolError(
            f"tool {name}: parameters{error.json_path[1:]}: {error.message}; correct the schema"
        ) from None
    # With an empty registry no reference leads out of the schema or to the network.
    validator = kind(plain, registry=referencing.Registry())

    def check(text: str) -> dict[str, Any]:
        try:
            arguments = pydantic_core.from_json(text.strip() or "{}", allow_inf_nan=False)
            if not isinstance(arguments, dict):
                raise ToolError("arguments: a JSON object is needed")
            problems = [
                f"{error.json_path[2:] or 'arguments'}: {error.message}"
                for error in validator.iter_errors(arguments)
            ]
        except ValueError as error:
            raise ToolError(f"arguments: Invalid JSON: {error}") from None
        except (referencing.exceptions.Unresolvable, RecursionError) as error:
            raise ToolError(f"arguments: they cannot be checked ({type(error).__name__})") from None
        if problems:
            raise ToolError("; ".join(problems[:5]))
        return arguments

    return check

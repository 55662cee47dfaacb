"""The JSON schemas of functions and types, and the checks of arguments against schemas.

Knows nothing of calls or messages.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias, get_type_hints

import docstring_parser
import pydantic
import pydantic_core
from pydantic.json_schema import GenerateJsonSchema

from ..errors import SchemaError, ToolError
from ..files.read import short_repr
from ..structured.effort import limited
from ..structured.types import with_typed_dicts
from ..structured.validator import Validator

__all__ = ["ArgumentCheck", "Declaration", "check_by_schema", "declare_function", "declare_type", "read_docstring"]

ArgumentCheck: TypeAlias = Callable[[str], dict[str, Any]]
"""Turns JSON text into keyword arguments. The message of its ToolError is what the model reads."""

_REMEDY: Final = "define it with named parameters that have type hints, such as def f(city: str, days: int = 1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """The description, the schema of the parameters and the check of the arguments."""

    description: str
    parameters: dict[str, Any]
    check: ArgumentCheck


class _Schema(GenerateJsonSchema):
    # A default that JSON cannot represent is left out without a warning.
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as in the base class

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No titles made from names, which would only repeat them."""
        return False


def declare_function(function: Callable[..., Any], name: str) -> Declaration:
    """Reads a function's signature and docstring.

    Raises:
        ToolError: a parameter cannot be passed by name, or pydantic cannot check a type.
    """
    target: Any = function
    bound: set[str] = set()
    while isinstance(target, functools.partial):
        bound |= target.keywords.keys()
        target = target.func
    description, documented = read_docstring(inspect.getdoc(target) or "")
    try:
        signature = inspect.signature(function)
        hints = get_type_hints(target if inspect.isroutine(target) else type(target).__call__, include_extras=True)
    except (TypeError, ValueError, NameError, AttributeError) as error:
        raise ToolError(f"tool {name}: its signature cannot be read ({error}); {_REMEDY}") from None
    parameters = [
        _parameter(name, entry, hints, documented)
        for entry in signature.parameters.values()
        if entry.name not in bound
    ]

    def collect(**arguments: Any) -> dict[str, Any]:
        return arguments

    # pydantic validates arguments against the signature of ``collect``, which returns them.
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    validate, schema = _validation(collect, name)

    def check(text: str) -> dict[str, Any]:
        if text.lstrip().startswith("["):
            # pydantic would read a list as positional arguments.
            raise ToolError("arguments: a JSON object is needed")
        arguments: dict[str, Any] = _validated(validate, text)
        return arguments

    return Declaration(description=description, parameters=schema, check=check)


def declare_type(kind: type) -> Declaration:
    """Reads the fields and the docstring of a pydantic model, a dataclass or a TypedDict.

    Raises:
        ToolError: pydantic cannot check a type.
    """
    validate, schema = _validation(with_typed_dicts(kind), kind.__name__)
    text = inspect.cleandoc(kind.__doc__ or "")
    # The docstring that dataclasses make of their own is their signature.
    description, documented = read_docstring("" if text.startswith(f"{kind.__name__}(") else text)
    for name, about in documented.items():
        if name in schema.get("properties", {}):
            schema["properties"][name].setdefault("description", about)

    def check(text: str) -> dict[str, Any]:
        _validated(validate, text)
        arguments: dict[str, Any] = pydantic_core.from_json(text.strip() or "{}")
        return arguments

    # The description of the type is that of the tool.
    schema.pop("description", None)
    return Declaration(description=description, parameters=schema, check=check)


def _validation(kind: Any, name: str) -> tuple[Callable[[str], Any], dict[str, Any]]:
    """The validation of JSON text, and the schema."""
    try:
        adapter = pydantic.TypeAdapter[Any](kind)
        schema = adapter.json_schema(schema_generator=_Schema)
    except (pydantic.errors.PydanticUserError, pydantic_core.SchemaError, NameError) as error:
        reason = " ".join(str(error).partition("\nFor further information")[0].split())
        raise ToolError(
            f"tool {name}: {reason}; use types that pydantic knows, or give the schema yourself"
        ) from None
    return limited(adapter.validate_json, schema), schema


def _validated(validate: Callable[[str], Any], text: str) -> Any:
    try:
        return validate(text.strip() or "{}")
    except pydantic.ValidationError as error:
        raise ToolError("; ".join(map(_problem, error.errors(include_url=False)))) from None
    except ValueError as error:
        raise ToolError(f"arguments: {error}") from None


def _parameter(
    name: str, entry: inspect.Parameter, hints: Mapping[str, Any], documented: Mapping[str, str]
) -> inspect.Parameter:
    if entry.kind not in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY):
        raise ToolError(f"tool {name}: {entry} is a parameter that cannot be passed by name; {_REMEDY}")
    annotation = with_typed_dicts(hints.get(entry.name, Any))
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


def check_by_schema(schema: Mapping[str, Any] | None, name: str) -> ArgumentCheck:
    """The check of arguments against a JSON schema; None allows no arguments.

    Raises:
        ToolError: the schema is invalid, does not describe an object, or is nested too deeply.
    """
    if schema is not None and (not isinstance(schema, Mapping) or schema.get("type", "object") != "object"):
        raise ToolError(
            f'tool {name}: parameters is {short_repr(schema)}; a JSON schema with "type": "object" is needed'
        )
    try:
        validator = Validator(
            {"additionalProperties": False} if schema is None else schema, f"tool {name}: parameters"
        )
    except SchemaError as error:
        raise ToolError(str(error)) from None

    def check(text: str) -> dict[str, Any]:
        try:
            arguments = pydantic_core.from_json(text.strip() or "{}", allow_inf_nan=False)
        except ValueError as error:
            raise ToolError(f"arguments: Invalid JSON: {error}") from None
        if not isinstance(arguments, dict):
            raise ToolError("arguments: a JSON object is needed")
        problems = validator.problems(arguments, len(text))
        if problems:
            raise ToolError("; ".join(problems))
        return arguments

    return check
